"""How a task of `evaluate` is run, and on which texts: rows of data as training reads it (data/corpus.py), less those
seen, drawn by a seed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data import corpus
from ..data.records import Data
from ..errors import UserError
from ..flow.compose import NEVER, Writing
from ..nets.sonar_llm import ENDING
from ..runtime import Runtime
from ..tokens import fitting
from ..weights.loaded import Space
from . import metrics

Sample = dict[str, Any]
Result = tuple[dict[str, float], list[Sample]]
Task = Callable[..., Result]  # model, data, plan → figures and samples
MOST_WORDS = 30  # of a sentence to auto-encode


@dataclass(frozen=True)
class Plan:
    """How a task is run: where, less which texts, on how many of each language, by which search and draw. `generator`
    is the one source of what is random in writing."""

    runtime: Runtime
    seen: list[str]
    limit: int
    beam: int
    seed: int
    generator: torch.Generator
    tokenizer: str = ""  # of BLEU; each language's own if not given
    sampling: dict[str, Any] = field(default_factory=dict)
    words: tuple[int, int] = (1, MOST_WORDS)  # of the (English) sentences that are auto-encoded or translated
    out: bool = False  # translate out of English, not into it
    whole: bool = False  # the likeliest of whole sentences, not what `translate` chooses
    most: int = 0  # sentences of a continuation; as many as the text has, if 0
    rules: dict[str, Any] = field(default_factory=dict)  # when to stop, what to read next: fields of a `Writing`

    def fits(self, text: str) -> bool:
        """Whether a text has as many words as are wanted."""
        return self.words[0] <= len(text.split()) <= self.words[1]

    def bleu(self, found: Sequence[str], wanted: Sequence[str], lang: str) -> metrics.Score:
        """Corpus BLEU of texts in a language."""
        return metrics.bleu(found, wanted, self.tokenizer or metrics.tokenizer_of(lang))

    def writing(self, **options: Any) -> Writing:
        """How a text is written in this task: as `generate` writes, but that it may go round in circles, as in the
        published code: repetition is a figure."""
        how = {"repeat_threshold": NEVER, **self.rules, **options}
        return Writing(sampling=self.sampling).but(beam=self.beam, **how)


def seen_texts(data: Sequence[str]) -> list[str]:
    """Every sentence and title of training data, to leave out."""
    return [text for texts in by_language(list(data), []).values() for text in texts]


def by_language(data: list[str], seen: list[str]) -> dict[str, list[str]]:
    """Distinct sentences of documents and pairs by language, less those seen."""
    known = set(seen)
    out: dict[str, list[str]] = {}
    documents, pairs = _split(data)
    out["eng_Latn"] = corpus.sentences(corpus.documents(Data(), documents))
    for a, b, lang in corpus.translations(Data(), pairs):
        out["eng_Latn"].append(a)
        out.setdefault(lang, []).append(b)
    return {lang: [t for t in dict.fromkeys(texts) if t not in known] for lang, texts in out.items() if texts}


def pairs_by_language(data: list[str], seen: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(English, other) by the other language, neither seen."""
    known = set(seen)
    out: dict[str, list[tuple[str, str]]] = {}
    for a, b, lang in corpus.translations(Data(), _split(data)[1]):
        if a not in known and b not in known:
            out.setdefault(lang, []).append((a, b))
    if not out:
        raise UserError("no parallel text in the data", 'give JSON Lines such as {"lang": "it", "en": "…", "it": "…"}')
    return out


def documents_of(data: list[str], run: Plan, space: Space, least: int = 1) -> list[list[str]]:
    """Documents of `least` sentences or more, as at most 32, the ending last. As in training, one ends before a
    sentence over the limit of encoder or decoder. UserError where none is left."""
    config = space.net.config
    fit = fitting(space.tokenizer, min(config.max_source_tokens, config.max_target_tokens - 2))
    rows: list[list[str]] = []
    for _, body in corpus.documents(Data(), data):
        short = list(itertools.takewhile(fit, body))
        if len(short) >= least:
            rows.append([*short[:31], *([ENDING] if len(short) == len(body) else [])])
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        what = f"documents of {least} sentences" if least > 1 else "documents"
        raise UserError(f"no {what} in the data", 'give JSON Lines such as {"text": "…"}')
    return sampled(rows, run.limit, run.seed)


def _split(data: list[str]) -> tuple[list[str], list[str]]:
    """File names → (documents, pairs), told apart by their first row."""
    documents: list[str] = []
    pairs: list[str] = []
    for name in data:
        _, first = next(corpus.rows(Data(limit=1), [name]), ("", {}))
        (pairs if "lang" in first and "en" in first else documents).append(name)
    return documents, pairs


def sampled(items: list[Any], limit: int, seed: int) -> list[Any]:
    """`limit` of them at random, where there are more; 0: all."""
    return random.Random(seed).sample(items, limit) if limit and len(items) > limit else items
