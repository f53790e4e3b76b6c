"""Checkpoints of a run folder: the folders `checkpoint-STEP`, the last few. Each is whole or not there.

    checkpoints = Checkpoints(folder, keep=2, ranks=ranks)
    checkpoints.save(step, state_of(model, optimizers), {"step": step, …})
    path = checkpoints.sound()
    facts = checkpoints.read(path)
    restore(model, optimizers, path, facts, ranks)

Every process writes its own part of weights and optimizer state, as safetensors (torch.distributed.checkpoint), and
reads what it needs of them: a run goes on with any number of processes, sharded or not, and of what is sharded no
process ever holds the whole. `state.json` holds the rest and the SHA-256 of every file, compared before a run goes on
from it. A run folder belongs to one run at a time (`claimed`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from ..errors import RunError, UserError
from ..io.files import atomic_folder, load_json, locked, make_folder
from ..runtime import log
from ..weights.model_dir import digest
from .ranks import Ranks, together

State = dict[str, Tensor]
LOCK = ".lock"
FACTS = "state.json"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A run folder, made if need be, as this process' alone; one in which nothing was left goes again. UserError where
    another process has it."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    make_folder(folder)
    try:
        with locked(folder / LOCK, f"another training runs in {folder}", "wait for its end, or choose another -o"):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows, where a locked file stays
                    if [path.name for path in folder.iterdir()] == [LOCK]:
                        (folder / LOCK).unlink()
    finally:
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


class Checkpoints:
    """The checkpoints of one folder. With `background` a thread writes: `save` returns once the state is copied. All
    processes of the run save at once, the first one tidies."""

    def __init__(self, folder: Path, keep: int, *, ranks: Ranks | None = None, background: bool = False) -> None:
        self.folder, self.keep, self.background = folder, max(1, keep), background
        self.ranks = ranks or Ranks("cpu")
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be

    def all(self) -> list[Path]:
        """Oldest first."""
        found = {path.name.split("-")[1]: path for path in self.folder.glob("checkpoint-*") if path.is_dir()}
        return [found[step] for step in sorted(filter(str.isdecimal, found), key=int)]

    def newest(self) -> Path | None:
        """UserError where there are those of an earlier version alone."""
        found = self.all()
        if not found and any(self.folder.glob("checkpoint-*.pt")):
            cure = "finish it with that version, or choose another -o"
            raise UserError(f"{self.folder} holds checkpoints of an earlier version", cure)
        return found[-1] if found else None

    def sound(self) -> Path | None:
        """The newest checkpoint that is as it was written; damaged ones after it are named and put aside. UserError
        where all are damaged."""
        self.newest()
        damaged: list[Path] = []
        for path in reversed(self.all()):
            if what := _damage(path):
                log.warning("%s is damaged (%s), passed over", path, what)
                damaged.append(path)
                continue
            for other in damaged:
                other.rename(other.with_name(other.name + ".damaged"))
            return path
        if damaged:
            raise UserError(f"no checkpoint of {self.folder} is whole", "train again in another -o")
        return None

    def save(self, step: int, state: State, facts: dict[str, Any]) -> None:
        """Write both and delete the oldest. RunError for a full disk: what was there stays."""
        self.wait()
        if not self.background:
            self._write(step, state, facts)
            return
        copied = BlockingAsyncStager().stage(state)
        self._thread = threading.Thread(target=self._write_later, args=(step, copied, facts))
        self._thread.start()

    def wait(self) -> None:
        """Until the last state is on disk. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_later(self, step: int, state: State, facts: dict[str, Any]) -> None:
        try:
            self._write(step, state, facts)
        except BaseException as error:
            self._error = error

    def _write(self, step: int, state: State, facts: dict[str, Any]) -> None:
        first, target = self.ranks.first, self.folder / f"checkpoint-{step}"
        with together(), contextlib.ExitStack() as held:
            own = held.enter_context(atomic_folder(target, marker=FACTS)) if first else None
            scratch = self.ranks.gather(own, aside=True)[0]
            assert scratch is not None
            try:
                dcp.save(
                    state,
                    storage_writer=dcp.HuggingFaceStorageWriter(str(scratch), save_distributed=True),
                    process_group=self.ranks.aside,
                    no_dist=self.ranks.count == 1,
                )
            except CheckpointException as error:
                reason = next(iter(error.failures.values()))[0]
                cure = "see that the disk has room, then continue with --resume from the checkpoint before"
                raise RunError(f"can't write the checkpoint of step {step}: {reason}", cure) from error
            written = scratch.glob(f"shard-{self.ranks.rank + 1:05d}-*")  # by this process
            parts = self.ranks.gather({path.name: digest(path) for path in written}, aside=True)
            if first:
                files = {name: sha for part in parts for name, sha in part.items()}
                (scratch / FACTS).write_text(_sealed({**facts, "files": files}), "utf-8")
        if first:
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old)
        self.ranks.gather(None, aside=True)

    def read(self, path: Path) -> dict[str, Any]:
        """What `save` was told beside tensors. UserError for a damaged checkpoint."""
        try:
            return _opened((path / FACTS).read_text("utf-8"))
        except (OSError, ValueError) as error:
            cure = "delete it; --resume then takes the one before"
            raise UserError(f"{path} can't be read: {error}", cure) from error

    def sweep(self) -> None:
        """Delete what a killed process left half-written."""
        for scratch in self.folder.glob(".*.tmp-*"):
            if scratch.is_file():
                scratch.unlink(missing_ok=True)
            else:
                shutil.rmtree(scratch, ignore_errors=True)


