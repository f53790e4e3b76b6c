"""The signs that sentences end, open and close with, in all scripts; and spans of a text without white space."""

from __future__ import annotations

import re

HARD = "。｡．！？‼⁇⁈⁉।॥۔؟։።፧፨။།༎។៕᱾᱿꯫"  # full stops of many scripts: need no space after them
CLAUSE = "，、；：،؛፣፤፥၊"
CLOSERS = ")]}”’›）］｝」』】〕〉》\ufe0e\ufe0f\u20e3"
QUOTES = "\"'“‘«»"  # open as well as close, by language
OPENERS = "([{„‚‹¿¡（［｛「『【〔〈《"
UNSPACED = re.compile("[\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")
LOOK_BACK = 1000  # characters: a pattern that may look at each twice sees no more of a line


def flat(text: str) -> str:
    """On one line, as it is embedded: every run of white space is a single space."""
    return " ".join(text.split())


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
