"""What searching, aligning, mining and scoring read: texts and recordings that are embedded on the spot, or files of
embeddings.

    side = read_side("corpus.parquet", lang="de", space=lambda: load_space("mini"))
    for vectors_ND in side.blocks(): ...

A file of embeddings is read anew, block by block, whenever it is asked for; memory does not grow with it.

Legend: N rows, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..flow.embed_speech import SpeechModel
from ..flow.embed_text import Line, embed_stream, joined_blocks, with_hint
from ..flow.hear import Listened, read_recording
from ..flow.language import lines_told
from ..io.audio import Recording, is_recording
from ..io.files import JSON_ENDINGS, display_name, load_json, open_bytes, read_errors, read_lines, text_ending
from ..io.vectors import read_embeddings
from ..runtime import log
from ..weights import registry
from ..weights.loaded import Space
from .neighbours import BLOCK, unit

BINARY = (".npy", ".safetensors", ".parquet")
GetSpace = Callable[[], Space]  # loads it at the first call


class Side(Protocol):
    """Embeddings in order, and what is known of them. `fingerprint` is "" where the file keeps none."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dim(self) -> int: ...

    def blocks(self) -> Iterator[np.ndarray]:
        """All vectors, from the first, `BLOCK` or fewer at a time: vectors_ND, the caller's own."""

    def texts(self, rows: Iterable[int]) -> dict[int, str]:
        """The texts of these rows; UserError where the file keeps none."""

    def all_texts(self) -> Iterator[Sequence[str | None]]:
        """The texts of all rows, from the first, some at a time; None where the file keeps none."""


@dataclass(frozen=True)
class Embedded:
    """Texts that were embedded here."""

    name: str
    fingerprint: str
    lines: Sequence[str]
    vectors_ND: np.ndarray = field(repr=False)

    @property
    def dim(self) -> int:
        return self.vectors_ND.shape[1]

    def blocks(self) -> Iterator[np.ndarray]:
        for i in range(0, len(self.vectors_ND), BLOCK):
            yield self.vectors_ND[i : i + BLOCK].copy()

    def texts(self, rows: Iterable[int]) -> dict[int, str]:
        return {row: self.lines[row] for row in rows}

    def all_texts(self) -> Iterator[Sequence[str | None]]:
        yield self.lines


@dataclass(frozen=True)
class Spoken:
    """A recording that was heard here, an utterance a row. Its words are decoded for the rows asked for."""

    name: str
    heard: Listened
    said: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def fingerprint(self) -> str:
        return self.heard.space.fingerprint

    @property
    def dim(self) -> int:
        return self.heard.space.dim

    def blocks(self) -> Iterator[np.ndarray]:
        for text_ND in self.heard.text_SD.split(BLOCK):
            yield text_ND.float().cpu().numpy().copy()

    def texts(self, rows: Iterable[int]) -> dict[int, str]:
        wanted = list(rows)
        new = sorted({*wanted} - {*self.said})
        self.said.update(zip(new, self.heard.words(new)))
        return {row: self.said[row] for row in wanted}

    def all_texts(self) -> Iterator[Sequence[str | None]]:
        yield [None] * len(self.heard.times)


@dataclass(frozen=True)
class VectorFile:
    """A file that `embed` wrote, or another program."""

    name: str
    fingerprint: str
    dim: int

    def blocks(self) -> Iterator[np.ndarray]:
        for batch in read_embeddings(self.name, batch=BLOCK):
            yield batch.embeddings_ND

    def texts(self, rows: Iterable[int]) -> dict[int, str]:
        wanted, found = set(rows), dict[int, str]()
        first = 0
        for part in self.all_texts():
            for row in wanted.intersection(range(first, first + len(part))):
                text = part[row - first]
                if text is None:
                    cure = "embed texts to .parquet or .jsonl, which keep them; of speech name the recordings"
                    raise UserError(f"{self.name} holds no texts beside its vectors", cure)
                found[row] = text
            first += len(part)
            if len(found) == len(wanted):
                break
        return found

    def all_texts(self) -> Iterator[Sequence[str | None]]:
        if text_ending(self.name) == ".parquet":
            import pyarrow.parquet as pq

            file = pq.ParquetFile(self.name, memory_map=True, pre_buffer=False)
            if {"text", "embedding"} <= set(file.schema_arrow.names):  # then no vector is read
                for part in file.iter_batches(batch_size=BLOCK, columns=["text"]):
                    yield part.column("text").to_pylist()
                return
        yield from (batch.texts for batch in read_embeddings(self.name, batch=BLOCK))


