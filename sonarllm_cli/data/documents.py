"""Documents for every kind that reads sentence embeddings: a table of sentences, and documents as rows of it.

    data = DocumentData(config, folder, space, seed=42)
    for step in data.steps(data.epoch(0)):      # a step is a list of micro-batches
        for batch in step:
            context_BSD, at_B, at_S, row_N = data.context(batch.documents)

Row 0 of the table is the sentence that ends every document, row 1 the marker before a title. What an epoch holds is a
function of the seed and its number alone, and steps are made when they are asked for: nothing grows with the corpus
but the table's own index.

Legend: B documents, S sentences, N target sentences, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from ..errors import RunError, UserError
from ..flow.embed_text import encode
from ..nets.sonar_llm import ENDING, MARKER
from ..runtime import log
from ..tokens import EOS, Tokenizer
from ..weights.loaded import Space, packed_encoder
from . import corpus, prepared
from .kept import kept
from .records import Data
from .stored import Stored

SAMPLED = 16384  # sentences that a mean is taken of
FEW = 100  # documents; a model of fewer is warned of
T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """Rows of the sentence table, in order; sentences from `scored` on are targets (never the first)."""

    rows: np.ndarray
    scored: int
    number: int = -1  # which of the training documents it is, for messages


@dataclass(frozen=True)
class Batch:
    """Documents of one micro-batch, and the labelled tokens of the whole step, by which the loss is divided."""

    documents: list[Document]
    step_tokens: int
    loaded: Any = None  # what the task's `load` made of it in advance


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are asked for: item i is `make(i)`."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self.size, self.make = count, make

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self.make(j) for j in range(*i.indices(self.size))]
        if not -self.size <= i < self.size:
            raise IndexError(i)
        return self.make(i % self.size)


class Table(Protocol):
    """Sentences by row. `labels` counts what is scored of each: its words and one `</s>`."""

    labels: np.ndarray

    def __len__(self) -> int: ...
    def target_ids(self, rows: np.ndarray) -> list[list[int]]: ...  # `</s> __lang__ w₁ … w_n </s>` of each
    def text(self, rows: np.ndarray) -> list[str]: ...
    def names(self, rows: np.ndarray) -> list[str]: ...  # of their documents, "" where unknown
    def bytes(self, rows: np.ndarray) -> int: ...  # UTF-8, together
    def embeddings(self, rows: np.ndarray) -> Tensor: ...  # rows_… → embeddings_…D, float32, on the CPU
    def std(self) -> Tensor: ...  # std_D over the table


class Sentences:
    """A table of distinct sentences, embedded for this run and held in memory."""

    def __init__(self, texts: list[str], words: list[list[int]], tokenizer: Tokenizer, lang: str) -> None:
        self.texts = texts
        self.row = {text: i for i, text in enumerate(texts)}
        self.ids = [[*tokenizer.prompt(lang), *w, EOS] for w in words]
        self.labels = np.array([len(w) + 1 for w in words], np.int32)
        self.embeddings_ND = torch.empty(0)

    def __len__(self) -> int:
        return len(self.texts)

    def target_ids(self, rows: np.ndarray) -> list[list[int]]:
        """`</s> __lang__ w₁ … w_n </s>` of each row."""
        return [self.ids[r] for r in rows]

    def text(self, rows: np.ndarray) -> list[str]:
        """The sentences themselves."""
        return [self.texts[r] for r in rows]

    def names(self, rows: np.ndarray) -> list[str]:
        """A sentence may be in many documents."""
        return [""] * len(rows)

    def bytes(self, rows: np.ndarray) -> int:
        """UTF-8 bytes of the rows, together."""
        return sum(len(text.encode()) for text in self.text(rows))

    def embeddings(self, rows: np.ndarray) -> Tensor:
        """rows_… → embeddings_…D, float32, on the CPU."""
        return self.embeddings_ND[torch.from_numpy(rows).long()].float()

    def std(self) -> Tensor:
        """Deviation of each dimension over the table, ending and marker left out: → std_D."""
        return self.embeddings_ND[2:].float().std(0)

    def embed(self, space: Space, path: Path) -> None:
        """Embed every row, or take the embeddings from `path`, where a run of the same texts and encoder left them."""
        key = hashlib.sha256(str(self.ids).encode())
        for _, parameter in space.net.encoder.named_parameters():
            key.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        arrays = kept(path, key.hexdigest(), lambda: {"embeddings": self._embedded(space).numpy()})
        self.embeddings_ND = torch.from_numpy(arrays["embeddings"])

    def _embedded(self, space: Space) -> Tensor:
        log.info("embedding %d sentences", len(self.ids))
        space = packed_encoder(space)
        chunks = [encode([i[1:] for i in self.ids[at : at + 4096]], space) for at in range(0, len(self.ids), 4096)]
        embeddings_ND = torch.cat([chunk.cpu() for chunk in chunks])
        finite_N = embeddings_ND.isfinite().all(1)
        if not finite_N.all():
            text = self.texts[int(finite_N.int().argmin())]
            raise RunError(f"the embedding of {text[:60]!r} is not finite", f"is {space.name} whole, and trained?")
        return embeddings_ND


class Joined:
    """Several tables as one: the rows of the first, then those of the second, and so on."""

    def __init__(self, parts: Sequence[Table]) -> None:
        self.parts = parts
        self.first = np.cumsum([0, *(len(part) for part in parts)])
        self.labels = np.concatenate([part.labels for part in parts])

    def __len__(self) -> int:
        return int(self.first[-1])

    def _split(self, rows: np.ndarray) -> Iterator[tuple[Table, np.ndarray, np.ndarray]]:
        """(a table, which of `rows` are its, which of its rows they are)"""
        which = np.searchsorted(self.first, rows, "right") - 1
        for p in np.unique(which):
            at = np.flatnonzero(which == p)
            yield self.parts[p], at, rows[at] - self.first[p]

    def _each(self, rows: np.ndarray, ask: Callable[[Table, np.ndarray], list[T]]) -> list[T]:
        found: dict[int, T] = {}
        for part, at, own in self._split(rows):
            found.update(zip(at.tolist(), ask(part, own)))
        return [found[i] for i in range(len(rows))]

    def target_ids(self, rows: np.ndarray) -> list[list[int]]:
        return self._each(rows, lambda part, own: part.target_ids(own))

    def text(self, rows: np.ndarray) -> list[str]:
        return self._each(rows, lambda part, own: part.text(own))

    def names(self, rows: np.ndarray) -> list[str]:
        return self._each(rows, lambda part, own: part.names(own))

    def bytes(self, rows: np.ndarray) -> int:
        return sum(part.bytes(own) for part, _, own in self._split(rows))

    def embeddings(self, rows: np.ndarray) -> Tensor:
        out = [(torch.from_numpy(at), part.embeddings(own)) for part, at, own in self._split(rows.reshape(-1))]
        out_ND = torch.empty(rows.size, out[0][1].shape[-1])
        for at, part_ND in out:
            out_ND[at] = part_ND
        return out_ND.view(*rows.shape, -1)

    def std(self) -> Tensor:
        """That of the largest table."""
        return max(self.parts, key=len).std()


@dataclass(frozen=True)
class Documents:
    """Document i has the body rows `flat[start[i]:start[i + 1]]`, the ending among them where the document is whole,
    and the title row `title[i]`, −1 where it has none."""

    flat: np.ndarray
    start: np.ndarray
    title: np.ndarray

    def __len__(self) -> int:
        return len(self.title)

    def body(self, i: int) -> np.ndarray:
        return self.flat[self.start[i] : self.start[i + 1]]

    def __add__(self, other: Documents) -> Documents:
        return Documents(
            flat=np.concatenate([self.flat, other.flat]),
            start=np.concatenate([self.start, other.start[1:] + self.start[-1]]),
            title=np.concatenate([self.title, other.title]),
        )

    @classmethod
    def of(cls, entries: Sequence[tuple[int, Sequence[int]]]) -> Documents:
        """(title row, body rows) of each → the same, packed."""
        return cls(
            flat=np.array([r for _, rows in entries for r in rows], np.int32),
            start=np.cumsum([0, *(len(rows) for _, rows in entries)]),
            title=np.array([title for title, _ in entries], np.int32),
        )


class DocumentData:
    """The documents that `data` names, for training and validation, in the space `space`; in steps of `documents` of
    them, and micro-batches of about `batch_tokens` labels."""

    def __init__(
        self,
        data: Data,
        folder: Path,
        space: Space,
        *,
        seed: int = 0,
        documents: int = 512,
        batch_tokens: int = 4096,
        embed: bool = True,
    ) -> None:
        self.config, self.seed, self.step_documents, self.batch_tokens = data, seed, documents, batch_tokens
        if not (data.documents or data.store or data.prepared):
            raise UserError("the recipe names no documents", "add --set data.documents=FOLDER, or JSON Lines")
        # Before the texts are read: what is damaged is told first.
        stores = [Stored(Path(data.root, name), space) if name else None for name in (data.store, data.valid_store)]
        train = corpus.documents(data, data.documents, folder / "documents.segmented")
        valid = corpus.documents(data, data.valid_documents, folder / "valid_documents.segmented")
        if data.prepared:
            source = prepared.read(Path(data.root, data.prepared))
            train += source.documents(held=False, limit=data.limit)
            valid += source.documents(held=True)
        if data.valid_share and not data.valid_documents:
            held = [int((i + 1) * data.valid_share) > int(i * data.valid_share) for i in range(len(train))]
            train, valid = ([d for d, out in zip(train, held) if out == side] for side in (False, True))
        texts = [ENDING, MARKER, *corpus.sentences([*train, *valid])]
        room = min(data.max_tokens, space.net.config.max_target_tokens) - 3
        words = corpus.tokens_of(texts, space.tokenizer, folder / "sentences.tokens")
        fit = [i for i, w in enumerate(words) if i < 2 or 0 < len(w) <= room]
        own = Sentences([texts[i] for i in fit], [words[i] for i in fit], space.tokenizer, data.lang)
        if data.split:
            train, valid = ([part for d in side for part in _split(*d, data.max_sentences)] for side in (train, valid))
        self.train, self.valid = self._documents(train, own), self._documents(valid, own)
        self.table: Table = own
        parts: list[Table] = [own]
        for name, store in zip(("train", "valid"), stores):
            if store is not None:
                found = self._stored(store, sum(map(len, parts)), room)
                setattr(self, name, getattr(self, name) + found)
                parts.append(store)
                self.table = Joined(parts)
        if not len(self.train):
            raise UserError("no document has two sentences", "check data.root, data.documents, data.store")
        log.info("%d documents, %d different sentences", len(self.train), len(self.table))
        if len(self.train) < FEW:
            log.warning(
                "%d documents are too few to learn from: the model will write nothing, or one thing; give it %d or "
                "more, better thousands",
                len(self.train),
                FEW,
            )
        if embed:
            own.embed(space, folder / "embeddings.safetensors")

    def _documents(self, documents: list[tuple[str, list[str]]], table: Sentences) -> Documents:
        """A document ends before a sentence that is too long; one that is then too short is left out, and one in which
        nothing follows its first sentence, neither a title nor the ending."""
        data, row = self.config, table.row
        out: list[tuple[int, list[int]]] = []
        cut = short = 0
        for title, body in documents:
            rows = [row.get(s, -1) for s in body[: data.max_sentences - 1]]
            whole = -1 not in rows and len(body) < data.max_sentences
            cut += not whole
            rows = rows[: rows.index(-1)] if -1 in rows else rows
            if not rows or (title not in row and (len(rows) < data.min_sentences or len(rows) + whole < 2)):
                short += 1
                continue
            out.append((row.get(title, -1), [*rows, 0] if whole else rows))
        _say_skipped(cut, short)
        return Documents.of(out)

    def _stored(self, store: Stored, first: int, room: int) -> Documents:
        """The documents of a store whose rows begin at `first` in the table, by the rules of `_documents`."""
        data = self.config
        title, start, count = store.documents()
        fits = (store.labels > 1) & (store.labels <= room + 1)
        long = np.append(np.flatnonzero(~fits), len(store))
        kept = np.minimum(long[np.searchsorted(long, start)] - start, np.minimum(count, data.max_sentences - 1))
        whole = (kept == count) & (count < data.max_sentences)
        title = np.where((title >= 0) & fits[title], title + first, -1)
        good = (kept >= 1) & ((title >= 0) | ((kept >= data.min_sentences) & (kept + whole >= 2)))
        names = store.names(start[np.flatnonzero(~good)[:5]])
        _say_skipped(int((~whole).sum()), int((~good).sum()), names)
        title, start, kept, whole = (x[good] for x in (title, start, kept, whole))
        ends = np.cumsum(kept + whole)
        begins = ends - kept - whole
        flat = np.arange(len(ends) and ends[-1], dtype=np.int32)
        flat += np.repeat((first + start - begins).astype(np.int32), kept + whole)
        flat[ends[whole] - 1] = 0
        return Documents(flat, np.append(0, ends), title.astype(np.int32))

    # ------------------------------------------------------------------------------------------ batches

    def epoch(self, number: int) -> Lazy[Document]:
        """Every document once, in random order, as a text or as a summarisation."""
        rng = np.random.default_rng([self.seed, number])
        as_summary = rng.random(len(self.train)) < self.config.summaries
        order = rng.permutation(len(self.train))
        return Lazy(len(order), lambda i: self.document(self.train, int(order[i]), bool(as_summary[order[i]])))

    @staticmethod
    def document(documents: Documents, i: int, summary: bool) -> Document:
        """Document i as a text or, where it has a title, as a summarisation."""
        title, rows = documents.title[i], documents.body(i)
        if title < 0 or not (summary or len(rows) > 1):
            summary = False
        if not summary and len(rows) > 1:
            return Document(rows, 1, i)
        body = rows[:-1] if rows[-1] == 0 else rows
        return Document(np.array([*body, 1, title, 0], np.int32), len(body) + 1, i)

    def steps(self, epoch: Sequence[Document]) -> Lazy[list[Batch]]:
        """Optimisation steps, each a list of micro-batches."""
        size = self.step_documents
        return Lazy(-(-len(epoch) // size), lambda i: self._step(epoch[i * size : (i + 1) * size]))

    def _step(self, step: Sequence[Document]) -> list[Batch]:
        labels = [int(self.table.labels[d.rows[d.scored :]].sum()) for d in step]
        groups: list[list[Document]] = [[]]
        held = 0
        for document, count in zip(step, labels):
            if groups[-1] and held + count > self.batch_tokens:
                groups.append([])
                held = 0
            groups[-1].append(document)
            held += count
        return [Batch(group, sum(labels)) for group in groups]

    def mean(self) -> Tensor:
        """Mean embedding of the training documents' sentences, of many thousands evenly spaced, endings left out: →
        mean_D."""
        rows = self.train.flat[self.train.flat > 1]
        return self.table.embeddings(rows[:: max(1, len(rows) // SAMPLED)]).mean(0)

    def held_out(self, summary: bool, most: int) -> list[Document]:
        """At most `most` validation documents, all texts or all summarisations, evenly spaced: of every source."""
        every = (self.document(self.valid, i, summary) for i in range(len(self.valid)))
        found = [d for d in every if (d.rows[-2] != 1 and 1 in d.rows) == summary]
        count = min(most, len(found))
        return [found[i * len(found) // count] for i in range(count)]

    def context(self, documents: Sequence[Document]) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
        """What a causal body reads of documents, padded with row 0, and where it should predict what: at document
        at_B[n] and position at_S[n] the sentence row_N[n]. The marker is read, never a target.
        → context_BSD (float32, on the CPU), at_B, at_S (N,), row_N."""
        S = max(len(d.rows) for d in documents) - 1
        rows_BS = np.zeros((len(documents), S), np.int64)
        target: list[tuple[int, int]] = []
        for b, d in enumerate(documents):
            rows_BS[b, : len(d.rows) - 1] = d.rows[:-1]
            target += [(b, s - 1) for s in range(d.scored, len(d.rows)) if d.rows[s] != 1]
        at_B, at_S = (torch.tensor(x) for x in zip(*target))
        row_N = np.array([documents[b].rows[s + 1] for b, s in target])
        return self.table.embeddings(rows_BS), at_B, at_S, row_N

    def describe(self, batch: Batch) -> str:
        """The documents of a micro-batch by id (or number) and first words, for messages."""
        rows = np.array([d.rows[0] for d in batch.documents])
        told = zip(batch.documents, self.table.names(rows), self.table.text(rows))
        named = [f"{name or d.number} ({text[:40]!r})" for d, name, text in told]
        return f"documents {', '.join(named[:8])}" + (f" and {len(named) - 8} more" if len(named) > 8 else "")


def _split(title: str, body: list[str], most: int) -> Iterator[tuple[str, list[str]]]:
    """A document in parts of `most` sentences, the last of which begins the next part, as each is cut before it; what
    has several parts has no title."""
    for at in range(0, max(1, len(body)), most - 1):
        yield title if len(body) < most else "", body[at : at + most]


def _say_skipped(cut: int, short: int, names: Sequence[str] = ()) -> None:
    if cut or short:
        named = f": {', '.join(names)}{' …' if short > len(names) else ''}" if names else ""
        log.info("%d documents cut (too long, or a sentence is), %d left out (too short)%s", cut, short, named)
