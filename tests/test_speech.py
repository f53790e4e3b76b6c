"""SONAR's speech encoders: the numbers of sonar-space itself (tests/parity-speech/README.md), and what a user meets."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sonarllm_cli.bench import peers
from sonarllm_cli.cli import main
from sonarllm_cli.errors import UserError
from sonarllm_cli.flow import hear
from sonarllm_cli.flow.decode import Search, decode_batch
from sonarllm_cli.flow.embed import load_speech
from sonarllm_cli.flow.embed_speech import embed_recordings, encode_utterances
from sonarllm_cli.io.audio import Recording, is_recording, resampled
from sonarllm_cli.nets import fbank, speech
from sonarllm_cli.nets.layers import plain_attend
from sonarllm_cli.nets.speech import SpeechConfig, SpeechEncoder
from sonarllm_cli.runtime import choose
from sonarllm_cli.use import search
from sonarllm_cli.weights import convert, registry
from sonarllm_cli.weights.layouts import SPEECH_ENCODERS
from sonarllm_cli.weights.loaded import load_space

PARITY = Path(__file__).parent / "parity-speech"
FACTS = json.loads((PARITY / "expected.json").read_text("utf-8"))
EXPECTED = load_file(PARITY / "expected.safetensors")
CLIPS = [Path(name).stem for name in FACTS["clips"]]
COARSE = {"pauses": 1e-3, "chirp": 1e-3, "rate22050.wav": 1e-3, "rate8000.wav": 1e-2}  # see the fixtures' README
RUNTIME = choose("cpu", "float32")


def under(prefix):
    return [key.removeprefix(prefix) for key in EXPECTED if key.startswith(prefix)]


@pytest.fixture(scope="module")
def homes(parity_home):
    """The published layouts, imported into the registry that has the space `tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(parity_home))
        for name, file, space in (
            ("ears", "speech_encoder.fairseq1.pt", "tiny"),
            ("small", "small_speech_encoder.fairseq2.pt", ""),
        ):
            convert.import_speech(name, checkpoint=PARITY / file, lang="en", sonar=space)
    return parity_home


@pytest.fixture(autouse=True)
def home(homes, monkeypatch):
    monkeypatch.setenv("SONARLLM_HOME", str(homes))


@pytest.fixture(scope="module")
def ears(homes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(homes))
        return load_speech("ears", RUNTIME)


def recording(name):
    return Recording(next((PARITY / "audio").glob(name if "." in name else f"{name}.*")))


def steps(name):
    return fbank.steps(recording(name).samples())


def near(got, want, atol):
    torch.testing.assert_close(torch.as_tensor(got), want, atol=atol, rtol=0)


# ------------------------------------------------------------------------------------- equal to what was published


@pytest.mark.parametrize("name", under("fbank_raw."))
def test_log_mel(name):
    near(fbank.log_mel(recording(name).samples()), EXPECTED[f"fbank_raw.{name}"], 7e-5)


@pytest.mark.parametrize("name", under("fbank."))
def test_standardised_features(name):
    near(fbank.standardised(fbank.log_mel(recording(name).samples())), EXPECTED[f"fbank.{name}"], 5e-5)


@pytest.mark.parametrize("name", under("wave16000."))
def test_waves(name):
    near(recording(name).samples(), EXPECTED[f"wave16000.{name}"], 1e-6)


@pytest.mark.parametrize("name", [n for n in CLIPS if f"fbank.{n}" in EXPECTED])
def test_the_network_on_given_features(ears, name):
    frames = EXPECTED[f"fbank.{name}"]
    step_SF = frames[: len(frames) // 2 * 2].reshape(-1, fbank.FEATURES)
    near(encode_utterances([step_SF], ears)[0], EXPECTED[f"embedding.{name}"], 1e-5)


@pytest.mark.parametrize("name", [*CLIPS, *(Path(name).name for name in FACTS["other"])])
def test_end_to_end(ears, name):
    near(encode_utterances([steps(name)], ears)[0], EXPECTED[f"embedding.{name}"], COARSE.get(name, 1e-4))


def test_fairseq2s_layout():
    got_ND = encode_utterances([steps(name) for name in CLIPS], load_speech("small", RUNTIME))
    for name, got_D, want_D in zip(CLIPS, got_ND, EXPECTED["small.embeddings"], strict=True):
        near(got_D, want_D, COARSE.get(name, 1e-4))


def test_a_peer_is_given_our_weights(homes):
    """Into modules of fairseq2's names, all that its encoder reads."""
    published = torch.load(PARITY / "small_speech_encoder.fairseq2.pt", weights_only=True)["model"]
    peer = torch.nn.Module()
    for key, value in published.items():
        *path, leaf = key.split(".")
        module = peer
        for name in path:
            if name not in dict(module.named_children()):
                module.add_module(name, torch.nn.Module())
            module = module.get_submodule(name)
        module.register_buffer(leaf, torch.zeros_like(value))
    peers._fill(peer, peers._speech({"model": "small"}), SPEECH_ENCODERS[0])
    for key, value in peer.state_dict().items():
        place = SPEECH_ENCODERS[0].target(key)[0]
        rows = slice(2, 3) if place == "pooler.query" else slice(None)
        if place != "-":
            torch.testing.assert_close(value[rows], published[key][rows], atol=1e-3, rtol=1e-3)  # stored as float16


@torch.inference_mode()
def test_every_block(ears):
    frames = EXPECTED["fbank.en"]
    net, step_1SF = ears.net, frames.reshape(1, -1, fbank.FEATURES)
    x_BSM = net.front(step_1SF, None)
    near(x_BSM[0], EXPECTED["frontend.en"], 1e-5)
    table_RM, _ = net.context(x_BSM, None)
    for i, layer in enumerate(net.layers):
        for part, stage in zip(("ffn1", "attn", "conv", "ffn2"), layer.stages(x_BSM, table_RM, None, None)):
            if (key := f"block{i}.after_{part}.en") in EXPECTED:
                near(stage[0], EXPECTED[key], 1e-5)
        x_BSM = layer(x_BSM, table_RM, None, None)
        near(x_BSM[0], EXPECTED[f"block{i}.en"], 1e-5)
    x_BSM = net.top_norm(x_BSM)
    near(x_BSM[0], EXPECTED["encoded.en"], 1e-5)
    q_BM = net.pooler.start(1)
    near(q_BM[0], EXPECTED["pool.input.en"], 1e-5)
    for i, layer in enumerate(net.pooler.layers):
        after_self, after_cross, q_BM = layer.stages(q_BM, x_BSM, None)
        near(after_self[0], EXPECTED[f"pool{i}.after_self.en"], 1e-5)
        near(after_cross[0], EXPECTED[f"pool{i}.after_cross.en"], 1e-5)
        near(q_BM[0], EXPECTED[f"pool{i}.en"], 1e-5)


@torch.inference_mode()
def test_w2v_bert_2_by_options():
    shape, weights = convert.speech_beginning(PARITY / "w2v_bert_2")
    assert (shape.positions, shape.conv_norm, shape.causal, shape.top_norm) == ("shaw", "layer", True, False)
    net = SpeechEncoder(shape).eval()
    missing = net.load_state_dict(weights, strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"pooler", "proj"}
    x_BSM = net.front(EXPECTED["fbank.en"].reshape(1, -1, fbank.FEATURES), None)
    for i, layer in enumerate(net.layers, 1):
        x_BSM = layer(x_BSM, None, None, None)
        near(x_BSM[0], EXPECTED[f"w2v_bert_2.hidden{i}.en"], 1e-5)


def test_seamless_layout_is_the_same_network(tmp_path):
    """Our weights under SeamlessM4T v1's names, its other parts beside them, come back as they were."""
    _, weights = convert.speech_beginning(PARITY / "speech_encoder.fairseq1.pt")
    rules = convert.SPEECH_BEGINNINGS[0]
    named = {"speech_encoder.adapter.layers.0.x.weight": torch.zeros(1), "shared.weight": torch.zeros(1)}
    for name, value in weights.items():
        if name.startswith(("pooler", "proj")):
            continue
        sources = rules.sources(name)
        for part, piece in zip(sources.values(), value.chunk(len(sources))):
            named[part] = piece[..., None].clone() if "pointwise" in name else piece.clone()
    save_file(named, tmp_path / "model.safetensors")
    shape, again = convert.speech_beginning(tmp_path / "model.safetensors")
    assert shape.positions == "relative" and shape.conv_norm == "batch"
    assert all(torch.equal(again[name], weights[name]) for name in again) and len(again) > 40


@pytest.mark.parametrize("lang", list(FACTS["speech_to_text"]))
def test_texts_through_the_text_decoder(ears, space, lang):
    vectors_ND = encode_utterances([steps(name) for name in CLIPS], ears)
    found = decode_batch(vectors_ND, lang, space, Search(max_tokens=28))
    assert [hyps[0].text for hyps in found] == FACTS["speech_to_text"][lang]


# ------------------------------------------------------------------------------------- laws of our own


def test_a_padded_batch_is_what_each_is_alone(ears):
    everything = [steps(name) for name in CLIPS]
    alone = torch.cat([encode_utterances([one], ears) for one in everything])
    together = encode_utterances(everything, ears, batch_size=len(everything))
    near(together, alone, 2e-6 * alone.abs().max().item())
    near(together, EXPECTED["batch3_embeddings"], 1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("positions", speech.POSITIONS)
def test_queries_in_blocks_are_all_at_once(monkeypatch, positions):
    torch.manual_seed(0)
    config = SpeechConfig(
        width=16, heads=2, ffn=16, layers=1, kernel=3, embedding=8, pooling="mean", pooler_heads=2, positions=positions
    )
    net = SpeechEncoder(config).eval()
    for name in ("key_bias", "distance_bias"):
        if positions == "relative":
            torch.nn.init.normal_(getattr(net.layers[0].attn, name))
    x, length = torch.randn(2, 100, fbank.FEATURES), torch.tensor([100, 61])
    whole = net(x, length)
    monkeypatch.setattr(speech, "SCORES", 2 * 2 * 2 * 100 * 7)  # 7 queries a block
    near(net(x, length), whole, 1e-6)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, list | tuple) else [made]:
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.untyped_storage().nbytes())
        return made


@torch.inference_mode()
@pytest.mark.parametrize("positions", speech.POSITIONS)
def test_attention_of_a_long_utterance_makes_no_large_tensor(monkeypatch, positions):
    monkeypatch.setattr(speech, "SCORES", 1 << 13)
    attention = speech.ConformerAttention(
        SpeechConfig(width=16, heads=2, ffn=16, layers=1, kernel=3, pooler_heads=2, positions=positions)
    )
    most = []
    for steps in (256, 512):
        table_RM = speech.distances_RM(steps, 16) if positions == "relative" else None
        with Largest() as watch:
            attention(torch.randn(1, steps, 16), table_RM, None)
        most.append(watch.most)
    assert most[1] <= 2 * most[0] < 4 * 4 * 256 * 256  # grows with the length alone, and is less than all scores


@torch.inference_mode()
def test_relative_scores_by_their_definition():
    torch.manual_seed(0)
    attention = speech.ConformerAttention(SpeechConfig(width=8, heads=2, ffn=8, layers=1, kernel=3, pooler_heads=2))
    torch.nn.init.normal_(attention.distance_bias)
    q, S = torch.randn(1, 2, 5, 4), 5
    r_HKR = attention.distance_proj(speech.distances_RM(S, 8)).view(-1, 2, 4).permute(1, 2, 0)
    got = attention._relative(q, r_HKR, 0, S)
    for h, i, j in itertools.product(range(2), range(S), range(S)):
        want = (q[0, h, i] + attention.distance_bias[h]) @ r_HKR[h, :, S - 1 - (i - j)]
        near(got[0, h, i, j], want, 1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_padding_is_not_pooled(pooling):
    torch.manual_seed(0)
    net = SpeechEncoder(
        SpeechConfig(width=16, heads=2, ffn=16, layers=1, kernel=3, embedding=8, pooling=pooling)
    ).eval()
    x = torch.randn(1, 9, fbank.FEATURES)
    wide = torch.cat([x, torch.full((1, 4, fbank.FEATURES), torch.nan)], 1)
    near(net(wide, torch.tensor([9])), net(x, torch.tensor([9])), 1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("steps", [8, 9, 10, 11])
def test_longer_steps_are_the_same_in_a_batch(steps):
    """Of any length modulo the steps that become one, and with the mean of each step's features as vector."""
    torch.manual_seed(0)
    net = SpeechEncoder(
        SpeechConfig(
            width=16, heads=2, ffn=16, layers=1, kernel=3, embedding=8, pooling="mean", subsample=4, pool_width=8
        )
    ).eval()
    x = torch.randn(1, steps, fbank.FEATURES)
    wide = torch.cat([x, torch.full((1, 5, fbank.FEATURES), torch.nan)], 1)
    got, alone = net(wide, torch.tensor([steps])), net(x, torch.tensor([steps]))
    near(got, alone, 1e-6)
    encoded, _ = net.encode(x, None)
    assert encoded.shape == (1, -(-steps // 4), 16)
    near(alone, F.relu(net.pool_proj(encoded)).mean(1), 1e-6)
    net.config = replace(net.config, norm_embedding=True)
    near(net(x, torch.tensor([steps])), F.layer_norm(alone, (8,)), 1e-6)


def test_flops_are_those_of_the_products(monkeypatch):
    monkeypatch.setattr(speech, "attend", plain_attend)  # the fused kernel's are not counted
    config = SpeechConfig(
        width=16, heads=2, ffn=32, layers=2, kernel=3, embedding=8, pooling="mean", subsample=2, pool_width=24
    )
    net, steps = SpeechEncoder(config).eval(), 64
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.randn(1, steps, fbank.FEATURES), torch.tensor([steps]))
    assert abs(counter.get_total_flops() / speech.speech_flops(config, steps) - 1) < 0.01


def test_statistics_are_of_steps_with_sound():
    norm = speech.StepNorm(3).train()
    norm.learns = True
    x = torch.randn(2, 6, 3)
    real = torch.arange(6) < torch.tensor([[6], [4]])
    got = norm(x, real[..., None])[real]
    near(got.mean(0), torch.zeros(3), 1e-6)
    near(norm.running_mean, x[real].mean(0) * 0.1, 1e-6)
    near(norm.running_var, 0.9 + 0.1 * x[real].var(0), 1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 16_001])
def test_resampling_in_blocks_is_resampling_at_once(rate):
    wave = np.random.default_rng(0).normal(size=9_000).astype(np.float32)
    whole = np.concatenate(list(resampled([wave], rate)))
    assert len(whole) == -(-16_000 * 9_000 // rate)
    parts = np.concatenate(list(resampled(np.split(wave, [1, 3, 700, 701, 5_000]), rate)))
    np.testing.assert_array_equal(parts, whole)


def test_parts_of_a_recording_are_its_samples():
    wave = Recording(np.random.default_rng(0).normal(size=500_000).astype(np.float32), 44_100)
    whole, spans = wave.samples(), [(0.1, 0.5), (0.5, 6.2), (9.0, 9.5)]
    for (start, end), part in zip(spans, wave.cut(spans), strict=True):
        np.testing.assert_array_equal(part, whole[round(start * 16_000) : round(end * 16_000)])


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float64"])
def test_arrays_of_any_kind(kind):
    wave = np.linspace(-1, 0.99, 50)
    scale, middle = {"uint8": (128, 128), "int16": (2**15, 0), "int32": (2**31, 0), "float64": (1, 0)}[kind]
    array = (wave * scale + middle).astype(kind)
    got = Recording(np.stack([array, array]), 16_000).samples()
    np.testing.assert_allclose(got, wave, atol=1.01 / min(scale, 2**15) if scale > 1 else 1e-6)


# ------------------------------------------------------------------------------------- what a user meets


def test_what_is_no_sound_is_told_and_the_rest_done(ears):
    silence = Recording(np.zeros(32_000, np.float32), 16_000)
    everything = [silence, *(recording(f"{name}.wav") for name in ("samples399", "samples400", "en"))]
    (block,) = embed_recordings(everything, ears, whole=True)
    near(block.embeddings_ND[0], EXPECTED["embedding.en"], 1e-4)
    assert [h.file.rsplit("/")[-1] for h in block.heard] == ["en.wav"]
    said = [str(failure) for failure in block.failures]
    assert len(said) == 3 and "only digital silence" in said[0] and "25 ms are too short" in said[2]
    assert all("0:00.0" in text for text in said)


def test_speech_is_found_and_embedded_an_utterance_a_row(ears):
    voice, rest = recording("en").samples(), np.zeros(16_000, np.float32)
    talk = Recording(np.concatenate([rest, voice, rest, voice, rest]), 16_000)
    (block,) = embed_recordings([talk], ears)
    (first, second), length = block.heard, len(voice) / 16_000
    assert 0.8 < first.start < 1.2 and abs(first.end - 1 - length) < 0.4 and abs(second.start - 2 - length) < 0.3
    parts = [fbank.steps(part) for part in talk.cut([(h.start, h.end) for h in block.heard])]
    near(block.embeddings_ND, encode_utterances(parts, ears), 2e-6)
    with pytest.raises(UserError, match=r"no speech in 1\.0 s"):
        raise next(embed_recordings([Recording(rest, 16_000)], ears)).failures[0]


def damaged(folder):
    """Files that are no sound, by what is said of them."""
    wave = (PARITY / "audio" / "en.wav").read_bytes()
    flac = (PARITY / "audio" / "pcm16.flac").read_bytes()
    made = {
        "is no sound, or damaged": b"hello there",
        "is cut short": wave[:2_000],
        "is empty": b"",
        "holds no samples": wave[:40] + bytes(4),
        "names no rate": wave[:24] + bytes(4) + wave[28:],
    }
    for i, (said, data) in enumerate(made.items()):
        (folder / f"{i}.wav").write_bytes(data)
        yield said, folder / f"{i}.wav"
    (folder / "cut.flac").write_bytes(flac[: len(flac) // 2])
    yield "cut.flac", folder / "cut.flac"
    soundfile.write(folder / "many.wav", np.zeros((10, 200)), 16_000)
    yield "200 channels", folder / "many.wav"
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan] * 4000, np.float32), 16_000, subtype="FLOAT")
    yield "NaN or infinity at 0.00 s", folder / "nan.wav"
    yield "no such file", folder / "none.wav"


def test_bad_files(tmp_path):
    for said, path in damaged(tmp_path):
        with pytest.raises(UserError, match=said):
            Recording(path).samples()
    (tmp_path / "fake.mp3").write_bytes(b"no sound at all")
    with pytest.raises(UserError, match=r"fake\.mp3 is no sound, or damaged; "):  # not that there is no such file
        Recording(tmp_path / "fake.mp3").samples()


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return ended.value.code, *capsys.readouterr()


def test_what_the_mp3_library_says_by_itself_is_not_shown(tmp_path, capfd):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.mp3", rng.standard_normal(48_000) / 9, 16_000, format="MP3")
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    data[3000:5000] = rng.bytes(2000)
    (tmp_path / "a.mp3").write_bytes(data)
    with contextlib.suppress(UserError):
        Recording(tmp_path / "a.mp3").samples()
    assert capfd.readouterr().err == ""


def test_the_command_embeds_what_it_can(tmp_path, capsys):
    good = PARITY / "audio" / "en.wav"
    (tmp_path / "bad.wav").write_bytes(b"hello")
    code, _, said = run(
        capsys, "embed", tmp_path / "bad.wav", good, "--whole", "-m", "ears", "-o", tmp_path / "o.parquet"
    )
    assert code == 1 and "bad.wav is no sound" in said and "1 could not be done" in said
    import pyarrow.parquet as pq

    (row,) = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert (
        row["file"] == str(good) and (row["start"], row["end"]) == (0.0, 28_500 / 16_000) and row["lang"] == "eng_Latn"
    )
    code, out, _ = run(capsys, "decode", tmp_path / "o.parquet", "-m", "tiny", "--lang", "en", "--max-tokens", 28)
    assert code == 0 and out.rstrip("\n") == FACTS["speech_to_text"]["eng_Latn"][CLIPS.index("en")]
    code, _, said = run(capsys, "embed", tmp_path / "bad.wav", "-m", "ears", "-o", tmp_path / "p.npy")
    assert code == 2 and "bad.wav is no sound" in said and not (tmp_path / "p.npy").exists()


def test_a_recording_is_summarised_with_times(tmp_path, capsys):
    good = PARITY / "audio" / "en.wav"
    options = ["-m", "tiny-llm", "--sentences", 1, "--beam", 1, "--max-tokens", 12, "--json", "--cite"]
    code, out, said = run(capsys, "summarize", good, "--speech", "ears", *options)
    assert code == 0, said
    (source,) = json.loads(out.splitlines()[0])["sources"]
    assert 0 <= source["start"] < 0.2 and source["end"] <= 28_500 / 16_000
    code, out, said = run(
        capsys, "generate", good, "--speech", "ears", "-m", "tiny-llm", "--max-sentences", 1, "--beam", 1
    )
    assert code == 0, said
    code, _, said = run(capsys, "summarize", good, "-m", "tiny-llm")
    assert code == 2 and "en.wav is a recording: tiny has no encoder of its own" in said
    code, _, said = run(capsys, "summarize", good, "-m", "tiny-llm", "--speech", "small")
    assert code == 2 and "small's space is none that is known" in said


def test_a_bad_recording_among_others_is_told_and_they_are_done(tmp_path, capsys):
    good, silent = PARITY / "audio" / "en.wav", tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(8_000), 16_000)
    (tmp_path / "bad.wav").write_bytes(b"hello")
    (tmp_path / "text.txt").write_text("The cat sat. The dog ran.")
    files = [tmp_path / "bad.wav", good, silent, tmp_path / "text.txt"]
    options = ["-m", "tiny-llm", "--speech", "ears", "--beam", 1, "--max-tokens", 8, "-q"]
    for command in ("segment", "generate", "summarize"):
        code, out, said = run(capsys, command, *files, "--json", *options * (command != "segment"))
        assert code == 1 and "bad.wav is no sound" in said and "silent.wav: no speech" in said, said
        assert "2 could not be done" in said and "en.wav" in out and "text.txt" in out
        code, out, said = run(capsys, command, files[0], "--json", *options * (command != "segment"))
        assert code == 2 and "could not be done" not in said
        code, out, said = run(capsys, command, files[0], silent, "--json", *options * (command != "segment"))
        assert code == 2 and "nothing could be done" in said and out == ""
    options += ["-o", tmp_path / "out", "--speech", "ears"]
    assert run(capsys, "translate", *files, "--to", "fr", *options)[0] == 1
    code, _, said = run(capsys, "translate", files[0], silent, "--to", "fr", *options)
    assert code == 2 and "no speech in 0.5 s; is it the right file?\n" in said


def test_an_encoder_that_comes_with_the_space_is_found(tmp_path, capsys, monkeypatch):
    good = PARITY / "audio" / "en.wav"
    options = ["-m", "tiny-llm", "--sentences", 1, "--beam", 1, "--max-tokens", 12, "-q"]
    code, named, said = run(capsys, "summarize", good, "--speech", "ears", *options)
    assert code == 0, said
    shutil.copytree(registry.find("ears"), tmp_path / "built-in-ears")
    monkeypatch.setattr(registry, "EMBEDDED", tmp_path)
    assert run(capsys, "summarize", good, *options)[:2] == (0, named)
    for name in ("tiny", "tiny-llm"):
        assert load_speech(name, RUNTIME).name == "built-in-ears"


@pytest.fixture
def talk(tmp_path):
    """A recording of two utterances in a folder, beside a text."""
    voice, rest = recording("en").samples(), np.zeros(16_000, np.float32)
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "text.txt").write_text("A chess game.\nThe cat sat.\n")
    soundfile.write(tmp_path / "talks" / "talk.flac", np.concatenate([rest, voice, rest, voice, rest]), 16_000)
    return tmp_path / "talks" / "talk.flac"


HEARS = ["-m", "tiny", "--speech", "ears"]


def test_of_a_recording_searched_only_the_hits_are_decoded(talk, capsys, monkeypatch):
    decoded = []

    def spying(text_SD, *rest):
        decoded.append(text_SD)
        return decode_batch(text_SD, *rest)

    monkeypatch.setattr(hear, "decode_batch", spying)
    code, out, said = run(capsys, "search", "x", talk.parent, *HEARS, "-k", 4, "--json")
    hits = {row.pop("file"): row for row in map(json.loads, out.splitlines())}
    assert code == 0 and len(hits) == 2 and len(decoded) == 1 == len(decoded[0]) // 2, said
    assert hits[str(talk)]["start"] > 0.8 and hits[str(talk.with_name("text.txt"))]["start"] in (0, 14)
    monkeypatch.setattr(search, "hear_utterances", None)  # they are kept
    code, out, _ = run(capsys, "search", "A chess game.", talk.parent, *HEARS, "-k", 1)
    assert code == 0 and "text.txt:0-13" in out and len(decoded) == 1


def test_a_recording_is_scored_mined_and_aligned_by_its_utterances(talk, capsys):
    assert run(capsys, "score", talk, talk, *HEARS)[1] == "1.000000\n" * 2
    code, out, said = run(capsys, "mine", talk, talk, *HEARS, "--json", "-k", 1)
    assert code == 0 and all(pair["a"] == pair["b"] and pair["text_a"] for pair in map(json.loads, out.splitlines()))
    assert run(capsys, "mine", talk, "--dedup", "--threshold=-1", *HEARS)[1].count("\n") == 1
    start, end = map(float, run(capsys, "segment", talk)[1].splitlines()[0].split())
    code, out, said = run(capsys, "align", talk, talk, *HEARS, "--json")
    first = json.loads(out.splitlines()[0])
    assert code == 0 and (first["a"], first["b"]) == ([0], [0]), said
    assert [round(first[key], 2) for key in ("start_a", "end_a", "start_b", "end_b")] == [start, end] * 2
    code, _, said = run(capsys, "align", talk, talk, *HEARS, "--write-vectors", talk.parent)
    assert code == 2 and "is a recording, without texts" in said


def test_a_recording_is_translated_to_lines_and_subtitles(talk, capsys):
    options = [talk, *HEARS, "--to", "de", "--beam", 1, "--max-tokens", 12]
    code, out, said = run(capsys, "translate", *options)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2 and all(lines), said
    code, out, said = run(capsys, "translate", *options, "--format", "srt", "--bilingual")
    number, times, own, said = out.rstrip("\n").split("\n\n")[1].split("\n")
    assert (number, said) == ("2", lines[1]) and own
    assert re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:0\d,\d{3}", times)
    code, out, said = run(capsys, "translate", talk.parent, *options[1:], "-o", talk.parent / "out")
    assert code == 0 and (talk.parent / "out" / "talk.flac.txt").read_text("utf-8").splitlines() == lines, said


def test_a_recording_on_standard_input_is_that_file(talk, capsys, monkeypatch):
    def piped(*words):
        with open(talk, encoding="utf-8") as stream:
            monkeypatch.setattr("sys.stdin", stream)
            return run(capsys, *words)[1]

    assert piped("segment", "-") == piped("segment") == run(capsys, "segment", talk)[1] != ""
    for command in (["summarize", "--beam", 1, "--sentences", 2], ["translate", "--to", "en"]):
        options = [*command[1:], "-m", "tiny-llm", "--speech", "ears", "--max-tokens", 9]
        assert piped(command[0], *options) == run(capsys, command[0], talk, *options)[1] != ""
    one, two = piped("embed", "-m", "ears"), run(capsys, "embed", talk, "-m", "ears")[1]
    assert one.replace("standard input", str(talk)) == two != ""
    assert piped("score", "-", talk, *HEARS) == "1.000000\n" * 2
    with open(talk, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        code, _, said = run(capsys, "search", "-", talk, "-m", "tiny")
    assert code == 2 and "standard input is a recording, not text" in said


def test_an_encoder_with_nothing_to_hear_is_a_mistake(talk, capsys):
    text = talk.with_name("text.txt")
    for words in (
        ["summarize", text],
        ["generate", text],
        ["search", "x", text],
        ["score", text, text],
        ["mine", text, text],
        ["align", text, text],
        ["translate", text, "--to", "en"],
    ):
        code, _, said = run(capsys, *words, "-m", "tiny-llm", "--speech", "ears")
        assert code == 2 and "--speech ears hears recordings, and none is given; leave it out" in said
    assert (
        "talk.flac is a recording: tiny has no encoder of its own" in run(capsys, "score", talk, talk, "-m", "tiny")[2]
    )


def test_of_clips_what_can_not_be_heard_is_left_out_and_told(tmp_path, capsys):
    for i, name in enumerate(("samples399.wav", "en.wav", "pcm16.flac")):
        shutil.copy(PARITY / "audio" / name, tmp_path / f"{i}{name}")
    (tmp_path / "clips.tsv").write_text("path\tsentence\n0samples399.wav\tNo.\n1en.wav\tOne.\n2pcm16.flac\tTwo.\n")
    options = ["evaluate", "speech", "-m", "ears", "--json", "--beam", 1, "--data"]
    code, out, said = run(capsys, *options, tmp_path / "clips.tsv")
    found = json.loads(out)
    assert code == 0 and found["figures"]["eng_Latn clips"] == 2, said
    assert [sample["text"] for sample in found["samples"]] == ["One.", "Two."] and "left out 1 clips" in said
    (tmp_path / "1en.wav").write_bytes(b"hello")
    (tmp_path / "clips.tsv").write_text("path\tsentence\n1en.wav\tOne.\n")
    code, out, said = run(capsys, *options, tmp_path / "clips.tsv")
    assert code == 2 and "clips.tsv, line 2: " in said and "1en.wav is no sound" in said


def test_a_recording_is_summarised_by_the_rule_for_texts(capsys):
    """One utterance is its own summary; with --abstract the model writes, and nothing is decoded but that."""
    options = [PARITY / "audio" / "en.wav", "--speech", "ears", "-m", "tiny-llm", "--max-tokens", 28, "--json"]
    summary = json.loads(run(capsys, "summarize", *options)[1])
    heard = hear.read_recording(Recording(options[0]), load_space("tiny", RUNTIME), "en", speech="ears")
    (said,) = heard.words(search=Search(max_tokens=28))
    assert (summary["how"], summary["text"]) == ("extracted", said)
    assert isinstance(summary["end"], float)
    assert json.loads(run(capsys, "summarize", *options, "--abstract", "--sentences", 1)[1])["how"] == "written"


def test_sound_is_known_by_its_first_bytes(tmp_path, capsys):
    wave = np.random.default_rng(0).standard_normal(1600) / 9
    for kind in ("WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "RF64", "MP3"):
        soundfile.write(tmp_path / "sound", wave, 16_000, format=kind)
        assert is_recording(tmp_path / "sound"), kind
    for data in (b"RIFFraff", b"ID3 tags", b"\xff\xfe\0a", b"\xff\xfb\0\0", b""):
        (tmp_path / "text").write_bytes(data)
        assert not is_recording(tmp_path / "text")
    (tmp_path / "a b.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    code, _, said = run(capsys, "segment", tmp_path / "a b.m4a")
    assert code == 2 and "is no sound" in said and "; ffmpeg -i '" in said and "a b.flac'" in said


def test_a_recording_needs_ears(capsys):
    code, _, said = run(capsys, "embed", PARITY / "audio" / "en.wav", "-m", "tiny")
    assert code == 2 and "it can't hear" in said
    code, _, said = run(capsys, "decode", PARITY / "audio" / "en.wav", "-m", "ears")
    assert code == 2


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(UserError, match="needs the package soundfile; pip install"):
        recording("en").samples()


def test_python_embeds_arrays_and_files():
    from sonarllm_cli import embed

    wave = recording("en").samples()
    one = embed(audio=wave, rate=16_000, whole=True, model="ears", runtime=RUNTIME)
    two = embed(audio=[PARITY / "audio" / "en.wav", wave], rate=16_000, whole=True, model="ears", runtime=RUNTIME)
    near(two, torch.from_numpy(one).expand(2, -1), 2e-6)


def test_an_unknown_key_is_an_error(tmp_path):
    weights = torch.load(PARITY / "small_speech_encoder.fairseq2.pt", weights_only=True)
    weights["model"]["encoder.layers.0.surprise"] = torch.zeros(1)
    torch.save(weights, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=r"unexpected weight 'encoder\.layers\.0\.surprise'"):
        convert.import_speech("odd", checkpoint=tmp_path / "odd.pt", lang="en")


def test_a_space_of_another_width_is_refused():
    with pytest.raises(UserError, match="vectors of 32 numbers, tiny has 64"):
        convert.import_speech("odd", checkpoint=PARITY / "small_speech_encoder.fairseq2.pt", lang="en", sonar="tiny")


def test_int8_and_bfloat16_hear_the_same():
    everything = [steps(name) for name in CLIPS if name != "pauses"]  # whose features are nearly equal in silence
    want_ND = encode_utterances(everything, load_speech("ears", RUNTIME))
    for dtype, least in (("bfloat16", 0.999), ("int8", 0.99)):
        got_ND = encode_utterances(everything, load_speech("ears", choose("cpu", dtype)))
        assert torch.cosine_similarity(got_ND.float(), want_ND).min() > least


def test_the_registry_knows_the_folder():
    folder = registry.find("ears")
    assert registry.show("ears")["kind"] == "sonar-speech" and registry.verify("ears")
    shutil.copytree(folder, folder.parent / "copy")
    try:
        assert load_speech("copy", RUNTIME).fingerprint == load_speech("ears", RUNTIME).fingerprint != ""
    finally:
        registry.remove("copy")