def holds_vectors(path: str) -> bool:
    """Whether a file holds embeddings, by its ending; JSON Lines by the first line."""
    if path == "-" or text_ending(path) not in (*BINARY, *JSON_ENDINGS):
        return False
    if text_ending(path) in BINARY:
        return True
    with read_errors(path), open_bytes(path) as stream:
        head = next((line for line in stream if line.strip()), b"")
    try:
        first = load_json(head)
    except ValueError:
        return False  # which whoever reads its texts says
    return isinstance(first, list) or (isinstance(first, dict) and "embedding" in first)


def open_vectors(path: str) -> VectorFile:
    """A file of embeddings; its first rows are read. UserError if they can't be."""
    first = next(iter(read_embeddings(path, batch=1)))
    return VectorFile(path, first.fingerprint, first.embeddings_ND.shape[1])


def embed_lines(name: str, lines: Sequence[Line], space: Space, batch_size: int | None = None) -> Embedded:
    """Texts, each in its language, as a side called `name`. UserError if there are none."""
    name = display_name(name)
    if not lines:
        raise UserError(f"{name} is empty", "give it some text")
    vectors_ND = joined_blocks(embed_stream(lines, space, batch_size=batch_size), space.dim, name)
    return Embedded(name, space.fingerprint, [line.text for line in lines], vectors_ND)


def read_recorded(
    path: str, lang: str, space: Space, speech: str | SpeechModel = "", batch_size: int | None = None
) -> Spoken:
    """A recording's utterances, as `read_recording` has them."""
    heard = read_recording(Recording(path), space, lang, speech=speech, batch_size=batch_size)
    return Spoken(display_name(path), heard)


def read_side(
    path: str,
    *,
    lang: str,
    space: GetSpace,
    speech: str | SpeechModel = "",
    batch_size: int | None = None,
    blank: bool = False,
    hint: bool = False,
) -> Side:
    """A file of embeddings, a recording that the encoder `speech` hears (see `flow.hear`), or texts, one a line (JSON
    Lines: their "text") in the language that `lines_told` tells. Blank ones are left out, or with `blank` keep their
    row, as no words, which is logged; with `hint` it is too that lines are several sentences. UserError for an input
    that is neither."""
    if holds_vectors(path):
        return open_vectors(path)
    if is_recording(path):
        return read_recorded(path, lang, space(), speech, batch_size)
    rows = list(read_lines(path, blank=blank))
    if empty := [row.number for row in rows if not row.text.strip()]:
        log.warning("%s: %d blank (first: line %d), taken as no words", display_name(path), len(empty), empty[0])
    loaded = space()
    told = lines_told(rows, lang, loaded.tokenizer.langs, display_name(path))
    told = with_hint(told, display_name(path)) if hint else told
    return embed_lines(path, [Line(row.text, own, f"line {row.number}") for row, own in told], loaded, batch_size)


def same_space(a: Side, b: Side) -> None:
    """UserError for sides whose vectors can't be compared."""
    if a.dim != b.dim or (a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint):
        raise UserError(
            f"{a.name} and {b.name} are of two spaces ({a.dim} numbers, {registry.space_named(a.fingerprint)}; "
            f"{b.dim}, {registry.space_named(b.fingerprint)})",
            "embed both with one model",
        )


def unit_blocks(side: Side) -> Iterator[Tensor]:
    """The side's vectors at length 1: blocks of unit_ND."""
    first = 0
    for vectors_ND in side.blocks():
        yield unit(vectors_ND, side.name, first, in_place=True)
        first += len(vectors_ND)
