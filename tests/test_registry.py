"""Names to folders, what is listed, checked and removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from sonarllm_cli.errors import UserError
from sonarllm_cli.nets.sonar import Sonar, SonarConfig
from sonarllm_cli.nets.sonar_llm import SonarLLM, SonarLLMConfig
from sonarllm_cli.weights import model_dir, registry, tensors

PARITY = Path(__file__).parent / "parity"
TINY = SonarConfig(width=8, heads=2, ffn=8, encoder_layers=1, decoder_layers=1, vocab_size=9, embedding=8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "EMBEDDED", tmp_path / "package")
    (tmp_path / "package").mkdir()
    make("built-in", tmp_path / "package" / "built-in")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(name, folder=None, weights="float32", **facts):
    folder = folder or registry.target(name)
    tensors.save(folder, kind="sonar", model=Sonar(TINY), weights=weights, **facts)
    return folder


def tenant(space, folder):
    """A concept model in the space called `space`."""
    net = SonarLLM(SonarLLMConfig(width=8, ffn=8, layers=1, heads=2, embedding=8))
    tensors.save(folder, kind="sonar-llm", model=net, sonar={"name": space, "fingerprint": ""})
    return folder


def test_find_by_name_path_and_home(home):
    here = make("mine")
    assert registry.find("mine") == here == home / "home" / "models" / "mine"
    assert registry.find("built-in") == home / "package" / "built-in"
    assert registry.find(here) == registry.find(str(here)) == here
    assert registry.find("home/models/mine").resolve() == here


def test_a_name_is_the_registrys_before_it_is_a_folder_here(home):
    make("mine", home / "mine")
    assert registry.find("mine").resolve() == home / "mine"
    assert registry.find("mine") != make("mine") == registry.find("mine")


def test_a_concept_model_finds_the_space_that_its_recipe_gave_as_a_path(home):
    (home / "runs/2").mkdir(parents=True)
    space, writer = make("", home / "runs/2/model"), home / "runs/3/model"
    trained = {"sonar": {"name": "model"}, "training": {"settings": {"sonar": "runs/2/model"}}}
    writer.mkdir(parents=True)
    (writer / "config.json").write_text("{}")
    assert Path(model_dir.home_of(writer, trained)).resolve() == space
    assert model_dir.home_of(writer, {**trained, "training": {}}) == "model"
    beside = make("", home / "runs/3/space")
    assert model_dir.home_of(writer, {**trained, "sonar": {"name": "space"}}) == str(beside)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mien", "unknown model 'mien'; did you mean mine"),
        ("sonar-200", "not on this machine; fetch it: sonarllm models pull sonar-200"),
        ("sonar-20", "did you mean sonar-200"),
        ("no/such", "no such model folder: no/such"),
        ("../home", "not a model folder"),
        ("", "is not a model's name"),
        ("a\0b", "is not a model's name"),
        ("~nobody/here", "no such model folder"),
        ("x" * 5000, "unknown model"),
    ],
)
def test_what_is_not_found(name, message):
    make("mine")
    (registry.models_home().parent / "config").mkdir()
    with pytest.raises(UserError, match=message):
        registry.find(name if name != "../home" else "./home")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\\b", "a b", "end.", "x" * 101])
def test_names_that_no_model_can_have(name):
    with pytest.raises(UserError, match="can't be a model's name"):
        registry.target(name)


def test_an_embedded_name_is_not_given_away():
    with pytest.raises(UserError, match="comes with the package"):
        registry.target("built-in")
    with pytest.raises(UserError, match="can't be removed"):
        registry.remove("built-in")


def test_list_counts_parameters_without_scales():
    want = sum(p.numel() for p in Sonar(TINY).parameters())
    make("mine", licence="MIT")
    make("small", weights="int8")
    built_in, mine, small = registry.list_models()
    assert (built_in.name, built_in.embedded, mine.name, mine.licence) == ("built-in", True, "mine", "MIT")
    assert built_in.parameters == mine.parameters == small.parameters == want
    assert mine.bytes == sum(f.stat().st_size for f in registry.find("mine").iterdir())


def test_a_damaged_model_is_listed_as_such():
    (make("mine") / "model.safetensors").write_bytes(b"\xff" * 20)
    (registry.models_home() / "empty").mkdir()
    assert [(e.name, e.kind) for e in registry.list_models()][1:] == [("empty", "damaged"), ("mine", "damaged")]


# Values that a config.json or a weights' header may have and should not.
WILD = [None, True, 0, -32, 10**9, 10**40, float("nan"), "\ud800", [[1]], {"a": 1}]


def wild(folder, *keys, value):
    """Put `value` in `folder`'s config.json, at the end of `keys`."""
    config = json.loads((folder / "config.json").read_text())
    place = config
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def copied(home):
    """A new copy of a model under a name, as often as it is asked for: a space, or a concept model in "good"."""
    kinds = {"space": make("", home / "space", tokenizer=b""), "tenant": tenant("good", home / "tenant")}
    return lambda kind, name: Path(
        shutil.copytree(kinds[kind], registry.target(name), copy_function=shutil.copyfile, dirs_exist_ok=True)
    )


