"""Scores of texts and embeddings. Each is the field's own code where there is one; ours are xsim, repetition
and overlap.

Legend: N texts, D embedding.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..use.neighbours import BLOCK, mutual
from .wordnet import NoSynonyms, wordnet


def _need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"this score needs {name}", "pip install 'sonarllm-cli[eval]'") from None


def bleu(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Corpus BLEU of sacrebleu (Post 2018), 0 to 100."""
    return _need("sacrebleu").corpus_bleu(list(found), [list(wanted)]).score


def sentence_bleu(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean sentence BLEU of nltk over white-space tokens, smoothing method 4 (Chen & Cherry 2014), 0 to 100: the
    paper's. A text that is not there scores 0."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method4
    pairs = [(a.split(), b.split()) for a, b in zip(found, wanted)]
    return 100 * _mean([sentence_bleu([b], a, smoothing_function=smooth) if a and b else 0.0 for a, b in pairs])


def chrf(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Corpus chrF2 of sacrebleu (Popović 2015), 0 to 100."""
    return _need("sacrebleu").corpus_chrf(list(found), [list(wanted)]).score


def exact(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of texts that came back as they were, 0 to 100."""
    return 100 * sum(a == b for a, b in zip(found, wanted)) / max(1, len(found))


def rouge_l(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean ROUGE-L F of rouge-score, stemmed (Lin 2004), 0 to 100."""
    scorer = _need("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    return 100 * _mean([scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(found, wanted)])


def meteor_name() -> str:
    """What the METEOR here is: with WordNet's synonyms, or exact and stem matches alone."""
    return "METEOR (exact, stem)" if isinstance(wordnet(), NoSynonyms) else "METEOR"


def meteor(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean METEOR of nltk (Banerjee & Lavie 2005) over lower-cased white-space tokens, 0 to 100."""
    from nltk.translate.meteor_score import single_meteor_score

    scores = [single_meteor_score(b.split(), a.split(), wordnet=wordnet()) for a, b in zip(found, wanted)]
    return 100 * _mean(scores)


def words_apart(texts: Sequence[str]) -> list[str]:
    """Texts with a space between words and punctuation, which no score then takes for part of a word."""
    return [" ".join(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def overlap(found: Sequence[str], sources: Sequence[str], n: int = 3) -> float:
    """Share of word n-grams that stand in the text's source too, 0 to 100, over all texts: how much is copied."""
    total = copied = 0
    for text, source in zip(found, sources):
        theirs = set(_grams(source, n))
        grams = _grams(text, n)
        total += len(grams)
        copied += sum(gram in theirs for gram in grams)
    return 100 * copied / max(1, total)


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Share of word n-grams that stand in the same text before, 0 to 100, over all texts."""
    total = repeated = 0
    for text in texts:
        grams = _grams(text, n)
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return 100 * repeated / max(1, total)


def f1(right: int, found: int, wanted: int) -> dict[str, float]:
    """Precision, recall and F1 in per cent, of `found` things `right` of `wanted` ones."""
    precision, recall = 100 * right / max(1, found), 100 * right / max(1, wanted)
    return {"precision": precision, "recall": recall, "F1": 2 * precision * recall / max(1e-9, precision + recall)}


def best_f1(scores: Sequence[float], right: Sequence[bool], wanted: int) -> dict[str, float]:
    """`f1` of things of at least the score that makes F1 best, and that threshold; `scores` are from the best down."""
    best: dict[str, float] = {"threshold": 0.0, **f1(0, 0, wanted)}
    hits = 0
    for count, (score, hit) in enumerate(zip(scores, right), 1):
        hits += hit
        if count < len(scores) and scores[count] == score:
            continue  # a threshold takes all of a score
        here = f1(hits, count, wanted)
        if here["F1"] > best["F1"]:
            best = {"threshold": score, **here}
    return best


def xsim(source_ND: Tensor, target_MD: Tensor, k: int = 4) -> float:
    """Similarity-search error, 0 to 100: how often a text's translation is not its nearest by ratio margin, the cosine
    over the mean cosine of both texts' k nearest (Artetxe & Schwenk 2019, as in the SONAR and LASER papers).

    source_ND, target_MD (row i translates row i; more rows are further candidates) → per cent of rows.
    """
    source_ND, target_MD = (F.normalize(side.float(), dim=1) for side in (source_ND, target_MD))
    near = mutual(lambda: source_ND.split(BLOCK), lambda: target_MD.split(BLOCK), k)
    near_N1, near_1M = near.score_NK.mean(1, keepdim=True), near.score_MK.mean(1)[None]
    wrong = 0
    for first in range(0, len(source_ND), BLOCK):  # no N × N matrix is made
        rows = slice(first, first + BLOCK)
        best_B = torch.full_like(near_N1[rows, 0], -torch.inf)
        row_B = torch.zeros_like(best_B, dtype=torch.long)
        for start in range(0, len(target_MD), BLOCK):
            cosine_BM = source_ND[rows] @ target_MD[start : start + BLOCK].T
            new_B, at_B = (2 * cosine_BM / (near_N1[rows] + near_1M[:, start : start + BLOCK])).max(1)
            row_B = torch.where(new_B > best_B, at_B + start, row_B)
            best_B = torch.maximum(best_B, new_B)
        wrong += int((row_B != torch.arange(len(row_B), device=row_B.device) + first).sum())
    return 100 * wrong / len(source_ND)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
