"""The README's examples run, as they stand. `python tests/test_readme.py` writes what they print anew."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
USE = README.split("## Use")[1].split("## Models")[0]
SHELL, PYTHON = (re.findall(rf"```{kind}\n(.*?)```", USE, re.DOTALL)[0] for kind in ("sh", "python"))

OWN = re.findall(r"```sh\n(sonarllm train recipes/own\.toml.*?)```", README, re.DOTALL)[0]
EXAMPLES = [
    example for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for example in block.split("$ ")[1:]
]


@pytest.fixture
def place(tmp_path):
    """What the examples name of the clone's root."""
    for folder in ("examples", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize("command", SHELL.strip().splitlines(), ids=lambda c: c.split("#")[0].strip()[:50])
def test_a_command_of_the_readme_runs(command, place):
    function = f'sonarllm() {{ "{sys.executable}" -m sonarllm_cli "$@"; }}; set -o pipefail; '
    done = subprocess.run(["bash", "-c", function + command], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout or "-o" in command


def test_a_model_of_ones_own_texts_is_made_from_the_embedded_one(place):
    """The README's three lines, at a size that takes seconds."""
    (place / "my-texts").mkdir()
    for name in ("article.txt", "otters.txt"):
        shutil.copy(ROOT / "examples" / name, place / "my-texts")
    small = " --set optim.steps=2 --set optim.documents=2 --set data.valid_share=0.5 --threads 1"
    for command, least in zip(OWN.strip().splitlines(), (small, " --max-sentences 1", ""), strict=True):
        argv = [sys.executable, "-m", "sonarllm_cli", *(command + least).split()[1:]]
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() or " generate " in command  # which may find that the text has ended
    embedded = load_file(ROOT / "sonarllm_cli/assets/mini/mini/model.safetensors")
    own = load_file(place / "runs/own/model/model.safetensors")
    assert {name.removesuffix(".scale") for name in embedded} == own.keys()
    figures = [json.loads(line) for line in (place / "runs/own/metrics.jsonl").read_text().splitlines()]
    assert "valid_text_bpb" in figures[-1]


def test_the_python_of_the_readme_runs(place):
    done = subprocess.run([sys.executable, "-c", PYTHON], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def printed(command: str) -> str:
    """What an example prints."""
    argv = [sys.executable, "-m", "sonarllm_cli", *shlex.split(command)[1:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.split("\n")[0])
def test_an_example_of_the_readme_prints_what_stands_there(example):
    command, said = example.split("\n", 1)
    found = printed(command)
    six = r"\b\d\.\d{6}\b"  # the last of six places is the processor's
    assert re.sub(six, "", found) == re.sub(six, "", said)
    numbers, wanted = ([float(number) for number in re.findall(six, text)] for text in (found, said))
    assert numbers == pytest.approx(wanted, abs=2e-6)


if __name__ == "__main__":
    page = README
    for example in EXAMPLES:
        command = example.split("\n", 1)[0]
        page = page.replace(f"$ {example}", f"$ {command}\n{printed(command)}", 1)
    (ROOT / "README.md").write_text(page, "utf-8")