def survives(name):
    """Whatever the folder `name` is, it is listed, loading it is a UserError or works, and all can be removed."""
    from sonarllm_cli.weights.loaded import load_space, load_writer

    for use in (registry.find_space, registry.space_tokenizer, registry.show, registry.verify, load_space, load_writer):
        with contextlib.suppress(UserError):
            use(name)
    assert {"good", name} <= {entry.name for entry in registry.list_models()}
    with contextlib.suppress(UserError):
        registry.remove("good")
    registry.remove(name)


SONAR = [*vars(TINY), "unknown"]
LLAMA = [*vars(SonarLLMConfig()), "unknown"]


@pytest.mark.parametrize("value", WILD, ids=repr)
def test_wild_values_of_a_config_are_user_errors(value, copied):
    for key in ("format", "kind", "model", "files", "langs", "sonar", "weights", "fingerprint", "licence", "training"):
        copied("space", "good")
        wild(copied("space", "m"), key, value=value)
        survives("m")
    for *keys, kind in [["model", name, "sonar"] for name in SONAR] + [["model", name, "llm"] for name in LLAMA] + [
        ["sonar", "name", "llm"], ["training", "settings", "llm"], ["training", "settings", "sonar", "llm"],
        ["files", "model.safetensors", "sonar"], ["files", "../x", "sonar"], ["familiar_bpb", "llm"],
    ]:  # fmt: skip
        copied("space", "good")
        wild(copied("space" if kind == "sonar" else "tenant", "m"), *keys, value=value)
        survives("m")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b'{"kind":' * 100_000, b'"\\ud800"',
    b'"\xed\xa0\x80"', b"\xff\xfe", b'{"kind": "sonar", "format": ' + b"1" * 5000 + b"}"])  # fmt: skip
def test_a_config_that_is_no_json_object_is_a_user_error(data):
    make("good")
    (make("m") / "config.json").write_bytes(data)
    assert {e.name: e.kind for e in registry.list_models()}["m"] == "damaged"
    survives("m")


@pytest.mark.parametrize("entry", [*WILD, {"dtype": []}, {"shape": [-1]}, {"shape": [10**40]}, {"shape": ["1"]},
    {"shape": [1] * 99}, {"data_offsets": [0, 10**9]}, {"data_offsets": None}])  # fmt: skip
def test_wild_headers_are_user_errors(entry):
    good = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for header in (entry, {"w": entry}, {"w": {**good, **entry} if isinstance(entry, dict) else entry}):
        text = json.dumps(header).encode()
        make("good")
        write_weights(make("m"), struct.pack("<Q", len(text)) + text + bytes(4))
        survives("m")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"[]", b'{"\\ud800": 1}'])
def test_nested_and_odd_headers_are_user_errors(data):
    make("good")
    write_weights(make("m"), struct.pack("<Q", len(data)) + data)
    survives("m")


def write_weights(folder, data):
    """Weights whose hash is right."""
    (folder / "model.safetensors").write_bytes(data)
    wild(folder, "files", value={"model.safetensors": hashlib.sha256(data).hexdigest()})


def test_a_concept_model_that_lives_in_itself_is_a_user_error():
    tenant("b", registry.target("a")), tenant("a", registry.target("b"))
    with pytest.raises(UserError, match="b is a sonar-llm model, not a space"):
        registry.find_space("a")


