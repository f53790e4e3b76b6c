"""Sentences → embeddings, by the text encoder of a SONAR space.

Texts are encoded in batches of like length and come back in their own order. A text over the encoder's limit is never
cut in silence: `on_long` decides, and every cut is reported.

Legend: N texts, B texts of a batch, T tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..io.files import TextLine
from ..runtime import Runtime, by_length, log, shrinking
from ..tokens import EOS, fitting
from ..weights.loaded import Space, load_space
from .language import TOLD
from .segment import many_are_several, segment

ON_LONG = ("truncate", "split", "error")
CHUNK = 4096  # texts held at once; batches are sorted by length within a chunk
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}  # padded tokens of an `auto` batch


@dataclass(frozen=True)
class Line:
    """A text to embed: its words, its language, what a message calls its place ("line 7"), and its file."""

    text: str
    lang: str
    place: str = ""
    file: str | None = None


@dataclass(frozen=True)
class Block:
    """Embeddings of consecutive lines, in order: embeddings_ND float32 beside what they are of."""

    embeddings_ND: np.ndarray
    lines: list[Line]
    cuts: list[str]  # one message for each text that was cut


def with_hint(rows: Iterable[tuple[TextLine, str]], name: str) -> Iterator[tuple[TextLine, str]]:
    """Lines and their languages, as they are; logged is if most of the first are several sentences each, of which each
    gets one vector."""
    rows = iter(rows)
    first = list(islice(rows, TOLD))
    if first and many_are_several([row.text for row, _ in first], first[0][1]):
        log.info("%s: lines hold several sentences each, and a line is one vector; sonarllm segment first", name)
    return chain(first, rows)


@dataclass(frozen=True)
class SpaceEncoder:
    """The text encoder of a SONAR space; see embed.py."""

    space: Space

    @classmethod
    def load(cls, name: str, folder: Path, config: dict[str, Any], runtime: Runtime) -> SpaceEncoder:
        """That of the space `name`, or of the one that a model lives in."""
        return cls(load_space(name, runtime))

    @property
    def dim(self) -> int:
        return self.space.dim

    @property
    def fingerprint(self) -> str:
        return self.space.fingerprint

    @property
    def langs(self) -> list[str] | None:
        return self.space.tokenizer.langs

    @property
    def limit(self) -> float | None:
        return self.space.net.config.max_source_tokens

    def stream(self, items: Iterable[Line], *, batch_size: int | None, on_long: str) -> Iterator[Block]:
        """Any number of texts, a chunk at a time."""
        return embed_stream(items, self.space, batch_size=batch_size, on_long=on_long)

    def embed(self, items: Iterable[Line], *, batch_size: int | None = None, on_long: str = "truncate") -> np.ndarray:
        """Texts → embeddings_ND."""
        return joined_blocks(self.stream(items, batch_size=batch_size, on_long=on_long), self.dim)


def joined_blocks(blocks: Iterable[Block], dim: int, name: str = "") -> np.ndarray:
    """The embeddings_ND of all blocks. That texts were cut is logged, under the `name` of their file, if it has one."""
    parts, cuts = [np.zeros((0, dim), np.float32)], list[str]()
    for block in blocks:
        parts.append(block.embeddings_ND)
        cuts += block.cuts
    if cuts:
        more = f", and {len(cuts) - 1:,} more" if len(cuts) > 1 else ""
        log.warning("%s%s%s", f"{name}: " if name else "", cuts[0], more)
    return np.concatenate(parts)


def embed_stream(
    lines: Iterable[Line], space: Space, *, batch_size: int | None = None, on_long: str = "truncate"
) -> Iterator[Block]:
    """Any number of lines, a chunk at a time: memory does not grow with the input."""
    if on_long not in ON_LONG:
        raise UserError(f"on_long {on_long!r} is unknown", f"use one of {', '.join(ON_LONG)}")
    iterator = iter(lines)
    while chunk := list(islice(iterator, CHUNK)):
        kept, ids, cuts = _within_limit(chunk, space, on_long)
        yield Block(encode(ids, space, batch_size).float().cpu().numpy(), kept, cuts)


def _within_limit(chunk: list[Line], space: Space, on_long: str) -> tuple[list[Line], list[list[int]], list[str]]:
    """The lines as source ids, none over the encoder's limit."""
    limit = space.net.config.max_source_tokens
    words = space.tokenizer.content([line.text for line in chunk])
    kept: list[Line] = []
    ids: list[list[int]] = []
    cuts: list[str] = []
    for line, word in zip(chunk, words):
        lang, room = space.tokenizer.lang_id(line.lang), limit - 2
        if len(word) <= room:
            kept.append(line)
            ids.append([lang, *word, EOS])
            continue
        message = f"{line.place or 'a text'} has {len(word) + 2} tokens, the model takes {limit}"
        if on_long == "error":
            raise UserError(message, "segment it first, or use --on-long split or truncate")
        if on_long == "truncate":
            kept.append(line)
            ids.append([lang, *word[:room], EOS])
            cuts.append(f"{message}: truncated")
            continue
        pieces = [s.flat for s in segment(line.text, lang=line.lang, fits=fits(space))]
        kept.extend(replace(line, text=piece) for piece in pieces)
        ids.extend([lang, *word, EOS] for word in space.tokenizer.content(pieces))
        cuts.append(f"{message}: split into {len(pieces)}")
    return kept, ids, cuts


def fits(space: Space) -> Callable[[str], bool]:
    """Whether a text is within the encoder's limit; for `segment`."""
    return fitting(space.tokenizer, space.net.config.max_source_tokens)


@torch.inference_mode()
def encode(ids: Sequence[Sequence[int]], space: Space, batch_size: int | None = None) -> Tensor:
    """Source ids → embeddings_ND on the space's device, in order. Batches are of like length; `batch_size` bounds
    their texts, by default their padded tokens are bounded."""
    out_ND = torch.empty(len(ids), space.dim, device=space.runtime.device, dtype=space.runtime.dtype)
    cost = None if batch_size else BATCH_TOKENS.get(space.runtime.device.type, 16384)
    for rows in by_length([len(i) for i in ids], batch_size or 4096, cost):
        parts = shrinking(lambda part: list(_encode_batch([ids[i] for i in part], space)), rows)
        out_ND[torch.tensor(rows, device=out_ND.device)] = torch.stack(parts)
    return out_ND


def _encode_batch(ids: list[Sequence[int]], space: Space) -> Tensor:
    length = [len(i) for i in ids]
    if space.runtime.device.type == "cpu":
        return space.net.encoder.ragged(torch.tensor([i for text in ids for i in text]), length)
    padded = torch.full((len(ids), max(length)), EOS)
    for row, i in enumerate(ids):
        padded[row, : len(i)] = torch.tensor(i)
    device = space.runtime.device
    return space.net.encoder(padded.to(device), torch.tensor(length, device=device))


def embed_sentences(texts: Sequence[str], lang: str, space: Space) -> Tensor:
    """Short texts of one language, cut at the limit if they must be: → embeddings_ND on the device."""
    room = space.net.config.max_source_tokens - 2
    lang_id = space.tokenizer.lang_id(lang)
    return encode([[lang_id, *word[:room], EOS] for word in space.tokenizer.content(texts)], space)
