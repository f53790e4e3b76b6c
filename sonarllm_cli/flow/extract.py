"""A text's sentences → the few that tell most of it, in the text's order. No model is asked.

    best_sentences(["The dam burst on Monday after a week of rain.", "Nobody was hurt."], 1)      # [0]

A sentence's rank is how central it is, plus 3/(1 + i) for being the i-th. Central is the cosine of its words' weights
with the mean of the text's, as a z-score over the candidates; a word weighs (1 + ln tf) · idf, idf within the text.
Headings, list items and scraps are no candidates while there are others. What this and others score: docs/extract.md.

Legend: S sentences of the text.
Source: the centroid of Radev et al. 2004 (MEAD), with its weight for position.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from .marks import CLOSERS, HARD, QUOTES, UNSPACED

LEAD = 3.0  # weight of 1/(1 + i) against a z-score; fitted, see docs/extract.md
LEAST_WORDS = 6  # of a candidate
GRAMMAR = 3  # letters: so short a word is more likely grammar than matter

_STOP = re.compile(f"[.!?…{HARD}][{re.escape(CLOSERS + QUOTES)}]*$")
_WORD = re.compile(rf"{UNSPACED.pattern}|(?:(?!{UNSPACED.pattern})\w)+")  # where no spaces are

Weights = dict[str, float]


def best_sentences(sentences: Sequence[str], count: int) -> list[int]:
    """Indices of the `count` best sentences, in order; fewer only if the text has fewer that differ."""
    return sorted(ranked(sentences)[:count])


def ranked(sentences: Sequence[str], lead: float = LEAD, central: Sequence[float] | None = None) -> list[int]:
    """Indices of all sentences, the best first: the candidates, then the others; of equal sentences the first alone.
    `central` says how central each is, if not its words."""
    central = centrality(sentences) if central is None else central
    firsts = {text: i for i, text in reversed(list(enumerate(sentences)))}
    proper = [i for i in sorted(firsts.values()) if candidate(sentences[i])]
    others = sorted({*firsts.values()} - {*proper})
    return [*_by_rank(proper, central, lead), *_by_rank(others, central, lead)]


def candidate(sentence: str) -> bool:
    """Whether it is a whole sentence: six words or more, and a stop."""
    return len(_WORD.findall(sentence)) >= LEAST_WORDS and bool(_STOP.search(sentence))


def _by_rank(chosen: list[int], central: Sequence[float], lead: float) -> list[int]:
    scores = z_scores([central[i] for i in chosen])
    rank = {i: z + lead / (1 + place) for place, (i, z) in enumerate(zip(chosen, scores))}
    return sorted(chosen, key=lambda i: (-rank[i], i))


def centrality(sentences: Sequence[str]) -> list[float]:
    """The cosine of each sentence's weights with the mean of the text's: → S numbers from 0 to 1."""
    weights, centre = word_weights(sentences)
    return [cosine(one, centre) for one in weights]


def support(sentences: Sequence[str], text: Sequence[str]) -> float:
    """How much of a text's telling words is in sentences about it: the mean of their cosines with its mean, 0 to 1.
    Words of three letters or fewer don't count: in a short text no idf tells "the" and "of" from what it is about, and
    a sentence of nothing else would be near to any."""
    weights, centre = word_weights(*([" ".join(filter(_tells, words(s))) for s in each] for each in (sentences, text)))
    return sum(cosine(one, centre) for one in weights) / max(1, len(weights))


def share(said: Sequence[str], chosen: Sequence[int], text: Sequence[str]) -> float:
    """The support of what is said of a text, over that of its sentences `chosen`."""
    return support(said, text) / (support([text[i] for i in chosen], text) or 1.0)


def _tells(word: str) -> bool:
    return len(word) > GRAMMAR or word.isdigit() or bool(UNSPACED.match(word))


def words(text: str) -> list[str]:
    """Its words, case folded."""
    return _WORD.findall(text.casefold())


def word_weights(sentences: Sequence[str], text: Sequence[str] | None = None) -> tuple[list[Weights], Weights]:
    """Each sentence's weights at unit length, (1 + ln tf) · (1 + ln((1 + S) / (1 + df))), and the text's mean. Numbers
    of sentences, S and df, are those of `text`, if that is another."""
    told = [Counter(words(s)) for s in text or sentences]
    df = Counter(word for count in told for word in count)

    def weighed(count: Counter[str]) -> Weights:
        own = {w: (1 + math.log(n)) * (1 + math.log((1 + len(told)) / (1 + df[w]))) for w, n in count.items()}
        size = math.sqrt(sum(v * v for v in own.values())) or 1.0
        return {word: value / size for word, value in own.items()}

    centre: Weights = {}
    for one in map(weighed, told):
        for word, value in one.items():
            centre[word] = centre.get(word, 0.0) + value / len(told)
    return [weighed(Counter(words(s))) for s in sentences], centre


def cosine(a: Weights, b: Weights) -> float:
    """Of two texts' weights; 0 where one has none."""
    size = math.sqrt(sum(w * w for w in a.values())) * math.sqrt(sum(w * w for w in b.values()))
    return sum(w * b.get(word, 0.0) for word, w in a.items()) / size if size else 0.0


def z_scores(values: Sequence[float]) -> list[float]:
    """Values less their mean, over their deviation; 0 where they are all the same."""
    if not values:
        return []
    centre = sum(values) / len(values)
    deviation = math.sqrt(sum((v - centre) ** 2 for v in values) / len(values))
    return [(v - centre) / deviation if deviation > 1e-12 else 0.0 for v in values]
