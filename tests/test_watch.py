"""What a run shows of itself."""

import io
import json
import logging
import os
import platform
import sys
import types
from pathlib import Path

import pytest
import torch
from test_loop import changed
from test_train import concept, corpus, sonar, trained  # noqa: F401

from sonarllm_cli.cli import main
from sonarllm_cli.errors import UserError
from sonarllm_cli.learn import watch
from sonarllm_cli.learn.curves import plot_runs, read_curves, read_metrics
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.runtime import give_back


def test_metrics_hold_losses_rates_and_shares(corpus, trained, tmp_path):  # noqa: F811
    settings = changed(concept(corpus, trained / "sonar/model"), run={"log_every": 2, "peak_tflops": 1e-3})
    Trainer(settings, tmp_path / "r").run()
    rows = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert {"step", "seen", "nll", "bpb", "grad_norm", "lr", "tokens_s", "sentences_s", "memory_gib"} <= rows[0].keys()
    assert 0 < rows[1]["peak_share"] < 100
    last = rows[-1]
    assert last["valid_title_reference"] != last["valid_title_nll"] and last["valid_text_bpb"] > 0


def test_a_finished_run_that_is_resumed_tells_its_last_figures_once(corpus, trained, tmp_path):  # noqa: F811
    settings = changed(concept(corpus, trained / "sonar/model"), run={"log_every": 2})
    lines = []
    for resume in (False, True):
        Trainer(settings, tmp_path / "r", resume=resume).run()
        rows = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
        lines.append([(row["step"], list(row)) for row in rows])
    assert lines[0] == lines[1]


def test_windows_weigh_by_tokens_and_sum_counts():
    a, b = watch.Window(), watch.Window()
    a.add({"tokens": 1, "sentences": 2, "nll": 5.0})
    b.add({"tokens": 3, "sentences": 4, "nll": 1.0})
    assert watch.Window.merged([a, b]).mean() == {"tokens": 4, "sentences": 6, "nll": 2.0}


def test_trackers_get_what_the_file_gets(corpus, tmp_path, monkeypatch):  # noqa: F811
    got = []

    class Writer:
        def __init__(self, folder):
            got.append(folder)

        def add_scalar(self, name, value, step):
            got.append((name, step))

        def close(self):
            got.append("closed")

    run = types.SimpleNamespace(log=lambda figures, step: got.append(("wandb", step)), finish=lambda: got.append("end"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    settings = changed(sonar(corpus, steps=2), run={"track": ["tensorboard", "wandb"], "log_every": 1})
    Trainer(settings, tmp_path / "r").run()
    assert got[0] == str(tmp_path / "r/tensorboard") and {"closed", "end"} <= set(got)
    assert {("nll", 1), ("nll", 2), ("wandb", 2)} <= set(got)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_names_the_cure(corpus, tmp_path, monkeypatch, name):  # noqa: F811
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {name}"):
        Trainer(changed(sonar(corpus), run={"track": [name]}), tmp_path / "r")
    assert not list((tmp_path / "r").glob("*.tokens"))  # it is told before the data is read


def test_a_terminal_gets_a_bar(corpus, tmp_path, monkeypatch):  # noqa: F811
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(watch.log, "isEnabledFor", lambda level: True)
    Trainer(changed(sonar(corpus, steps=4), run={"log_every": 2}), tmp_path / "r").run()
    assert "step 4/4" in terminal.getvalue() and "4/4" in terminal.getvalue()


def test_the_matrix_rate_is_a_rate():
    assert 1e6 < watch.peak_rate(torch.device("cpu"), torch.float32, size=64, seconds=0.01) < 1e14


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_holes_of_the_heap_go_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    held = [bytes([1]) * 100_000 for _ in range(2000)]
    del held[:-1]  # what is left stands at the heap's end
    before = resident()
    give_back()
    assert before - resident() > 100_000_000


@pytest.fixture
def runs(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        rows = [{"step": s, "nll": 5.0 / s, "lr": 0.1} for s in (1, 2)] + [{"step": 2, "valid_text_nll": 3.0}]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [tmp_path / "a", tmp_path / "b"]


def test_curves_are_read_by_figure(runs):
    assert read_curves(runs[0]) == {
        "nll": ([1, 2], [5.0, 2.5]),
        "lr": ([1, 2], [0.1, 0.1]),
        "valid_text_nll": ([2], [3.0]),
    }


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"step": 3, "nl', b"[" * 100_000, b"null", b'{"step": "3"}', b'{"nll": 1}']
)
def test_a_damaged_line_of_metrics_is_passed_over_and_told(runs, line, caplog):
    caplog.set_level(logging.INFO, "sonarllm")
    path = runs[0] / "metrics.jsonl"
    want, good = read_metrics(path), path.read_bytes()
    path.write_bytes(good + line)
    assert read_metrics(path) == want and caplog.messages == [f"{path}: damaged lines passed over: 1"]
    watch._trim(path, 2, {"step", "valid_text_nll"})
    assert read_metrics(path) == want[:2]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_runs_are_drawn(runs, tmp_path, capsys, ending):
    pytest.importorskip("matplotlib")
    out = tmp_path / f"x.{ending}"
    with pytest.raises(SystemExit) as end:
        main(["train", "--plot", *map(str, runs), "-o", str(out)])
    assert end.value.code == 0
    assert out.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_without_matplotlib_or_figures_the_cure_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="a plot needs matplotlib; pip install"):
        plot_runs(runs, tmp_path / "x.png")
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl"):
        plot_runs([tmp_path], tmp_path / "x.png")
    with pytest.raises(UserError, match="is no picture"):
        plot_runs(runs, tmp_path / "x.gif")
