"""The nearest of many vectors by cosine, exactly, a block at a time: memory holds a block and what was found.

    score_QK, row_QK = nearest_rows(unit(queries_QD), (block_ND for block_ND in blocks), k=5)

Legend: Q queries, N vectors of a block, K nearest, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

TINY = 1e-15  # a length whose square float32 does not hold exactly; nor does it that of a huge one
BLOCK = 4096  # vectors at once: 16 MiB of float32 at width 1024


def unit(
    vectors_ND: np.ndarray | Tensor, name: str = "the vectors", first: int = 0, *, in_place: bool = False
) -> Tensor:
    """Vectors of length 1 in float32: vectors_ND → unit_ND. Row `first` of `name` is the first, for messages.
    `in_place` spares memory, and the time it takes to get some: those given may be overwritten.

    UserError for a vector that is not finite or all zeros, and so has no direction.
    """
    value_ND = torch.as_tensor(vectors_ND).float()
    length_N1 = value_ND.norm(dim=1, keepdim=True)
    odd_K = torch.nonzero(~(length_N1[:, 0].isfinite() & (length_N1[:, 0] > TINY)))[:, 0]
    odd_KD = value_ND[odd_K].double()
    odd_K1 = odd_KD.norm(dim=1, keepdim=True)
    bad = torch.nonzero(~(odd_K1[:, 0].isfinite() & (odd_K1[:, 0] > 0)))
    if len(bad):
        at = int(bad[0])
        what = "is all zeros" if odd_K1[at] == 0 else "is not finite"
        cure = "remove it, or embed its text again"
        raise UserError(f"{name}, row {first + int(odd_K[at]) + 1}: the vector {what}", cure)
    unit_ND = value_ND.div_(length_N1) if in_place else value_ND / length_N1
    unit_ND[odd_K] = (odd_KD / odd_K1).float()
    return unit_ND


def nearest_rows(query_QD: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The `k` vectors of `blocks` nearest to each query, nearest first; all where there are fewer. Everything is of
    length 1.

    query_QD, blocks of unit_ND → score_QK, row_QK (rows counted through all blocks).
    """
    score_QK, row_QK = _none(query_QD)
    first = 0
    for block_ND in blocks:
        score_QK, row_QK = _better(score_QK, row_QK, query_QD @ block_ND.to(query_QD).T, first, k)
        first += len(block_ND)
    return score_QK, row_QK


class Mutual(NamedTuple):
    """The K nearest in the other set of each of two sets' vectors, nearest first: cosines and rows."""

    score_NK: Tensor
    row_NK: Tensor
    score_MK: Tensor
    row_MK: Tensor


Blocks = Callable[[], Iterable[Tensor]]  # a set's vectors of length 1, from the first, at each call


def mutual(a: Blocks, b: Blocks, k: int, held: int = 8) -> Mutual:
    """The `k` nearest in both directions, from one product of the sets. `held` blocks of A are in memory at once; B is
    read anew for each so many.

    Blocks of unit_ND, of unit_MD → scores and rows (fewer than `k` where a set has fewer). UserError for an empty set.
    """
    b_score: list[Tensor] = []  # by block of B
    b_row: list[Tensor] = []
    a_score: list[Tensor] = []
    a_row: list[Tensor] = []
    first_a, blocks_a = 0, iter(a())
    while parts := list(islice(blocks_a, held)):
        part_ND = torch.cat(parts)
        score_NK, row_NK = _none(part_ND)
        first_b = 0
        for at, block_MD in enumerate(b()):
            if at == len(b_score):
                score_MK, row_MK = _none(block_MD)
                b_score.append(score_MK)
                b_row.append(row_MK)
            cosine_NM = part_ND @ block_MD.T
            score_NK, row_NK = _better(score_NK, row_NK, cosine_NM, first_b, k)
            b_score[at], b_row[at] = _better(b_score[at], b_row[at], cosine_NM.T, first_a, k)
            first_b += len(block_MD)
        first_a += len(part_ND)
        a_score.append(score_NK)
        a_row.append(row_NK)
    if not a_score or not b_score:
        raise UserError(f"set {'B' if a_score else 'A'} is empty", "give it some texts")
    return Mutual(torch.cat(a_score), torch.cat(a_row), torch.cat(b_score), torch.cat(b_row))


def _none(vectors_QD: Tensor) -> tuple[Tensor, Tensor]:
    """No neighbours yet: scores and rows, (Q, 0)."""
    return vectors_QD.new_empty(len(vectors_QD), 0), vectors_QD.new_empty(len(vectors_QD), 0, dtype=torch.long)


def _better(score_QK: Tensor, row_QK: Tensor, cosine_QN: Tensor, first: int, k: int) -> tuple[Tensor, Tensor]:
    """The `k` best of those found and of a block whose first row is `first`, best first."""
    new_QK, at_QK = cosine_QN.topk(min(k, cosine_QN.shape[1]), dim=1)
    score_QC, row_QC = torch.cat([score_QK, new_QK], 1), torch.cat([row_QK, at_QK + first], 1)
    score_QK, keep_QK = score_QC.topk(min(k, score_QC.shape[1]), dim=1)
    return score_QK, row_QC.gather(1, keep_QK)
