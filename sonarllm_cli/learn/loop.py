"""The training loop, the same for every kind: a task brings data, model and loss; this brings the rest.

A run folder holds `settings.toml`, `metrics.jsonl`, `checkpoint-STEP.pt` (the last few) and, at the end, `model/`.

    sonarllm train recipes/mini/sonar.toml -o runs/mini-sonar
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import RunError, UserError
from ..files import atomic_file, atomic_write
from ..runtime import log
from . import optim
from .distributed import Ranks
from .kinds import make_task
from .recipe import Settings, to_toml


class Trainer:
    """One run: settings and its folder."""

    def __init__(self, settings: Settings, folder: Path, *, resume: bool = False) -> None:
        self.settings, self.folder = settings, folder
        self.ranks = Ranks()
        begun = sorted(folder.glob("checkpoint-*.pt"), key=_step_of)
        if begun and not resume:
            raise UserError(f"{folder} already holds a run", "continue it with --resume, or choose another -o")
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.run.seed)
        if not self.ranks.first:
            self.ranks.wait()  # the first reads the data before the others, and leaves what it made for them
        self.task = make_task(settings, folder)
        if self.ranks.first:
            self.ranks.wait()
        self._freeze()
        self.optimizers = optim.optimizers(self.task.model, settings.optim)
        self.step = self.epoch = self.tokens = 0
        self.place = 0  # steps taken of this epoch
        self.seconds = 0.0
        self.stop = False
        if begun:
            self._load(begun[-1])
        if self.ranks.first:
            atomic_write(folder / "settings.toml", to_toml(settings.as_dict()))

    # ------------------------------------------------------------------------------------------ the run

    def run(self) -> dict[str, Any]:
        """Train to the end, or until SIGTERM or Ctrl-C, which save and leave. → the last validation's figures."""
        run = self.settings.run
        batches = self._epoch()
        total = self.total_steps(len(batches))
        log.info(
            "%s, %.1f M trainable parameters, %d steps",
            self.settings.name or self.settings.kind,
            sum(p.numel() for p in self.task.model.parameters() if p.requires_grad) / 1e6,
            total,
        )
        began = saved = time.monotonic()
        before = self.seconds
        window = Window()
        with _graceful(self):
            while self.step < total and not self.stop:
                if self.place >= len(batches):
                    self.epoch, self.place = self.epoch + 1, 0
                    batches = self._epoch()
                facts = self.train_step(batches[self.place], total)
                self.step, self.place = self.step + 1, self.place + 1
                self.seconds = before + time.monotonic() - began
                self.tokens += facts["tokens"]
                window.add(facts)
                if not self.ranks.first:
                    continue
                if self.step % run.log_every == 0:
                    self._log(window.mean(), total)
                    window = Window()
                if self.step % run.valid_every == 0:
                    self._log(self.validate(), total)
                if time.monotonic() - saved > 60 * run.save_minutes:
                    self._save()
                    saved = time.monotonic()
        if self.ranks.first:
            self._save()
        self.ranks.leave()
        if self.stop:
            raise RunError(f"stopped at step {self.step} of {total}", "continue with --resume")
        return self.finish(total) if self.ranks.first else {}

    def total_steps(self, per_epoch: int) -> int:
        """Optimisation steps of the whole run."""
        return self.settings.optim.steps or max(1, math.ceil(per_epoch * self.settings.optim.epochs))

    def train_step(self, batches: list[Any], total: int) -> dict[str, Any]:
        """One optimisation step over its micro-batches, of which this process does its share; → what to log."""
        rate = optim.rate(self.step, total, self.settings.optim)
        window = Window()
        self.task.model.train()
        value = 0.0
        for place, batch in self.ranks.share(batches):
            seed = (self.settings.run.seed * 1_000_003 + self.step) * 1_009 + place
            with self._autocast():
                loss, facts = self.task.loss(batch, torch.Generator().manual_seed(seed))
            value += loss.item()
            loss.backward()
            window.add(facts)
        everyone = self.ranks.gather((value, self.stop, window))
        total_loss = sum(v for v, _, _ in everyone)
        if not math.isfinite(total_loss):
            raise RunError(
                f"the loss of step {self.step} is {total_loss}; nothing was changed by it",
                "lower optim.lr, then continue with --resume from the last checkpoint",
            )
        self.stop = any(stop for _, stop, _ in everyone)
        window = Window.merged([w for _, _, w in everyone])
        trainable = [p for p in self.task.model.parameters() if p.requires_grad]
        self.ranks.sum_gradients(trainable)
        norm = torch.nn.utils.clip_grad_norm_(trainable, self.settings.optim.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {**window.mean(), "grad_norm": norm.item(), "lr": rate}

    def validate(self) -> dict[str, float]:
        self.task.model.eval()
        with torch.no_grad(), self._autocast():
            return self.task.validate()

    def finish(self, total: int) -> dict[str, Any]:
        """Validate, write `model/`, and say where it is."""
        figures = self.validate()
        self._log(figures, total)
        facts = {
            "steps": self.step,
            "tokens": self.tokens,
            "minutes": round(self.seconds / 60, 1),
            "figures": {name: round(value, 4) for name, value in figures.items()},
            "settings": self.settings.as_dict(),
            "torch": torch.__version__,
        }
        self.task.save(self.folder / "model", self.task.model, facts)
        log.info("wrote %s", self.folder / "model")
        return figures

    # ------------------------------------------------------------------------------------------ parts

    def _epoch(self) -> Sequence[list[Any]]:
        """The steps of this epoch; a task whose steps are a sequence makes each when it is asked for."""
        steps = self.task.steps(self.task.epoch(self.epoch))
        return steps if isinstance(steps, Sequence) else list(steps)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.run.dtype == "bfloat16":
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()

    def _freeze(self) -> None:
        only = self.settings.run.train_only
        if not only:
            return
        for name, parameter in self.task.model.named_parameters():
            parameter.requires_grad_(any(name.startswith(prefix) for prefix in only))
        if not any(p.requires_grad for p in self.task.model.parameters()):
            names = sorted({name.split(".")[0] for name, _ in self.task.model.named_parameters()})
            raise UserError(f"run.train_only {only} matches no parameter", f"use a prefix such as {names[0]}.")

    def _log(self, facts: dict[str, float], total: int) -> None:
        line = {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 1), "seen": self.tokens}
        line |= {name: round(value, 6) for name, value in facts.items()}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = " ".join(f"{k} {v:.4g}" for k, v in facts.items() if k not in ("tokens",))
        speed = self.tokens / max(self.seconds, 1e-9)
        log.info("step %d/%d  %s  %.0f tokens/s", self.step, total, shown, speed)

    def _save(self) -> None:
        state = {
            "model": self.task.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "epoch": self.epoch,
            "place": self.place,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        with atomic_file(self.folder / f"checkpoint-{self.step}.pt") as scratch:
            try:
                torch.save(state, scratch)
            except RuntimeError as error:  # how torch reports a full disk
                cure = "free some space, then continue with --resume from the checkpoint before"
                raise RunError(f"can't write the checkpoint of step {self.step}: {error}", cure) from error
        for old in sorted(self.folder.glob("checkpoint-*.pt"), key=_step_of)[: -self.settings.run.keep]:
            old.unlink()

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            cure = "delete it; --resume then takes the one before"
            raise UserError(f"{path} can't be read: {error}", cure) from error
        self.task.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.epoch, self.place = state["step"], state["epoch"], state["place"]
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        log.info("continuing at step %d", self.step)


class Window:
    """Token-weighted means of what steps report; `tokens` and counts are summed."""

    def __init__(self) -> None:
        self.sum: dict[str, float] = {}
        self.weight: dict[str, float] = {}
        self.tokens = 0

    def add(self, facts: dict[str, Any]) -> None:
        self.tokens += facts["tokens"]
        for name, value in facts.items():
            if name != "tokens":
                self.sum[name] = self.sum.get(name, 0.0) + value * facts["tokens"]
                self.weight[name] = self.weight.get(name, 0.0) + facts["tokens"]

    @classmethod
    def merged(cls, windows: list[Window]) -> Window:
        out = cls()
        for window in windows:
            out.tokens += window.tokens
            for name in window.sum:
                out.sum[name] = out.sum.get(name, 0.0) + window.sum[name]
                out.weight[name] = out.weight.get(name, 0.0) + window.weight[name]
        return out

    def mean(self) -> dict[str, Any]:
        return {"tokens": self.tokens} | {name: self.sum[name] / max(1.0, self.weight[name]) for name in self.sum}


@contextlib.contextmanager
def _graceful(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the loop to end after this step."""

    def ask(*_: Any) -> None:
        trainer.stop = True

    try:
        old = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])
