"""Documents in one language → in another, sentence by sentence through a space, their layout kept.

    for part in translate(text, translator(space, "ita_Latn", "eng_Latn"), lang="ita_Latn"): print(part.text, end="")

What is no prose passes as it stands: blank lines, list marks, headings' marks, code and tables' rules of Markdown; of
subtitles (.srt, .vtt) numbers, times and settings, and the marks around a cue (markup.py); addresses, and what has no
letters, or letters of no language of the space. The prose of a block of lines is segmented, embedded and decoded. Of a
recording each utterance is a line, or a cue of subtitles.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import UserError
from ..flow.decode import Search
from ..flow.embed_text import fits
from ..flow.hear import Listened
from ..flow.say import Said, nearest_of, say
from ..flow.segment import segment
from ..flow.utterances import Utterance
from ..io.audio import ENDINGS as SOUND_ENDINGS
from ..io.audio import Recording, is_recording
from ..io.files import display_name, text_ending, uncompressed
from ..io.texts import HTML_ENDINGS, expand, read_texts
from ..languages import foreign_letters
from ..weights.loaded import Space
from .markup import escaped, plain, turns

SENTENCES = 256  # translated at once
SUBTITLES = (".srt", ".vtt")
TAKEN = (".txt", ".text", ".md", ".rst", *SUBTITLES, *SOUND_ENDINGS)  # what is taken of a folder
Translate = Callable[[Sequence[str]], list[Said]]  # sentences on one line each → theirs
_CLOCK = r"(?:(\d{1,3}):)?([0-5]\d):([0-5]\d[.,]\d{3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s+-->\s+{_CLOCK}(?:\s.*)?")
_FORM = "write them as 00:01:02,500 --> 00:01:04,000"
_PREFIX = re.compile(r"[^\S\n]*(?:(?:>|#{1,6}|[-*+•–]|\d{1,3}[.)]|[A-Za-z]\))[^\S\n]+)*(?:\[[ xX]\]\s+)?")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_RULE = re.compile(r"[\s|:=*_~+-]*")
_ADDRESS = re.compile(
    r"[<(\[]?(?:(?:[a-z][a-z\d+.-]*://|www\.)\S+|(?:mailto:)?[\w.+-]+@[\w-]+(?:\.[\w-]+)+[>)\].,;:!?]*)", re.I
)


@dataclass(frozen=True)
class Piece:
    """Part of a document: what passes as it stands, `before` its prose and `after` it. `prose` may be empty."""

    before: str
    prose: str = ""
    after: str = ""


@dataclass(frozen=True)
class Translated:
    """A sentence of a document, whose characters `start` to `end` it is, from the line `line` (from 1) on; and what it
    is in the other language; None of one in foreign letters, which stands as it is. Or an utterance: its words, if they
    were asked for, seconds, and number."""

    source: str
    start: float
    end: float
    line: int
    said: Said | None


@dataclass(frozen=True)
class Part:
    """Part of a document as it is in the other language, layout and all; and the sentences in it."""

    text: str
    sentences: list[Translated]


def translator(
    space: Space,
    lang: str,
    to: str,
    search: Search | None = None,
    batch_size: int | None = None,
    by_clauses: bool = True,
) -> Translate:
    """What translates sentences from one language of a space to another; see `flow.say`."""
    space.tokenizer.lang_id(to)  # UserError for a language that the space has not
    return lambda sentences: say(sentences, lang, to, space, search, batch_size=batch_size, by_clauses=by_clauses)


def check_kept(names: Sequence[str], place: str | Path) -> None:
    """UserError where one of the files would be written over by what is written to `place`."""
    for name in names:
        if name != "-" and os.path.realpath(place) == os.path.realpath(name):
            raise UserError(f"{name} would be written over", "choose another -o")


def files_of_documents(paths: Sequence[str], folder: str, kind: str = "") -> list[tuple[str, Path]]:
    """The files that `paths` mean, each with the place of its translation in `folder`: a file's own name, within a
    folder its path there, without .gz and the like; of a recording `kind`, its ending as subtitles, or .txt comes
    after, of HTML .txt. What is in `folder` itself is not taken of a folder around it. UserError where two would have
    one place, or one would be written over."""
    target = Path(os.path.realpath(folder))
    found: dict[Path, str] = {}
    for path in paths:
        if path == "-":
            raise UserError("standard input has no name to be written under", "translate it by itself, with -o FILE")
        around = os.path.isdir(path) and Path(os.path.realpath(path)) in target.parents
        for name in expand([path], TAKEN):
            if around and target in Path(os.path.realpath(name)).parents:
                continue
            own = os.path.relpath(name, path) if os.path.isdir(path) else os.path.basename(name)
            if is_recording(name):
                own += kind if kind in SUBTITLES else ".txt"
            else:
                own = uncompressed(own) + (".txt" if text_ending(own) in HTML_ENDINGS else "")
            place = Path(folder, own)
            if place in found:
                raise UserError(f"two files are named {own}", "choose another -o, or translate them one by one")
            check_kept([name], place)
            found[place] = name
    if not found:
        raise UserError(f"every text there is lies in {folder}, where translations go", "choose another -o")
    return [(name, place) for place, name in found.items()]


def read_translatable(name: str, kind: str = "") -> tuple[str | Recording, str]:
    """A file's text, and its `kind` (see `pieces`), by its ending unless it is given; or a recording, not read yet, and
    the kind of subtitles that is given. UserError for a text that can't be read, is empty, or has broken times."""
    if is_recording(name):
        return Recording(name), kind if kind in SUBTITLES else ""
    [(_, text)] = read_texts([name])
    kind = kind or ("" if name == "-" else text_ending(name))
    kind = kind if kind in (*SUBTITLES, ".md") else ""
    try:
        for _ in pieces(text, kind):
            pass
    except UserError as error:
        raise UserError(f"{display_name(name)}, {error.message}", error.cure) from None
    return text, kind


