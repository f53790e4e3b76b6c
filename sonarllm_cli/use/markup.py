"""Marks in subtitles: tags (<i>, <v Bob>), codes ({\\an8}), entities (&amp;), and the dashes of a dialogue.

    turns("<i>- Is it cold?\\n- No.</i>")    # [("<i>- ", "Is it cold?", "\\n"), ("- ", "No.", "</i>")]

What wraps all that is said, and a code or a voice at its beginning, stays around the translation; a mark within has no
place there and goes.
"""

from __future__ import annotations

import re
from html import escape, unescape

_TAG = r"</?[A-Za-z][^<>]*>|<[\d:.]+>"
_CODE = r"\{\\[^{}]*\}"
_CODES = re.compile(_CODE)
_MARK = re.compile(f"{_TAG}|{_CODE}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
_NOT_WORDS = re.compile(f"{_MARK.pattern}|{_ENTITY.pattern}")
_OPENS = re.compile(r"<([A-Za-z]+)[^<>]*>")
_PLACE = re.compile(r"\{\\(?:an?\d|pos|move)")  # whose effect no other code ends
_DASH = re.compile(r"(?:[-–—]+|>>|[♪♫])\s*(?!\d)")
_TURN = re.compile(rf"(?:{_MARK.pattern}|[^\S\n])*?(?:{_DASH.pattern}|<v\b)")


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
    start, end = 0, _last(text)
    while (at := text.rfind("{\\", 0, end)) >= 0 and _CODES.fullmatch(text, at, end):
        end = _last(text[:at])
    while True:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        mark = _MARK.match(text, start, end)
        if not mark:
            return text[:start], text[start:end], text[end:]
        rest = text[mark.end() : end]
        if mark.group().startswith("{"):
            if not _PLACE.match(mark.group()) and "{\\" in rest:  # which may end it
                return text[:start], text[start:end], text[end:]
        else:
            opens = _OPENS.fullmatch(mark.group())
            closed = _closed(rest, opens[1]) if opens else None
            if not opens or (closed is None and opens[1] != "v") or (closed and closed.end() < len(rest)):
                return text[:start], text[start:end], text[end:]
            end = mark.end() + closed.start() if closed else end
        start = mark.end()


def _last(text: str) -> int:
    """Where a text ends without the white space and notes at its end."""
    return len(text.rstrip().rstrip("♪♫"))


def _closed(text: str, name: str) -> re.Match[str] | None:
    """The tag that closes one of that name open before the text."""
    depth = 1
    for tag in re.finditer(rf"<(/?){name}(?![A-Za-z\d])[^<>]*>", text, re.IGNORECASE):
        depth += -1 if tag[1] else 1
        if not depth:
            return tag
    return None


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
