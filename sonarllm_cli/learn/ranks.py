"""Several processes that train one model: each takes its share of a step's micro-batches, and gradients are added up
while the backward pass of the last one computes.

    torchrun --nproc-per-node 2 -m sonarllm_cli train recipes/mini/sonar-llm.toml      # or: train … --nproc 2

The step is the same whatever their number: micro-batches, their random numbers and what they are divided by depend on
the step alone. Each process has a GPU (NCCL), or all compute on CPUs (gloo). Weights are whole in every process (DDP),
or with `parallel.shard = "full"` each keeps its part of weights, gradients and optimizer state between steps (FSDP2).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ..errors import RunError
from ..parent import end_with_launcher
from ..runtime import choose

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # of processes that wait while the first reads and embeds a corpus


class Ranks:
    """This process among those of the run, and its device; alone, every method is the identity."""

    def __init__(self, device: str = "auto") -> None:
        end_with_launcher()
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if self.count > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{local % torch.cuda.device_count()}"
        self.device = choose(device).device
        if self.device.type == "cuda":
            self.device = torch.device("cuda", self.device.index or 0)  # "cuda" alone names none
            torch.cuda.set_device(self.device)
        self.aside: dist.ProcessGroup | None = None  # for threads beside the main one
        if self.count > 1:
            if not dist.is_initialized():
                dist.init_process_group("cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo")
            self._patient = dist.new_group(backend="gloo", timeout=PATIENCE)
            self.aside = dist.new_group(backend="gloo")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Iterator[tuple[int, T, bool]]:
        """(place, item, counts) of those that are this process' to do, as many in every process: one that has none left
        repeats the last, which then does not count."""
        for i in range(self.rank, len(items), self.count):
            yield i, items[i], True
        if self.rank >= (len(items) % self.count or self.count):
            yield len(items) - 1, items[-1], False

    def gather(self, value: T, *, aside: bool = False) -> list[T]:
        """Every process' value, in order of rank; `aside` for a thread beside the main one."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with together():
            dist.all_gather_object(found, value, group=self.aside if aside else None)
        return found

    def replicated(self, module: nn.Module) -> nn.Module:
        """`module`, called as it is, whose gradients are a mean over the processes once a backward pass under
        `last_of_step(…, True)` ends; one that no micro-batch of a process has counts as zero there. Alone, itself."""
        if self.count == 1:
            return module
        # with find_unused_parameters messages stay as they are first laid out: sums round alike after a resume
        with together():
            return DistributedDataParallel(module, find_unused_parameters=True, gradient_as_bucket_view=True)

    def divide(self, tensors: Sequence[Tensor], work: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """`work` of each tensor, of its shape and dtype, done by one process and told to all."""
        if self.count == 1:
            return [work(tensor) for tensor in tensors]
        own = [i % self.count == self.rank for i in range(len(tensors))]
        found = [work(tensor).contiguous() if mine else torch.empty_like(tensor) for tensor, mine in zip(tensors, own)]
        with together():
            for i, tensor in enumerate(found):
                dist.broadcast(tensor, src=i % self.count)
        return found

    def wait(self) -> None:
        """Until all are here, however long the others take."""
        if self.count > 1:
            with together():
                dist.barrier(group=self._patient)

    def leave(self) -> None:
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What all processes do at once fails where one has left: that one says why."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL")):
            raise RunError("another process of this run ended", "see its message") from error
        raise


# ---------------------------------------------------------------------------------------------- sharded weights


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's stacks: what is sharded, recomputed and compiled one by one."""
    return [block for stack in model.modules() if isinstance(stack, nn.ModuleList) for block in stack]


def shard(model: nn.Module, ranks: Ranks, dtype: torch.dtype) -> None:
    """FSDP2 over all processes, in place: between steps each keeps its part of every parameter.

    Weights travel in `dtype`, that of the products; gradients are summed in float32.
    Within a step parameters stay whole, from the first micro-batch to the last, which sums the gradients: what is
    sent does not grow with the micro-batches.
    """
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # of a view: nothing here writes into outputs
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for part in (*layers_of(model), model):
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


@contextlib.contextmanager
def last_of_step(objective: nn.Module, model: nn.Module, last: bool) -> Iterator[None]:
    """The forward and backward pass in here is the step's last, which adds up the gradients of all processes and, of a
    sharded model, lets go of the whole parameters; or, unless `last`, its gradients stay this process' own."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)
    replicas = isinstance(objective, DistributedDataParallel) and not last
    with objective.no_sync() if replicas else contextlib.nullcontext():  # type: ignore[operator]
        yield


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A sharded model's parameters whole in every process, in here."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    yield
    for part in parts:
        part.reshard()
