"""The nearest of many vectors by cosine, exactly, a block at a time: memory holds a block and what was found.

    score_QK, row_QK = nearest(unit(queries_QD), (block_ND for block_ND in blocks), k=5)

Legend: Q queries, N vectors of a block, K nearest, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

BLOCK = 4096  # vectors at once: 16 MiB of float32 at width 1024


def unit(vectors_ND: np.ndarray | Tensor, name: str = "the vectors", first: int = 0) -> Tensor:
    """Vectors of length 1 in float32: vectors_ND → unit_ND. Row `first` of `name` is the first, for messages.

    UserError for a vector that is not finite or has length 0, and so no direction.
    """
    value_ND = torch.as_tensor(vectors_ND).float()
    length_N1 = value_ND.norm(dim=1, keepdim=True)
    bad = torch.nonzero(~(length_N1[:, 0].isfinite() & (length_N1[:, 0] > 0)))
    if len(bad):
        row = int(bad[0])
        what = "is all zeros" if length_N1[row] == 0 else "is not finite"
        raise UserError(f"{name}, row {first + row + 1}: the vector {what}", "remove it, or embed its text again")
    return value_ND / length_N1


def nearest(query_QD: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The `k` vectors of `blocks` nearest to each query, nearest first; all where there are fewer. Everything is of
    length 1.

    query_QD, blocks of unit_ND → score_QK, row_QK (rows counted through all blocks).
    """
    score_QK = query_QD.new_empty(len(query_QD), 0)
    row_QK = torch.empty(len(query_QD), 0, dtype=torch.long, device=query_QD.device)
    first = 0
    for block_ND in blocks:
        cosine_QN = query_QD @ block_ND.to(query_QD).T
        new_QK, at_QK = cosine_QN.topk(min(k, len(block_ND)), dim=1)
        score_QC, row_QC = torch.cat([score_QK, new_QK], 1), torch.cat([row_QK, at_QK + first], 1)
        score_QK, keep_QK = score_QC.topk(min(k, score_QC.shape[1]), dim=1)
        row_QK = row_QC.gather(1, keep_QK)
        first += len(block_ND)
    return score_QK, row_QK
