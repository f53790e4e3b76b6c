"""A document → the parts that are prose, and what passes as it stands around them.

    [*pieces("# Heading\n\n- one\n", ".md")]
    # [Piece("# ", "Heading", "\n"), Piece("\n"), Piece("- ", "one", "\n")]

    spoken("1\n00:00:01,000 --> 00:00:02,000\n<i>One\nday.</i>\n", ".srt")     # 'One day.\n'

Blank lines, list marks, headings' marks, code, link definitions, front matter (YAML), tables' bars and rules of
Markdown are no prose, nor are numbers, times and settings of subtitles and the marks around a cue (markup.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UserError
from .markup import said, turns

SUBTITLES = (".srt", ".vtt")
LONG = 64  # lines of a block, after which it ends where a sentence does
_CLOCK = r"(?:(\d{1,3}):)?([0-5]\d):([0-5]\d[.,]\d{3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s+-->\s+{_CLOCK}(?:\s.*)?")
_FORM = "write them as 00:01:02,500 --> 00:01:04,000"
_PREFIX = re.compile(r"[^\S\n]*(?:(?:>|#{1,6}|[-*+•–]|\d{1,3}[.)]|[A-Za-z]\))[^\S\n]+)*(?:\[[ xX]\]\s+)?")
_FENCE = re.compile(r"\s*(?:[-*+]\s+|>\s*|\d{1,3}[.)]\s+)*(`{3,}(?=[^`]*\Z)|~{3,})(.*)")
_SEEN = re.compile(r"[^\r\n]")
_PHRASE = r"(?:a|b|br|cite|code|del|em|i|img|ins|kbd|mark|q|s|small|span|strong|sub|sup|u)\b"  # HTML's, within prose
_MARKUP = re.compile(rf" {{0,3}}(?:</?(?!{_PHRASE})[A-Za-z][^<>]*>|<!--|\$\$)")  # blocks of HTML, and formulas
_FRONT = re.compile(r"\A---[^\S\n]*\n(?:(?:\w[\w -]*:.*|[ \t\r#-].*|)\n)*?(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)")
_RULE = re.compile(r"[\s|:=*_~+-]*")
_ROW = re.compile(r"\s*\|.*\|\s*")
_COLUMNS = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?\s*")  # the line below a table's head
_CELL = re.compile(r"(?:\\\||[^|\s])(?:(?:\\\||[^|\n])*(?:\\\||[^|\s]))?")
_DEFINITION = re.compile(r" {0,3}\[[^\[\]]+\]:[^\S\n]+\S")


@dataclass(frozen=True)
class Piece:
    """Part of a document: what passes as it stands, `before` its prose and `after` it. `prose` may be empty, or a
    table's `cell`, which has one line."""

    before: str
    prose: str = ""
    after: str = ""
    cell: bool = False


def pieces(text: str, kind: str = "") -> Iterator[Piece]:
    """A document in parts; joined they are the document. `kind` is ".srt" or ".vtt" of subtitles, ".md" of Markdown;
    anything else is plain text, whose lines are prose but for list marks. UserError for broken times."""
    return _cues(text, kind) if kind in SUBTITLES else _blocks(text, kind == ".md")


def spoken(text: str, kind: str) -> str:
    """What is said in subtitles, a turn (of a speaker in a cue) a line; UserError for broken times."""
    return "\n".join(filter(None, (said(piece.prose) for piece in _cues(text, kind)))) + "\n"


def without_code(markdown: str) -> str:
    """Markdown with blanks for what is no sentence: front matter, code within fences, rules. Places stay. A fence that
    nothing closes is none; a text that holds nothing else stays."""
    front = _FRONT.match(markdown)
    lines = markdown[front.end() if front else 0 :].splitlines(keepends=True)
    code = _fenced(lines)
    out = [_SEEN.sub(" ", line) if i in code or _RULE.fullmatch(line) else line for i, line in enumerate(lines)]
    text = "".join([_SEEN.sub(" ", front.group()) if front else "", *out])
    return text if text.strip() else markdown


