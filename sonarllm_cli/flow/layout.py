"""The lines of a text → paragraphs, and the blocks of each that a sentence never crosses: list items, headings, rows of
a table, code, the fields of a mail's head.

    for offset, lines in paragraphs(text):
        for at, marker, block in paragraph_blocks(offset, lines, apart(lines, fenced=False)[0]): ...
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator

from .marks import CLOSERS, HARD, LOOK_BACK, QUOTES, UNSPACED

_BREAK = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"  # as str.splitlines has it
_LINE = re.compile(f"[^{_BREAK}]*(\r\n|[{_BREAK}]|\\Z)")
_PARAGRAPH_BREAK = "\f\x1c\x1d\x1e\u2029"  # a paragraph's end by itself
_RULE = re.compile(r"\s*(?:={3,}|-{3,}|\*{3,}|_{3,})\s*")  # stands alone, or underlines a heading
_BULLET = re.compile(rf"[^\S{_BREAK}]*(?:[-*+•‣◦⁃▪●○·]|\d{{1,3}}[.)]|[A-Za-z]\))[^\S{_BREAK}]+(?=\S)")


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Whole lines with their ends, however the text was cut into chunks."""
    held: list[str] = []  # a line whose end has not come, or may yet turn from \r into \r\n
    for chunk in chunks:
        for found in _LINE.finditer(chunk):
            piece = found.group()
            if not piece:
                continue
            if held and held[-1].endswith("\r") and piece != "\n":
                yield "".join(held)
                held = []
            held.append(piece)
            if found[1] and not (found[1] == "\r" and found.end() == len(chunk)):
                yield "".join(held)
                held = []
    if held:
        yield "".join(held)


