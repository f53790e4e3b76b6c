"""The README's examples run, as they stand. `python tests/test_readme.py` writes what they print anew."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
USE = README.split("## Use")[1].split("## Models")[0]
SHELL, PYTHON = (re.findall(rf"```{kind}\n(.*?)```", USE, re.DOTALL)[0] for kind in ("sh", "python"))

EXAMPLES = [
    example for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for example in block.split("$ ")[1:]
]


@pytest.fixture
def place(tmp_path):
    """A folder with what the examples name."""
    shutil.copy(ROOT / "examples" / "article.txt", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


@pytest.mark.parametrize("command", SHELL.strip().splitlines(), ids=lambda c: c.split("#")[0].strip()[:50])
def test_a_command_of_the_readme_runs(command, place):
    function = f'sonarllm() {{ "{sys.executable}" -m sonarllm_cli "$@"; }}; set -o pipefail; '
    done = subprocess.run(["bash", "-c", function + command], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout or "-o" in command


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
    assert printed(command) == said


if __name__ == "__main__":
    page = README
    for example in EXAMPLES:
        command = example.split("\n", 1)[0]
        page = page.replace(f"$ {example}", f"$ {command}\n{printed(command)}", 1)
    (ROOT / "README.md").write_text(page, "utf-8")
