"""Names to folders, what is listed, checked and removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from sonarllm_cli.errors import UserError
from sonarllm_cli.nets.sonar import Sonar, SonarConfig
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
    assert Path(model_dir.space_of(writer, trained)).resolve() == space
    assert model_dir.space_of(writer, {**trained, "training": {}}) == "model"
    beside = make("", home / "runs/3/space")
    assert model_dir.space_of(writer, {**trained, "sonar": {"name": "space"}}) == str(beside)


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
    kinds["blaser"] = {"repo", "file", "sonar"}
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
        *(c for n, c in models.commands.items() if n not in ("import", "pull", "push", "rm")),
    ]
    for command in [*commands, models.commands["rm"]]:
        example = click.Context(command).get_help().split("Example:")[1].split("\n\n")[0].replace("\\\n", " ")
        words = shlex.split(example)
        assert words[:2] == ["sonarllm", "models"]
        if words[2] == "rm":
            for name in ("my-sonar-llm", "my-blaser", "my-mutox", "my-laser2"):
                run("rm", name)
        run(*words[2:])
    assert registry.names() == ["built-in", "mini"]


def test_list_and_show_as_json():
    make("mine", licence="MIT")
    rows = [json.loads(line) for line in run("list", "--json").splitlines()]
    assert [row["name"] for row in rows][:3] == ["built-in", "mine", "sonar-200"]
    assert len({tuple(row) for row in rows}) == 1  # the same keys, in the same order
    make("sonar-200")
    assert run("list", "--json").count('"name": "sonar-200"') == 1
    assert json.loads(run("show", "mine", "--json"))["config"]["model"]["width"] == 8


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