def pieces(text: str, kind: str = "") -> Iterator[Piece]:
    """A document in parts; joined they are the document. `kind` is ".srt" or ".vtt" of subtitles, ".md" of Markdown;
    anything else is plain text, whose lines are prose but for list marks. UserError for broken times."""
    return _cues(text, kind) if kind in SUBTITLES else _blocks(text, kind == ".md")


def _blocks(text: str, markdown: bool) -> Iterator[Piece]:
    """Plain text and Markdown: a block is the lines from a mark, or a blank line, to the next."""
    held: list[str] = []
    mark, fenced = "", False

    def block() -> Iterator[Piece]:
        if held:
            whole = "".join(held)
            prose = whole.rstrip()
            yield Piece(mark, prose, whole[len(prose) :])
            held.clear()

    for line in text.splitlines(keepends=True):
        fence = markdown and bool(_FENCE.match(line))
        found = _PREFIX.match(line)
        prefix = found.group() if found else ""
        if fence or fenced or _RULE.fullmatch(line) or (markdown and line.startswith(("    ", "\t")) and not held):
            yield from block()
            yield Piece(line)
            fenced ^= fence
            continue
        if prefix.strip() or not held:
            yield from block()
            mark, line = prefix, line[len(prefix) :]
        held.append(line)
        if markdown and mark.lstrip().startswith("#"):  # a heading is one line
            yield from block()
    yield from block()


def _cues(text: str, kind: str) -> Iterator[Piece]:
    """Subtitles: a cue's lines after its times are prose, up to a blank line."""
    held: list[str] = []
    passed: list[str] = []
    spoken, cues = False, 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if "-->" in line:
            if not _whole(line):
                raise UserError(f"line {number}: broken times {line.strip()!r}", _FORM)
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


