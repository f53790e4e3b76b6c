"""Several processes that train one model: each takes its share of a step's micro-batches, gradients are summed.

    torchrun --nproc-per-node 2 -m sonarllm_cli train recipes/mini/sonar-llm.toml      # or: train … --nproc 2

The step is the same whatever their number: micro-batches, their random numbers and what they are divided by depend on
the step alone. Data-parallel over gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """This process among those of the run; alone, every method is the identity."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """(place, item) of those that are this process' to do."""
        for i in range(self.rank, len(items), self.count):
            yield i, items[i]

    def gather(self, value: T) -> list[T]:
        """Every process' value, in order of rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message; one without a gradient counts as zero."""
        if self.count == 1:
            return
        parameters = list(parameters)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for p, part in zip(parameters, flat.split([g.numel() for g in grads])):
            p.grad = part.view_as(p)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()
