"""What a thread makes while the network learns from what it made before.

coming = Ahead(lambda i: load(steps[i]), start=120, end=len(steps), count=2)
batches = coming.take()      # that of step 120, then 121, …
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
STEPS = 2  # made in advance


def steps_ahead(device: torch.device) -> int:
    """None on a CPU, which computes meanwhile what the thread would."""
    return STEPS if device.type == "cuda" else 0


class Ahead(Generic[T]):
    """`make(i)` of start ≤ i < end in order, up to `count` of them made by one thread before they are asked for; with
    none, each when it is. What `make` raises, the `take` of that item raises."""

    def __init__(self, make: Callable[[int], T], start: int, end: int, count: int) -> None:
        self.make, self.next, self.end, self.count = make, start, end, count
        self.pool = ThreadPoolExecutor(1, "ahead") if count else None
        self.coming: deque[Future[T]] = deque()

    def take(self) -> T:
        """The next item."""
        if self.pool is None:
            self.next += 1
            return self.make(self.next - 1)
        while self.next < self.end and len(self.coming) <= self.count:
            self.coming.append(self.pool.submit(self.make, self.next))
            self.next += 1
        return self.coming.popleft().result()

    def close(self) -> None:
        """Let the thread end; what it made is dropped."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Where a GPU can fetch it while it computes."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
