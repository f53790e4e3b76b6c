"""Rows of texts or vectors → a number each: cosine, or what a head says (BLASER 2.0, MuTox).

    head = load_head("blaser-ref", runtime)
    score([source, translation, reference], head)

Legend: N rows, B of them at once, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..nets.kinds import NUMBER, kind_of
from ..runtime import Runtime
from ..weights import model_dir, registry, tensors
from .neighbours import unit
from .sides import Side, same_space


@dataclass(frozen=True)
class Head:
    """A head ready to run, and the space whose vectors it reads: its name and fingerprint, "" where none is known.

    Its network has `config.embedding`, the vectors' D, and `takes`, what each of its arguments is: vectors_BD … →
    number_B."""

    name: str
    net: Any
    space: str
    fingerprint: str
    runtime: Runtime


def load_head(name: str, runtime: Runtime) -> Head | None:
    """A head by the name or folder of its model; None for a model that is none."""
    folder = registry.find(name)
    config = model_dir.read_config(folder)
    if kind_of(config["kind"]).writes != NUMBER:
        return None
    net = tensors.load_net(folder, config, runtime.device, runtime.dtype)
    home = config.get("sonar", {})
    space = model_dir.home_of(folder, config) if home else ""
    return Head(folder.name, net, space, home.get("fingerprint", ""), runtime)


@torch.inference_mode()
def score(sides: Sequence[Side], head: Head | None = None) -> np.ndarray:
    """A number for each of N rows: of two sides their cosine, or what `head` says of as many as it takes: → score_N.
    All of them or none: they take 4 bytes a row, whatever the vectors' files.

    UserError for sides of two lengths or spaces, vectors of another space than the head's, and, of cosines, one without
    a direction.
    """
    takes = head.net.takes if head else ("one set", "another")
    if len(sides) != len(takes):
        name = head.name if head else "a cosine"
        cure = ("name A alone", "name A and B", "name A, B and --ref FILE")[len(takes) - 1]
        raise UserError(f"{name} takes {', '.join(takes)}: {len(sides)} given", cure)
    for side in sides:
        same_space(sides[0], side)
        if head and (
            side.dim != head.net.config.embedding
            or (side.fingerprint or head.fingerprint) != (head.fingerprint or side.fingerprint)
        ):
            raise UserError(
                f"{side.name} holds vectors of {side.dim} numbers of the space {registry.space_named(side.fingerprint)}"
                f", {head.name} reads {head.net.config.embedding} of {registry.space_named(head.fingerprint)}",
                f"embed with its space{f': -m {head.space}' if head.space else ''}",
            )
    return np.fromiter(_scores(sides, head), np.float32)


def _scores(sides: Sequence[Side], head: Head | None) -> Iterator[float]:
    first = 0
    for parts in _together(sides):
        if head:
            vectors = [torch.from_numpy(part).to(head.runtime.device, head.runtime.dtype) for part in parts]
            with torch.inference_mode():
                yield from head.net(*vectors).float().tolist()
        else:
            a_BD, b_BD = (unit(part, side.name, first) for part, side in zip(parts, sides))
            yield from (a_BD * b_BD).sum(1).tolist()
        first += len(parts[0])


def _together(sides: Sequence[Side]) -> Iterator[list[np.ndarray]]:
    """The same rows of all sides, some at a time: vectors_BD of each. UserError once one ends before another."""
    blocks = [side.blocks() for side in sides]
    held: list[np.ndarray] = [np.zeros((0, side.dim), np.float32) for side in sides]
    rows = 0
    while True:
        held = [part if len(part) else next(block, part) for part, block in zip(held, blocks)]
        count = min(map(len, held))
        if not count:
            break
        yield [part[:count] for part in held]
        held = [part[count:] for part in held]
        rows += count
    if any(map(len, held)):
        counts = [rows + len(part) + sum(map(len, block)) for part, block in zip(held, blocks)]
        have = ", ".join(f"{side.name} has {n:,} row{'s' * (n != 1)}" for side, n in zip(sides, counts))
        raise UserError(have, "give the same rows, in the same order")
