"""The training loop, the same for every kind: a task brings data, model and loss; this brings the rest.

A run folder holds `settings.toml`, `metrics.jsonl`, `checkpoint-STEP/` (the last few), `best/` (the model with the
best validation so far) and, at the end, `model/`.

    sonarllm train recipes/mini/sonar.toml -o runs/mini-sonar
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..errors import RunError, UserError
from ..io.files import atomic_write
from ..nets.layers import flop_counter
from ..runtime import Runtime, give_back, log, multiplies_bfloat16
from . import optim
from .ahead import Ahead, steps_ahead
from .build import make_task, trained_parameters
from .checkpoint import Checkpoints, claimed, restore, state_of
from .ranks import Ranks, gathered, last_of_step, layers_of, shard, together
from .recipe import Settings, changes, to_toml
from .watch import Watch, Window, check_trackers, peak_rate

PACE = 8  # steps before a run's pace is told
ENDLESS = 1 << 62  # steps
PROGRESS = ("step", "epoch", "place", "per_epoch", "tokens", "seconds", "best")  # what a run goes on with


class Trainer:
    """One run: settings and its folder."""

    def __init__(self, settings: Settings, folder: Path, *, resume: bool = False) -> None:
        self.settings, self.folder = settings, folder
        self.began, self.aside = time.monotonic(), 0.0  # and seconds that the longest validation took
        self.ranks = Ranks(settings.run.device)
        self.dtype = torch.bfloat16 if settings.run.dtype == "bfloat16" else torch.float32
        if self.dtype == torch.bfloat16 and not multiplies_bfloat16(self.ranks.device):
            self.dtype = torch.float32
            log.info("no bfloat16 products here: float32, which is faster")
        self.sharded = settings.parallel.shard == "full" and self.ranks.count > 1
        self.checkpoints = Checkpoints(
            folder, settings.run.keep, ranks=self.ranks, background=settings.run.save_background
        )
        self.step = self.epoch = self.tokens = 0
        self.place = 0  # steps taken of this epoch
        self.per_epoch = 0  # steps of the first epoch, by which the run's length is reckoned
        self.seconds = 0.0
        self.best = math.inf
        self.validated: tuple[int, dict[str, float]] = (-1, {})  # the last step that was, and its figures
        self.asked = False  # a signal asks this process to leave
        self.stop = self.due = False  # all processes leave, or save, after this step
        self.held = contextlib.ExitStack()  # the folder, which is this run's alone until it ends
        try:
            if self.ranks.first:
                self.held.enter_context(claimed(folder))
            self._start(resume)
        except BaseException:
            self.held.close()
            raise

    # ------------------------------------------------------------------------------------------ the run

    def run(self) -> dict[str, Any]:
        """Train to the end, or until SIGTERM or Ctrl-C, which save and leave. → the last validation's figures."""
        with self.held:
            return self._run()

    def _run(self) -> dict[str, Any]:
        steps = self._epoch()
        self.per_epoch = self.per_epoch or len(steps)
        most = total = self.total_steps(self.per_epoch)
        self._open(steps, total)
        saved = time.monotonic()
        with _graceful(self), contextlib.closing(self.watch), contextlib.ExitStack() as held:
            coming = self._coming(steps, held)
            while self.step < total and not self.stop:
                if self.place >= len(steps):
                    self.epoch, self.place = self.epoch + 1, 0
                    held.close()
                    steps = self._epoch()
                    coming = self._coming(steps, held)
                self.due = self._is_due(saved)
                facts = self.train_step(coming.take(), total)
                self.step, self.place = self.step + 1, self.place + 1
                total = self.watch.total = self._horizon(most)
                self.tokens += facts["tokens"]
                self.watch.add(facts)
                if self.step % self.settings.run.log_every == 0:
                    self._report()
                if self.step % self.settings.run.valid_every == 0:
                    self._validate()
                if self.due and not self.stop and self.step < total:
                    self._save()
                    saved = time.monotonic()
            self._save()
            self.checkpoints.wait()
            figures = self._finish() if self.step == total else {}
        self.ranks.leave()
        if self.step < total:
            of = "" if total == ENDLESS else f" of {total}"
            raise RunError(f"stopped at step {self.step}{of}", "continue with --resume")
        return figures

    def _horizon(self, most: int) -> int:
        """Steps of the whole run: `most` or, where `run.minutes` bounds it, what its pace so far lets it take before
        it has to validate a last time and write the model."""
        if not self.settings.run.minutes or self.step < PACE:
            return most
        room = 60 * self.settings.run.minutes - 2 * self.aside
        return max(self.step, min(most, int(self.step * room / self.seconds)))

    def total_steps(self, per_epoch: int) -> int:
        """Optimisation steps of the whole run; where minutes bound it, no other bound than `optim.steps`."""
        if self.settings.run.minutes and not self.settings.optim.steps:
            return ENDLESS
        return self.settings.optim.steps or max(1, math.ceil(per_epoch * self.settings.optim.epochs))

    def train_step(self, batches: Sequence[Any], total: int) -> dict[str, Any]:
        """One optimisation step over its micro-batches, of which this process does its share; → what to log."""
        rate = optim.learning_rate(self.step, total, self.settings.optim)
        self.task.model.train()
        window, value, suspects = Window(), 0.0, []
        share = list(self.ranks.share(batches))
        for i, (place, batch, counts) in enumerate(share):
            loss, facts = self._learn(batch, place, counts, last=i == len(share) - 1)
            if counts:
                value += loss
                window.add(facts)
                if not math.isfinite(loss):
                    suspects.append(batch)
        everyone = self.ranks.gather((value, self.asked, self.due, time.monotonic() - self.began, window))
        if not math.isfinite(sum(one[0] for one in everyone)):
            raise self._not_finite("loss", suspects)
        self.stop, self.due, self.seconds = any(one[1] for one in everyone), *everyone[0][2:4]  # the first's clock
        trainable = self._trainable()
        norm = torch.nn.utils.clip_grad_norm_(trainable, self.settings.optim.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not math.isfinite(norm):
            raise self._not_finite("gradient", self._suspects(share))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {**Window.merged([one[4] for one in everyone]).mean(), "grad_norm": norm.item(), "lr": rate}

    def validate(self) -> dict[str, float]:
        self.task.model.eval()
        with torch.no_grad():
            return self._in_dtype(self.task.validate)

    # ------------------------------------------------------------------------------------------ parts of the start

    def _start(self, resume: bool) -> None:
        """Data, network and optimizers, as they were when the run was left off where it goes on."""
        newest = self._newest(resume)
        if self.ranks.first:
            check_trackers(self.settings)
        torch.manual_seed(self.settings.run.seed)
        self.task = self._first_then_others()
        self._freeze()
        self._lay_out()
        self.optimizers = optim.optimizers(self.task.model, self.settings.optim, self.ranks)
        if newest:
            self._load(newest)
            self.began -= self.seconds

    def _newest(self, resume: bool) -> Path | None:
        """The checkpoint to go on from, the same in every process. UserError for a run that should not go on."""
        found = (self.checkpoints.sound() if resume else self.checkpoints.newest()) if self.ranks.first else None
        newest = self.ranks.gather(found)[0]
        if newest and not resume:
            raise UserError(f"{self.folder} already holds a run", "continue it with --resume, or choose another -o")
        return newest

    def _first_then_others(self) -> Any:
        """The task; the first process reads the data before the others, and leaves what it made for them."""
        if not self.ranks.first:
            self.ranks.wait()
        task = make_task(self.settings, self.folder, self.ranks.device)
        if self.ranks.first:
            self.ranks.wait()
        return task

    def _freeze(self) -> None:
        trained = trained_parameters(self.settings, self.task.model)
        for name, parameter in self.task.model.named_parameters():
            parameter.requires_grad_(name in trained)

    def _lay_out(self) -> None:
        """The model on its device, its layers (and those of a frozen decoder) recomputed, compiled and sharded as the
        recipe says."""
        tf32 = self.settings.run.dtype == "tf32" and self.ranks.device.type == "cuda"
        Runtime(device=self.ranks.device, dtype=self.dtype, tf32=tf32).use()
        model, frozen = self.task.model.to(self.ranks.device), getattr(self.task, "frozen", None)
        layers = [*layers_of(model), *(layers_of(frozen) if frozen is not None else [])]
        for layer in layers:
            if self.settings.parallel.recompute:
                _recompute(layer)
            if self.settings.run.compile:
                layer.compile(dynamic=True)
        self.objective: nn.Module = _Objective(self.task)
        if self.sharded:
            shard(model, self.ranks, self.dtype)
        else:
            self.objective = self.ranks.replicated(self.objective)

    def _open(self, steps: Sequence[Sequence[Any]], total: int) -> None:
        """Say what is about to happen, and get ready to watch it."""
        run, first = self.settings.run, self.ranks.first
        count = sum(p.numel() for p in self._trainable()) / 1e6
        log.info(
            "%s, %.1f M trainable parameters, %s on %d × %s",
            self.settings.name or self.settings.kind,
            count,
            f"{run.minutes:g} minutes" if total == ENDLESS else f"{total} steps",
            self.ranks.count,
            self.ranks.device.type,
        )
        if len(steps[0]) < self.ranks.count:
            log.warning("a step has %d micro-batches for %d processes: some idle", len(steps[0]), self.ranks.count)
        if first:
            self.checkpoints.sweep()
            atomic_write(self.folder / "settings.toml", to_toml(self.settings.as_dict()))
        measured = peak_rate(self.ranks.device, self.dtype) if first and not run.peak_tflops else 0.0
        self.peak = self.ranks.count * (run.peak_tflops * 1e12 or measured)
        self.flops_per_token = self._count_flops(steps[0][0]) if first and not self.sharded else 0.0
        self.watch = Watch(self.folder, self.settings, step=self.step, total=total, first=first)

    def _count_flops(self, batch: Any) -> float:
        """FLOPs of matrix products a target token, forward and backward, counted on one micro-batch, which teaches
        nothing: no norm's statistics either. Not with torch.compile, which hides them."""
        if self.settings.run.compile:
            return 0.0
        self.task.model.eval()
        with flop_counter() as counter:
            _, facts = self._learn(batch, 0)
        self._forget()
        return counter.get_total_flops() / max(1, facts["tokens"])

    # ------------------------------------------------------------------------------------------ parts of a step

    def _epoch(self) -> Sequence[Sequence[Any]]:
        """The steps of this epoch; a task whose steps are a sequence makes each when it is asked for."""
        steps = self.task.steps(self.task.epoch(self.epoch))
        return steps if isinstance(steps, Sequence) else list(steps)

    def _coming(self, steps: Sequence[Sequence[Any]], held: contextlib.ExitStack) -> Ahead[Sequence[Any]]:
        """The steps from this place on, this process' micro-batches of them loaded, until `held` closes."""
        load = getattr(self.task, "load", None)

        def step(i: int) -> Sequence[Any]:
            batches = list(steps[i])
            if load is not None:
                for place in {place for place, _, _ in self.ranks.share(batches)}:
                    batches[place] = load(batches[place])
            return batches

        count = steps_ahead(self.ranks.device)
        return held.enter_context(contextlib.closing(Ahead(step, self.place, len(steps), count)))

    def _learn(
        self, batch: Any, place: int, counts: bool = True, *, last: bool = False
    ) -> tuple[float, dict[str, Any]]:
        """A micro-batch's gradients are added to the weights' own, with the `last` of the step those of all processes;
        → its share of the loss, and what to log of it. What is random in it hangs on seed, step and place alone."""
        seed = (self.settings.run.seed * 1_000_003 + self.step) * 1_009 + place
        torch.manual_seed(seed)  # dropout

        def work() -> tuple[float, dict[str, Any]]:
            loss, facts = self.objective(batch, torch.Generator().manual_seed(seed))
            # gradients become a mean over processes: scaled here to be the sum
            with together():
                (loss * (self.ranks.count if counts else 0)).backward()
            return loss.item(), facts

        with last_of_step(self.objective, self.task.model, last):
            return self._in_dtype(work)

    def _in_dtype(self, work: Callable[[], Any]) -> Any:
        """`work` with the network's weights in the dtype of the run's products. The optimizer keeps them in float32,
        and their gradients arrive there; sums, norms' statistics, softmax and losses are float32 by themselves."""
        if self.dtype == torch.float32 or self.sharded:  # FSDP2 casts what it gathers
            return work()
        step = _Step(self.task.model, work)
        exact = {id(p) for m in step.modules() if getattr(m, "float32", False) for p in m.parameters()}
        cast = {n: p if id(p) in exact else p.to(self.dtype) for n, p in step.named_parameters()}
        return torch.func.functional_call(step, cast, ())

    def _trainable(self) -> list[nn.Parameter]:
        return [p for p in self.task.model.parameters() if p.requires_grad]

    def _forget(self) -> None:
        """Drop all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _suspects(self, share: Sequence[tuple[int, Any, bool]]) -> list[Any]:
        """The micro-batches of this process whose gradient is not finite, each tried anew by itself."""
        if self.sharded:
            return [batch for _, batch, _ in share]
        found = []
        for place, batch, _ in share:
            self._forget()
            self._learn(batch, place)
            if not all(p.grad is None or bool(p.grad.isfinite().all()) for p in self._trainable()):
                found.append(batch)
        return found

    def _not_finite(self, what: str, suspects: Sequence[Any]) -> RunError:
        """The error that ends a run before the optimizer moves; it names the batch, and where to go on."""
        describe = getattr(self.task, "describe", lambda batch: "")
        named = "; ".join(part for part in (describe(batch) for batch in suspects) if part)
        where = "; ".join(part for part in self.ranks.gather(named) if part)
        self._forget()
        return RunError(
            f"the {what} of step {self.step} is not finite ({where or 'all of it'}); nothing was changed by it",
            self._way_back(),
        )

    def _way_back(self) -> str:
        """The cure of a run that diverged."""
        self.checkpoints.wait()
        newest = self.checkpoints.newest()
        return f"lower optim.lr and continue with --resume from {newest.name}" if newest else "lower optim.lr"

    # ------------------------------------------------------------------------------------------ figures

    def _where(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 1), "seen": self.tokens}

    def _report(self) -> None:
        give_back()
        if self.ranks.first:
            self.watch.flush(self._where(), self.flops_per_token, self.peak, self.ranks.device)

    def _validate(self) -> dict[str, float]:
        """Log validation and, where it is the best so far, keep the model in `best/`."""
        if not self.ranks.first and not self.sharded:
            return {}
        if self.validated[0] == self.step:  # the run ends where validation was due
            return self.validated[1]
        began = time.monotonic()
        with self.watch.aside():
            figures = self.validate()
            name = self.settings.run.best or next(iter(figures), "")
            if self.ranks.first:
                self.watch.write(self._where(), figures)
            if name and name not in figures:
                cure = f"use one of {', '.join(figures)}" if figures else "give data.valid_documents"
                raise UserError(f"run.best {name!r} is no figure of this run's validation", cure)
            if name and figures[name] < self.best:
                self.best = figures[name]
                self._write_model("best", figures)
        self.validated = (self.step, figures)
        self.aside = max(self.aside, time.monotonic() - began)
        return figures

    def _finish(self) -> dict[str, float]:
        """Validate, write `model/`, and say where it is."""
        figures = self._validate()
        if self.ranks.first or self.sharded:
            self._write_model("model", figures)
        if self.ranks.first:
            log.info("wrote %s", self.folder / "model")
        return figures

    # ------------------------------------------------------------------------------------------ files

    def _write_model(self, name: str, figures: dict[str, float]) -> None:
        """A model folder of the present weights."""
        facts = {
            "steps": self.step,
            "tokens": self.tokens,
            "minutes": round(self.seconds / 60, 1),
            "figures": {name: round(value, 4) for name, value in figures.items()},
            "settings": self.settings.as_dict(),
            "torch": torch.__version__,
        }
        with gathered(self.task.model):  # takes all processes where it is sharded
            if self.ranks.first:
                self.task.save(self.folder / name, self.task.model, facts)

    def _is_due(self, saved: float) -> bool:
        """Whether a checkpoint is to be written after the coming step; the first process' word holds."""
        run = self.settings.run
        by_step = run.save_every > 0 and (self.step + 1) % run.save_every == 0
        return by_step or time.monotonic() - saved > 60 * run.save_minutes

    def _save(self) -> None:
        own = (p.to_local() if isinstance(p, DTensor) else p for p in self._trainable())
        if not all(self.ranks.gather(all(bool(p.isfinite().all()) for p in own))):
            raise RunError(f"the weights after step {self.step} are not finite; none were written", self._way_back())
        state, optimizers = state_of(self.task.model, self.optimizers)
        self.checkpoints.save(self.step, state, {**optimizers, **{name: getattr(self, name) for name in PROGRESS}})

    def _load(self, path: Path) -> None:
        facts = self.checkpoints.read(path)
        restore(self.task.model, self.optimizers, path, facts, self.ranks)
        for name in PROGRESS:
            setattr(self, name, facts[name])
        changed = [key for key in changes(self.folder / "settings.toml", self.settings) if key != "run.init"]
        if fixed := next((key for key in changed if key.startswith("vocabulary.")), ""):
            raise UserError(f"{fixed} is decided when a run begins", "leave it as it was, or choose another -o")
        if "run.best" in changed:
            self.best = math.inf
        log.info("continuing at step %d%s", self.step, f", with another {', '.join(changed)}" if changed else "")


class _Objective(nn.Module):
    """A task's loss as a module of its network: what several processes wrap to add up its gradients."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task, self.model = task, task.model
        self.unused = nn.Parameter(torch.zeros(()))  # DDP, told to look for such ones, warns where it finds none

    def forward(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        return self.task.loss(batch, generator)


class _Step(nn.Module):
    """Work on a network, as a function of its weights."""

    def __init__(self, model: nn.Module, work: Callable[[], Any]) -> None:
        super().__init__()
        self.model, self.work = model, work

    def forward(self) -> Any:
        return self.work()


def _recompute(layer: nn.Module) -> None:
    """Keep the layer's input alone for the backward pass, which runs it again."""
    from torch.utils.checkpoint import checkpoint

    plain = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        return checkpoint(plain, *args, use_reentrant=False, **kwargs)

    layer.forward = forward


@contextlib.contextmanager
def _graceful(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the loop to end after this step."""

    def ask(*_: Any) -> None:
        trainer.asked = True

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