def test_weights_without_a_hash_are_not_loaded(monkeypatch):
    folder = make("mine", tokenizer=b"words")
    wild(folder, "files", value={"tokenizer.model": model_dir.digest(folder / "tokenizer.model")})
    for largest in (tensors.CHECK_BYTES, -1):
        monkeypatch.setattr(tensors, "CHECK_BYTES", largest)
        with pytest.raises(UserError, match=r"gives no hash of model\.safetensors"):
            tensors.load_weights(Sonar(TINY), folder, torch.device("cpu"), torch.float32)
    wild(folder, "files", value={})
    for check in (registry.verify, registry.space_tokenizer):
        with pytest.raises(UserError, match="gives no hash of"):
            check("mine")


def test_an_altered_tokenizer_is_not_read():
    (make("mine", tokenizer=b"words") / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(UserError, match=r"tokenizer\.model is not what was saved"):
        registry.space_tokenizer("mine")


def test_verify_names_the_file_that_differs():
    folder = make("mine", tokenizer=b"words")
    assert registry.verify("mine") == ["model.safetensors", "tokenizer.model"]
    (folder / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(UserError, match=r"tokenizer.model is not what was saved"):
        registry.verify("mine")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.model"):
        registry.verify("mine")


@pytest.mark.parametrize("at", [0, 9, 200, -1])
def test_tampered_weights_are_not_loaded(at):
    path = make("mine") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not what was saved"):
        tensors.load_weights(Sonar(TINY), path.parent, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("keep", [0, 7, 100, -4])
def test_truncated_weights_are_not_loaded(keep, monkeypatch):
    monkeypatch.setattr(tensors, "CHECK_BYTES", -1)  # as if they were too large to be hashed
    path = make("mine") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged or cut short"):
        tensors.load_weights(Sonar(TINY), path.parent, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16", "int8"])
def test_saved_weights_are_safetensors(weights):
    model = Sonar(TINY)
    folder = registry.target("mine")
    tensors.save(folder, kind="sonar", model=model, weights=weights)
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name, parameter in model.named_parameters():
            values, scales = file.get_tensor(name), 1.0
            if weights == "int8" and parameter.ndim == 2:
                assert values.dtype == torch.int8
                scales = file.get_tensor(f"{name}.scale").float()[:, None]
            rounding = {"float32": 0, "float16": 1e-3, "bfloat16": 1e-2, "int8": 1e-2}[weights]
            torch.testing.assert_close(values.float() * scales, parameter.data, atol=rounding, rtol=rounding)


def test_tensors_are_aligned(tmp_path):
    shapes = {"a": (3, 3), "b": (5,)}
    tensors.write_weights(tmp_path / "odd", shapes, "int8", lambda name: torch.ones(shapes[name]))
    starts = {name: entry["data_offsets"][0] for name, entry in registry.read_header(tmp_path / "odd").items()}
    assert starts == {"a.scale": 0, "b": 6, "a": 16}


def test_remove():
    folder = make("mine")
    assert registry.remove("mine") == folder
    assert not folder.exists()
    for name in ("mine", "../mine", ""):
        with pytest.raises(UserError, match="no model"):
            registry.remove(name)


def test_a_space_with_a_tenant_stays():
    make("space"), make("tenant", sonar={"name": "space"})
    with pytest.raises(UserError, match="tenant lives in the space space; remove it first: sonarllm models rm tenant"):
        registry.remove("space")


def test_catalogue_is_whole():
    kinds = {"sonar": {"encoder", "decoder", "tokenizer"}, "sonar-llm": {"repo", "sonar"}}
    kinds["sonar-speech"] = {"url", "lang", "sonar"}
    kinds["blaser"] = {"repo", "file", "sonar"}
    kinds["mutox"], kinds["laser2"] = {"url", "sonar"}, {"url", "tokenizer"}
    for name, entry in registry.catalogue().items():
        assert kinds[entry["kind"]] | {"about", "licence", "parameters"} <= entry.keys()
        assert registry.target(name) and entry.get("sonar", "sonar-200") in registry.catalogue()


# ------------------------------------------------------------------------------------- the commands


def run(*arguments):
    from sonarllm_cli.cli.models import models

    result = CliRunner().invoke(models, arguments)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_examples_in_the_help_run(home, monkeypatch):
    """Every example but those that need a hub, word for word, from the root of a checkout."""
    import shlex

    import click

    from sonarllm_cli.cli.models import import_, models

    monkeypatch.chdir(Path(__file__).parent.parent)
    make("mini", home / "package" / "mini")
    commands = [
        *import_.commands.values(),
        *(
            c for n, c in models.commands.items() if n not in ("import", "pull", "push", "rm", "export")
        ),  # test_export.py has that
    ]
    for command in [*commands, models.commands["rm"]]:
        example = click.Context(command).get_help().split("Example:")[1].split("\n\n")[0].replace("\\\n", " ")
        words = shlex.split(example)
        assert words[:2] == ["sonarllm", "models"]
        if words[2] == "rm":
            for name in ("my-sonar-llm", "my-blaser", "my-mutox", "my-laser2"):
                run("rm", name)
        run(*words[2:])
    assert registry.names() == ["built-in", "mini", "my-ears"]


def test_list_and_show_as_json():
    make("mine", licence="MIT")
    rows = [json.loads(line) for line in run("list", "--json").splitlines()]
    assert [row["name"] for row in rows][:3] == ["built-in", "mine", "sonar-200"]
    assert len({tuple(row) for row in rows}) == 1  # the same keys, in the same order
    make("sonar-200")
    assert run("list", "--json").count('"name": "sonar-200"') == 1
    assert json.loads(run("show", "mine", "--json"))["config"]["model"]["width"] == 8


def test_show_says_what_the_catalogue_knows_of_what_is_not_here():
    assert {"licence: CC-BY-NC-4.0", "where: not on this machine; sonarllm models pull sonar-200"} <= set(
        run("show", "sonar-200").splitlines()
    )
    assert "licence: not stated" in run("show", "sonar-llm-100m") and "licence: not stated" in run("show", "built-in")
    (registry.models_home() / "sonar-200").mkdir(parents=True)  # there, and damaged
    with pytest.raises(UserError, match=r"no config\.json"):
        run("show", "sonar-200")


def test_show_has_the_languages_of_the_space_and_one_line_of_the_training():
    training = {"steps": 1945, "tokens": 8107361, "minutes": 72.7, "settings": {"kind": "sonar", "optim": {"lr": 1}}}
    make("space", langs=["deu_Latn", "eng_Latn"], training=training)
    tenant("space", registry.target("mine"))
    assert "languages: deu_Latn eng_Latn" in run("show", "mine").splitlines()
    shown = run("show", "space").splitlines()
    assert "languages: deu_Latn eng_Latn" in shown
    said = "training: 1,945 steps, 8,107,361 tokens, 72.7 minutes"
    assert [line for line in shown if line.startswith("training")] == [said]
    assert json.loads(run("show", "space", "--json"))["config"]["training"] == training


def test_the_published_speech_encoders_are_one_row_unless_all_are_asked_for():
    every, short = run("list", "--all").splitlines(), run("list").splitlines()
    speech = [line for line in every if line.startswith("sonar-speech-")]
    assert short[:-1] == [line for line in every if line not in speech] and len(speech) > 50
    assert short[-1].startswith("sonar-speech-…") and f"{len(speech)}, one a language" in short[-1]
    assert not any(line.startswith("sonar-speech-") for line in run("list", "--here").splitlines())


def test_list_is_aligned():
    make("mine")
    lines = run("list", "--here").splitlines()
    assert lines[0].split()[:2] == ["name", "kind"]
    assert len({line.index(word) for line, word in zip(lines, ("kind", "sonar", "sonar"))}) == 1


def test_human_sizes():
    from sonarllm_cli.cli.models import count, size

    assert [count(n) for n in (0, 7, 999, 1234567, 34_600_000, 1_582_600_000)] == [
        "-", "7", "999", "1.2 M", "35 M", "1.6 B",
    ]  # fmt: skip
    assert [size(n) for n in (12, 1023, 1024, 3064513202)] == ["12 B", "1023 B", "1.0 KiB", "2.9 GiB"]
