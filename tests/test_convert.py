"""Published layouts → ours, and the numbers the published systems gave (tests/parity/README.md)."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from sonarllm_cli.errors import UserError
from sonarllm_cli.runtime import choose
from sonarllm_cli.weights import convert, model_dir, registry
from sonarllm_cli.weights.layouts import SONAR_DECODERS
from sonarllm_cli.weights.loaded import load_space, load_writer

PARITY = Path(__file__).parent / "parity"
EXPECTED = json.loads((PARITY / "expected.json").read_text())
SPACE = {
    "encoder": PARITY / "text_encoder.fairseq2.pt",
    "decoder": PARITY / "text_decoder.fairseq2.pt",
    "tokenizer": PARITY / "sentencepiece.model",
    "langs": EXPECTED["config"]["langs"],
    "heads": EXPECTED["config"]["num_heads"],
    "max_tokens": EXPECTED["config"]["max_seq_len"],
}
CHECKPOINT, CONFIG = PARITY / "sonarllm_reference_checkpoint.pt", PARITY / "sonarllm_reference_config.json"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(tmp_path_factory.mktemp("home")))
        convert.import_sonar("space", **SPACE)
        convert.import_sonar_llm("writer", checkpoint=CHECKPOINT, config=CONFIG, sonar="space")
        return load_writer("writer", choose("cpu", "float32"))


def state(path):
    value = torch.load(path, weights_only=True)
    return value.get("model") or value.get("state_dict") or value["model_state_dict"]


# ------------------------------------------------------------------------------------- equal to what was published


def test_token_ids(writer):
    words = writer.space.tokenizer
    for text in EXPECTED["texts"]:
        assert words.source(text["text"], text["lang"]) == text["source_tokens"]
        assert words.target(text["text"], "eng_Latn")[:40] == text["target_tokens_eng"]


def test_embeddings(writer):
    want_ND = load_file(PARITY / "expected.safetensors")["embeddings"]
    for text, want_D in zip(EXPECTED["texts"], want_ND, strict=True):
        ids = text["source_tokens"]
        got_1D = writer.space.net.encoder(torch.tensor([ids]), torch.tensor([len(ids)]))
        torch.testing.assert_close(got_1D[0], want_D, atol=1e-5, rtol=0)


def test_embeddings_of_a_padded_batch(writer):
    ids = [text["source_tokens"] for text in EXPECTED["texts"]]
    padded_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True, padding_value=7)
    got_BD = writer.space.net.encoder(padded_BT, torch.tensor([len(i) for i in ids]))
    want_BD = load_file(PARITY / "expected.safetensors")["embeddings"]
    torch.testing.assert_close(got_BD, want_BD, atol=1e-5, rtol=0)


def test_logits(writer):
    want, decoder = load_file(PARITY / "expected.safetensors"), writer.space.net.decoder
    for i, text in enumerate(EXPECTED["texts"]):
        hidden = decoder(torch.tensor([text["target_tokens_eng"][:40]]), want["embeddings"][i : i + 1])
        torch.testing.assert_close(decoder.logits(hidden)[0], want[f"logits.{i}"], atol=1e-4, rtol=0)


def test_predictions(writer):
    want = load_file(PARITY / "sonarllm_expected.safetensors")
    torch.testing.assert_close(writer.net(want["input"]), want["predicted"], atol=1e-5, rtol=0)
    torch.testing.assert_close(writer.net(want["long_input"]), want["long_predicted"], atol=1e-5, rtol=0)


def test_cross_entropy_of_predicted_sentences(writer):
    want = json.loads((PARITY / "sonarllm_expected.json").read_text())
    predicted_BSD = writer.net(load_file(PARITY / "sonarllm_expected.safetensors")["input"])
    nll, decoder = [], writer.space.net.decoder
    for doc, predicted_SD in zip(want["docs"], predicted_BSD, strict=True):
        for sentence, embedding_D in zip(doc[1:], predicted_SD):
            ids_T = torch.tensor(EXPECTED["texts"][sentence]["target_tokens_eng"])
            logits_TV = decoder.logits(decoder(ids_T[None], embedding_D[None]))[0]
            nll.append(F.cross_entropy(logits_TV[1:-1], ids_T[2:], reduction="sum").item())  # not the language's
    assert nll == pytest.approx(want["sentence_nll"], rel=1e-4)
    assert sum(nll) / want["tokens"] == pytest.approx(want["token_cross_entropy"], rel=1e-4)


# ------------------------------------------------------------------------------------- every layout, the same weights


def fairseq1_encoder(folder):
    tensors = load_file(PARITY / "m2m100_encoder" / "model.safetensors")
    torch.save({"state_dict": {**tensors, "version": torch.tensor([3.0])}}, folder / "encoder.pt")
    return {"encoder": folder / "encoder.pt"}


def pickled_folder(folder):
    torch.save(load_file(PARITY / "m2m100_encoder" / "model.safetensors"), folder / "pytorch_model.bin")
    shutil.copy(PARITY / "m2m100_encoder" / "config.json", folder)
    return {"encoder": folder, "heads": None}


def two_shards(folder):
    tensors = load_file(PARITY / "m2m100_encoder" / "model.safetensors")
    index = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in set(index.values()):
        save_file({name: t for name, t in tensors.items() if index[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return {"encoder": folder}


def translator(folder):
    """An encoder-decoder of transformers whose encoder is another's, as the port of SONAR's decoder is."""
    old = state(PARITY / "text_decoder.fairseq1.pt")
    tensors = {f"model.decoder.{k}": v for k, v in old.items() if k.startswith("layer")}
    tensors |= {"model.shared.weight": old["output_projection.weight"].clone(), "model.encoder.x": torch.ones(1)}
    tensors |= {"lm_head.weight": old["output_projection.weight"].clone()}
    save_file(tensors, folder / "model.safetensors")
    config = {"decoder_attention_heads": 4, "max_position_embeddings": 1024, "scale_embedding": True}
    (folder / "config.json").write_text(json.dumps(config))
    return {"decoder": folder, "heads": None}


def compiled(folder):
    """Trained by DDP on a compiled model, with its options and a counter, in a wrapper in a wrapper."""
    tensors = {f"module._orig_mod.{key}": value for key, value in state(SPACE["encoder"]).items()}
    tensors["module._orig_mod.encoder.updates"] = torch.tensor(7)
    args = argparse.Namespace(arch="sonar", lr=[1e-3], inner=argparse.Namespace(seed=1))
    torch.save({"state_dict": {"model": tensors}, "args": args}, folder / "encoder.pt")
    return {"encoder": folder / "encoder.pt"}


def orig_mod(folder):
    save_file({f"_orig_mod.{k}": v.clone() for k, v in state(SPACE["decoder"]).items()}, folder / "d.safetensors")
    return {"decoder": folder / "d.safetensors"}


def old_format(folder):
    torch.save({"model": state(SPACE["encoder"])}, folder / "encoder.pt", _use_new_zipfile_serialization=False)
    return {"encoder": folder / "encoder.pt"}


@pytest.mark.parametrize(
    "other",
    [
        lambda _: {"encoder": PARITY / "m2m100_encoder", "heads": None},
        lambda _: {"decoder": PARITY / "text_decoder.fairseq1.pt"},
        fairseq1_encoder,
        pickled_folder,
        two_shards,
        compiled,
        orig_mod,
        translator,
        old_format,
    ],
)
def test_every_layout_gives_the_same_bits(other, tmp_path, writer):
    (tmp_path / "published").mkdir()
    options = SPACE | other(tmp_path / "published")
    if options["heads"] is None and options["encoder"] == SPACE["encoder"]:
        options["encoder"] = PARITY / "m2m100_encoder"
    made = model_dir.read_config(convert.import_sonar("other", **options))
    assert made["fingerprint"] == writer.space.fingerprint
    assert made["model"]["heads"] == 4


def test_hub_folder_of_a_concept_model(tmp_path, writer):
    convert.import_sonar("space", **SPACE)
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save({f"module.{k}": v for k, v in state(CHECKPOINT).items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**json.loads(CONFIG.read_text()), "add_begin": True}))
    made = convert.import_sonar_llm("writer", checkpoint=folder, sonar="space", licence="MIT")
    config = model_dir.read_config(made)
    assert config["sonar"] == {"name": "space", "fingerprint": writer.space.fingerprint}
    assert (config["begin"], config["lang"], config["licence"]) == ("Begin of text.", "eng_Latn", "MIT")
    again = load_writer("writer", choose("cpu", "float32"))
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), writer.net.parameters(), strict=True))


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("bf16", 2e-2), ("int8", 5e-2)])
def test_stored_dtypes(dtype, error, writer):
    convert.import_sonar("small", **SPACE, dtype=dtype)
    small = load_space("small", choose("cpu", "float32"))
    for got, want in zip(small.net.parameters(), writer.space.net.parameters(), strict=True):
        assert (got - want).norm() <= error * want.norm()
    assert small.fingerprint == writer.space.fingerprint  # another file of the same space


@pytest.mark.parametrize(
    "change", [{"heads": 2}, {"langs": SPACE["langs"][::-1]}, {"encoder": "altered"}, {"tokenizer": "altered"}]
)
def test_another_answer_is_another_space(change, tmp_path, writer):
    if "encoder" in change:
        path = changed(SPACE["encoder"], lambda s: s["layer_norm.bias"].add_(1e-6), tmp_path / "altered.pt")
        change = {"encoder": path}
    if "tokenizer" in change:  # the same pieces, another normaliser: a field that protobuf readers pass over
        (tmp_path / "altered.model").write_bytes(SPACE["tokenizer"].read_bytes() + b"\xc2\x3e\x00")
        change = {"tokenizer": tmp_path / "altered.model"}
    made = model_dir.read_config(convert.import_sonar("other", **SPACE | change))
    assert made["fingerprint"] != writer.space.fingerprint


def test_how_long_a_text_may_be_is_not_the_space(writer):
    made = model_dir.read_config(convert.import_sonar("other", **SPACE | {"max_tokens": 32}))
    assert made["fingerprint"] == writer.space.fingerprint


def test_half_precision_stays_half(tmp_path):
    half = {k: v.half() for k, v in load_file(PARITY / "m2m100_encoder" / "model.safetensors").items()}
    save_file(half, tmp_path / "encoder.safetensors")
    torch.save({"model": {k: v.half() for k, v in state(SPACE["decoder"]).items()}}, tmp_path / "decoder.pt")
    options = SPACE | {"encoder": tmp_path / "encoder.safetensors", "decoder": tmp_path / "decoder.pt"}
    assert model_dir.read_config(convert.import_sonar("half", **options))["weights"] == "float16"


# ------------------------------------------------------------------------------------- what must not pass


def changed(path, change, where):
    """A copy of a checkpoint whose weights `change` has altered; → its path."""
    value = state(path)
    change(value)
    torch.save({"model": value}, where)
    return where


LAYER = "encoder.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(LAYER), f"no weight '{LAYER}'"),
        (lambda s: s.pop("layer_norm.bias"), "no weight 'layer_norm.bias'"),
        (lambda s: s.update(extra=torch.ones(2)), "unexpected weight 'extra'"),
        (lambda s: s.update({LAYER: torch.ones(64, 63)}), "parts that don't fit"),
        (lambda s: s.update({"layer_norm.bias": torch.ones(63)}), r"layer_norm.bias should be \(64,\), it is \(63,\)"),
        (lambda s: s.update({"encoder_frontend.embed.weight": torch.ones(911)}), "is no matrix"),
        (lambda s: s.update({"encoder.layers.7.ffn.inner_proj.bias": torch.ones(160)}), "layers.2."),
        (lambda s: s.update({LAYER: torch.full((64, 64), torch.nan)}), "not finite"),
        (lambda s: s.update({LAYER: torch.ones(64, 64, dtype=torch.int64)}), "not floating point"),
        (lambda s: s.clear(), "holds no weights"),
        (lambda s: s.update({LAYER: "text"}), "unexpected entry"),
    ],
)
def test_an_altered_encoder(change, message, tmp_path, home):
    with pytest.raises(UserError, match=message):
        convert.import_sonar("bad", **SPACE | {"encoder": changed(SPACE["encoder"], change, tmp_path / "bad.pt")})
    assert not [p for p in (home / "models").iterdir() if p.suffix != ".lock"]  # nothing half-made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": ["eng_Latn"]}, "1 languages make 905 ids, the weights have 911"),
        ({"heads": 5}, "not divisible"),
        ({"encoder": SPACE["decoder"]}, "not a SONAR text encoder in a known layout"),
        ({"decoder": SPACE["encoder"]}, "not a SONAR text decoder in a known layout"),
        ({"encoder": PARITY / "none.pt"}, "no such file"),
        ({"encoder": PARITY}, "holds no model.safetensors"),
        ({"tokenizer": CONFIG}, "config.json can't be read"),
        ({"encoder": SPACE["tokenizer"]}, "no checkpoint"),
        ({"dtype": "float12"}, "unknown dtype"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        convert.import_sonar("bad", **SPACE | options)


def test_a_tied_weight_that_differs(tmp_path):
    decoder = changed(SPACE["decoder"], lambda s: s["final_proj.weight"].add_(1), tmp_path / "bad.pt")
    with pytest.raises(UserError, match="differs from the weight it is tied to"):
        convert.import_sonar("bad", **SPACE | {"decoder": decoder})


def test_a_transformers_model_that_is_not_sonar(tmp_path):
    shutil.copytree(PARITY / "m2m100_encoder", tmp_path / "gelu")
    config = json.loads((tmp_path / "gelu" / "config.json").read_text())
    (tmp_path / "gelu" / "config.json").write_text(json.dumps(config | {"activation_function": "gelu"}))
    with pytest.raises(UserError, match="activation_function 'gelu'"):
        convert.import_sonar("bad", **SPACE | {"encoder": tmp_path / "gelu"})


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    ("save", "message"),
    [(torch.save, "could run code"), (lambda value, path: path.write_bytes(pickle.dumps(value)), "no checkpoint")],
)
def test_a_pickle_that_runs_code_does_not(save, message, tmp_path):
    bag = argparse.Namespace(bomb=Bomb(str(tmp_path / "boom")))  # what may be in a file may hold what may not
    save({"model": state(SPACE["encoder"]), "args": bag}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match=message):
        convert.import_sonar("bad", **SPACE | {"encoder": tmp_path / "bomb.pt"})
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["text_encoder.fairseq2.pt", "m2m100_encoder/model.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 3000, -1])
def test_a_file_cut_short(name, keep, tmp_path):
    path = tmp_path / Path(name).name
    path.write_bytes((PARITY / name).read_bytes()[:keep])
    with pytest.raises(UserError, match=r"damaged|no checkpoint"):
        convert.import_sonar("bad", **SPACE | {"encoder": path})


def test_a_space_of_another_width(tmp_path):
    convert.import_sonar("space", **SPACE)
    value = state(CHECKPOINT)
    value["forward_proj.linear.weight"], value["reverse_proj.linear.weight"] = torch.ones(48, 32), torch.ones(32, 48)
    value["reverse_proj.linear.bias"] = torch.ones(32)
    torch.save(value, tmp_path / "narrow.pt")
    with pytest.raises(UserError, match="trained on 32-wide sentences, space has 64"):
        convert.import_sonar_llm("bad", checkpoint=tmp_path / "narrow.pt", config=CONFIG, sonar="space")


def test_a_space_with_another_decoder(tmp_path):
    name = SONAR_DECODERS[0].sources("layers.0.cross_v_proj.weight")[0]
    decoder = changed(SPACE["decoder"], lambda s: s[name].mul_(1.001), tmp_path / "other.pt")
    convert.import_sonar("space", **SPACE | {"decoder": decoder})
    with pytest.raises(UserError, match="trained through another decoder"):
        convert.import_sonar_llm("bad", checkpoint=CHECKPOINT, config=CONFIG, sonar="space")


def test_a_space_with_the_same_decoder_stored_smaller():
    convert.import_sonar("space", **SPACE, dtype="int8")
    assert convert.import_sonar_llm("good", checkpoint=CHECKPOINT, config=CONFIG, sonar="space").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"num_attention_heads": 3}, "qkv_proj.weight should be"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rotary scaling 'yarn'"),
        ({"rope_theta": "much"}, "rope_theta 'much'"),
        ({"rope_scaling": True}, "no table of rotary settings, but True"),
    ],
)
def test_a_concept_config_that_is_wrong(change, message, tmp_path):
    convert.import_sonar("space", **SPACE)
    config = json.loads(CONFIG.read_text())
    config["llama_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        convert.import_sonar_llm("bad", checkpoint=CHECKPOINT, config=tmp_path / "config.json", sonar="space")


def test_a_space_of_more_languages_than_its_table_is_refused():
    """Whose ids would be those of nothing."""
    folder = convert.import_sonar("space", **SPACE)
    config = json.loads((folder / "config.json").read_text())
    config["langs"] += ["xxx_Latn"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="tokenizer has 912 ids, the model 911"):
        load_space("space")


@pytest.mark.parametrize(
    "said", [None, [], {}, {"a": 1}, {"a": "../x.bin"}, {"a": None, "b": "x.bin"}, {"a": "none.bin"}]
)
def test_an_index_of_parts_that_is_wrong(said, tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": said}))
    with pytest.raises(UserError, match=r"no weight_map of files|outside its folder|no such file"):
        convert.import_sonar("bad", **SPACE | {"encoder": tmp_path})


def test_grouped_queries_and_newer_rotary_keys(tmp_path):
    convert.import_sonar("space", **SPACE)
    value, config = state(CHECKPOINT), json.loads(CONFIG.read_text())
    for key in [k for k in value if "k_proj" in k or "v_proj" in k]:
        if key.startswith("llama"):
            value[key] = value[key][:32].clone()  # 2 of 6 heads
    llama = config["llama_config"]
    llama["num_key_value_heads"] = 2
    llama["rope_parameters"] = {"rope_theta": llama.pop("rope_theta"), **llama.pop("rope_scaling")}
    torch.save(value, tmp_path / "grouped.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = convert.import_sonar_llm(
        "grouped", checkpoint=tmp_path / "grouped.pt", config=tmp_path / "config.json", sonar="space"
    )
    model = model_dir.read_config(made)["model"]
    assert (model["kv_heads"], model["rope_theta"], model["rope_factor"]) == (2, 500_000.0, 32.0)
    assert load_writer("grouped").net(torch.ones(1, 3, 64)).isfinite().all()


def test_heads_that_nobody_named_are_announced(caplog):
    made = convert.import_sonar("space", **SPACE | {"heads": None})
    assert model_dir.read_config(made)["model"]["heads"] == 1
    assert "taking 1 heads of 64 for 64; name others with --heads" in caplog.text


def test_a_name_that_another_process_is_importing(tmp_path, monkeypatch):
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path))
    with registry.claimed_name("new"), pytest.raises(UserError, match="another process is importing new"):
        convert.import_sonar_llm("new", checkpoint=PARITY / "sonarllm_reference_checkpoint.pt", sonar="tiny")
    assert registry.names() == [folder.name for folder in sorted(registry.EMBEDDED.iterdir())]


def test_a_name_that_is_taken():
    convert.import_sonar("space", **SPACE)
    with pytest.raises(UserError, match="there is a model 'space' already; remove it"):
        convert.import_sonar("space", **SPACE)
