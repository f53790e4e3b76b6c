"""models export: what other libraries load gives what we give; the published shape comes back bit for bit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PARITY
from safetensors.torch import load_file

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.decode import decode
from sonarllm_cli.flow.embed import embed
from sonarllm_cli.nets.sonar import Sonar, SonarConfig
from sonarllm_cli.runtime import choose
from sonarllm_cli.tokens import EOS, Tokenizer
from sonarllm_cli.weights import model_dir, tensors
from sonarllm_cli.weights.convert import import_sonar
from sonarllm_cli.weights.export import export
from sonarllm_cli.weights.hf_tokenizer import tokenizer_json
from sonarllm_cli.weights.registry import find

EXPECTED = load_file(PARITY / "expected.safetensors")
ORDER = {0: 1, 1: 3, 2: 0, 3: 2}  # our control tokens' ids → theirs
TEXTS = ["A music player.", " Two  blanks, ½ and ﬁ; 😀!", "", "word " * 200]


@pytest.fixture(scope="module")
def folder(parity_home, tmp_path_factory):
    """The space `tiny` as transformers' M2M100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(parity_home))
        return export("tiny", tmp_path_factory.mktemp("export") / "hf", "transformers")


# ---------------------------------------------------------------------------------------------- with no library


def test_the_encoder_is_the_published_port_bit_for_bit(folder):
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder / "encoder", PARITY / "m2m100_encoder"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    config, want = (
        json.loads((f / "config.json").read_text()) for f in (folder / "encoder", PARITY / "m2m100_encoder")
    )
    same = set(want) - {"attention_dropout", "activation_dropout", "dropout", "init_std", "transformers_version"}
    same -= {"encoder_layerdrop", "decoder_layerdrop", "num_hidden_layers", "use_cache"}
    assert {key: config[key] for key in same} == {key: want[key] for key in same}


def test_an_export_imports_as_the_same_space(folder, tmp_path, expected, monkeypatch, home):
    want = model_dir.read_config(find("tiny"))["fingerprint"]
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path))
    parts = {"encoder": folder / "encoder", "decoder": folder / "decoder", "tokenizer": folder / "encoder"}
    assert (
        model_dir.read_config(import_sonar("back", **parts, langs=expected["config"]["langs"]))["fingerprint"] == want
    )


@pytest.mark.parametrize(
    ("name", "to", "options", "says"),
    [
        ("mini", "transformers", {}, "vectors of 1024 numbers in layers of 256, which .* has not; .*sentence-transfo"),
        ("tiny", "transformers", {"dtype": "int8"}, "takes no int8; use one of float32, float16, bfloat16"),
        ("tiny", "sentence-transformers", {"lang": "kor_Hang"}, "kor_Hang"),
        ("tiny", "keras", {}, "can't export to 'keras'"),
    ],
)
def test_what_the_other_side_has_no_place_for_is_refused(home, tmp_path, name, to, options, says):
    with pytest.raises(UserError, match=says):
        export(name, tmp_path / "x", to, **options)
    assert not (tmp_path / "x").exists()


def test_a_damaged_space_and_a_folder_of_other_things_are_refused(home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(UserError, match="holds other things"):
        export("tiny", tmp_path / "mine", "transformers")
    for file in find("tiny").iterdir():
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / file.name).write_bytes(file.read_bytes()[: -1 if file.suffix == ".model" else None])
    with pytest.raises(UserError, match="hash differs"):
        export(str(tmp_path / "bad"), tmp_path / "y", "transformers")


def test_the_command_writes_the_folder_and_a_card(home, tmp_path, sonarllm):
    done = sonarllm("models", "export", "mini", tmp_path / "st", "--to", "sentence-transformers", "--lang", "de")
    assert done.returncode == 0 and done.out.strip() == str(tmp_path / "st"), done.err
    assert "license: apache-2.0" in (tmp_path / "st/README.md").read_text()
    assert (
        json.loads((tmp_path / "st/config_sentence_transformers.json").read_text())["default_prompt_name"] == "deu_Latn"
    )


# ---------------------------------------------------------------------------------------------- with them


@pytest.mark.parametrize("space", ["tiny", "mini-sonar"])
def test_the_tokenizer_gives_the_same_ids_and_texts(space, expected, home):
    tokenizers = pytest.importorskip("tokenizers")
    place = find(space)
    words = Tokenizer(place / "tokenizer.model", model_dir.read_config(place)["langs"])
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(words)))
    for text in [*TEXTS, *(t["text"] for t in expected["texts"])]:
        ids = [ORDER.get(i, i) for i in words.source(text, "deu_Latn")]
        assert theirs.encode("deu_Latn" + text).ids == ids
        if 3 not in ids:
            assert theirs.decode(ids) == words.text(words.source(text, "deu_Latn"))


