"""What is no words: Markdown's marks within a text, what stands as it is in any text, and the marks of subtitles.

    prose("See *my* notes: https://a.org/b.").words      # 'See my notes: https://a.org/b.', which has a mark

A word that holds an address or code stands. Of Markdown's emphasis and links the words are read, and `put_back` gives a
translation the marks that surely belong there.

    turns("<i>- Is it cold?\\n- No.</i>")    # [("<i>- ", "Is it cold?", "\\n"), ("- ", "No.", "</i>")]

Of subtitles: tags (<i>, <v Bob>), codes ({\\an8}), line breaks (\\N), entities (&amp;), the dashes of a dialogue,
speakers (ANN:) and sounds ([LAUGHS]). What wraps all that is said, a code, a voice or a speaker at its beginning, stays
around the translation; a tag within has no place there and goes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from typing import NamedTuple

_TAG = r"</?[A-Za-z][^<>]*>|<[\d:.]+>"
_CODE = r"\{\\[^{}]*\}"
_CODES = re.compile(_CODE)
_MARK = re.compile(f"{_TAG}|{_CODE}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
_BREAK = re.compile(r"\\[Nh]")  # Advanced SubStation Alpha's line break and hard space
_NOT_WORDS = re.compile(f"{_MARK.pattern}|{_ENTITY.pattern}|{_BREAK.pattern}")
_NAMED = re.compile(r"<(/?)([A-Za-z]+)[^<>]*>")
_VOICE = re.compile(r"<v\b")  # which need not be closed
_PLACE = re.compile(r"\{\\(?:an?\d|pos|move)")  # whose effect no other code ends
_DASH = re.compile(r"(?:[-–—]+|>>|[♪♫])\s*(?!\d)")
_TURN = re.compile(rf"(?:{_MARK.pattern}|[^\S\n])*?(?:{_DASH.pattern}|{_VOICE.pattern})")
_SPEAKER = re.compile(r"(?:\[[^\[\]]*\]\s*)*([^\W\d_][^\n:<>{}\[\]]{0,30}):\s+(?=\S)")
_SOUND = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")


class Mark(NamedTuple):
    """Signs around a stretch of words; `kept` where they may not be lost."""

    start: int
    end: int
    opening: str
    closing: str
    kept: bool = False


@dataclass(frozen=True)
class Bare:
    """A text without its marks: its words, where each character is in the text (at last the text's length), what of
    them stands as it is, and the marks."""

    words: str
    places: Sequence[int]
    stands: list[tuple[int, int]]
    marks: list[Mark] = field(default_factory=list)


_ADDRESS = re.compile(
    r"[a-z][a-z\d+.-]{0,20}://\S|(?<![\w.])www\.\w|(?<!\w)mailto:\S|[\w+-]@[\w-]{1,63}\.\w"  # URL, e-mail
    r"|(?<![\w.-])(?:[a-z\d][a-z\d-]{1,62}\.){1,5}(?:com|org|net|edu|gov|info|io|eu|de|fr|es|it|at|ch|uk)\b(?!\()"
    r"|(?<!\w)[A-Z]:\\\w|(?<![\w/])(?:~|\.{1,2})/\w|(?<![\w/.])/\w[\w.-]{0,63}[/.]\w"  # paths
    r"|(?<![\w/])[\w-]{1,63}(?:/[\w-]{1,63}){1,20}\.[A-Za-z]"
    r"|(?<![\w.-])[\w-]{1,63}\.(?:txt|md|rst|pdf|docx?|xlsx?|pptx?|odt|csv|tsv|jsonl?|xml|html?|png|jpe?g|gif|svg|mp[34]"
    r"|wav|flac|ogg|zip|gz|xz|py|js|sh|toml|ya?ml|srt|vtt|epub)\b"
)
_TARGET = r"\((?:[^()\s]|\([^()\s]*\))*(?:\s+(?:\"[^\"]*\"|'[^']*'))?\)"
_INLINE = re.compile(
    rf"(?P<stands>(?<!`)(?P<ticks>`{{1,3}})(?!`).+?(?<!`)(?P=ticks)(?!`)|!\[[^\[\]]*\]{_TARGET})"
    rf"|\[(?P<label>[^\[\]^][^\[\]]*)\](?P<target>{_TARGET}|\[[^\[\]]*\])|(?P<note>\[\^[^\[\]\s]+\])"
    r"|(?P<sign>\*{1,3}|_{1,3}|~~)",
    re.S,
)


DEEP = 20  # signs that may wait to be closed within each other


def _standing(text: str) -> list[tuple[int, int]]:
    """The words that hold an address."""
    return [m.span() for m in re.finditer(r"\S+", text) if _ADDRESS.search(m.group()) and "](" not in m.group()]


def _word(text: str, start: int, end: int) -> tuple[int, int]:
    """A part of a text with what is written to it without a space."""
    while start and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, those that overlap as one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start < out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def prose(text: str) -> Bare:
    """A text without the signs of Markdown's emphasis, the targets of its links, and notes. A sign that opens or closes
    nothing is a word's."""
    inline = _Inline(text, _standing(text))
    inline.read(0, len(text))
    for word in re.finditer(r"\S*\]\(\S+", text):  # what looks like a link and is none that is read here
        if _ADDRESS.search(word.group()) and not any(a < word.end() and word.start() < b for a, b in inline.cuts):
            inline.stands.append(word.span())
    cuts = [(start, end, "") for start, end in inline.cuts]
    taken = _joined([*inline.cuts, *inline.stands])
    ends = [end for _, end in taken]
    for entity in _ENTITY.finditer(text):  # which is read as what it stands for
        after = bisect_right(ends, entity.start())
        if after == len(taken) or taken[after][0] >= entity.end():
            cuts.append((*entity.span(), unescape(entity.group())))
    words, places, at = [], list[int](), 0
    for start, end, stands in [*sorted(cuts), (len(text), len(text), "")]:
        words += [text[at:start], stands]
        places += [*range(at, start), *[start] * len(stands)]
        at = end

    def moved(start: int, end: int) -> tuple[int, int]:
        return bisect_left(places, start), bisect_left(places, end)

    marks = [Mark(*moved(m.start, m.end), m.opening, m.closing, m.kept) for m in inline.marks]
    return Bare("".join(words), [*places, len(text)], _joined(moved(*span) for span in inline.stands), marks)


@dataclass
class _Inline:
    """Markdown within a text: what stands, what is cut out, and the marks, by their places in it."""

    text: str
    stands: list[tuple[int, int]]
    cuts: list[tuple[int, int]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def read(self, start: int, end: int) -> None:
        known = list(self.stands)
        begins = [a for a, _ in known]
        waiting: list[tuple[str, int, int]] = []
        at = start
        while found := _INLINE.search(self.text, at, end):
            left, at = found.span()
            around = known[i] if (i := bisect_right(begins, left) - 1) >= 0 else (0, 0)
            label = found["label"]
            if around[1] > left:
                at = around[1]
            elif found["stands"] or (label and _ADDRESS.search(label)):
                left, at = _word(self.text, left, at)
                self.stands.append((left, at))
            elif label:
                inner = found.span("label")
                self.cuts += [(left, inner[0]), (inner[1], at)]
                self.marks.append(Mark(*inner, "[", "]" + found["target"], kept=True))
                self.read(*inner)
            elif found["note"]:
                self.cuts.append((left, at))
                self.marks.append(Mark(left, left, found["note"], "", kept=True))
            else:
                self.sign(left, at, waiting)

    def sign(self, left: int, right: int, waiting: list[tuple[str, int, int]]) -> None:
        """A sign that ends an emphasis which one of those waiting begins, begins one, or neither."""
        sign, before, after = self.text[left:right], self.text[left - 1 : left], self.text[right : right + 1]
        near = range(len(waiting) - 1, max(-1, len(waiting) - 1 - DEEP), -1)
        opened = next((i for i in near if waiting[i][0] == sign), -1)
        if opened >= 0 and not before.isspace() and not after.isalnum():
            _, first, last = waiting[opened]
            del waiting[opened:]
            self.cuts += [(first, last), (left, right)]
            self.marks.append(Mark(last, left, sign, sign))
        elif after and not after.isspace() and not before.isalnum():
            waiting.append((sign, left, right))


def put_back(text: str, marks: Sequence[Mark], said: Sequence[str], length: int) -> str:
    """A sentence's translation with the sentence's marks, that had `length` characters: around all of it; around
    `said`, what is said of a mark's own words, where that stands in it once; else a mark that is kept comes after it,
    with what is said, and another goes."""
    at: list[tuple[int, int, str]] = []  # signs by their place and order there
    placed: list[tuple[int, int]] = []
    after = ""
    for mark, own in sorted(zip(marks, said), key=lambda pair: pair[0].start - pair[0].end):
        words = own.strip().rstrip(".,;:!?…")
        found = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.I)] if words else []
        if mark.end - mark.start == length:
            found = [(0, len(text))]
        crossed = len(found) == 1 and any(a < found[0][0] < b < found[0][1] for a, b in placed)
        crossed |= len(found) == 1 and any(found[0][0] < a < found[0][1] < b for a, b in placed)
        if len(found) == 1 and not crossed:
            (start, end), order = found[0], len(placed)
            placed.append(found[0])
            at += [(start, order, mark.opening), (end, -order, mark.closing)]
        elif mark.kept:
            after += f"{' ' * bool(words)}{mark.opening}{words}{mark.closing}"
    out, last = [], 0
    for place, _, sign in sorted(at):
        out += [text[last:place], sign]
        last = place
    return "".join([*out, text[last:], after])


