"""recipes/gpu: the check ends in its minutes and says what became of each part; its report; what it learns from."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = Path(__file__).parent.parent / "recipes" / "gpu"
PYTHON = """#!/bin/sh
case "$*" in
*"-m pytest"*) echo "3 passed, 1 failed in 2s"; exit 1;;
*"bench embed"*) echo '{"device": "Card 7", "texts": 8, "rows": [{"name": "float32, 8 at once", "of own rate": 0.5}]}';;
*report.py*) exec REAL "$@";;
*) sleep 60;;
esac
"""


def test_the_check_ends_in_its_minutes_and_says_what_became_of_each_part(tmp_path):
    (tmp_path / "python").write_text(PYTHON.replace("REAL", sys.executable))
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python"), "PARTS": "tests embed decode step"}
    began = time.monotonic()
    command = [RECIPE / "check.sh", tmp_path / "out", "0.35"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert time.monotonic() - began < 21
    report = json.loads((tmp_path / "out/report.json").read_text())
    ends = {part["name"]: part["end"] for part in report["parts"]}
    assert ends == {"tests": "failed (1)", "embed": "done", "decode": "out of time", "step": "out of time"} | {
        "step-space": "not reached",
        "step-store": "not reached",
    }
    assert report["device"] == "Card 7" and report["results"]["tests"] == "3 passed, 1 failed in 2s"
    assert "| float32, 8 at once | 50 % |" in (tmp_path / "out/report.md").read_text()


def test_what_a_gpu_is_asked_runs_on_a_processor_too():
    """A part of it, that takes seconds: names that the tests reach for are still there."""
    tests = RECIPE.parents[1] / "tests/gpu"
    quick = "float32-1 or speech and bfloat16 or logits and float32 or halved or cpus or given"
    command = [sys.executable, "-m", "pytest", tests, "-q", "-p", "no:cacheprovider", "-k", quick]
    done = subprocess.run(command, env={**os.environ, "SONARLLM_TEST_DEVICE": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("share", "said"), [(0.41, "or more; reached"), (0.39, "or more; not reached")])
def test_a_step_is_held_to_the_share_that_is_wanted(tmp_path, share, said):
    (tmp_path / "step/run").mkdir(parents=True)
    steps = [{"step": 1, "peak_share": 0.9, "tokens_s": 9.0, "memory_gib": 1.5}]  # counted before it was warm
    steps += [{"step": 2, "peak_share": share, "tokens_s": 5.0, "memory_gib": 1.5}, {"step": 2, "valid_text_nll": 3.0}]
    (tmp_path / "step/run/metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    sides = {"sentences_s": 2.0, "peak_bytes": 1 << 30, "peak_share": 0.25}
    both = {"published": sides, "ours": {**sides, "device": "Card 7"}, "speed_up": 1.0, "memory_share": 1.0}
    (tmp_path / "train-bfloat16.out").write_text(json.dumps(both))
    (tmp_path / "parts.tsv").write_text("train-bfloat16\t0\t5\t9\ta\nstep\t124\t9\t9\tb\n")
    runpy.run_path(str(RECIPE / "report.py"))["main"](tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert said in text and f"{100 * share:.0f} %" in text and text.startswith("# Card 7\n")
    assert "| ours | 2 | 1 | 25 % |" in text and "| step | out of time | 9 | 9 |" in text


def test_what_it_learns_from_is_a_space_and_documents_as_long_as_a_recipe_reads(tmp_path):
    from sonarllm_cli import embed

    made = runpy.run_path(str(RECIPE / "synthetic.py"))
    made["make_documents"](tmp_path / "d.jsonl", 2)
    made["make_space"](tmp_path / "space", made["SHAPES"]["tiny"], "cpu")
    texts = [json.loads(line)["text"] for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [text.count(".") for text in texts] == [31, 31]
    assert embed(texts[0][:40], model=str(tmp_path / "space")).shape == (1, 32)