def _sealed(facts: dict[str, Any]) -> str:
    """Facts as JSON under their own digest."""
    text = json.dumps(facts, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "facts": text}) + "\n"


def _opened(text: str) -> dict[str, Any]:
    """What was sealed; ValueError where it is not as it was."""
    sealed = load_json(text)
    if not isinstance(sealed, dict) or not isinstance(facts := sealed.get("facts"), str):
        raise ValueError(f"{FACTS} holds no facts")
    if hashlib.sha256(facts.encode()).hexdigest() != sealed.get("sha256"):
        raise ValueError(f"{FACTS} is not what was written")
    return load_json(facts)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, or ""."""
    try:
        files = _opened((path / FACTS).read_text("utf-8"))["files"]
        if stray := {file.name for file in path.iterdir()} - {FACTS, *files}:
            return f"{min(stray)} is none of its files"
        return next((f"{name} is not what was written" for name in files if digest(path / name) != files[name]), "")
    except (OSError, ValueError) as error:
        return str(error)


# ---------------------------------------------------------------------------------------------- what a run goes on with


def _weights(model: nn.Module) -> State:
    """The model's parameters and buffers by name, a shared one once; a sharded one as this process' part."""
    kept = model.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(kept.items())}
    return {name: value.detach() for name, value in kept.items() if first[id(value)] == name}


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of an optimizer by the model's names."""
    name = {id(p): name for name, p in model.named_parameters()}
    yield from ((name[id(p)], p) for group in optimizer.param_groups for p in group["params"])


def _described(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> list[list[str]]:
    return [[type(optimizer).__name__, *(name for name, _ in _named(model, optimizer))] for optimizer in optimizers]


def state_of(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> tuple[State, dict[str, Any]]:
    """Weights, `model.NAME`, and optimizer state, `optimizer.NAME.KEY`, of this process; and of which optimizers."""
    state = {f"model.{name}": value for name, value in _weights(model).items()}
    for optimizer in optimizers:
        for name, p in _named(model, optimizer):
            state |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state.get(p, {}).items()}
    return {name: _at_least_1d(value) for name, value in state.items()}, {"optimizers": _described(model, optimizers)}


def _at_least_1d(value: Tensor) -> Tensor:
    """safetensors has no slices of a number."""
    return value.view(1) if value.ndim == 0 else value


def restore(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], path: Path, facts: dict[str, Any], ranks: Ranks
) -> None:
    """Put a checkpoint's weights and optimizer state in place, this process' part of each where it is sharded. What is
    not state (betas, weight decay and the like) is the recipe's, which may have changed."""
    reader = dcp.HuggingFaceStorageReader(str(path))
    saved: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    wanted = {f"model.{name}": _at_least_1d(value) for name, value in _weights(model).items()}
    had = {name for name in saved if name.startswith("model.")}
    wrong = sorted(wanted.keys() ^ had) or [name for name in wanted if wanted[name].shape != saved[name].size]
    if wrong or facts["optimizers"] != _described(model, optimizers):
        what = f"{wrong[0].removeprefix('model.')} differs" if wrong else "another optimizer"
        raise UserError(f"{path} is of another model or optimizer ({what})", "use its recipe, or choose another -o")
    kept: dict[str, dict[str, Any]] = {}  # of each parameter the state's tensors
    for name, info in saved.items():
        if name.startswith("optimizer."):
            own, _, key = name.removeprefix("optimizer.").rpartition(".")
            kept.setdefault(own, {})[key] = info
    for optimizer in optimizers:
        for name, p in _named(model, optimizer):
            state = optimizer.state[p] = {}
            for key, info in kept.get(name, {}).items():
                like = key != "step"  # the one number among them
                value = (
                    torch.empty_like(p.detach()) if like else torch.empty((), dtype=info.properties.dtype).to(p.device)
                )
                state[key], wanted[f"optimizer.{name}.{key}"] = value, _at_least_1d(value)
    try:
        with together():
            dcp.load(wanted, storage_reader=reader, process_group=ranks.aside, no_dist=ranks.count == 1)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise UserError(f"{path} can't be read: {reason}", "delete it; --resume then takes the one before") from error
