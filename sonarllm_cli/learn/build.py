"""Kinds of model a recipe can train: each is a task (data, model, loss) for the loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.documents import DocumentData
from ..errors import UserError, nearest
from ..nets.kinds import kind_of, named
from ..nets.sonar import SonarConfig
from ..weights import model_dir, registry
from ..weights.loaded import Space
from .recipe import Settings


class Task(Protocol):
    """What a kind of model brings to the loop. Its class is named in nets/kinds.py, and says what a step costs
    (budget.py).

    It may also have `frozen`, a network that the loss goes through and that does not learn; `describe(batch)`, which
    names a micro-batch's texts in messages; and `load(batch)`, the same micro-batch with tensors that its loss needs: a
    thread calls it ahead of the step, and nothing in it is random. Facts of a loss are token-weighted figures, and the
    counts `tokens` (needed) and `sentences`. A task is made on its process' `device`.
    """

    @classmethod
    def shape(cls, settings: Settings) -> Any:
        """The config of the network that the recipe describes, before any data is read."""

    @property
    def model(self) -> nn.Module: ...

    def epoch(self, number: int) -> Sequence[Any]: ...
    def steps(self, epoch: Any) -> Iterable[list[Any]]: ...
    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]: ...
    def validate(self) -> dict[str, float]: ...
    def save(self, folder: Path, model: nn.Module, facts: dict[str, Any]) -> None: ...


def task_class(kind: str) -> Any:
    """What trains a kind."""
    return named(f"{__package__}.tasks", kind_of(kind).task)


def make_task(settings: Settings, folder: Path, device: torch.device) -> Task:
    """The task of the recipe's kind; its data is read here, after [model] was found to describe a network."""
    _fits(build_model(settings))
    both = _learns_both(settings)
    if both and not kind_of(settings.kind).space:
        key = "run.writer" if settings.run.writer else "loss.guess"
        cure = f'leave {key} out, or use kind = "sonar"'
        raise UserError(f"{key} is for a space, not for a {settings.kind} model", cure)
    check_trained(settings)
    make = named(f"{__package__}.tasks", "joint.JointTask") if both else task_class(settings.kind)
    task: Task = make(settings, folder, device)
    return task


def _learns_both(settings: Settings) -> bool:
    """Whether a space and a concept model learn together (tasks/joint.py)."""
    return bool(settings.run.writer or settings.loss.guess)


def _fits(model: nn.Module) -> None:
    """UserError for a network whose float32 weights alone are more than the memory there is."""
    size = 4 * sum(p.numel() for p in model.parameters())
    memory = _memory()
    if size > memory:
        gib, most = (f"{n / 2**30:,.1f} GiB" for n in (size, memory))
        raise UserError(f"the network's weights take {gib}, there are {most} of memory", "make [model] smaller")


def _memory() -> int:
    """Bytes that this process may have: the machine's, or fewer where `ulimit -v` says so."""
    try:
        import resource
    except ImportError:  # Windows
        return sys.maxsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return memory if limit == resource.RLIM_INFINITY else min(memory, limit)


def build_model(settings: Settings) -> nn.Module:
    """The network that the recipe trains, without memory. The shape of a space that is not on this machine is taken to
    be the published one's."""
    with torch.device("meta"):
        model: nn.Module = kind_of(settings.kind).net(task_class(settings.kind).shape(settings))
    return model


def shape_of(name: str, kind: str, key: str = "run.init") -> Any:
    """The config of a model of this kind that a run starts from. UserError, which tells the recipe's `key`, for a model
    of another kind."""
    folder = registry.find(name)
    config = model_dir.read_config(folder)
    if config["kind"] != kind:
        raise UserError(f"{key} {name} is a {config['kind']} model", f"name a {kind} model")
    return model_dir.net_config(kind_of(kind).config, folder, config)


def read_documents(settings: Settings, folder: Path, space: Space, *, embed: bool = True) -> DocumentData:
    """The recipe's documents; their embeddings are kept in `folder`."""
    optim = settings.optim
    return DocumentData(
        settings.data,
        folder,
        space,
        seed=settings.run.seed,
        documents=optim.documents,
        batch_tokens=optim.batch_tokens,
        embed=embed,
    )


def trained_parameters(settings: Settings, model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model that the recipe trains, by name; a normaliser is fitted, not trained."""
    only = tuple(settings.run.train_only) or ("",)
    return {name: p for name, p in model.named_parameters() if p.requires_grad and name.startswith(only)}


def check_trained(settings: Settings, model: nn.Module | None = None) -> None:
    """UserError for an entry of run.train_only that no parameter of what learns begins with; of the network that the
    recipe describes, if no `model` is given. Nothing is read: two networks that learn together check it themselves."""
    if not settings.run.train_only or (model is None and _learns_both(settings)):
        return
    beside = () if model else task_class(settings.kind).beside(settings)
    model = model or build_model(settings)
    names = [*(name for name, p in model.named_parameters() if p.requires_grad), *beside]
    for prefix in settings.run.train_only:
        if not any(name.startswith(prefix) for name in names):
            guess = nearest(prefix, list({".".join(name.split(".")[:n]) for n in (1, 2, 3) for name in names}))
            begin = ", ".join(sorted({name.split(".")[0] for name in names}))
            cure = f"{f'did you mean {guess}? ' if guess else ''}their names begin with {begin}"
            raise UserError(f"run.train_only {prefix!r} matches no parameter", cure)


def trainable_parameters(settings: Settings) -> int:
    """How many those are."""
    return sum(p.numel() for p in trained_parameters(settings, build_model(settings)).values())


def space_config(name: str) -> SonarConfig:
    """The shape of a space's networks; the published one's where it is not on this machine."""
    try:
        folder = registry.find(name)
        config = model_dir.read_config(folder)
        if not kind_of(config["kind"]).space:
            return space_config(model_dir.home_of(folder, config))
        return model_dir.net_config(SonarConfig, folder, config)
    except (UserError, KeyError, TypeError, ValueError):
        return SonarConfig()