def turns(cue: str) -> list[tuple[str, str, str]]:
    """What is said in a cue, by speaker where dashes or voices tell them apart: each with what stays as it is before
    and after it. Joined they are the cue."""
    before, inner, after = _unwrapped(cue)
    spoken: list[str] = []
    for line in inner.splitlines(keepends=True):
        if spoken and not _TURN.match(line) and not _speaker(line):
            spoken[-1] += line
        else:
            spoken.append(line)
    found = []
    for turn in spoken or [""]:
        outer, words, last = _unwrapped(turn)
        if dash := _DASH.match(words):
            own, words, end = _unwrapped(words[dash.end() :])
            outer, last = outer + dash.group() + own, end + last
        if speaker := _speaker(words):
            outer, words = outer + speaker, words[len(speaker) :]
        found.append((outer, words, last))
    found[0] = (before + found[0][0], *found[0][1:])
    found[-1] = (*found[-1][:2], found[-1][2] + after)
    return found


def _speaker(line: str) -> str:
    """The name in capitals, colon and space at a line's beginning, after sounds too; or ""."""
    found = _SPEAKER.match(line)
    return found.group() if found and found[1].isupper() else ""


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


def cue(text: str) -> Bare:
    """What is said in a turn: without its tags, with entities and line breaks as what they stand for."""
    words: list[str] = []
    places: list[int] = []
    at = 0
    for found in [*_NOT_WORDS.finditer(text), None]:
        until = found.start() if found else len(text)
        words.append(text[at:until])
        places += range(at, until)
        if found:
            mark = found.group()
            stands = unescape(mark) if mark[0] == "&" else " " * (mark[0] == "\\" or mark.lower().startswith("<br"))
            words.append(stands)
            places += [until] * len(stands)
            at = found.end()
    whole = "".join(words)
    sounds = [_word(whole, *m.span()) for m in _sounds(whole)]
    return Bare(whole, [*places, len(text)], _joined([*_standing(whole), *sounds]))


def said(turn: str) -> str:
    """The words of a turn on one line, without its sounds."""
    words = cue(turn).words
    for sound in reversed([*_sounds(words)]):
        words = f"{words[: sound.start()]} {words[sound.end() :]}"
    return " ".join(words.split())


def _sounds(words: str) -> Iterator[re.Match[str]]:
    return (m for m in _SOUND.finditer(words) if m.group()[0] == "[" or m.group().isupper())


def breaks(text: str, newline: str) -> tuple[int, str]:
    """How many lines a turn has, and what is between them."""
    coded = text.count("\\N")
    return 1 + coded + text.count("\n"), "\\N" if coded else newline


def escaped(text: str, source: str, kind: str) -> str:
    """A text as it stands in subtitles: with entities in .vtt, and where its source has some."""
    return escape(text, quote=False) if kind == ".vtt" or _ENTITY.search(source) else text
