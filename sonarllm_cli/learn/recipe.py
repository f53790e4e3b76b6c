"""Recipes: TOML → validated settings. Defaults < recipe < `--set`; an unknown key is an error with the nearest name.

settings = load("recipes/mini/sonar.toml", ["optim.lr=1e-3"])

A recipe may serve several kinds: `--set kind=mse-lcm` chooses one, and [for.mse-lcm] says what is different for it.
A field's bounds stand beside it. One text will do where a list of texts is asked for.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from ..bounds import MOST, Count, OneOf, Positive, Share, Weight, Whole, Within, most_of, one_of
from ..data.records import Data
from ..errors import UserError, nearest
from ..nets.kinds import TRAINED, kind_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WEIGHTS = ("float32", "float16", "bfloat16", "int8")
SMALLEST, LARGEST = 1e-37, 1e38  # sizes of a number that float32 has in full


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer to train before a `sonar` run that does not start from another model (`run.init`)."""

    pieces: Count = 7991  # + <pad>, languages and tags
    langs: Annotated[list[str], Within(least=1)] = field(default_factory=lambda: ["eng_Latn"])
    sentences: Count = 400_000  # sampled to train it


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Shares say how often an objective is drawn for a sentence, weights how strongly it counts."""

    mt: Weight = 1.0  # translation: L_MT of SONAR
    ae: Weight = 1.0  # auto-encoding
    dae: Weight = 0.01  # auto-encoding of a noised text: L_DAE
    mse: Weight = 0.1  # squared distance of a pair's embeddings: L_MSE
    contrast: Weight = 0.0  # telling a text's translation, of sonar-speech a clip's words, from the batch's (ours)
    spell: Weight = 0.0  # sonar-speech: what an utterance's steps spell, by CTC, beside its vector (ours)
    teacher: Weight = 0.0  # 1 − cosine with what a teacher's space says of a sentence, if data.prepared has one (ours)
    listened: Whole = 0  # further sentences of the teacher's a micro-batch, which the encoder alone reads
    mt_share: Share = 0.4  # of sentences that have a translation
    dae_share: Share = 0.05
    mix_share: Share = 0.0  # decode from a random point between both embeddings (interpolation)
    mixup_share: Share = 0.0  # decode from a vector mixed with another text's, by up to a half
    noise_share: Share = 0.0  # decode from a noised embedding, by an amount uniform in [0, 1]
    guess: Weight = 0.0  # decode what run.writer predicts of documents; both learn
    pull: Weight = 0.0  # of a sonar-llm: 1 − cosine of what it predicts with the sentence's own vector (ours)
    input_noise: Weight = 0.0  # on the vectors that a concept model reads


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What sonar-speech makes of clips."""

    batch_seconds: Positive = 120.0  # of a micro-batch, padding included
    max_seconds: Positive = 20.0  # of a clip; longer ones are left out and counted
    workers: Whole = 2  # threads that make features in advance; 0: none
    keep: bool = False  # features in the run's folder, 8 KB a second of sound, so that they are made once
    # Of BatchNorm: frozen, or masked: those of the batch's steps that hold sound.
    statistics: Annotated[str, OneOf(("frozen", "masked"))] = "frozen"
    time_masks: Whole = 2  # stretches of an utterance that are silenced,
    time_share: Annotated[float, Within(low=0, below=1)] = 0.05  # of up to so much of it
    bin_masks: Whole = 2  # bands of mel bins that are silenced,
    bin_width: Annotated[int, Within(low=0, below=80)] = 20  # of up to so many


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW; `muon` moves matrices by Muon and leaves the rest to AdamW."""

    name: Annotated[str, OneOf(("adamw", "muon"))] = "adamw"
    lr: Positive = 1e-3
    schedule: Annotated[str, OneOf(("cosine", "wsd", "constant"))] = "cosine"
    final: Share = 0.0  # last learning rate, as a share of the peak
    decay: Share = 0.3  # wsd: share of the steps over which the rate falls linearly
    warmup: Whole = 820
    steps: Whole = 0  # 0: from `epochs`
    epochs: Positive = 4.0
    batch_tokens: Count = 4096  # of a micro-batch, padding included
    documents: Count = 512  # a step, where documents are read
    accumulate: Count = 1  # micro-batches a step (sonar); processes share them
    betas: Annotated[list[float], Within(low=0, below=1, count=2)] = field(default_factory=lambda: [0.9, 0.999])
    eps: Positive = 1e-5
    weight_decay: Weight = 0.01
    clip: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the run is kept and watched."""

    seed: Whole = 42
    minutes: Weight = 0.0  # the run ends within them, its decay and last validation included; 0: by steps or epochs
    device: str = "auto"  # cpu, cuda or auto: each process' GPU, else the CPU
    # Of products in training; tf32, bfloat16 where the device has them; the rest is float32.
    dtype: Annotated[str, OneOf(("float32", "tf32", "bfloat16"))] = "float32"
    compile: bool = False  # layers by torch.compile: slower to start, pays in long runs
    log_every: Count = 20
    track: Annotated[list[str], OneOf(("tensorboard", "wandb"))] = field(default_factory=list)  # tensorboard, wandb
    peak_tflops: Weight = 0.0  # of a device, that peak_share is a share of; 0: measured at the start
    save_minutes: Positive = 5.0
    save_every: Whole = 0  # steps; 0: by minutes alone
    save_background: bool = True  # a thread writes checkpoints; holds a copy of the state while it does
    valid_every: Count = 500
    valid_batches: Count = 20
    keep: Count = 2  # checkpoints
    best: str = ""  # the validation figure by whose minimum best/ is kept; the first one if not given
    # Start from the weights of this model, of the same kind and, but for what is added, shape; of kind sonar also a
    # concept model, for the space it lives in.
    init: str = ""
    # A concept model that learns along with the decoder of `init` (loss.guess): `writer.` in train_only.
    writer: str = ""
    train_only: list[str] = field(default_factory=list)  # parameter prefixes; the rest is frozen
    weights: Annotated[str, OneOf(WEIGHTS)] = "float16"  # of the final folder: float32, float16, bfloat16 or int8


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How processes divide the work, and what a layer keeps for its backward pass."""

    # full: weights, gradients and optimizer state in parts, one a process (FSDP2).
    shard: Annotated[str, OneOf(("none", "full"))] = "none"
    recompute: bool = False  # activations of a layer are computed again in backward, not kept


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole run."""

    kind: Annotated[str, OneOf(TRAINED)]
    name: str = ""
    about: str = ""  # for the model card
    licence: str = ""
    sonar: str = ""  # kinds that write texts: the model whose space they live in
    model: dict[str, Any] = field(default_factory=dict)  # fields of the kind's config
    data: Data = field(default_factory=Data)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    loss: Loss = field(default_factory=Loss)
    speech: Speech = field(default_factory=Speech)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)
    parallel: Parallel = field(default_factory=Parallel)

    def __post_init__(self) -> None:
        if self.speech.max_seconds > self.speech.batch_seconds:
            raise UserError(
                f"speech.batch_seconds {self.speech.batch_seconds:g} holds no clip of {self.speech.max_seconds:g} s",
                f"use speech.batch_seconds = {self.speech.max_seconds:g} or more",
            )
        if self.parallel.shard == "full" and not kind_of(self.kind).shards:
            raise UserError(f"parallel.shard = full can't cut a {self.kind} model", 'use parallel.shard = "none"')
        if self.parallel.shard == "full" and self.optim.name == "muon":
            raise UserError("muon needs whole matrices, parallel.shard = full cuts them", 'use optim.name = "adamw"')
        if self.optim.batch_tokens < self.data.max_tokens:
            raise UserError(
                f"optim.batch_tokens {self.optim.batch_tokens} is less than data.max_tokens {self.data.max_tokens}",
                f"use optim.batch_tokens = {self.data.max_tokens} or more",
            )

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load(path: str, overrides: Sequence[str] = ()) -> Settings:
    """Read a recipe, apply `section.key=value` overrides (values are TOML; a bare word is a string), validate."""
    try:
        table = tomllib.loads(Path(path).read_bytes().decode())
    except FileNotFoundError:
        raise UserError(f"no such recipe: {path}", "give the path of a .toml file, such as recipes/39m.toml") from None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}", "give the path of a .toml file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8", "store it as UTF-8, or give the path of a .toml file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}", "mend it there") from None
    changes = [_assignment(text) for text in overrides]
    table = _for_kind(table, next((value for key, value in reversed(changes) if key == "kind"), None))
    for key, value in changes:
        *sections, last = key.split(".")
        place = table
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {key}: {section!r} is not a section", "see --print-config")
        place[last] = value
    return build(table)


