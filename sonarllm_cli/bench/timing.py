"""Honest timing: what is compared runs in turns in one process; warm-up first; median and spread, not the best.

    for name, t in side_by_side({"ours": f, "theirs": g}).items(): print(name, t.median, t.low, t.high)

Also what a machine can do at most: its matrix rate, its memory bandwidth, and the peak memory of a piece of work.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..learn import watch

PRODUCT = (512, 1024, 8192)  # tokens × inputs × outputs: a feed-forward layer of the published SONAR


@dataclass(frozen=True)
class Timing:
    """Seconds of a piece of work over several rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)

    @property
    def spread(self) -> float:
        """Half of what lies between the slowest and the fastest round, as a share of the median."""
        return (self.high - self.low) / 2 / self.median


def now(device: torch.device | None = None) -> float:
    """Seconds of the clock, when the device has done all it was given."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def clock(run: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds of one call; a GPU's work is waited for."""
    start = now(device)
    run()
    return now(device) - start


def side_by_side(
    runs: Mapping[str, Callable[[], float | None]],
    rounds: int = 3,
    device: torch.device | None = None,
    warm: bool = True,
) -> dict[str, Timing]:
    """Each piece of work once a round, in turns, so that what else the machine does falls on all of them.

    A run that returns a number has timed itself (in another process, say); the others are timed here.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + warm):
        for name, run in runs.items():
            own: list[float | None] = []
            seconds = clock(lambda run=run, own=own: own.append(run()), device)  # type: ignore[misc]
            if turn >= warm:
                found[name].append(seconds if own[0] is None else float(own[0]))
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, rounds: int = 9) -> float:
    """Operations a second of PyTorch's own product: of `PRODUCT`'s shape, the median; on a GPU, which that would not
    fill, of a large square."""
    if device.type == "cuda":
        return watch.peak_rate(device, dtype)
    N, I, O = PRODUCT
    x, weight = (torch.randn(n, I, device=device).to(dtype) for n in (N, O))
    with torch.inference_mode():
        timing = side_by_side({"": lambda: _nothing(F.linear(x, weight))}, rounds, device)[""]
    return 2 * N * I * O / timing.median


def bandwidth(device: torch.device, megabytes: int = 0, rounds: int = 5) -> float:
    """Bytes a second that a sum over a large table reads: the median."""
    megabytes = megabytes or (4096 if device.type == "cuda" else 512)
    table = torch.ones(megabytes << 18, device=device)
    return (megabytes << 20) / side_by_side({"": lambda: _nothing(table.sum())}, rounds, device)[""].median


def _nothing(_: Any) -> None:
    return None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """How many bytes more than at the start were in use at the peak: the process's resident memory, or the GPU's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - start
        return
    start = _reset_peak()
    yield lambda: max(0, _peak() - start)


def _reset_peak() -> int:
    """Linux forgets a process's peak on request; elsewhere it counts from the process's start. → resident bytes."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return _peak()
    return _status("VmRSS") or _peak()


def _peak() -> int:
    found = _status("VmHWM")
    if found:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size << 10


def _status(name: str) -> int:
    try:
        with open("/proc/self/status") as file:
            line = next((row for row in file if row.startswith(name)), "")
    except OSError:
        return 0
    return int(line.split()[1]) << 10 if line else 0
