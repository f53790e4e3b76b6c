"""A long sentence → its clauses, and what was said of each → one sentence again.

    clauses("It rained all day, but we went out and walked along the river.", "eng_Latn")
    # ['It rained all day,', 'but we went out and walked along the river.']

A cut is best behind a semicolon, colon or dash, then at a comma, then before a conjunction or relative pronoun
(`JOINTS`); between other words it costs so much that a piece must be some three times as long as `aim` first. Among all
ways to cut the least cost is found (dynamic programming); how far a piece's length is from `aim` counts too. In a
language without `JOINTS` marks alone are known, and where words have no spaces between them nothing is cut.
"""

from __future__ import annotations

from itertools import pairwise

from .marks import CLOSERS, OPENERS, QUOTES

AIMS = (6, 3)  # words of a piece, of one that is tried when that came out far: what docs/quality.md found best
LONGEST = 48  # words of a piece, whatever it costs

# Words that begin a clause, wherever they stand.
JOINTS = {
    "eng_Latn": "and but or nor because although though while when where who which that whose as if since until after "
    "before so unless whereas",
    "deu_Latn": "und aber oder denn sondern weil dass obwohl während wenn als wo wer der die das dessen deren nachdem "
    "bevor damit sowie um",
    "fra_Latn": "et mais ou car parce que qui dont où lorsque quand puisque bien tandis pour si comme alors",
    "spa_Latn": "y e pero o u porque que quien quienes cuando donde aunque mientras sino si como para",
    "ita_Latn": "e ed ma o perché che chi quando dove mentre sebbene benché se come per cui",
}
# Words, beside these, that are no names: within a sentence they begin with a small letter.
SMALL = {
    "eng_Latn": "the a an it it's he he's she she's they they're we we're you there there's this that's in on at for "
    "let's most both",
    "deu_Latn": "ein eine einen einem er sie es wir ihr ich man den dem des in im auf für mit von zu",
    "fra_Latn": "le la les l un une il elle ils elles on nous vous je tu c'est ce cette en dans sur à avec de des",
    "spa_Latn": "el la los las un una él ella ellos nosotros yo es en con de por a se no",
    "ita_Latn": "il lo la i gli le l un una egli lui lei noi io è in con di da a si non",
}
_STRONG, _COMMA, _CONJUNCTION, _ANYWHERE = 0.0, 2.0, 4.0, 20.0  # what a cut costs


def clauses(sentence: str, lang: str, aim: int = AIMS[0]) -> list[str]:
    """The pieces of a sentence on one line: joined by spaces they are the sentence."""
    words = sentence.split()
    joints = frozenset(JOINTS.get(lang, "").split())
    cut = [0.0, *(_cost(before, word, joints) for before, word in pairwise(words))]
    least, begin = [0.0], [0]  # of the words up to each: what their pieces cost, where the last of them begins
    for end in range(1, len(words) + 1):
        starts = range(max(0, end - LONGEST), end)
        costs = [least[start] + cut[start] + (end - start - aim) ** 2 / aim for start in starts]
        least.append(min(costs))
        begin.append(starts[costs.index(least[-1])])
    pieces: list[str] = []
    end = len(words)
    while end:
        pieces.insert(0, " ".join(words[begin[end] : end]))
        end = begin[end]
    return pieces


def _cost(before: str, word: str, joints: frozenset[str]) -> float:
    """Of a cut between two words."""
    mark, first = before.rstrip(CLOSERS + QUOTES)[-1:], word.lstrip(OPENERS + QUOTES).lower()
    if mark in ("-", *";:—–") or first[:1] in ("—", "–") or word == "-":
        return _STRONG
    if mark == ",":
        return _COMMA / 2 if first in joints else _COMMA
    return _CONJUNCTION if first in joints else _ANYWHERE


def rejoined(said: list[str], pieces: list[str], lang: str) -> str:
    """What was said in `lang` of each piece, as one sentence: the marks between the pieces are theirs, and a small word
    after the first piece has a small letter."""
    last = len(pieces) - 1
    parts = [fitted(text, piece, lang, i > 0, i < last) for i, (text, piece) in enumerate(zip(said, pieces))]
    return " ".join(filter(None, parts))


def fitted(text: str, piece: str, lang: str, follows: bool, goes_on: bool) -> str:
    """What was said of one piece, with what is before it and after it in the sentence in mind."""
    if goes_on:
        mark = piece.rstrip(CLOSERS + QUOTES)[-1:]
        text = text.rstrip(" .,;:!?…")
        text += f" {mark}" if mark in ("—", "–") else mark if mark in tuple(",;:") else ""
    small = f"{JOINTS.get(lang, '')} {SMALL.get(lang, '')}".split()
    if follows and text.split(" ")[0].rstrip(",").lower() in small:
        text = text[:1].lower() + text[1:]
    return text