def translate(
    text: str,
    run: Translate,
    *,
    lang: str,
    kind: str = "",
    space: Space | None = None,
    bilingual: bool = False,
    most: int = SENTENCES,
) -> Iterator[Part]:
    """The document's parts, translated, in order: joined their texts are it. With `bilingual` each block, or cue, is
    followed by its translation on a line of its own. Sentences over the limit of `space` are cut first, and those in
    letters that none of its languages has stand as they are."""
    parts = pieces(text, kind)
    fit = fits(space) if space else None
    langs = space.tokenizer.langs if space else []
    newline = "\r\n" if "\r\n" in text else "\n"
    offset, line = 0, 1  # of the piece
    while group := list(islice(parts, most)):
        words = [plain(p.prose) if kind in SUBTITLES else (p.prose, range(len(p.prose) + 1)) for p in group]
        sentences = [[] if _wordless(prose) else segment(prose, lang=lang, fits=fit) for prose, _ in words]
        foreign = {s.flat for own in sentences for s in own if langs and foreign_letters(s.flat, langs)}
        flat = [s.flat for own in sentences for s in own if not (_wordless(s.flat) or s.flat in foreign)]
        found = iter(run(flat) if flat else [])
        for piece, (_, places), own in zip(group, words, sentences):
            at = offset + len(piece.before)
            above = line + piece.before.count("\n")
            out = [
                Translated(
                    s.flat,
                    at + places[s.start],
                    at + places[s.end],
                    above + piece.prose.count("\n", 0, places[s.start]),
                    None if _wordless(s.flat) or s.flat in foreign else next(found),
                )
                for s in own
            ]
            said = piece.prose
            if any(t.said for t in out):
                said = " ".join(t.said.text if t.said else t.source for t in out)
                if kind in SUBTITLES:
                    said = escaped(_wrapped(said, piece.prose.count("\n") + 1, newline), piece.prose, kind)
                if bilingual:
                    said = f"{piece.prose}{newline}{said}"
            yield Part(piece.before + said + piece.after, [t for t in out if t.said or t.source in foreign])
            whole = piece.before + piece.prose + piece.after
            offset, line = offset + len(whole), line + whole.count("\n")


def _wordless(text: str) -> bool:
    """Whether a text has no words, but numbers, marks and addresses."""
    return not any(any(map(str.isalpha, word)) and not _ADDRESS.fullmatch(word) for word in text.split())


def translate_speech(
    heard: Listened, to: str, *, kind: str = "", search: Search | None = None, bilingual: bool = False
) -> Iterator[Part]:
    """What is said in a recording, in the language `to`, an utterance a line, or with `kind` ".srt" or ".vtt" a cue of
    subtitles. With `bilingual` the words in the language spoken stand on a line before each."""
    if kind == ".vtt":
        yield Part("WEBVTT\n\n", [])
    for first in range(0, len(heard.times), SENTENCES):
        rows = range(first, min(first + SENTENCES, len(heard.times)))
        own = heard.words(rows, search=search) if bilingual else [""] * len(rows)
        said = nearest_of(heard.text_SD[list(rows)], to, heard.space, search or Search())
        for row, source, one in zip(rows, own, said):
            time = heard.times[row]
            text = f"{source}\n{one.text}\n" if bilingual else f"{one.text}\n"
            sentence = Translated(source, time.start, time.end, row + 1, one)
            yield Part(f"{_cue_head(row + 1, time, kind)}{text}\n" if kind else text, [sentence])


def _cue_head(number: int, time: Utterance, kind: str) -> str:
    stop = "," if kind == ".srt" else "."
    start, end = (
        f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{stop}{ms % 1000:03}"
        for ms in (round(1000 * seconds) for seconds in time)
    )
    return f"{number}\n{start} --> {end}\n"


def _wrapped(text: str, lines: int, newline: str) -> str:
    """A text on so many lines of like length, or fewer."""
    words = text.split(" ")
    out = [""]
    for word in words:
        if len(out) < lines and len(out[-1]) + len(word) / 2 > len(text) / lines:
            out.append("")
        out[-1] = f"{out[-1]} {word}".strip()
    return newline.join(out)