def test_bpe_gives_the_same_ids_too(tmp_path, expected):
    tokenizers, sentencepiece = pytest.importorskip("tokenizers"), pytest.importorskip("sentencepiece")
    texts = [t["text"] for t in expected["texts"]]
    (tmp_path / "texts").write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(tmp_path / "texts"),
        model_prefix=str(tmp_path / "bpe"),
        vocab_size=120,
        model_type="bpe",
        minloglevel=2,
    )
    words = Tokenizer(tmp_path / "bpe.model", ["eng_Latn"])
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(words)))
    for text in texts:
        assert theirs.encode("eng_Latn" + text).ids == [ORDER.get(i, i) for i in words.source(text, "eng_Latn")]


def test_m2m100_of_transformers_embeds_and_decodes_alike(folder, expected, home):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_outputs import BaseModelOutput
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    words = transformers.AutoTokenizer.from_pretrained(folder / "encoder")
    encoder, missed = M2M100Encoder.from_pretrained(folder / "encoder", output_loading_info=True)
    load = transformers.M2M100ForConditionalGeneration.from_pretrained
    decoder, missed_too = load(folder / "decoder", output_loading_info=True)
    assert not any([*missed.values(), *missed_too.values()])
    batch = words([t["lang"] + t["text"] for t in expected["texts"]], return_tensors="pt", padding=True)
    mask_BT1, vectors_BD = batch["attention_mask"][..., None], EXPECTED["embeddings"]
    with torch.inference_mode():
        got_BD = (encoder(**batch).last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1)
        torch.testing.assert_close(got_BD, vectors_BD, atol=1e-5, rtol=0)
        for i, text in enumerate(expected["texts"]):
            ids_1T = torch.tensor([[ORDER.get(j, j) for j in text["target_tokens_eng"][:40]]])
            given = BaseModelOutput(last_hidden_state=vectors_BD[i : i + 1, None])
            logits_TV = decoder(encoder_outputs=given, decoder_input_ids=ids_1T).logits[0]
            logits_TV[:, list(ORDER)] = logits_TV[:, list(ORDER.values())]
            torch.testing.assert_close(logits_TV, EXPECTED[f"logits.{i}"], atol=1e-4, rtol=0)
        ids = decoder.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=vectors_BD[:, None]),
            forced_bos_token_id=words.convert_tokens_to_ids("fra_Latn"),
            num_beams=1,
            max_length=11,
        )
    want = decode(vectors_BD, lang="fra_Latn", model="tiny", beam=1, max_tokens=12)
    assert words.batch_decode(ids, skip_special_tokens=True) == [found[0].text for found in want]


