"""Curves of runs: their metrics.jsonl → one picture, a panel a figure.

plot_runs([Path("runs/a"), Path("runs/b")], Path("curves.png"))
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import atomic_file, check_file, load_json, read_errors
from ..runtime import log

PANELS = ("nll", "loss", "bpb", "grad_norm", "lr", "tokens_s")  # of training, those that a run has
PICTURES = (".png", ".svg", ".pdf")
Curves = dict[str, tuple[list[int], list[float]]]  # figure → steps, values


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl: objects with a step and figures. One that is none, as the last where the run was
    killed, is passed over."""
    with read_errors(path):
        lines = path.read_bytes().splitlines()
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(load_json(line))
    sound = [
        row for row in rows if isinstance(row, dict) and {*map(type, row.values())} <= {int, float} and "step" in row
    ]
    if len(sound) < len(lines):
        log.info("%s: damaged lines passed over: %d", path, len(lines) - len(sound))
    return sound


def read_curves(run: Path) -> Curves:
    """Figures of a run folder (or of a metrics.jsonl itself) by step. UserError where there are none."""
    path = run / "metrics.jsonl" if run.is_dir() else run
    if not path.is_file():
        raise UserError(f"{run} holds no metrics.jsonl", "name the folder of a run")
    curves: Curves = {}
    for row in read_metrics(path):
        for name, value in row.items():
            if name in PANELS or name.startswith("valid_"):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    if not curves:
        raise UserError(f"{path} has no figures yet", "wait for the first run.log_every steps")
    return curves


def check_picture(out: Path) -> None:
    """UserError for a file that is no picture or can't be written, and without matplotlib; asked before long work."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"{out} is no picture", f"end it in {', '.join(PICTURES)}")
    check_file(out)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("a plot needs matplotlib", "pip install 'sonarllm-cli[eval]'") from None


def plot_runs(runs: Sequence[Path], out: Path) -> None:
    """Draw the runs' curves into `out`, one of `PICTURES`."""
    curves = {run: read_curves(run) for run in runs}
    check_picture(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [n for n in PANELS if any(n in c for c in curves.values())]
    names += sorted({n for c in curves.values() for n in c} - set(names))
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(5 * across, 3.2 * down), layout="constrained")
    FigureCanvasAgg(figure)
    for i, name in enumerate(names):
        panel: Any = figure.add_subplot(down, across, i + 1)
        for run, found in curves.items():
            if name in found:
                panel.plot(*found[name], label=run.name, marker="." if len(found[name][0]) < 30 else "")
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        if len(runs) > 1:
            panel.legend(fontsize="small")
    with atomic_file(out) as scratch:
        figure.savefig(scratch, format=out.suffix[1:].lower(), dpi=120)
