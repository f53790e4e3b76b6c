"""A vocabulary shortlist: a decoder's logits of no word but those some text is made of, so that a step reads less.

    shortlist = Shortlist.of(decoder.embed.words(id_W), id_W, int8=False)
    logits_RW = shortlist.logits(hidden_RM)

An approximation: a text that needs another piece comes out otherwise. Of the published decoder's weights a step reads a
third for the 256,206 words of all languages; one language has some ten thousand in use.

Legend: W words of the shortlist, M model width, R rows.
Source: Jean et al. 2015 (candidate lists for the output vocabulary).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import product
from .packed import Int8Linear


@dataclass(frozen=True)
class Shortlist:
    """The ids that may be written, in order, and their part of the output projection, in int8 where it is `packed`."""

    id_W: Tensor
    weight_WM: Tensor
    packed: Int8Linear | None

    @classmethod
    def of(cls, weight_WM: Tensor, id_W: Tensor, *, int8: bool) -> Shortlist:
        """Of these rows of the output projection, those of the words `id_W`."""
        if not int8:
            return cls(id_W, weight_WM, None)
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.weight = nn.Parameter(weight_WM, requires_grad=False)
        return cls(id_W, weight_WM, Int8Linear(linear))

    def logits(self, hidden_M: Tensor) -> Tensor:
        """hidden_…M → logits_…W, in the weights' dtype."""
        return self.packed(hidden_M) if self.packed else product(hidden_M, self.weight_WM)

    def place(self, id_N: Tensor) -> Tensor:
        """Where in the list these ids are."""
        return torch.searchsorted(self.id_W, id_N)
