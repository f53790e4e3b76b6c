"""docs/recipes.md runs, a job after the other, in a folder with the examples; its head is a random one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sonarllm_cli.nets.heads import Blaser, BlaserConfig
from sonarllm_cli.weights import model_dir, registry, tensors

ROOT = Path(__file__).parent.parent
JOBS = re.findall(r"## (.*?)\n(.*?)(?=\n## |\Z)", (ROOT / "docs/recipes.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the examples, and a home with a head of the embedded space under the published one's name."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(ROOT / "examples", folder / "examples")
    space = registry.EMBEDDED / "mini-sonar"
    config = model_dir.read_config(space)
    torch.manual_seed(0)
    head = Blaser(BlaserConfig(embedding=config["model"]["embedding"], hidden=(8, 4), reference=False))
    torch.nn.init.constant_(head.layers[-1].bias, 4.0)
    home = {"name": space.name, "fingerprint": config["fingerprint"]}
    (folder / "home/models").mkdir(parents=True)
    shape = {"embedding": head.config.embedding, "hidden": [8, 4], "reference": False}
    tensors.save(folder / "home/models/blaser-2.0-qe", kind="blaser", model=head, sonar=home)
    assert model_dir.read_config(folder / "home/models/blaser-2.0-qe")["model"] == shape
    return folder


MADE = {
    "Align two translations": ["pairs.tsv"],
    "Mine a corpus": ["mined.tsv", "distinct.txt"],
    "Filter by BLASER": ["scores.txt", "good.tsv"],
    "Translate subtitles": ["subtitles.en.srt", "subtitles.both.srt", "season.en/1.srt", "season.en/2.srt"],
    "Work on a talk": ["talk.de.srt", "talk.jsonl"],
    "Take the space elsewhere": ["mini-st/modules.json"],
}


@pytest.mark.parametrize(("job", "text"), JOBS, ids=[job for job, _ in JOBS])
def test_a_recipe_runs(job, text, place):
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    commands = [line for line in commands if "models pull" not in line]  # what it would fetch is there
    function = f'sonarllm() {{ "{sys.executable}" -m sonarllm_cli "$@"; }}; set -eo pipefail; '
    environment = {**os.environ, "SONARLLM_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)}
    argv = ["bash", "-c", function + "\n".join(commands)]
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, env=environment)
    assert commands and done.returncode == 0, done.stderr
    assert done.stdout or job in MADE
    for name in MADE.get(job, []):
        assert (place / name).stat().st_size, name