def _fenced(lines: list[str]) -> set[int]:
    """The places of lines that are code within fences, and of the fences. One that nothing closes is none."""
    found: set[int] = set()
    fence, begun = "", 0
    for i, line in enumerate(lines):
        sign = _FENCE.match(line)
        if sign and not fence:
            fence, begun = sign[1], i
        elif sign and sign[1].startswith(fence) and not sign[2].strip():  # as long, of the same kind
            found.update(range(begun, i + 1))
            fence = ""
    return found


def _blocks(text: str, markdown: bool) -> Iterator[Piece]:
    """Plain text and Markdown: a block is the lines from a mark, or a blank line, to the next."""
    held: list[str] = []
    mark = ""
    if front := _FRONT.match(text) if markdown else None:
        yield Piece(front.group())
        text = text[front.end() :]

    def block() -> Iterator[Piece]:
        if held:
            whole = "".join(held)
            prose = whole.rstrip()
            yield Piece(mark, prose, whole[len(prose) :])
            held.clear()

    lines = text.splitlines(keepends=True)
    fenced, rows = (_fenced(lines), _rows(lines)) if markdown else (set(), set())
    for number, line in enumerate(lines):
        found = _PREFIX.match(line)
        prefix = found.group() if found else ""
        code = markdown and (
            (line.startswith(("    ", "\t")) and not held) or _MARKUP.match(line) or _FENCE.match(line)
        )
        if number in fenced or code or _RULE.fullmatch(line) or (markdown and _DEFINITION.match(line)):
            yield from block()
            yield Piece(line)
            continue
        if number in rows or (markdown and _ROW.fullmatch(line)):
            yield from block()
            yield from _cells(line)
            continue
        if prefix.strip() or not held:
            yield from block()
            mark, line = prefix, line[len(prefix) :]
        held.append(line)
        heading = markdown and mark.lstrip().startswith("#")  # which is one line
        if heading or (len(held) >= LONG and line.rstrip().endswith((".", "!", "?"))):
            yield from block()
    yield from block()


def _rows(lines: list[str]) -> set[int]:
    """The places of lines that are a table's though no bar begins or ends them: its head, and those after the line
    below that, while bars part them."""
    found: set[int] = set()
    for i in range(1, len(lines)):
        if i not in found and "|" in lines[i - 1] and _COLUMNS.fullmatch(lines[i]):
            end = next((j for j in range(i + 1, len(lines)) if "|" not in lines[j]), len(lines))
            found.update((i - 1, *range(i + 1, end)))
    return found


def _cells(row: str) -> Iterator[Piece]:
    at = 0
    for cell in _CELL.finditer(row):
        yield Piece(row[at : cell.start()], cell.group(), cell=True)
        at = cell.end()
    yield Piece(row[at:])


def _cues(text: str, kind: str) -> Iterator[Piece]:
    """Subtitles: a cue's lines after its times are prose, up to a blank line, or the next cue's number and times."""
    held: list[str] = []
    passed: list[str] = []
    spoken, cues = False, 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if "-->" in line:
            if not _whole(line):
                raise UserError(f"line {number}: broken times {line.strip()!r}", _FORM)
            if held:  # no blank line between
                count = [held.pop()] if held[-1].strip().isdecimal() else []
                if held:
                    yield from _cue(passed, held)
                passed += count
            spoken, cues = True, cues + 1
            passed.append(line)
        elif not line.strip():
            if held:
                yield from _cue(passed, held)
            spoken = False
            passed.append(line)
        elif spoken:
            held.append(line)
        else:
            passed.append(line)
    if held:
        yield from _cue(passed, held)
    elif passed:
        yield Piece("".join(passed))
    if not cues:
        raise UserError(f"there are no times in subtitles ({kind})", f"{_FORM}; or rename the file to .txt")


def _whole(line: str) -> bool:
    """Whether a cue's times are both there, and its end is not before its start."""
    found = _TIMES.fullmatch(line.rstrip("\r\n"))
    if not found:
        return False
    start, end = (
        [int(hours or 0), int(minutes), float(seconds.replace(",", "."))]
        for hours, minutes, seconds in (found.groups()[:3], found.groups()[3:])
    )
    return start <= end


def _cue(passed: list[str], held: list[str]) -> Iterator[Piece]:
    for before, prose, after in turns("".join(held)):
        yield Piece("".join(passed) + before, prose, after)
        passed.clear()
    held.clear()
