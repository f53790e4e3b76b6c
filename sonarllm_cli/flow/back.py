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
from .embed_text import embed_sentences

FAR = 0.84  # cosine under which a sentence probably says something else
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
    """What is to be told of many sentences: how many came out far, how many were left as they are or came out so, and
    where the first of them are."""

    count: int = 0
    far: int = 0
    places: list[int] = field(default_factory=list)
    same: int = 0
    same_places: list[int] = field(default_factory=list)
    left: int = 0
    left_places: list[int] = field(default_factory=list)
    already: int = 0
    already_places: list[int] = field(default_factory=list)

    def see(self, place: int, cosine: float | None, *, same: bool = False) -> None:
        """A sentence at a place (the number of a line, a row), and its cosine; None of one without words. Whether it
        came out the `same` though in another language."""
        if cosine is None:
            return
        self.count += 1
        if same:
            self.same += 1
            _note(place, self.same_places)
        elif cosine < FAR:
            self.far += 1
            _note(place, self.places)

    def leave(self, place: int) -> None:
        """A sentence in letters that no language of the model has."""
        self.count, self.left = self.count + 1, self.left + 1
        _note(place, self.left_places)

    def stand(self, place: int) -> None:
        """A sentence that is in the language to be written already."""
        self.count, self.already = self.count + 1, self.already + 1
        _note(place, self.already_places)

    def told(self, what: str, place: str, to: str = "") -> str:
        """A line that says so, of `what` ("sentences") by their `place` ("line"), into the language named `to`; "" if
        there is nothing to tell."""
        said = []
        if self.far:
            said.append(
                f"{self.far:,} of {self.count:,} {what} came out far from what they say "
                f"({_named(place, self.places, self.far)}): embedded again, their cosine is under {FAR}; shorter "
                "sentences, or a larger model with -m, come nearer"
            )
        if self.same:
            said.append(
                f"{self.same:,} of {self.count:,} {what} came out as they were "
                f"({_named(place, self.same_places, self.same)})"
            )
        if self.already:
            said.append(
                f"{self.already:,} of {self.count:,} {what}, read as {to}, stand as they were "
                f"({_named(place, self.already_places, self.already)})"
            )
        if self.left:
            said.append(
                f"{self.left:,} of {self.count:,} {what}, in letters of no language that the model has, stand as they "
                f"were ({_named(place, self.left_places, self.left)})"
            )
        return "; ".join(said)


def _note(place: int, places: list[int]) -> None:
    if len(places) < NAMED and place not in places:
        places.append(place)


def _named(place: str, places: list[int], count: int) -> str:
    more = ", …" if count > len(places) == NAMED else ""
    return f"{place}{'s' if len(places) > 1 else ''} {', '.join(map(str, places))}{more}"
