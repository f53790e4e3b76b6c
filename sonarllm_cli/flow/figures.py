"""Numbers in figures, which a translation keeps: one vector holds few of them, and a small decoder makes some up.

    with_figures("Er wurde 1967 geboren.", "He was born in 1976.")      # 'Er wurde 1976 geboren.'

Numbers are told apart by their digits, however they are parted.
"""

from __future__ import annotations

import re
from collections import Counter

_FIGURES = re.compile(r"\d(?:[\d.,:/’'\u00a0\u202f-]*\d)?")
_DIGITS = re.compile(r"\d+")


def _number(written: str) -> str:
    """What is the same however its digits are parted: 1,250 and 1.250."""
    return "".join(_DIGITS.findall(written))


def with_figures(text: str, source: str) -> str:
    """What was said of `source`, with the source's numbers in place of those that it has not, in their order. Where it
    has more or fewer of them, it stands as it is; so does a number of one digit, which words and clocks change."""
    own, wanted = (Counter(map(_number, _FIGURES.findall(one))) for one in (text, source))
    missing = [n for n in _FIGURES.findall(source) if len(_number(n)) > 1 and own[_number(n)] < wanted[_number(n)]]
    made_up = [m for m in _FIGURES.finditer(text) if own[_number(m[0])] > wanted[_number(m[0])]]
    if not missing or len(missing) != len(made_up):
        return text
    for match, number in reversed([*zip(made_up, missing)]):
        text = text[: match.start()] + number + text[match.end() :]
    return text