def test_what_the_folders_card_runs_finds_our_texts(home, tmp_path, monkeypatch):
    """Of a space whose texts are of many lengths, some cut off at the most there may be."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"width": 16, "heads": 2, "ffn": 24, "encoder_layers": 1, "decoder_layers": 2, "vocab_size": 911}
    net = Sonar(SonarConfig(**shape, embedding=16, max_source_tokens=40, max_target_tokens=31))
    with torch.no_grad():
        net.encoder.embed.weight.normal_(std=0.3)
        net.decoder.embed.weight.normal_(std=0.3)[EOS] *= 4
        net.encoder.layer_norm.weight *= 3
    tokenizer = (PARITY / "sentencepiece.model").read_bytes()
    langs = model_dir.read_config(find("tiny"))["langs"]
    tensors.save(tmp_path / "own", kind="sonar", model=net, tokenizer=tokenizer, langs=langs)
    monkeypatch.chdir(export(str(tmp_path / "own"), tmp_path / "hf", "transformers"))
    words = ["a", "the", "no", "music", "chess", "text"]
    texts = [f"{one} {two}" for one in words for two in words]
    code = Path("README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    assert '["eng_Latn" + "A text."]' in code
    names: dict = {}
    exec(code.replace('["eng_Latn" + "A text."]', repr(["eng_Latn" + text for text in texts])), names)
    vectors_ND = embed(texts, model=str(tmp_path / "own"), runtime=choose("cpu", "float32"))
    want = [found[0].text for found in decode(vectors_ND, model=str(tmp_path / "own"), beam=5, max_tokens=31)]
    assert names["texts"] == want
    assert len({len(text.split()) for text in want}) > 4


def lasting(home, folder):
    """A space that reads its last token, and projects it."""
    torch.manual_seed(0)
    shape = {"width": 16, "heads": 2, "ffn": 24, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": 911}
    shape |= {"embedding": 12, "max_source_tokens": 9, "max_target_tokens": 9}
    net = Sonar(SonarConfig(**shape, pooling="last"))
    tokenizer = (PARITY / "sentencepiece.model").read_bytes()
    tensors.save(
        folder / "own", kind="sonar", model=net, tokenizer=tokenizer, langs=model_dir.read_config(find("tiny"))["langs"]
    )
    return str(folder / "own")


@pytest.mark.parametrize("space", ["tiny", "mini", lasting], ids=["tiny", "mini", "last"])
def test_sentence_transformers_loads_it_and_embeds_alike(space, home, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    space = space if isinstance(space, str) else space(home, tmp_path)
    model = library.SentenceTransformer(str(export(space, tmp_path / "st", "sentence-transformers")), device="cpu")
    for code, options in (("eng_Latn", {}), ("deu_Latn", {"prompt_name": "deu_Latn"})):
        want_ND = embed(TEXTS, lang=code, model=space, runtime=choose("cpu", "float32"))
        assert np.allclose(model.encode(TEXTS, **options), want_ND, atol=2e-5)


@pytest.fixture(scope="module")
def onnx(parity_home, tmp_path_factory):
    """The space `tiny` as ONNX, in float32 and in int8: what runs a file of it."""
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module)
    runtime = pytest.importorskip("onnxruntime")
    from sonarllm_cli.weights.onnx import export_onnx

    root = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(parity_home))
        for dtype in ("float32", "int8"):
            export_onnx("tiny", root / dtype, dtype=dtype)

    def run(folder, file, **inputs):
        session = runtime.InferenceSession(root / folder / file, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(out) for out in session.run(None, {k: v.numpy() for k, v in inputs.items()})]

    return run


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_too_many_for_one_message_lie_beside_the_graph(onnx, expected, home, tmp_path, monkeypatch, dtype):
    from sonarllm_cli.weights import onnx as module

    monkeypatch.setattr(module, "BESIDE", 0)
    folder = module.export_onnx("tiny", tmp_path / "moved", dtype=dtype).rename(tmp_path / "here")
    assert sorted(f.name for f in folder.iterdir()) == [
        "config.json",
        "decoder_step.onnx",
        "decoder_step.onnx.data",
        "encoder.onnx",
        "encoder.onnx.data",
        "tokenizer.model",
    ]
    ids_1T = torch.tensor([expected["texts"][0]["source_tokens"]])
    encode = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
    step = {"input_ids": ids_1T[:, :1], "sentence_embedding": EXPECTED["embeddings"][:1]}
    step["past"] = torch.zeros(3, 2, 1, 4, 0, 16)
    for file, given in (("encoder.onnx", encode), ("decoder_step.onnx", step)):
        for got, want in zip(onnx(folder, file, **given), onnx(dtype, file, **given)):
            torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1 - 1e-6), ("int8", 0.99)])
def test_onnxruntime_embeds_alike(onnx, expected, dtype, least):
    ids = [torch.tensor(text["source_tokens"]) for text in expected["texts"]]
    ids_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    (got_BD,) = onnx(dtype, "encoder.onnx", input_ids=ids_BT, attention_mask=(ids_BT > 0).long())
    assert torch.cosine_similarity(got_BD, EXPECTED["embeddings"]).min() > least
    if dtype == "float32":
        torch.testing.assert_close(got_BD, EXPECTED["embeddings"], atol=1e-5, rtol=0)


def test_steps_of_onnxruntime_give_the_logits(onnx, expected):
    ids_T, embedding_1D = expected["texts"][0]["target_tokens_eng"][:6], EXPECTED["embeddings"][:1]
    past = torch.zeros(3, 2, 1, 4, 0, 16)  # of L layers, keys and values, 1 text, H heads, no token yet
    for t, token in enumerate(ids_T):
        given = {"input_ids": torch.tensor([[token]]), "sentence_embedding": embedding_1D, "past": past}
        logits_1V, past = onnx("float32", "decoder_step.onnx", **given)
        torch.testing.assert_close(logits_1V[0], EXPECTED["logits.0"][t], atol=1e-4, rtol=0)
    assert past.shape[4] == len(ids_T)


def test_without_the_extra_onnx_names_it(home, tmp_path, monkeypatch):
    from sonarllm_cli.weights.onnx import export_onnx

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"not installed; pip install 'sonarllm-cli\[export\]'"):
        export_onnx("tiny", tmp_path / "x")
