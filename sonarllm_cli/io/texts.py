"""Texts of files, folders and standard input, whole, each with its name.

In: paths as a user gives them: plain UTF-8 text, HTML or subtitles, compressed or not, folders of them, "-".
Out: (name, text); of HTML its text, a block a paragraph; of subtitles what is said, a turn a line.

    python -c "from sonarllm_cli.io.texts import read_texts; print([(n, len(t)) for n, t in read_texts(['README.md'])])"
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from html import unescape
from pathlib import Path
from typing import TypeVar

from ..errors import UserError
from .audio import ENDINGS as SOUND_ENDINGS
from .audio import Recording, is_recording
from .files import decode_text, display_name, open_bytes, read_errors, text_ending
from .pieces import SUBTITLES, spoken, without_code

HTML_ENDINGS = (".html", ".htm", ".xhtml")
# Taken of a folder, compressed or not.
TEXT_ENDINGS = (".txt", ".text", ".md", ".rst", *HTML_ENDINGS, *SUBTITLES)
INPUT_ENDINGS = (*TEXT_ENDINGS, *SOUND_ENDINGS)


def read_texts(
    paths: Sequence[str], tell: Callable[[UserError], None] | None = None, *, marked: bool = False
) -> Iterator[tuple[str, str]]:
    """(name, text) of each file of `expand(paths)`, read as it is asked for; standard input is named "-". With `tell`
    what can't be read is told and the others are read. With `marked` subtitles and Markdown come as they
    stand, times, code and all.

    Blank files within folders are passed over. Raises UserError at once for paths that are not there, and on the way
    for what cannot be read as text: other encodings, PDF and other documents, records, subtitles with broken
    times, and a file named that is blank.
    """
    names = expand(paths)
    return _read(names, {"-", *paths}, tell, partial(_text, marked=marked))


def read_inputs(
    paths: Sequence[str],
    tell: Callable[[UserError], None] | None = None,
    endings: Collection[str] = INPUT_ENDINGS,
) -> Iterator[tuple[str, str | Recording]]:
    """`read_texts`, with recordings among the texts, which are not read yet; `endings` are those taken of a folder."""
    return _read(expand(paths, endings), {"-", *paths}, tell, _text_or_recording)


def _text_or_recording(path: str) -> str | Recording:
    return Recording(path) if is_recording(path) else _text(path)


def expand(paths: Sequence[str], endings: Collection[str] = TEXT_ENDINGS) -> list[str]:
    """The files that `paths` mean: of a folder those under it that end so, sorted, hidden ones left out.

    No path at all means standard input, "-". Raises UserError if a path is not there, a folder has no such file, or
    "-" is given twice.
    """
    if list(paths).count("-") > 1:
        raise UserError("standard input can be read only once", "give - once")
    return [name for path in paths or ["-"] for name in _expand(path, endings)]


def _expand(path: str, endings: Collection[str]) -> list[str]:
    if path == "-":
        return [path]
    if not os.path.isdir(path):
        if "\0" in path or not os.path.exists(path):
            raise UserError(f"no such file: {path!r}" if "\0" in path else f"no such file: {path}", "check the path")
        return [path]
    root = Path(path)
    with read_errors(path):
        found = sorted(
            file
            for file in root.rglob("*")
            if text_ending(file) in endings
            and not any(part.startswith(".") for part in file.relative_to(root).parts)
            and file.is_file()
        )
    if not found:
        raise UserError(f"{path} holds no file ending in {', '.join(endings)}", "name the files, or another folder")
    return [str(file) for file in found]


T = TypeVar("T", bound="str | Recording")


def _read(
    names: Sequence[str], named: Collection[str], tell: Callable[[UserError], None] | None, read: Callable[[str], T]
) -> Iterator[tuple[str, T]]:
    found = failed = False
    for name in names:
        try:
            item = read(name)
            blank = isinstance(item, str) and not item.strip()
            if name in named and blank:
                raise UserError(f"{display_name(name)} is empty", "give it some text")
        except UserError as error:
            if tell is None:
                raise
            failed = True
            tell(error)
            continue
        if not blank:
            found = True
            yield name, item
    if failed and not found:
        raise UserError("no file could be read", "they are named above")
    if not found:
        raise UserError("every file is empty", "give some text")


def _text(path: str, marked: bool = False) -> str:
    with read_errors(path), open_bytes(path) as stream:
        data = stream.read()
    for magic, kind, tool in _DOCUMENTS:
        if data.startswith(magic):
            file = "FILE" if path == "-" else shlex.quote(path)
            raise UserError(f"{display_name(path)} is {kind}, not text", tool.format(file=file))
    text = decode_text(data, path)
    if text_ending(path) in _RECORDS and text.strip():
        cure = f"take its texts out first: jq -r .text {shlex.quote(path)}"
        raise UserError(f"{display_name(path)} holds records (JSON Lines), not text", cure)
    kind = text_ending(path)
    if kind in SUBTITLES and text.strip() and not marked:
        try:
            return spoken(text, kind)
        except UserError as error:
            raise UserError(f"{path}, {error.message}", error.cure) from None
    if kind in HTML_ENDINGS or _IS_HTML.match(text):
        return html_text(text)
    return without_code(text) if kind == ".md" and not marked else text


_RECORDS = (".jsonl", ".ndjson")
_DOCUMENTS = (  # first bytes, what they are, what makes text of it
    (b"%PDF-", "a PDF", "make text of it first: pdftotext {file} - (of poppler-utils)"),
    (b"PK\x03\x04", "a zip archive (.docx, .odt, .epub …)", "make text of it first: pandoc -t plain {file}"),
    (
        b"[Script Info]",
        "Advanced SubStation Alpha",
        "make it .srt first: ffmpeg -i {file} out.srt",
    ),
    (b"{\\rtf", "RTF", "make text of it first: pandoc -f rtf -t plain {file}"),
)

# ---- HTML ----

_IS_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S)
# Phrasing, which does not break the text; every other tag does.
_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|img|ins|kbd|label|mark|meter|nobr|output|q|rp|rt|"
    "ruby|s|samp|small|span|strike|strong|sub|sup|time|tt|u|var|wbr"
)
_UNSEEN = ("iframe", "math", "noscript", "object", "script", "style", "svg", "template", "title")
_CELLS = ("td", "th")


def html_text(source: str) -> str:
    """What a reader sees of an HTML page: a block a paragraph, a table's row a paragraph with tabs between cells.

    >>> html_text("<title>No</title><h1>A &amp; B</h1><p>One\\n <b>two</b>.<br>Three.<ul><li>Four")
    'A & B\\n\\nOne two.\\nThree.\\n\\nFour\\n'
    """
    page = _Page()
    at = 0
    while (found := source.find("<", at)) >= 0:
        page.add_text(source[at:found])
        at = _markup(source, found, page)
    page.add_text(source[at:])
    return page.text()


_NAME = re.compile(r"</?([a-zA-Z][^\s/>]*)")
_ENDS = re.compile(r">|=\s*([\"'])")  # of a tag; a > within a quoted value is none
_SIMPLE_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_RAW = ("script", "style")  # what they hold is no markup


def _markup(source: str, at: int, page: _Page) -> int:
    """Take the tag, comment or declaration at a "<"; → where the text goes on. The standard library's parser takes the
    square of a hostile page's length, looking for the end of each of many that nothing closes: here what isn't there is
    looked for once."""
    if source.startswith("<!--", at):
        return page.after(source, "-->", at + 4) or at + 4
    if source[at + 1 : at + 2] in ("!", "?"):
        return page.after(source, ">", at) or page.rest(source, at)
    name = _NAME.match(source, at)
    if not name:
        page.add_text("<")
        return at + 1
    found = _ENDS.search(source, name.end())
    while found and found[1]:
        found = _ENDS.search(source, page.after(source, found[1], found.end()) or found.end())
    if not found:
        return page.rest(source, at)
    tag, end = name[1].lower(), found.end()
    if source[at + 1] == "/":
        page.close_tag(tag)
    elif source[end - 2] == "/":
        page.whole_tag(tag)
    else:
        page.open_tag(tag)
        if tag in _RAW:
            closing = re.compile(f"</{tag}\\b", re.I).search(source, end)
            return closing.start() if closing else len(source)
    return end


class _Page:
    """Gathers the pieces of a page's text: white space is single, but within `pre`."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.unseen = ""  # the tag that hides what it holds
        self.depth = 0  # of that tag within itself
        self.pre = 0
        self.last = ""  # character
        self.absent: set[str] = set()  # what the page has no more of

    def after(self, source: str, mark: str, at: int) -> int:
        """Where the next `mark` ends, 0 if there is none."""
        found = -1 if mark in self.absent else source.find(mark, at)
        if found < 0:
            self.absent.add(mark)
        return found + len(mark) if found >= 0 else 0

    def rest(self, source: str, at: int) -> int:
        """The text from a tag on that nothing closes."""
        self.add_text(_SIMPLE_TAG.sub(" ", source[at:]))
        return len(source)

    def open_tag(self, tag: str) -> None:
        if self.unseen:
            self.depth += tag == self.unseen
        elif tag in _UNSEEN:
            self.unseen, self.depth = tag, 1
        elif tag == "br":
            self._add("\n")
        elif tag in _CELLS:
            if self.last not in ("", "\n"):
                self.pieces[-1] = self.pieces[-1].rstrip(" ")
                self._add("\t")
        elif not _INLINE.fullmatch(tag):
            self.pre += tag == "pre"
            self._add("\n\n")

    def close_tag(self, tag: str) -> None:
        if self.unseen:
            self.depth -= tag == self.unseen
            self.unseen = self.unseen if self.depth else ""
        elif not _INLINE.fullmatch(tag) and tag not in _CELLS:
            self.pre -= tag == "pre" and self.pre > 0
            self._add("\n\n")

    def whole_tag(self, tag: str) -> None:
        if tag not in _UNSEEN:
            self.open_tag(tag)

    def add_text(self, data: str) -> None:
        if self.unseen:
            return
        data = unescape(_TOO_LARGE.sub("\ufffd", data))
        if not self.pre:
            data = _SPACE.sub(" ", data)
            data = data.lstrip(" ") if self.last in ("", " ", "\t", "\n") else data
        self._add(data)

    def _add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.last = piece[-1:] or self.last

    def text(self) -> str:
        lines = "\n".join(line.rstrip() for line in "".join(self.pieces).split("\n"))
        return re.sub("\n{3,}", "\n\n", lines).strip("\n") + "\n"


_SPACE = re.compile(r"[ \t\n\r\f]+")
_TOO_LARGE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")  # for a character, and for int()
