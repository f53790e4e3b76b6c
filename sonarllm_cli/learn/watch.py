"""What a run shows of itself: `metrics.jsonl` always, a bar on a terminal or a line now and then elsewhere, and
TensorBoard or Weights & Biases where the recipe asks for them (`run.track`).

A line of metrics.jsonl is an object: step, epoch, seconds, seen (target tokens so far), and figures, means over the
steps since the line before: nll (nats a target token: words and one `</s>`), bpb (bits a byte), grad_norm, lr,
tokens_s, sentences_s, peak_share (of the device's matrix rate), memory_gib (the most so far); or those of validation.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import UserError
from ..io.files import atomic_write
from ..runtime import log
from .curves import read_metrics
from .recipe import Settings

COUNTS = ("tokens", "sentences")  # what steps report as sums
SHOWN = ("nll", "mse", "loss", "grad_norm", "lr")  # on the bar


class Window:
    """Token-weighted means of what steps report; tokens and sentences are summed."""

    def __init__(self) -> None:
        self.sum: dict[str, float] = {}
        self.weight: dict[str, float] = {}
        self.count: dict[str, int] = {"tokens": 0}

    def add(self, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            if name in COUNTS:
                self.count[name] = self.count.get(name, 0) + value
            else:
                self.sum[name] = self.sum.get(name, 0.0) + value * facts["tokens"]
                self.weight[name] = self.weight.get(name, 0.0) + facts["tokens"]

    @classmethod
    def merged(cls, windows: list[Window]) -> Window:
        out = cls()
        for window in windows:
            for mine, theirs in ((out.sum, window.sum), (out.weight, window.weight), (out.count, window.count)):
                for name, value in theirs.items():
                    mine[name] = mine.get(name, 0) + value  # type: ignore[assignment]
        return out

    def mean(self) -> dict[str, Any]:
        return self.count | {name: self.sum[name] / max(1.0, self.weight[name]) for name in self.sum}


class Tracker(Protocol):
    """Where figures go beside metrics.jsonl."""

    def log(self, step: int, figures: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, folder: Path, settings: Settings) -> None:
        self.writer = self.library()(str(folder / "tensorboard"))

    @staticmethod
    def library() -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    def __init__(self, folder: Path, settings: Settings) -> None:
        name = settings.name or settings.kind
        self.run = self.library().init(project="sonarllm", name=name, dir=str(folder), config=settings.as_dict())

    @staticmethod
    def library() -> Any:
        import wandb

        return wandb

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.run.log(figures, step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB}


def check_trackers(settings: Settings) -> None:
    """UserError for one that the recipe names and that is not installed; asked before any data is read."""
    for name in settings.run.track:
        try:
            TRACKERS[name].library()
        except ImportError:
            raise UserError(f"run.track names {name}, which is not installed", f"pip install {name}") from None


class Watch:
    """The figures of one run, from the step `step` on; `first` is whether this process shows them."""

    def __init__(self, folder: Path, settings: Settings, *, step: int, total: int, first: bool) -> None:
        self.path, self.begin, self.total, self.first = folder / "metrics.jsonl", step, total, first
        self.window, self.began = Window(), time.monotonic()
        self.tracker: list[Tracker] = []
        self.bar: Any = None
        if not first:
            return
        _trim(self.path, step)
        self.tracker = [TRACKERS[name](folder, settings) for name in settings.run.track]
        if sys.stderr.isatty() and log.isEnabledFor(20):
            self._start_bar(step)

    def _start_bar(self, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.bar.start()
        self.bar.add_task("", total=self.total, completed=step)

    def add(self, facts: dict[str, Any]) -> None:
        """What one step reports."""
        self.window.add(facts)
        if self.bar is not None:
            self.bar.update(0, advance=1, description=_shown({k: facts[k] for k in SHOWN if k in facts}))

    def flush(self, place: dict[str, Any], flops_per_token: float, peak: float, device: torch.device) -> None:
        """Write the means since the last time. `peak` is the matrix rate of all devices, FLOP/s."""
        figures, now = self.window.mean(), time.monotonic()
        passed = max(now - self.began, 1e-9)
        for name in COUNTS:
            if name in figures:
                figures[f"{name}_s"] = figures.pop(name) / passed
        if flops_per_token and peak:
            figures["peak_share"] = figures["tokens_s"] * flops_per_token / peak
        figures["memory_gib"] = most_memory(device) / 2**30
        self.window, self.began = Window(), now
        self.write(place, figures)

    def write(self, place: dict[str, Any], figures: dict[str, float]) -> None:
        """A line of metrics.jsonl, and what else shows figures. What a run that goes on tells of the step where it was
        left off takes the place of what it told before."""
        rounded = {name: round(value, 6) for name, value in figures.items()}
        if place["step"] == self.begin:
            _trim(self.path, self.begin, {*place, *rounded})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(place | rounded) + "\n")
        for tracker in self.tracker:
            tracker.log(place["step"], figures)
        of = f"/{self.total}" if self.total < 1 << 60 else ""
        line = f"step {place['step']}{of}  {_shown(figures)}"
        if self.bar is None:
            log.info("%s", line)
        else:
            self.bar.console.print(line, highlight=False)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Time spent in here is not training's: rates leave it out."""
        began = time.monotonic()
        yield
        self.began += time.monotonic() - began

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        for tracker in self.tracker:
            tracker.close()


def _shown(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _trim(path: Path, step: int, again: Set[str] = frozenset()) -> None:
    """Drop what was written after `step`: those steps are taken again; and of `step` the line of the keys `again`."""
    rows = read_metrics(path) if path.is_file() and step else []
    kept = [row for row in rows if row["step"] < step or (row["step"] == step and row.keys() != again)]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in kept))


def most_memory(device: torch.device) -> int:
    """The most bytes this process has held so far: of GPU memory, or of resident memory (0 where no one knows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_rate(device: torch.device, dtype: torch.dtype, size: int = 0, seconds: float = 0.3) -> float:
    """FLOP/s of the device on square products in `dtype`, the best of a few: the peak that a share is taken of."""
    size = size or (8192 if device.type == "cuda" else 1024)
    # Random numbers: ones would cost less power, and tell too high a peak.
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end or best == math.inf:
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
