"""A vocabulary shortlist: a decoder that writes no word but those some text is made of, so that a step reads less.

    space = shortlisted(load_space("sonar-200"), open("english.txt").read().splitlines())

An approximation: a text that needs another piece comes out otherwise. Of the published decoder's weights a step reads a
third for the 256,206 words of all languages; one language has some ten thousand in use.

Legend: W words of the shortlist, M model width, R rows.
Source: Jean et al. 2015 (candidate lists for the output vocabulary).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..nets.layers import onednn_serves, product
from ..nets.packed import Int8Linear
from ..tokens import EOS
from .loaded import Space


@dataclass(frozen=True)
class Shortlist:
    """The ids that may be written, in order, the special ones first, and their part of the output projection."""

    id_W: Tensor
    weight_WM: Tensor
    packed: Int8Linear | None

    def logits(self, hidden_M: Tensor) -> Tensor:
        """hidden_…M → logits_…W, in the weights' dtype."""
        return self.packed(hidden_M) if self.packed else product(hidden_M, self.weight_WM)

    def place(self, id_N: Tensor) -> Tensor:
        """Where in the list these ids are."""
        return torch.searchsorted(self.id_W, id_N)


def of_ids(space: Space, ids: Iterable[int]) -> Space:
    """A space that writes only these ids, the special ones and its languages'."""
    tokenizer = space.tokenizer
    languages = (tokenizer.lang_id(lang) for lang in tokenizer.langs)
    id_W = torch.tensor(sorted({*range(EOS + 1), *languages, *ids}), device=space.runtime.device)
    embed = space.net.decoder.embed
    weight_WM, packed = embed.words(id_W), None
    if space.runtime.int8 and onednn_serves(space.runtime.device, space.runtime.dtype):
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.weight = nn.Parameter(weight_WM, requires_grad=False)
        packed = Int8Linear(linear)
    return replace(space, shortlist=Shortlist(id_W, weight_WM, packed))


def shortlisted(space: Space, texts: list[str]) -> Space:
    """A space that writes only the pieces these texts are made of. UserError for texts without a word."""
    words = {i for ids in space.tokenizer.content(texts) for i in ids}
    if not words:
        raise UserError("the shortlist's text holds no word", "give some thousand lines of the language to write")
    return of_ids(space, words)
