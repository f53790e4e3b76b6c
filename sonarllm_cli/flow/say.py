"""Sentences in one language → in another, through their vectors, each with how near it came out.

    [said] = say(["Non ho tempo oggi."], "ita_Latn", "eng_Latn", space)      # said.text, said.cosine

A decoder finds several ways to say a vector, and its own likeliest is not always the truest: that whose embedding is
nearest to the vector is taken (back.py). One vector has room for so many words: of a long sentence a small model keeps
the subject and loses what is said. So one that came out far is said again clause by clause (clauses.py), then, if it is
still far, in shorter pieces, and the nearest is kept: a model that can say it whole is left to do so. docs/quality.md
has what each brings.

Legend: N sentences, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..weights.loaded import Space
from .back import FAR, back_cosines
from .clauses import AIMS, clauses, rejoined
from .decode import Search, decode_batch
from .embed_text import Line, embed_stream, joined_blocks
from .figures import with_figures


class Said(NamedTuple):
    """A sentence said in another language: its text, the decoder's score (log-probability a token, of clauses their
    mean), and the cosine of its own embedding with the embedding that was to be said."""

    text: str
    score: float
    cosine: float


def say(
    sentences: Sequence[str],
    lang: str,
    to: str,
    space: Space,
    search: Search | None = None,
    *,
    embedding_ND: Tensor | None = None,
    batch_size: int | None = None,
    by_clauses: bool = True,
) -> list[Said]:
    """Sentences of the language `lang`, or their `embedding_ND` where that is known, each in the language `to`. Without
    `by_clauses` none is cut."""
    search = search or Search()
    if embedding_ND is None:
        embedding_ND = _embedded(sentences, lang, space, batch_size)
    said = nearest_of(embedding_ND, to, space, search, batch_size, sources=sentences)
    for aim in AIMS if by_clauses else ():
        far = [i for i, one in enumerate(said) if one.cosine < FAR]
        cut = {i: pieces for i in far if len(pieces := clauses(sentences[i], lang, aim)) > 1}
        if not cut:
            continue
        flat = [piece for pieces in cut.values() for piece in pieces]
        flat_ND = _embedded(flat, lang, space, batch_size)
        found = iter(nearest_of(flat_ND, to, space, search, batch_size, sources=flat))
        parts = {i: [next(found) for _ in pieces] for i, pieces in cut.items()}
        texts = [[rejoined([part.text for part in parts[i]], pieces, to)] for i, pieces in cut.items()]
        for i, [text], [cosine] in zip(cut, texts, back_cosines(texts, to, embedding_ND[list(cut)], space)):
            if cosine > said[i].cosine:
                said[i] = Said(text, sum(part.score for part in parts[i]) / len(parts[i]), cosine)
    return said


def _embedded(sentences: Sequence[str], lang: str, space: Space, batch_size: int | None) -> Tensor:
    blocks = embed_stream([Line(sentence, lang) for sentence in sentences], space, batch_size=batch_size)
    return torch.from_numpy(joined_blocks(blocks, space.dim))


def nearest_of(
    embedding_ND: Tensor,
    to: str,
    space: Space,
    search: Search,
    batch_size: int | None = None,
    *,
    sources: Sequence[str] = (),
) -> list[Said]:
    """Of the hypotheses that a search finds for each embedding, the one nearest to it; with the numbers of the
    sentences that the embeddings are of, where those are known (figures.py)."""
    many = search if search.samples else replace(search, num_return=search.beam)
    found = decode_batch(embedding_ND, to, space, many, batch_size)
    for row, source in zip(found, sources):
        row[:] = [h._replace(text=with_figures(h.text, source)) for h in row]
    cosines = back_cosines([[h.text for h in row] for row in found], to, embedding_ND, space)
    said = [[Said(h.text, h.score, cosine) for h, cosine in zip(*both)] for both in zip(found, cosines)]
    return [max(row, key=lambda one: one.cosine) for row in said]