def _assignment(text: str) -> tuple[str, Any]:
    """`optim.lr=3e-4` → key and value."""
    key, sep, value = text.partition("=")
    if not sep or not key.strip():
        raise UserError(f"--set {text!r} is not KEY=VALUE", "write --set optim.lr=3e-4")
    try:
        return key.strip(), tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _for_kind(table: dict[str, Any], kind: str | None) -> dict[str, Any]:
    """A recipe that serves several kinds, as `kind` (by default its own) reads it: what stands under [for.KIND] comes
    over the rest, and {kind} in the name is the kind."""
    table = {**table, "kind": kind} if kind else dict(table)
    special = table.pop("for", {})
    if not isinstance(special, dict):
        raise UserError("for must be a section", "write [for.mse-lcm.optim]")
    for name in special:
        one_of("for", name, TRAINED)
    table = _merged(table, special.get(str(table.get("kind")), {}))
    if isinstance(table.get("name"), str):
        table["name"] = table["name"].replace("{kind}", str(table.get("kind")))
    return table


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def build(table: dict[str, Any]) -> Settings:
    """A nested table → Settings; UserError for an unknown key, a wrong type, or a missing `kind`."""
    if "kind" not in table:
        raise UserError("the recipe names no kind", f"add a line such as kind = {TRAINED[1]!r}")
    return _fill(Settings, table, "")


