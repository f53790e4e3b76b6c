"""Queries → the nearest sentences of texts, folders and files of embeddings, in any language of the space.

    found = search(["toothache"], ["notes/"], space, lang="en", k=5)
    for hit in found.hits[0]: print(hit.score, hit.file, hit.text)

Exact, block by block. The vectors of a text or recording are kept in the user's cache under a hash of what they are of,
so that only new and changed files are embedded.

Legend: Q queries, N sentences, K nearest, C those of all files, D embedding.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.kept import Arrays, kept
from ..errors import UserError
from ..flow.embed import embed
from ..flow.embed_speech import SpeechModel
from ..flow.embed_text import Line, embed_stream, fits, joined_blocks
from ..flow.hear import Ears, as_listened, hear_utterances
from ..flow.language import AUTO, language_of
from ..flow.segment import Sentence, segment_stream
from ..flow.utterances import Utterance
from ..io.audio import Recording, check_speech, is_recording
from ..io.files import JSON_ENDINGS, check_file, display_name, make_folder, open_bytes, read_errors, text_ending
from ..io.texts import INPUT_ENDINGS, expand, read_texts
from ..runtime import log
from ..weights import model_dir, registry
from ..weights.loaded import Space
from .neighbours import nearest_rows
from .sides import (
    BINARY,
    Embedded,
    Side,
    Spoken,
    holds_vectors,
    open_vectors,
    read_side,
    same_space,
    unit_blocks,
)


@dataclass(frozen=True)
class Hit:
    """A sentence found: its cosine, file and row in it (from 0), its place (characters of a running text, `Utterance`
    seconds of a recording, None in other files), and the sentences around it."""

    score: float
    file: str
    row: int
    text: str
    start: float | None = None
    end: float | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where it is, for people: characters, minutes and seconds, or the row from 1."""
        if self.start is None or self.end is None:
            return f"row {self.row + 1}"
        return str(Utterance(self.start, self.end)) if isinstance(self.start, float) else f"{self.start}-{self.end}"


@dataclass(frozen=True)
class Answers:
    """For each query its hits, nearest first; and what could not be read."""

    hits: list[list[Hit]]
    failed: list[UserError]


@dataclass
class _Shelf:
    """The sides searched, one after another, with the row at which each begins, and the places of running texts
    and recordings."""

    sides: list[Side] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    places: dict[str, Sequence[Sentence | Utterance]] = field(default_factory=dict)
    failed: list[UserError] = field(default_factory=list)
    count: int = 0


def search(
    queries: Sequence[str],
    paths: Sequence[str],
    space: Space,
    *,
    lang: str = AUTO,
    query_lang: str = "",
    speech: str | SpeechModel = "",
    k: int = 5,
    threshold: float = -1.0,
    context: int = 0,
    batch_size: int | None = None,
    cache: bool = True,
) -> Answers:
    """The `k` sentences nearest to each query by cosine, of at least `threshold`, with `context` sentences around.

    `paths` are texts, which are segmented in `lang` ("auto": each in what it looks like), JSON Lines with a "text" a
    row, recordings that the encoder `speech` hears (see `flow.hear`), of which only the hits are decoded, files of
    embeddings, and folders of all these. UserError for a blank query, vectors of another space or without
    a direction, and a file named that can't be read; one within a folder is left out and told in `failed`.
    """
    if k < 1:
        raise UserError(f"the {k} nearest are none", "use -k 1 or more")
    if not -1 <= threshold <= 1:
        raise UserError(f"no cosine is {threshold}", "use --threshold 0.5")
    if blank := [i for i, query in enumerate(queries) if not query.strip()]:
        raise UserError(f"query {blank[0] + 1} is empty", "give it some words")
    if not queries:
        raise UserError("there is no query", "give one")
    files = list(_files(paths))
    check_speech(speech if isinstance(speech, str) else speech.name, [name for name, _ in files])
    ears = Ears(space, speech)
    asked = Embedded("the queries", space.fingerprint, queries, embed(queries, lang=query_lang or lang, model=space))
    query_QD = torch.cat(list(unit_blocks(asked)))
    shelf = _Shelf()
    nearest: list[tuple[Tensor, Tensor]] = []  # of each side
    for name, in_folder in files:
        try:
            side = _side(name, in_folder, space, lang, ears, batch_size, cache, shelf)
            if side is None:
                continue
            same_space(side, asked)
            if holds_vectors(name):
                side.texts([0])  # a file that keeps none is told before it is searched
            score_QK, row_QK, count = _nearest(side, query_QD, k)
        except UserError as error:
            if not in_folder:
                raise
            shelf.failed.append(error)
            continue
        nearest.append((score_QK, row_QK + shelf.count))
        shelf.sides.append(side)
        shelf.first.append(shelf.count)
        shelf.count += count
    if not nearest:
        raise shelf.failed[0] if shelf.failed else UserError("there is no sentence to search", "name texts with words")
    score_QC, row_QC = (torch.cat(parts, 1) for parts in zip(*nearest))
    score_QK, best_QK = score_QC.topk(min(k, score_QC.shape[1]), dim=1)
    row_QK = row_QC.gather(1, best_QK)
    pairs = [
        [(score, row) for score, row in zip(scores, rows) if score >= threshold]
        for scores, rows in zip(score_QK.tolist(), row_QK.tolist())
    ]
    return Answers(_hits(pairs, shelf, min(context, shelf.count)), shelf.failed)


