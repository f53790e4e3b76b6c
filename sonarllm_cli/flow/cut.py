"""A sentence that is too long for a model → pieces that are not: behind a clause if possible, between words if not.

list(cut(text, 0, len(text), lambda piece: len(piece) <= 100))      # spans
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from .marks import CLAUSE, CLOSERS, flat, trim

Fits = Callable[[str], bool]  # is a sentence, on one line, short enough?

_CLOSER = f"[{re.escape(CLOSERS)}]"
_CUTS = (  # from the best place to the worst, before "inside a word"; the first kind needs no white space after it
    re.compile(
        rf"[—…{CLAUSE}]+{_CLOSER}*|(?:[,;:–]|(?<!-)--+|(?<=\s)-){_CLOSER}*(?=\s)|(?<!{_CLOSER}){_CLOSER}+(?=\s)"
    ),
    re.compile(r"(?<=\S)(?=\s)"),
)
_WHOLE = 20_000  # characters: of a longer sentence nobody is asked about the whole at once
_SLACK = 64  # characters: a token cut in two may count for more than the whole one


def cut(text: str, start: int, end: int, small: Fits) -> Iterator[tuple[int, int]]:
    """The span in pieces that are `small`, each as long as can be; a single grapheme is never cut, small or not.

    `small` should hold for less of a text where it holds for more; it is asked O(log length) times a piece.
    """
    if end - start <= _WHOLE and small(flat(text[start:end])):
        yield start, end
        return
    places = [array("I", (found.end() for found in cuts.finditer(text, start, end))) for cuts in _CUTS]
    guess = 1
    while start < end:
        stop = _within_word(text, start, end, guess, small) if _unbroken(start, end, places) else 0
        reach = stop or _reach(text, start, end, guess, small)
        if not stop and reach == end:
            stop = end
        elif not stop:
            small_ends = (at for at in _candidates(text, start, reach, places) if small(flat(text[start:at])))
            graphemes = (at for at in range(start + 1, end) if not _inside_grapheme(text, start, at))
            stop = next(small_ends, 0) or next(graphemes, end)
        yield trim(text, start, stop)
        guess = max(1, reach - start)
        start, _ = trim(text, stop, end)


def _unbroken(start: int, end: int, places: Sequence[Sequence[int]]) -> bool:
    """Whether no language has such a word: data in letters, a line of a machine's."""
    after = (bisect_right(cuts, start) for cuts in places)
    return end - start > _WHOLE and all(i == len(p) or p[i] > start + _WHOLE for i, p in zip(after, places))


def _within_word(text: str, start: int, end: int, guess: int, small: Fits) -> int:
    """A place up to which `text` is small, near `guess`, but not the last: one question a piece. 0 if none is found."""
    at = start + guess + guess // 16  # pieces may grow again
    while at > start + 1:
        if not _inside_grapheme(text, start, at) and small(flat(text[start:at])):
            return at
        at -= max(1, (at - start) // 16)
    return 0


def _reach(text: str, start: int, end: int, guess: int, small: Fits) -> int:
    """The last place up to which `text` from `start` is small: by growing steps from `guess`, then by halving."""
    low, high, step = start, min(start + guess, end), 16
    grows = small(flat(text[start:high]))
    if grows and high == end:
        return end
    while grows:
        low, high, step = high, min(high + step, end), 2 * step
        grows = small(flat(text[start:high]))
        if grows and high == end:
            return end
    while low == start and high - step > start:
        if small(flat(text[start : high - step])):
            low = high - step
        else:
            high, step = high - step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if small(flat(text[start:middle])) else (low, middle)
    return low


def _candidates(text: str, start: int, reach: int, places: Sequence[Sequence[int]]) -> Iterator[int]:
    """Where to cut, best first: the last clause mark within reach or just beyond, the last word, the last grapheme."""
    for cuts in places:
        beyond = bisect_right(cuts, reach)
        beyond += beyond < len(cuts) and cuts[beyond] <= reach + _SLACK
        for at in reversed(cuts[bisect_right(cuts, start) : beyond]):
            if not _inside_grapheme(text, start, at):
                yield at
    for at in range(reach, start, -1):
        if not _inside_grapheme(text, start, at):
            yield at


def _inside_grapheme(text: str, start: int, at: int) -> bool:
    """Whether text[at] goes with what is before it: what matters of UAX #29 without its tables."""
    left, right = text[at - 1], text[at : at + 1]
    if not right or right.isspace() or max(left, right) < "\u0300":
        return False
    if unicodedata.category(right)[0] == "M" or right in "\u200c\u200d\uff9e\uff9f" or left == "\u200d":
        return True
    if "\U0001f3fb" <= right <= "\U0001f3ff" or "\U000e0020" <= right <= "\U000e007f":  # skin tones, tags
        return True
    if unicodedata.combining(left) == 9 and right.isalpha():  # a virama: the next consonant is joined to it
        return True
    if "\U0001f1e6" <= right <= "\U0001f1ff":  # flags are pairs
        pairs = at
        while pairs > start and "\U0001f1e6" <= text[pairs - 1] <= "\U0001f1ff":
            pairs -= 1
        return (at - pairs) % 2 == 1
    jamo = "\u1160" <= right <= "\u11ff" and ("\u1100" <= left <= "\u11ff" or "\uac00" <= left <= "\ud7a3")
    return jamo or ("\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff")
