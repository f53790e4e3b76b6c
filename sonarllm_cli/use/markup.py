"""Marks in subtitles: tags (<i>, <v Bob>), codes ({\\an8}), entities (&amp;), and the dashes of a dialogue.

    turns("<i>- Is it cold?\\n- No.</i>")    # [("<i>- ", "Is it cold?", "\\n"), ("- ", "No.", "</i>")]

What wraps all that is said, and a code or a voice at its beginning, stays around the translation; a mark within has no
place there and goes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape, unescape

_TAG = r"</?[A-Za-z][^<>]*>|<[\d:.]+>"
_CODE = r"\{\\[^{}]*\}"
_CODES = re.compile(_CODE)
_MARK = re.compile(f"{_TAG}|{_CODE}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
_NOT_WORDS = re.compile(f"{_MARK.pattern}|{_ENTITY.pattern}")
_NAMED = re.compile(r"<(/?)([A-Za-z]+)[^<>]*>")
_VOICE = re.compile(r"<v\b")  # which need not be closed
_PLACE = re.compile(r"\{\\(?:an?\d|pos|move)")  # whose effect no other code ends
_DASH = re.compile(r"(?:[-–—]+|>>|[♪♫])\s*(?!\d)")
_TURN = re.compile(rf"(?:{_MARK.pattern}|[^\S\n])*?(?:{_DASH.pattern}|{_VOICE.pattern})")


def turns(cue: str) -> list[tuple[str, str, str]]:
    """What is said in a cue, by speaker where dashes or voices tell them apart: each with what stays as it is before
    and after it. Joined they are the cue."""
    before, inner, after = _unwrapped(cue)
    spoken: list[str] = []
    for line in inner.splitlines(keepends=True):
        if spoken and not _TURN.match(line):
            spoken[-1] += line
        else:
            spoken.append(line)
    found = []
    for turn in spoken or [""]:
        outer, words, last = _unwrapped(turn)
        if dash := _DASH.match(words):
            own, words, end = _unwrapped(words[dash.end() :])
            outer, last = outer + dash.group() + own, end + last
        found.append((outer, words, last))
    found[0] = (before + found[0][0], *found[0][1:])
    found[-1] = (*found[-1][:2], found[-1][2] + after)
    return found


def _unwrapped(text: str) -> tuple[str, str, str]:
    """A text without the white space, tags, codes and notes around all of it: → before, text, after."""
    start, end = 0, _last(text, len(text))
    while (at := text.rfind("{\\", 0, end)) >= 0 and _CODES.fullmatch(text, at, end):
        end = _last(text, at)
    closed, last_code = _closed(text), text.rfind("{\\", 0, end)
    while True:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        mark = _MARK.match(text, start, end)
        if not mark:
            break
        if mark.group().startswith("{"):
            if last_code > start and not _PLACE.match(mark.group()):  # which may end it
                break
        elif found := closed.get(start):
            if found.end() != end:
                break
            end = found.start()
        elif not _VOICE.match(mark.group()):
            break
        start = mark.end()
    return text[:start], text[start:end], text[end:]


def _last(text: str, end: int) -> int:
    """Where what is before `end` ends without the white space and notes at its end."""
    while end and (text[end - 1].isspace() or text[end - 1] in "♪♫"):
        end -= 1
    return end


def _closed(text: str) -> dict[int, re.Match[str]]:
    """The tags that close those that open, by where these begin."""
    found: dict[int, re.Match[str]] = {}
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    for tag in _NAMED.finditer(text):
        own = waiting[tag[2].lower()]
        if not tag[1]:
            own.append(tag.start())
        elif own:
            found[own.pop()] = tag
    return found


def plain(text: str) -> tuple[str, list[int]]:
    """The words of a cue, without marks and with entities as what they stand for; and where each character is in the
    text, at last the text's length."""
    words: list[str] = []
    places: list[int] = []
    at = 0
    for found in [*_NOT_WORDS.finditer(text), None]:
        until = found.start() if found else len(text)
        words.append(text[at:until])
        places += range(at, until)
        if found:
            mark = found.group()
            stands = unescape(mark) if mark[0] == "&" else " " * mark.lower().startswith("<br")
            words.append(stands)
            places += [until] * len(stands)
            at = found.end()
    return "".join(words), [*places, len(text)]


def escaped(text: str, source: str, kind: str) -> str:
    """A text as it stands in subtitles: with entities in .vtt, and where its source has some."""
    return escape(text, quote=False) if kind == ".vtt" or _ENTITY.search(source) else text
