"""`evaluate extract`: how well ways of choosing a text's sentences tell what its summary tells.

    sonarllm evaluate extract --data documents.jsonl

Ways: `random`; `Lead`, the first; `words`, what `summarize --extract` does; `vectors`, the same with embeddings for
words; `both`, the sum of both z-scores; `fitted`, `words` with the weight of position chosen on half of the documents
and scored on the other, over 40 draws of halves; `best`, the sentences that score most, one after another.
Scores are ROUGE-1, -2 and -L (F, stemmed) against the summary that a text has, of several the nearest. Where the model
writes, it is then set against the extract (see `shares`).

Legend: S sentences, D embedding, k sentences chosen.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..data import corpus
from ..data.records import Data
from ..errors import UserError
from ..flow.embed_text import embed_sentences
from ..flow.extract import LEAD, centrality, ranked, z_scores
from ..nets.kinds import kind_of
from ..weights import model_dir, registry
from ..weights.loaded import load_space, load_writer
from .metrics import rouge
from .plan import Plan, Result, Sample, sampled
from .shares import trial

COUNTS = (1, 2, 3)  # sentences chosen
ROUGES = ("ROUGE-1", "ROUGE-2", "ROUGE-L")
WEIGHTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)  # of position, for `fitted`
SPLITS = 40
MOST = 400  # sentences of a text that are looked at

Scores = dict[tuple[int, str], float]  # (sentences chosen, which ROUGE) → 0 to 100


def extraction(model: str, data: list[str], run: Plan, written: int = 0) -> Result:
    """Each way's scores, mean over the documents, and the mean of all nine; of `written` of the documents, by a model
    that writes, the `trial` of writing against extracting. Takes documents with a `summary`, several `summaries`, or
    else a title."""
    rows = sampled(_documents(data, set(run.seen)), run.limit, run.seed)
    if len(rows) < 2:
        raise UserError(
            "fewer than two documents with a summary in the data",
            'give JSON Lines such as {"text": "…", "summary": "…"}, of texts of four sentences or more',
        )
    writes = kind_of(model_dir.read_config(registry.find(model))["kind"]).writer
    writer = load_writer(model, run.runtime) if written and writes else None
    space = writer.space if writer else load_space(model, run.runtime)
    chance = random.Random(run.seed)
    ways: dict[str, list[Scores]] = {}
    fits: list[dict[float, Scores]] = []  # of each document, by weight
    samples: list[Sample] = []
    for texts, wanted in rows:
        words, vectors = z_scores(centrality(texts)), z_scores(central(embed_sentences(texts, "eng_Latn", space)))
        both = [a + b for a, b in zip(words, vectors)]
        orders = {
            "random": chance.sample(range(len(texts)), len(texts)),
            "Lead": list(range(len(texts))),
            "words": ranked(texts),
            "vectors": ranked(texts, central=vectors),
            "both": ranked(texts, central=both),
            "best": _best(texts, wanted),
        }
        for way, order in orders.items():
            ways.setdefault(way, []).append(_scores(texts, order, wanted))
        fits.append({weight: _scores(texts, ranked(texts, weight), wanted) for weight in WEIGHTS})
        chosen = [texts[i] for i in sorted(orders["words"][: COUNTS[-1]])]
        samples.append({"text": " ".join(texts), "found": " ".join(chosen), "wanted": wanted[0]})
    fitted, weight = _fitted(fits, chance)
    means = {way: {key: statistics.fmean(s[key] for s in scores) for key in scores[0]} for way, scores in ways.items()}
    means = {way: means[way] for way in ("random", "Lead", "words", "vectors", "both")} | {
        "fitted": fitted,
        "best": means["best"],
    }
    figures: dict[str, float] = {"texts": len(rows), "sentences a text": statistics.fmean(len(t) for t, _ in rows)}
    figures |= {"weight of position": LEAD, "fitted weight": weight}
    for way, scores in means.items():
        figures |= {f"{way}, {count}: {name}": value for (count, name), value in scores.items()}
        figures[f"{way}: mean"] = statistics.fmean(scores.values())
    if writer:
        figures |= trial(rows[:written], writer, run.writing(no_repeat=True), _fitted, chance)
    return figures, samples[:10]


def table(figures: dict[str, float]) -> list[tuple[str, ...]]:
    """The figures of `extraction` as rows: the head, then a way each."""
    ways = [name.removesuffix(": mean") for name in figures if name.endswith(": mean")]
    head = ("", *(f"{count} · R-{name[6:]}" for count in COUNTS for name in ROUGES), "mean")
    keys = [f", {count}: {name}" for count in COUNTS for name in ROUGES] + [": mean"]
    return [head, *((way, *(f"{figures[way + key]:.1f}" for key in keys)) for way in ways)]


def central(embedding_SD: Tensor) -> list[float]:
    """The cosine of each embedding with the mean of all: → S numbers."""
    return F.cosine_similarity(embedding_SD.float(), embedding_SD.float().mean(0, keepdim=True)).tolist()


def _documents(data: list[str], seen: set[str]) -> list[tuple[list[str], list[str]]]:
    """(sentences, summaries) of each document of four sentences or more that has a summary; where none has, titles."""
    summed: list[tuple[list[str], list[str]]] = []
    titled: list[tuple[list[str], list[str]]] = []
    for place, record in corpus.rows(Data(), data):
        title, texts = corpus.document_sentences((place, record), "eng_Latn")
        several = record.get("summaries") or [record.get("summary")]
        wanted = [text for text in several if isinstance(text, str) and text.strip()]
        if len(texts) > COUNTS[-1] and not seen & {title, *wanted}:
            if wanted:
                summed.append((texts[:MOST], wanted))
            elif title:
                titled.append((texts[:MOST], [title]))
    return summed or titled


def _scores(texts: Sequence[str], order: Sequence[int], wanted: Sequence[str]) -> Scores:
    out: Scores = {}
    for count in COUNTS:
        found = rouge(" ".join(texts[i] for i in sorted(order[:count])), wanted)
        out |= {(count, name): value for name, value in zip(ROUGES, found)}
    return out


def _best(texts: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The sentence with the highest mean ROUGE, then the one that adds most to it, and so on."""
    chosen: list[int] = []
    for _ in range(COUNTS[-1]):
        rest = [i for i in range(len(texts)) if i not in chosen]
        with_it = {i: " ".join(texts[j] for j in sorted([*chosen, i])) for i in rest}
        worth = {i: sum(rouge(text, wanted)) for i, text in with_it.items()}
        chosen.append(max(rest, key=worth.__getitem__))
    return chosen


def _fitted(fits: list[dict[float, Scores]], chance: random.Random) -> tuple[Scores, float]:
    """Mean scores on the halves that the weight was not chosen on, and the mean of the weights chosen."""
    found: list[Scores] = []
    weights: list[float] = []
    for _ in range(SPLITS):
        mixed = chance.sample(fits, len(fits))
        half, other = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
        worth = {weight: sum(sum(one[weight].values()) for one in half) for weight in fits[0]}
        weights.append(max(worth, key=worth.__getitem__))
        found.append({key: statistics.fmean(one[weights[-1]][key] for one in other) for key in other[0][weights[-1]]})
    return {key: statistics.fmean(f[key] for f in found) for key in found[0]}, statistics.fmean(weights)
