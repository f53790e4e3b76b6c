"""The chain on a GPU: the published systems' numbers, the same texts, and a batch that memory does not hold.

pytest tests/gpu                                 # skipped without CUDA
SONARLLM_TEST_DEVICE=cpu pytest tests/gpu        # tries every line on a processor
"""

import logging

import pytest
import torch
from conftest import PARITY
from safetensors.torch import load_file

from sonarllm_cli.flow import embed_text
from sonarllm_cli.flow.decode import decode
from sonarllm_cli.flow.embed import load_speech
from sonarllm_cli.flow.embed_speech import encode_utterances
from sonarllm_cli.flow.embed_text import embed_sentences, encode
from sonarllm_cli.flow.predict import Reader, predict
from sonarllm_cli.nets import fbank
from sonarllm_cli.runtime import choose
from sonarllm_cli.weights import convert
from sonarllm_cli.weights.loaded import load_space, load_writer

WANT = load_file(PARITY / "expected.safetensors")
CONTEXT = load_file(PARITY / "sonarllm_expected.safetensors")
ALIKE = {"float32": 0.999999, "tf32": 0.9999, "float16": 0.9999, "bfloat16": 0.999}  # cosine, at least
EVERYDAY = ["We have no time.", "The train is late.", "She lives in a small house."]


@pytest.fixture(params=ALIKE)
def runtime(request, device):
    if request.param == "tf32" and not device.startswith("cuda"):
        pytest.skip("TF32 is a GPU's")
    yield choose(device, request.param, seed=0)
    choose(device, "float32")


def agree(got, want, runtime):
    """In float32 each number within 1e-4; else by the cosine of each vector."""
    dtype = "tf32" if runtime.tf32 else str(runtime.dtype).removeprefix("torch.")
    got, want = got.float().cpu(), want.float().cpu()
    if dtype == "float32":
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    assert torch.cosine_similarity(got, want, dim=-1).min() >= ALIKE[dtype]


def test_embeddings_are_sonar_spaces(home, runtime, expected):
    ids = [text["source_tokens"] for text in expected["texts"]]
    agree(encode(ids, load_space("tiny", runtime)), WANT["embeddings"], runtime)


@torch.inference_mode()
def test_logits_are_sonar_spaces(home, runtime, expected):
    decoder = load_space("tiny", runtime).net.decoder
    for i, text in enumerate(expected["texts"]):
        ids_1T = torch.tensor([text["target_tokens_eng"][:40]], device=runtime.device)
        hidden_1TM = decoder(ids_1T, WANT["embeddings"][i : i + 1].to(runtime.device, runtime.dtype))
        agree(decoder.logits(hidden_1TM)[0], WANT[f"logits.{i}"], runtime)


@torch.inference_mode()
@pytest.mark.parametrize(("read", "said"), [("input", "predicted"), ("long_input", "long_predicted")])
def test_predictions_are_the_published_scripts(home, runtime, read, said):
    net = load_writer("tiny-llm", runtime).net
    agree(net(CONTEXT[read].to(runtime.device, runtime.dtype)), CONTEXT[said], runtime)


def test_a_sentence_after_what_the_cache_holds_predicts_as_all_read_anew(home, runtime):
    writer = load_writer("tiny-llm", runtime)
    context_SD = CONTEXT["input"][0].to(runtime.device, runtime.dtype)
    reader = Reader(writer)
    reader.read(context_SD[:-1])
    agree(reader.read(context_SD[-1:]), predict(writer, context_SD), runtime)


def test_speech_is_heard_as_sonar_space_hears_it(home, runtime, tmp_path, monkeypatch):
    folder = PARITY.parent / "parity-speech"
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path))
    convert.import_speech("ears", checkpoint=folder / "speech_encoder.fairseq1.pt", lang="en")
    want, ears = load_file(folder / "expected.safetensors"), load_speech("ears", runtime)
    clips = [key.removeprefix("fbank.") for key in want if key.startswith("fbank.")]
    clips.remove("pauses")  # whose features are nearly equal in silence
    steps = [(frames := want[f"fbank.{c}"])[: len(frames) // 2 * 2].reshape(-1, fbank.FEATURES) for c in clips]
    got_ND = encode_utterances(steps, ears)
    agree(got_ND, torch.stack([want[f"embedding.{clip}"] for clip in clips]), runtime)


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("lang", ["eng_Latn", "fra_Latn"])
def test_beam_search_in_float32_is_sonar_spaces(home, device, expected, lang, beam):
    space = load_space("tiny", choose(device, "float32"))
    found = decode(WANT["embeddings"], lang=lang, model=space, beam=beam, max_tokens=28)
    for (best, *_), want in zip(found, expected["generation"][f"{lang}/beam{beam}"], strict=True):
        assert list(best.ids) == want["tokens"] and best.score == pytest.approx(want["score"], abs=1e-3)


@pytest.mark.parametrize("beam", [1, 5])
def test_everyday_sentences_come_back_as_float32_gives_them_on_a_cpu(runtime, beam):
    texts = []
    for where in (choose("cpu", "float32"), runtime.use()):
        space = load_space("mini", where)
        vectors_ND = embed_sentences(EVERYDAY, "eng_Latn", space)
        texts.append([hyps[0].text for hyps in decode(vectors_ND, model=space, beam=beam)])
    assert texts[0] == texts[1]


def test_sampling_repeats_with_a_seed_and_only_then(home, device):
    def drawn(seed):
        space = load_space("tiny", choose(device, "float32", seed=seed))
        return [h.ids for h in decode(WANT["embeddings"][0], model=space, top_p=0.9, num_return=4, max_tokens=9)[0]]

    assert drawn(7) == drawn(7) != drawn(8)


@pytest.fixture
def starved(device, monkeypatch):
    """Room for 256 MiB more on a GPU; on a processor, for 200 texts at once."""
    if device.startswith("cuda"):

        def starve():
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + (256 << 20)) / total)

        yield starve
        torch.cuda.set_per_process_memory_fraction(1.0)
        return
    plain = embed_text._encode_batch

    def full(ids, space):
        if len(ids) > 200:
            raise torch.OutOfMemoryError("no room")
        return plain(ids, space)

    yield lambda: monkeypatch.setattr(embed_text, "_encode_batch", full)


def test_a_batch_that_memory_does_not_hold_is_halved(device, starved, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sonarllm"), "propagate", True)
    space = load_space("mini", choose(device, "float32"))
    texts = 2000 if device.startswith("cuda") else 300
    ids = [[space.tokenizer.lang_id("eng_Latn"), *range(10, 40 + i % 3), 3] for i in range(texts)]
    want_ND = encode(ids, space, batch_size=100)
    starved()
    with caplog.at_level(logging.INFO, "sonarllm"):
        got_ND = encode(ids, space, batch_size=texts)
    torch.testing.assert_close(got_ND, want_ND, atol=1e-4, rtol=0)
    assert f"out of memory with {texts} texts at once; trying half" in caplog.text
