"""A prepared corpus: one file that holds all that a run reads, so that it travels and a run starts in seconds.

    recipes/mini/prepare.py DIR corpus.safetensors.xz      # makes one
    sonarllm train recipes/mini/sonar.toml --set data.prepared=corpus.safetensors.xz

A safetensors file, compressed by xz: a tokenizer; a table of sentences as token ids; items, which are sentences with or
without a translation, some of them more often than once; documents, which are rows of the table; and for a part of the
sentences what a teacher's space says of them, as the leading principal numbers of its vectors in 8 bits.

Legend: N sentences, T teacher rows, K principal numbers.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import UserError
from ..io.files import atomic_file, load_json, read_errors
from ..tokens import Tokenizer

XZ = b"\xfd7zXZ\x00"  # what a compressed file begins with
LONGEST = 1 << 20  # bytes of a header


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the file holds. The last `held_items` items and `held_documents` documents are for validation."""

    tokenizer: np.ndarray  # uint8, the sentencepiece model
    flat: np.ndarray  # uint16, ids of all sentences' words
    words: np.ndarray  # uint16_N, how many each sentence has
    lang: np.ndarray  # uint8_N, place in `langs`
    left: np.ndarray  # int32, items: a sentence,
    right: np.ndarray  # and its translation, or −1
    taught: np.ndarray  # int32_N, row of `teacher`, or −1; translations share one
    teacher: np.ndarray  # int8_TK
    scale: np.ndarray  # float32_K, by which they are multiplied
    body: np.ndarray  # int32, documents: rows of the table,
    sizes: np.ndarray  # int32, how many each has
    title: np.ndarray  # int32, what sums it up, or −1
    langs: list[str]
    held_items: int = 0
    held_documents: int = 0
    unwritten: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # rows to read alone

    @cached_property
    def vocabulary(self) -> Tokenizer:
        """The corpus' own tokenizer."""
        return Tokenizer(self.tokenizer.tobytes(), self.langs)

    @cached_property
    def listening(self) -> np.ndarray:
        """The sentences that the teacher knows, the short ones first."""
        known = np.flatnonzero((self.taught >= 0) & (self.words > 0))
        return known[np.argsort(self.words[known], kind="stable")]

    def documents(self, *, held: bool, limit: int = 0) -> list[tuple[str, list[str]]]:
        """(what sums it up, or nothing, sentences) of every document, as text, or of `limit` of them, evenly spaced:
        those to train on, or those held out."""
        start = np.append(0, np.cumsum(self.words, dtype=np.int64))
        end = np.cumsum(self.sizes)
        first = len(end) - self.held_documents
        chosen = np.arange(first, len(end)) if held else np.arange(first)
        if 0 < limit < len(chosen):
            chosen = chosen[np.arange(limit) * len(chosen) // limit]

        @cache
        def text(row: int) -> str:
            return self.vocabulary.text(self.flat[start[row] : start[row + 1]].tolist())

        titles = [text(t) if (t := int(self.title[i])) >= 0 else "" for i in chosen]
        return [
            (t, [text(r) for r in self.body[end[i] - self.sizes[i] : end[i]].tolist()]) for t, i in zip(titles, chosen)
        ]

    def teacher_vectors(self, rows: np.ndarray) -> np.ndarray:
        """rows_B → vectors_BK, float32."""
        return self.teacher[rows].astype(np.float32) * self.scale


ARRAYS = tuple(f.name for f in fields(Prepared) if f.type == "np.ndarray")


def write(path: Path, corpus: Prepared) -> None:
    """Write it, compressed."""
    facts = {"langs": corpus.langs, "held_items": corpus.held_items, "held_documents": corpus.held_documents}
    arrays = {name: np.ascontiguousarray(getattr(corpus, name)) for name in ARRAYS}
    data = save(arrays, metadata={"prepared": json.dumps(facts)})
    with atomic_file(path) as scratch:
        Path(scratch).write_bytes(lzma.compress(data, preset=6))


def read(path: str | Path) -> Prepared:
    """A file that `write` made; UserError for another."""
    with read_errors(path):
        data = Path(path).read_bytes()
        data = lzma.decompress(data) if data[:6] == XZ else data
    with _errors(path):
        facts = load_json(load_json(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["prepared"])
        return Prepared(**load(data), **facts)  # type: ignore[arg-type]


def sizes(path: str | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(items, documents) to train on and held out, by the file's first bytes."""
    with read_errors(path), open(path, "rb") as raw, lzma.LZMAFile(raw) as packed:
        stream = packed if raw.peek(len(XZ)).startswith(XZ) else raw
        header = stream.read(min(int.from_bytes(stream.read(8), "little"), LONGEST))
    with _errors(path):
        found = load_json(header)
        facts = load_json(found["__metadata__"]["prepared"])
        held = facts["held_items"], facts["held_documents"]
        all_items, all_documents = (found[name]["shape"][0] for name in ("left", "sizes"))
        return (all_items - held[0], all_documents - held[1]), held


@contextmanager
def _errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no prepared corpus", "make one with recipes/mini/prepare.py") from error
