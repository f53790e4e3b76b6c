"""Two unordered sets of texts → the pairs that say the same; one set → the set without what is said twice.

    for pair in mine(a, b, threshold=1.06): print(pair.score, pair.text_a, pair.text_b)

A pair's score is its margin: the cosine over (ratio), or less (distance), the mean cosine of both texts' k nearest in
the other set; or the cosine itself (absolute). Source: Artetxe & Schwenk 2019; the retrievals are LASER's. Both
directions come from one product of the sets, tile by tile: memory holds a tile and k neighbours a text.

Legend: N and M texts of A and B, K nearest, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .neighbours import Mutual, mutual
from .sides import Side, same_space, unit_blocks

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "intersection", "forward", "backward")


class Pair(NamedTuple):
    """Two texts, their margin, and their rows (from 0)."""

    score: float
    text_a: str
    text_b: str
    a: int
    b: int


@dataclass(frozen=True)
class _Distinct:
    """A side's vectors, of equal texts the first: `row_N` are their rows."""

    side: Side
    row_N: np.ndarray

    def blocks(self) -> Iterator[Tensor]:
        first = 0
        for block_ND in unit_blocks(self.side):
            low, high = np.searchsorted(self.row_N, [first, first + len(block_ND)])
            if low < high:
                yield block_ND[torch.from_numpy(self.row_N[low:high] - first)]
            first += len(block_ND)


def distinct(side: Side) -> _Distinct:
    """A side without texts that stood in it before; where a file keeps no texts, all of it."""
    seen: set[str] = set()
    rows: list[int] = []
    for row, text in enumerate(text for part in side.all_texts() for text in part):
        if text is None or text not in seen:
            rows.append(row)
            if text is not None:
                seen.add(text)
    return _Distinct(side, np.array(rows, dtype=np.int64))


def mine(
    a: Side,
    b: Side,
    *,
    k: int = 4,
    margin: str = "ratio",
    retrieval: str = "max",
    threshold: float | None = None,
) -> list[Pair]:
    """The pairs of at least `threshold`, best first.

    `retrieval`: each text of A with its best of B (forward), of B with its best of A (backward), pairs that are both
    (intersection), or either, best first, as long as neither text is taken (max). UserError for sides of two spaces,
    vectors without a direction, and files that keep no texts.
    """
    for name, value, known in (("margin", margin, MARGINS), ("retrieval", retrieval, RETRIEVALS)):
        if value not in known:
            raise UserError(f"{name} {value!r} is unknown", f"use {', '.join(known)}")
    if k < 1:
        raise UserError(f"the {k} nearest are none", "use -k 4")
    if threshold is not None and math.isnan(threshold):
        raise UserError("the threshold is not a number", "use --threshold 1.06")
    same_space(a, b)
    from_a, from_b = distinct(a), distinct(b)
    near = mutual(from_a.blocks, from_b.blocks, k)
    found = [(score, int(from_a.row_N[i]), int(from_b.row_N[j])) for score, i, j in candidates(near, margin, retrieval)]
    found = [pair for pair in found if threshold is None or pair[0] >= threshold]
    texts_a, texts_b = a.texts({i for _, i, _ in found}), b.texts({j for _, _, j in found})
    return [Pair(score, texts_a[i], texts_b[j], i, j) for score, i, j in found]


def candidates(near: Mutual, margin: str, retrieval: str) -> list[tuple[float, int, int]]:
    """(margin, row of A, row of B) of the pairs that a retrieval finds, best first."""
    mean_N, mean_M = near.score_NK.mean(1), near.score_MK.mean(1)
    forward_NK = _margin(near.score_NK, mean_N[:, None], mean_M[near.row_NK], margin)
    backward_MK = _margin(near.score_MK, mean_M[:, None], mean_N[near.row_MK], margin)
    (best_N, at_N), (best_M, at_M) = forward_NK.max(1), backward_MK.max(1)
    to_b = near.row_NK.gather(1, at_N[:, None])[:, 0].tolist()
    to_a = near.row_MK.gather(1, at_M[:, None])[:, 0].tolist()
    forward = list(zip(best_N.tolist(), range(len(to_b)), to_b))
    backward = list(zip(best_M.tolist(), to_a, range(len(to_a))))
    if retrieval == "intersection":
        found = [(score, i, j) for score, i, j in forward if to_a[j] == i]
    else:
        found = {"forward": forward, "backward": backward, "max": forward + backward}[retrieval]
    found = sorted(found, key=lambda pair: (-pair[0], *pair[1:]))
    if retrieval != "max":
        return found
    taken_a, taken_b, kept = set[int](), set[int](), []
    for score, i, j in found:
        if i not in taken_a and j not in taken_b:
            taken_a.add(i)
            taken_b.add(j)
            kept.append((score, i, j))
    return kept


def _margin(cosine: Tensor, one: Tensor, other: Tensor, margin: str) -> Tensor:
    """Cosines and the mean cosines of both sides' nearest → margins."""
    mean = (one + other) / 2
    return {"ratio": cosine / mean, "distance": cosine - mean, "absolute": cosine}[margin]


def without_duplicates(side: Side, threshold: float) -> list[int]:
    """The rows of a set, in order, that have no row kept before them of a cosine of `threshold` or more."""
    if not -1 <= threshold <= 1:
        raise UserError(f"no cosine is {threshold}", "use --threshold 0.95")
    kept: list[int] = []
    kept_ND: list[Tensor] = []
    parts = distinct(side)
    rows = iter(parts.row_N.tolist())
    for block_ND in parts.blocks():
        duplicate_N = torch.zeros(len(block_ND), dtype=torch.bool)
        for before_ND in kept_ND:
            duplicate_N |= (block_ND @ before_ND.T >= threshold).any(1)
        near_NN = (block_ND @ block_ND.T >= threshold).tril(-1)
        for i in torch.nonzero(near_NN.any(1) & ~duplicate_N)[:, 0].tolist():
            duplicate_N[i] = bool((near_NN[i] & ~duplicate_N).any())
        kept += [row for row, seen in zip(islice(rows, len(block_ND)), duplicate_N.tolist()) if not seen]
        kept_ND.append(block_ND[~duplicate_N])
    return kept
