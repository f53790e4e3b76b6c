"""Checkpoints of a run folder: `checkpoint-STEP.pt`, the last few. Each is whole or not there, and holds every tensor
whole and on the CPU, so that a run may go on with another number of processes, sharded or not.

    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(step, {"model": …, "optimizers": […], "step": …})
    state = checkpoints.read(checkpoints.sound())

A checkpoint is a zip archive, in which torch writes a digest of each record (CRC-32); they are compared before a run
goes on from it. A run folder belongs to one process at a time (`claimed`).
"""

from __future__ import annotations

import contextlib
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError, UserError
from ..io.files import atomic_file, locked
from ..runtime import log
from .ranks import like

State = dict[str, Any]
LOCK = ".lock"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A run folder, made if need be, as this process' alone; one in which nothing was left goes again. UserError where
    another process has it."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
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
    """The checkpoints of one folder. With `background` a thread writes: `save` returns once the state is copied."""

    def __init__(self, folder: Path, keep: int, *, background: bool = False) -> None:
        self.folder, self.keep, self.background = folder, max(1, keep), background
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def all(self) -> list[Path]:
        """Oldest first."""
        found = {path.stem.split("-")[1]: path for path in self.folder.glob("checkpoint-*.pt")}
        return [found[step] for step in sorted(filter(str.isdecimal, found), key=int)]

    def newest(self) -> Path | None:
        found = self.all()
        return found[-1] if found else None

    def sound(self) -> Path | None:
        """The newest checkpoint that is as it was written; damaged ones after it are named and put aside. UserError
        where all are damaged."""
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

    def save(self, step: int, state: State) -> None:
        """Write the state and delete the oldest. RunError for a full disk: what was there stays."""
        self.wait()
        if not self.background:
            self._write(step, state)
            return
        self._thread = threading.Thread(target=self._write_later, args=(step, _copied(state)))
        self._thread.start()

    def wait(self) -> None:
        """Until the last state is on disk. Raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_later(self, step: int, state: State) -> None:
        try:
            self._write(step, state)
        except Exception as error:
            self._error = error

    def _write(self, step: int, state: State) -> None:
        with atomic_file(self.folder / f"checkpoint-{step}.pt") as scratch:
            try:
                torch.save(state, scratch)
            except RuntimeError as error:  # how torch reports a full disk
                cure = "free some space, then continue with --resume from the checkpoint before"
                raise RunError(f"can't write the checkpoint of step {step}: {error}", cure) from error
        for old in self.all()[: -self.keep]:
            old.unlink()

    def read(self, path: Path) -> State:
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except Exception as error:
            cure = "delete it; --resume then takes the one before"
            raise UserError(f"{path} can't be read: {str(error).splitlines()[0]}", cure) from error

    def sweep(self) -> None:
        """Delete what a killed process left half-written."""
        for scratch in self.folder.glob(".*.tmp-*"):
            if scratch.is_file():
                scratch.unlink(missing_ok=True)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint's file, or ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
        return f"{record} is not what was written" if record else ""
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return str(error)


def _copied(value: Any) -> Any:
    """A tree with every tensor copied: training goes on while it is written."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value.clone() if isinstance(value, Tensor) else value


def restore(model: nn.Module, optimizers: list[torch.optim.Optimizer], state: State, path: Path) -> None:
    """Put a checkpoint's weights and optimizer state in place, this process' part of each where it is sharded."""
    own = model.state_dict()
    saved = state["model"]
    wrong = sorted(own.keys() ^ saved.keys()) or [n for n in own if own[n].shape != saved[n].shape]
    sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers]
    if wrong or sizes != [[len(group["params"]) for group in held["param_groups"]] for held in state["optimizers"]]:
        what = f"{wrong[0]} differs" if wrong else "another optimizer"
        raise UserError(f"{path} is of another model or optimizer ({what})", "use its recipe, or choose another -o")
    model.load_state_dict({name: like(saved[name], own[name]) for name in own})
    for optimizer, held in zip(optimizers, state["optimizers"]):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        laid = {
            i: {k: like(v, parameters[i]) if isinstance(v, Tensor) else v for k, v in entry.items()}
            for i, entry in held["state"].items()
        }
        groups = [  # betas, weight decay and the like are the recipe's, which may have changed
            {**own, "params": group["params"]} for own, group in zip(optimizer.param_groups, held["param_groups"])
        ]
        optimizer.load_state_dict({"state": laid, "param_groups": groups})
