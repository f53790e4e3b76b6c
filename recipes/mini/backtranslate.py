"""Parallel text for the encoder from one side alone, by Apertium's rules: `apertium-parallel.train.jsonl.xz` in DIR.

    apt install apertium-spa-cat apertium-fra-cat apertium-cat-ita apertium-eng-spa apertium-eng-cat
    python recipes/mini/backtranslate.py DIR

Italian has few everyday pairs, and nothing but verses is parallel of stories and encyclopedia. So the Spanish and
French sides of everyday pairs are put into Italian, the French into Spanish, and English prose into Spanish, French
and Italian: back-translation (Sennrich et al. 2016), whose English side a person wrote. What Apertium has no word for,
but for names, is left out. Rows are `{"id": "apertium/es-it", "lang": "it", "en", "it"}`; prepare.py takes the other
side as a sentence to read, and only that of everyday Spanish in Italian, a near language, as one to write.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from prepare import ENGLISH, fit, rows, words_in

from sonarllm_cli.data import corpus

# from, to, Apertium's modes in turn
ROUTES = {
    "es-it": ["spa-cat", "cat-ita"],
    "fr-it": ["fra-cat", "cat-ita"],
    "fr-es": ["fra-cat", "cat-spa"],
    "en-es": ["eng-spa"],
    "en-fr": ["eng-cat", "cat-fra"],
    "en-it": ["eng-cat", "cat-ita"],
}
PROSE = {"wikipedia-en": 60_000, "expository-en": 40_000, "narrative-en": 80_000}  # sentences of each
LONGEST = 20  # words
PART = 4000  # sentences a call: what a mode can't read spoils no more
_MARK = re.compile(r"[*#@](?=\w)")  # of a word that was not known
_LOWER = re.compile(r"[*#@][^\W\dA-Z]")  # of one that is no name


def put(mode: str, lines: list[str]) -> list[str]:
    """Lines through one of Apertium's modes; empty one that it dies of, which is found by halves."""
    text = "\n".join(lines) + "\n"
    done = subprocess.run(["apertium", "-n", mode], input=text, capture_output=True, text=True)
    found = done.stdout.split("\n")[:-1]
    if done.returncode == 0 and len(found) == len(lines):
        return found
    half = len(lines) // 2
    return put(mode, lines[:half]) + put(mode, lines[half:]) if half else [""]


def translated(route: str, lines: list[str]) -> list[str]:
    """Each line through the route's modes; empty where an ordinary word was not known."""
    for mode in ROUTES[route]:
        lines = ["" if _LOWER.search(line) else _MARK.sub("", line) for line in put(mode, lines)]
    return [" ".join(line.split()) for line in lines]


def sentences(batch: list[dict]) -> list[str]:
    """Rows of documents → their sentences that stand by themselves."""
    blocks = [b for row in batch for paragraph in row["paragraphs"] for b in paragraph][:4000]
    return [s for b in blocks for s in corpus.block_sentences(b, ENGLISH) if fit(s) and words_in(s) <= LONGEST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="the file to write (default: in the folder)")
    parser.add_argument("--share", type=float, default=1.0)
    args = parser.parse_args()
    if not shutil.which("apertium"):
        sys.exit("apertium is not installed: apt install apertium-spa-cat apertium-fra-cat apertium-cat-ita …")
    rng = np.random.default_rng(0)
    everyday = rows(args.folder, "general-parallel", "train", "tatoeba")
    work: list[tuple[str, list[tuple[str, str]]]] = []  # route, (English, what is put through)
    for route in ("es-it", "fr-it", "fr-es"):
        pairs = [(r["en"], r[route[:2]]) for r in everyday if r["lang"] == route[:2]]
        work.append((route, [pairs[i] for i in rng.permutation(len(pairs))[: int(len(pairs) * args.share)]]))
    with ProcessPoolExecutor() as pool:
        for name, count in PROSE.items():
            found = rows(args.folder, name, "train")
            found = [found[i] for i in rng.permutation(len(found))[: count // 4]]
            parts = pool.map(sentences, [found[i : i + 50] for i in range(0, len(found), 50)])
            plain = list(dict.fromkeys(s for part in parts for s in part))
            plain = [plain[i] for i in rng.permutation(len(plain))[: int(count * args.share)]]
            for k, route in enumerate(("en-es", "en-fr", "en-it")):
                work.append((route, [(s, s) for s in plain[k::3]]))
        calls = [(route, pairs[i : i + PART]) for route, pairs in work for i in range(0, len(pairs), PART)]
        texts = [[" ".join(text.split()) for _, text in pairs] for _, pairs in calls]
        done = pool.map(translated, [route for route, _ in calls], texts)
        out, count = args.out or args.folder / "apertium-parallel.train.jsonl.xz", 0
        with lzma.open(out, "wt", encoding="utf-8", preset=3) as stream:
            for (route, pairs), results in zip(calls, done):
                lang = route[3:]
                for (en, _), text in zip(pairs, results):
                    if text:
                        count += 1
                        row = {"id": f"apertium/{route}", "lang": lang, "en": en, lang: text}
                        print(json.dumps(row, ensure_ascii=False), file=stream)
    print(f"{out}: {count} pairs", file=sys.stderr)


if __name__ == "__main__":
    main()
