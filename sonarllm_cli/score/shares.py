"""Writing or extracting: which tells a text's summary better in one sentence, and by what share of its words to choose.

Part of `sonarllm evaluate extract`, where the model writes. The share is how much of the text's words what was written
takes up, against what would be extracted (see `flow.extract.share`); from `SUPPORT` on `summarize` keeps what it wrote.

Legend: S sentences, D embedding.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

from ..flow.compose import Writing
from ..flow.embed_text import embed_sentences
from ..flow.extract import best_sentences, share
from ..flow.familiar import unfamiliar
from ..flow.summarize import SUPPORT, shortened
from ..weights.loaded import Writer
from .metrics import rouge

SHARES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, float("inf"))  # tried; 0 always writes, infinity never does
KEY = (1, "ROUGE-L")

Row = tuple[Sequence[str], Sequence[str]]  # a document's sentences, its summaries
Scores = dict[tuple[int, str], float]
Fit = Callable[[list[dict[float, Scores]], random.Random], tuple[Scores, float]]


def trial(rows: Sequence[Row], writer: Writer, writing: Writing, fit: Fit, chance: random.Random) -> dict[str, float]:
    """ROUGE-L (F, stemmed, 0 to 100) of one sentence: the first, the one extracted, the one written, and what is had by
    each share; "chosen" is by the share that is best on half of the texts (`fit`), on the other half; "default" is what
    `summarize` gives, its field check included, by which the share "unfamiliar" of the texts (in per cent) is
    extracted."""
    scores: dict[str, list[float]] = {name: [] for name in ("Lead", "extract", "write", "default", "unfamiliar")}
    by_share: list[dict[float, Scores]] = []
    for texts, wanted in rows:
        text_SD = embed_sentences(texts, writer.lang, writer.space)
        chosen = best_sentences(texts, 1)
        written = [s.text for s in shortened(texts, text_SD, writer, writing, 1)]
        lead, extract, write = (rouge(said, wanted)[2] for said in (texts[0], texts[chosen[0]], " ".join(written)))
        own = share(written, chosen, texts) if written else -1.0  # nothing written is always extracted
        foreign = bool(unfamiliar(texts, text_SD, writer.lang, writer))
        default = write if own >= SUPPORT and not foreign else extract
        for name, score in zip(scores, (lead, extract, write, default, 100.0 * foreign)):
            scores[name].append(score)
        by_share.append({least: {KEY: write if own >= least else extract} for least in SHARES})
    at_chosen, _ = fit(by_share, chance)
    figures = {name: statistics.fmean(values) for name, values in scores.items()}
    figures |= {f"share {s:g}": statistics.fmean(one[s][KEY] for one in by_share) for s in SHARES[1:-1]}
    figures |= {"chosen": at_chosen[KEY], "texts written of": len(rows)}
    return {f"one sentence, {name}": value for name, value in figures.items()}
