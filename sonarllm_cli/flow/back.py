"""How near decoded sentences are to what they were decoded from: each is embedded again.

    [[cosine]] = back_cosines([["We have no time."]], "eng_Latn", embedding_1D, space)      # 1: it says just that

A decoder writes fluent sentences from any vector, right or wrong. The cosine of a sentence's own embedding with the one
it was decoded from (back-encoding, a round trip in the space) tells them apart without a reference: docs/quality.md has
how well, and where `FAR` comes from.

Legend: N embeddings, R their texts, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.loaded import Space
from .embed import embed_sentences

FAR = 0.82  # cosine under which a sentence probably says something else
NAMED = 10  # places that a message names


def back_cosines(texts: Sequence[Sequence[str]], lang: str, embedding_ND: Tensor, space: Space) -> list[list[float]]:
    """The cosine of each text's embedding with that which it was decoded from: N rows of texts, any number in each."""
    again_RD = embed_sentences([text for row in texts for text in row], lang, space).float()
    count_N = torch.tensor([*map(len, texts)], dtype=torch.long, device=again_RD.device)
    meant_RD = embedding_ND.to(again_RD.device).float().repeat_interleave(count_N, 0)
    cosines = iter(F.cosine_similarity(again_RD, meant_RD).tolist())
    return [[next(cosines) for _ in row] for row in texts]


@dataclass
class Distances:
    """What is to be told of many sentences: how many came out far, and where the first of them are."""

    count: int = 0
    far: int = 0
    places: list[int] = field(default_factory=list)

    def see(self, place: int, cosine: float | None) -> None:
        """A sentence at a place (the number of a line, a row), and its cosine; None of one without words."""
        if cosine is None:
            return
        self.count += 1
        if cosine < FAR:
            self.far += 1
            if len(self.places) < NAMED and place not in self.places:
                self.places.append(place)

    def told(self, what: str, place: str) -> str:
        """A line that says so, of `what` ("sentences") by their `place` ("line"); "" if none came out far."""
        if not self.far:
            return ""
        more = ", …" if self.far > len(self.places) == NAMED else ""
        where = f"{place}{'s' if len(self.places) > 1 else ''} {', '.join(map(str, self.places))}{more}"
        return (
            f"{self.far:,} of {self.count:,} {what} came out far from what they say ({where}): embedded again, their "
            f"cosine is under {FAR}; shorter sentences, or a larger model with -m, come nearer"
        )