def _fill(cls: type, table: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [f.name for f in fields(cls)]
    values = {}
    for key, value in table.items():
        if key not in names:
            guess = nearest(key, names)
            hint = f"did you mean {prefix}{guess}? " if guess else ""
            raise UserError(f"unknown key {prefix}{key}", f"{hint}see --print-config for all keys")
        values[key] = _check(hints[key], value, prefix + key)
    return cls(**values)


def _check(kind: Any, value: Any, key: str) -> Any:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{key} must be a section", f"write [{key}]")
        return _fill(typing.cast(type, kind), value, key + ".")
    origin = typing.get_origin(kind)
    if origin is Annotated:
        plain, *bounds = typing.get_args(kind)
        value = _check(plain, value, key)
        for bound in bounds:
            bound.check(key, value)
        return value
    if origin in (types.UnionType, typing.Union):
        return value
    if origin is list:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list):
            raise UserError(f"{key} must be a list", f'write {key} = ["…"]')
        inner = typing.get_args(kind)[0]
        return [_check(inner, item, key) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{key} must be a section", f"write [{key}]")
        return value
    if kind in (int, float) and isinstance(value, int) and abs(value) > MOST:
        raise UserError(f"{key} is {value}", f"use {MOST} or less")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        what, such = _TYPES[kind]
        raise UserError(f"{key} must be {what}, not {value!r}", f"write {key} = {such}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} is {value}", "use a finite number")
    if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:  # 0 or infinite in float32
        raise UserError(f"{key} is {value}", f"use {SMALLEST:g} to {LARGEST:g}")
    return value


_TYPES = {  # what a value of each is called, and one such
    int: ("a whole number", "1"),
    float: ("a number", "0.1"),
    str: ("a text in quotes", '"…"'),
    bool: ("true or false", "true"),
}


def config_from(cls: type, table: dict[str, Any]) -> Any:
    """The recipe's [model] section → a network's config, with the same checks, and of its sizes."""
    for name, value in table.items():
        if isinstance(value, int) and value > most_of(name):
            raise UserError(f"model.{name} is {value}", f"use {most_of(name)} or less")
    return _fill(cls, table, "model.")


def to_toml(table: dict[str, Any], prefix: str = "") -> str:
    """Settings as TOML that `load` reads back equal."""
    import json

    lines, sections = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            sections.append(f"\n[{prefix}{key}]\n" + to_toml(value, f"{prefix}{key}."))
        else:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines) + "".join(sections)


def changes(path: Path, settings: Settings) -> list[str]:
    """The keys in which the settings differ from those written in `path`; none where there is no such file."""
    try:
        before = load(str(path)).as_dict()
    except UserError:
        return []

    def walk(old: Any, new: Any, key: str) -> list[str]:
        if isinstance(old, dict) and isinstance(new, dict):
            names = dict.fromkeys([*old, *new])
            return [k for name in names for k in walk(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))]
        return [] if old == new else [key]

    return walk(before, settings.as_dict(), "")