def _files(paths: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The files to search, and whether each was found in a folder."""
    for path in paths:
        for name in expand([path], (*INPUT_ENDINGS, *BINARY, *JSON_ENDINGS)):
            yield name, name != path


def _nearest(side: Side, query_QD: Tensor, k: int) -> tuple[Tensor, Tensor, int]:
    """The `k` rows of a side nearest to each query, and how many rows it has: → score_QK, row_QK, N."""
    count = 0

    def counted() -> Iterator[Tensor]:
        nonlocal count
        for block_ND in unit_blocks(side):
            count += len(block_ND)
            yield block_ND

    score_QK, row_QK = nearest_rows(query_QD, counted(), k)
    return score_QK, row_QK, count


def _side(
    name: str,
    in_folder: bool,
    space: Space,
    lang: str,
    ears: Ears,
    batch_size: int | None,
    cache: bool,
    shelf: _Shelf,
) -> Side | None:
    """One file; None for a blank one within a folder."""
    if holds_vectors(name):
        return open_vectors(name)
    if is_recording(name):
        heard = ears.of(display_name(name))
        arrays = _recorded(name, heard, batch_size, cache)
        times = [Utterance(*row) for row in arrays["times"].tolist()]
        shelf.places[name] = times
        return Spoken(name, as_listened(times, arrays["vectors"], heard, space, lang))
    if text_ending(name) in JSON_ENDINGS:
        return read_side(name, lang=lang, space=lambda: space, batch_size=batch_size)
    if in_folder:
        with read_errors(name), open_bytes(name) as stream:
            if not stream.read().strip():
                return None
    [(_, text)] = read_texts([name])
    lang = language_of(text, lang, space.tokenizer.langs, display_name(name))
    sentences = list(segment_stream([text], lang=lang, fits=fits(space)))
    shelf.places[name] = sentences
    lines = [s.flat for s in sentences]

    def embedded() -> Arrays:
        stream = embed_stream([Line(text, lang) for text in lines], space, batch_size=batch_size)
        return {"vectors": joined_blocks(stream, space.dim)}

    facts = [space.fingerprint, str(space.runtime.dtype), lang, *lines]
    arrays = _kept(facts, embedded, cache and name != "-" and bool(space.fingerprint))
    return Embedded(name, space.fingerprint, lines, arrays["vectors"])


def _recorded(name: str, heard: SpeechModel, batch_size: int | None, cache: bool) -> Arrays:
    """The times_S2 and vectors_SD of a recording's utterances."""

    def made() -> Arrays:
        times, vectors_SD = hear_utterances(Recording(name), heard, batch_size)
        return {"times": np.array(times), "vectors": vectors_SD}

    if name == "-" or not cache:
        return made()
    with read_errors(name):
        sound = model_dir.digest(Path(name))
    return _kept([heard.weights, str(heard.runtime.dtype), sound], made, True)


def _kept(facts: Sequence[str], make: Callable[[], Arrays], keep: bool) -> Arrays:
    """What `make` makes, from the cache if it is there, under a hash of the `facts` that it follows from."""
    what = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    if not keep:
        return make()
    place = registry.models_home().parent / "search" / f"{what[:40]}.safetensors"
    try:
        make_folder(place.parent)
        check_file(place)
    except UserError as error:
        log.info("vectors are not kept: %s", error.message)
        return make()
    return kept(place, what, make)


def _hits(pairs: list[list[tuple[float, int]]], shelf: _Shelf, context: int) -> list[list[Hit]]:
    """(score, row of all) → hits; the texts of a file are looked up once."""
    wanted: dict[int, set[int]] = {}  # by side: the rows found and those around them
    ends = [*shelf.first[1:], shelf.count]
    for _, row in (pair for pairs_K in pairs for pair in pairs_K):
        at = bisect_right(shelf.first, row) - 1
        own, size = row - shelf.first[at], ends[at] - shelf.first[at]
        wanted.setdefault(at, set()).update(range(max(0, own - context), min(size, own + context + 1)))
    texts = {at: shelf.sides[at].texts(rows) for at, rows in wanted.items()}

    def hit(score: float, row: int) -> Hit:
        at = bisect_right(shelf.first, row) - 1
        side, own = shelf.sides[at], row - shelf.first[at]
        place = shelf.places[side.name][own] if side.name in shelf.places else None
        around = texts[at]
        return Hit(
            score,
            side.name,
            own,
            around[own],
            place.start if place else None,
            place.end if place else None,
            tuple(around[i] for i in range(own - context, own) if i in around and i >= 0),
            tuple(around[i] for i in range(own + 1, own + context + 1) if i in around),
        )

    return [[hit(score, row) for score, row in pairs_K] for pairs_K in pairs]