def paragraphs(chunks: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Paragraphs as (offset in the text, lines)."""
    at, start = 0, 0
    lines: list[str] = []
    for line in _lines(chunks):
        if not line.isspace():
            start = start if lines else at
            lines.append(line)
        if lines and (line.isspace() or line[-1] in _PARAGRAPH_BREAK or _RULE.fullmatch(line)):
            yield start, lines
            lines = []
        at += len(line)
    if lines:
        yield start, lines


def paragraph_blocks(at: int, lines: list[str], apart: Container[int]) -> Iterator[tuple[int, int, str]]:
    """What a sentence never crosses within a paragraph, as (offset in the text, length of its bullet, text).

    A list item begins one, and so does a line whose number is in `apart`."""
    held, start, marker = [lines[0]], at, _BULLET.match(lines[0])
    for number, line in enumerate(lines[1:], 1):
        at += len(held[-1])
        bullet = _BULLET.match(line)
        if bullet or number in apart:
            yield start, marker.end() if marker else 0, "".join(held)
            held, start, marker = [], at, bullet
        held.append(line)
    yield start, marker.end() if marker else 0, "".join(held)


# What of a paragraph's lines does not flow from one to the next.
_FENCE = re.compile(r"\s*(?:```|~~~)")
_STANDS = re.compile(r"\s*(?:#{1,6}\s+\S|\|)|[^|]*\s\|\s[^|]*\s\|\s|\s*[^\s\t][^\t]*\t\s*\S")  # heading, row of a table
_COLUMNS = re.compile(r"\s*\S+(?: \S+)* {3,}\S")
_FIELD = re.compile(r"[A-Z][\w-]*(?: [\w-]+)?: ")  # of a mail's head, a form, a dialogue
_CODE = re.compile(
    r"""\s*(?:\$\ |>>>|//|/\*|\#!|@\w+\s*$|</?\w+[^>]*>|[})\]]+[;,]?\s*$|import\ \w+|from\ \S+\ import|
        (?:def|class|func|fn|function)\ \w+.*[:({]\s*$|(?:if|for|while|else|try|elif|except|with)\b.*:\s*$|
        return\b|\w[\w.\[\]]*\s*[-+*/|:]?=\s*\S|[\w.]+\(.*\)[;:]?\s*$)|.*(?:[{\\]|(?:\)|->|::|=).*;)\s*$""",
    re.X,
)
_REPLIED = re.compile(r"\A(?:\s*>)+ ?")  # of a mail: what it answers
_STOPPED = re.compile(rf"[.!?…{HARD}][\s*_`{re.escape(CLOSERS + QUOTES)}]*\Z")
_NARROW = 40  # characters: lines that all end sooner are not filled with text
_STANDING, _FOLDED = "standing", "folded"


def apart(lines: list[str], fenced: bool) -> tuple[Container[int], bool]:
    """Which lines begin anew instead of going on with the one before; and whether ``` is open at the end.

    Headings, rows of a table, code and fields of a mail's head stand alone; of other lines `_anew` tells.
    """
    if len(lines) == 1:
        return (), fenced != bool(_FENCE.match(lines[0]))
    shapes, fenced = _shapes(lines, fenced)
    apart: set[int] = set()
    run, flowing = [0], shapes[0]
    for i, shape in enumerate(shapes[1:], 1):
        if shape == _FOLDED:
            continue
        if shape == flowing != _STANDING and not _BULLET.match(lines[i]):
            run.append(i)
            continue
        apart.update(_anew(lines, run))
        apart.add(i)
        run, flowing = [i], shape
    apart.update(_anew(lines, run))
    return apart, fenced


def _shapes(lines: list[str], fenced: bool) -> tuple[list[str], bool]:
    """Of each line: that it stands alone, that it is folded (goes on in any case), or else its mark of a reply."""
    code = 2 * sum(1 for line in lines if len(line) < LOOK_BACK and _CODE.match(line)) >= len(lines)
    columns = sum(1 for line in lines if _COLUMNS.match(line)) > 1
    fields = [bool(_FIELD.match(line)) for line in lines]
    fields = [here and (before or after) for here, before, after in zip(fields, [False, *fields], [*fields[1:], False])]
    shapes = []
    for i, line in enumerate(lines):
        fence, reply = bool(_FENCE.match(line)), _REPLIED.match(line)
        if i and not fenced and (_RULE.fullmatch(line) or (fields[i - 1] and line[0] in " \t")):
            fields[i] = not _RULE.fullmatch(line)  # what is folded may go on
            shapes.append(_FOLDED)
        elif fenced or fence or code or fields[i] or _STANDS.match(line) or (columns and _COLUMNS.match(line)):
            shapes.append(_STANDING)
        elif reply:
            shapes.append(">" if line[reply.end() :].strip() else _STANDING)
        else:
            shapes.append("")
        fenced = fenced != fence
    return shapes, fenced


def _anew(lines: list[str], run: list[int]) -> Iterator[int]:
    """Which lines of a run of text begin anew. A text was broken where the next word had no room; where that does not
    hold for all lines, one goes on if a lower-case word or a comma says so, or if it is nearly full."""
    if len(run) < 2:
        return
    texts = [_REPLIED.sub("", lines[i], count=1).strip() for i in run]
    widths = [len(lines[i].rstrip()) for i in run]
    stopped = [bool(_STOPPED.search(text[-20:])) for text in texts]
    words = [1 if UNSPACED.match(text) else len(text.split(None, 1)[0]) for text in texts]
    needed = [width + 1 + word for width, word in zip(widths, words[1:])]
    widest, prose = max(widths), any(stopped)
    if min(needed) > widest and (prose or widest >= _NARROW):
        return
    full = 0.75 * (sorted(widths)[-2] if len(run) > 2 else widest)  # one line may be longer than all others
    for k, text in enumerate(texts[1:]):
        if stopped[k] or texts[k][-1] in ",;-–—(":
            continue
        if (text[0].islower() and (prose or len(run) == 2)) or (prose and widest >= _NARROW and needed[k] > full):
            continue
        yield run[k + 1]
