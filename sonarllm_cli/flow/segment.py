"""Text → sentences, each with its place in the text. The first arrow of the chain.

    from sonarllm_cli.flow.segment import segment
    [s.flat for s in segment("Dr. Smith left.\\nHe was tired.")]      # ['Dr. Smith left.', 'He was tired.']

Lines are gathered into paragraphs (which a blank line ends), paragraphs into blocks (which a list item begins), blocks
are split into sentences, and a sentence too long for the model is cut. Nothing but white space is ever lost.

Sentences end where Punkt (Kiss & Strunk 2006) says, in the languages that have a trained model; elsewhere by rule: at
a mark that is never anything else (。 । ۔ ؟ …), with or without a space after it, and at `. ! ?` before white space
unless a lower-case letter follows or the word is an initial or a listed abbreviation. Thai and Lao, which have no such
marks, come out as one sentence a paragraph.
"""

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any, NamedTuple

from ..errors import UserError
from ..languages import NAMES, resolve
from .abbreviations import ABBREVIATIONS, OPEN_LISTS, ORDINALS, TITLES


class Sentence(NamedTuple):
    text: str  # the exact slice of the source
    start: int  # characters from the beginning of the source
    end: int
    paragraph: int  # counted from 0; blank ones do not count

    @property
    def flat(self) -> str:
        """The sentence on one line, as it is embedded: every run of white space is a single space."""
        return _flat(self.text)


NEWLINES = ("auto", "join", "keep")
Fits = Callable[[str], bool]  # is a sentence, on one line, short enough?
Boundaries = Callable[[str, int], Iterator[int]]  # a block on one line, where it begins → where sentences end, in order
Ends = Callable[[str, str, str, str, int], bool]  # mark, words before and after it, line, where the first begins → end?


def segment(
    text: str,
    *,
    lang: str = "eng_Latn",
    max_chars: int | None = None,
    fits: Fits | None = None,
    newline: str = "auto",
    abbreviations: Iterable[str] = (),
) -> list[Sentence]:
    """The sentences of `text`. One longer than `max_chars`, or whose flat text `fits` denies, is cut into pieces.

    `newline`: whether a line's end is a space ("join"), ends a sentence ("keep"), or what the text shows ("auto").
    `abbreviations`, with or without their last full stop, are added to those of the language.
    """
    return list(
        segment_stream([text], lang=lang, max_chars=max_chars, fits=fits, newline=newline, abbreviations=abbreviations)
    )


def segment_stream(
    lines: Iterable[str],
    *,
    lang: str = "eng_Latn",
    max_chars: int | None = None,
    fits: Fits | None = None,
    newline: str = "auto",
    abbreviations: Iterable[str] = (),
) -> Iterator[Sentence]:
    """`segment("".join(lines))`, holding one paragraph at a time. `lines` may be cut anywhere."""
    if newline not in NEWLINES:
        raise UserError(f"newline {newline!r} is not known", f"use one of {', '.join(NEWLINES)}")
    if max_chars is not None and max_chars < 1:
        raise UserError(f"a sentence of at most {max_chars} characters holds nothing", "give max_chars of 1 or more")
    own = frozenset(word.strip().removesuffix(".").lower() for word in abbreviations) - {""}
    boundaries = _boundaries(resolve(lang), os.environ.get("NLTK_DATA", ""), own)

    def small(piece: str) -> bool:
        return (max_chars is None or len(piece) <= max_chars) and (fits is None or fits(piece))

    def sentences() -> Iterator[Sentence]:
        fenced = False  # within ``` of a paragraph before
        for paragraph, (offset, whole) in enumerate(_paragraphs(lines)):
            apart, fenced = (
                _apart(whole, fenced) if newline == "auto" else (range(len(whole) * (newline == "keep")), False)
            )
            for at, marker, block in _blocks(offset, whole, apart):
                for span in _sentences(block, marker, boundaries):
                    for start, end in _cut(block, *span, small):
                        yield Sentence(block[start:end], at + start, at + end, paragraph)

    return sentences()


def _flat(text: str) -> str:
    return " ".join(text.split())


# ---- characters ----

_HARD = "。｡．！？‼⁇⁈⁉।॥۔؟։።፧፨။།༎។៕᱾᱿꯫"  # full stops of many scripts: need no space after them
_CLAUSE = "，、；：،؛፣፤፥၊"
_CLOSERS = ")]}”’›）］｝」』】〕〉》\ufe0e\ufe0f\u20e3"
_QUOTES = "\"'“‘«»"  # open as well as close, by language
_OPENERS = "([{„‚‹¿¡（［｛「『【〔〈《"
_UNSPACED = re.compile("[\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")


_LOOK_BACK = 1000  # characters: a pattern that may look at each twice sees no more of a line


# ---- lines, paragraphs, blocks ----

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


def _paragraphs(chunks: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
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


def _blocks(at: int, lines: list[str], apart: Container[int]) -> Iterator[tuple[int, int, str]]:
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
_STOPPED = re.compile(rf"[.!?…{_HARD}][\s*_`{re.escape(_CLOSERS + _QUOTES)}]*\Z")
_NARROW = 40  # characters: lines that all end sooner are not filled with text
_STANDING, _FOLDED = "standing", "folded"


def _apart(lines: list[str], fenced: bool) -> tuple[Container[int], bool]:
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
    code = 2 * sum(1 for line in lines if len(line) < _LOOK_BACK and _CODE.match(line)) >= len(lines)
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
    words = [1 if _UNSPACED.match(text) else len(text.split(None, 1)[0]) for text in texts]
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


# ---- sentences ----

_HARD_MARK = re.compile(f"[{_HARD}]")
_MARK = rf"(?:\.(?: \.){{2,}}|[.!?…{_HARD}]+)"  # a spaced ellipsis is one mark
_MARKS = re.compile(_MARK)
_MARKS_GREEK = re.compile(_MARK.replace("!?", "!?;\u037e"))  # a Greek question ends in ; or its twin
_NEXT = re.compile(rf"(\s*)([\s–—{re.escape(_OPENERS + _QUOTES)}-]*)(\S{{0,40}})")
_WORD = re.compile(r"\w+(?:[.,-]\w+)*")
_ONLY_MARKS = re.compile(rf"[\s.!?…=*_~{re.escape(_HARD + _CLOSERS + _QUOTES)}-]*")
# What closes a sentence behind its mark, beside quotes: brackets, mark-up (**Bold.** <b>Bold.</b>), notes (.[3] .³).
_CLOSING = re.compile(
    rf"[{re.escape(_CLOSERS)}⁰¹²³⁴-⁹]+|</\w{{1,10}}>|"
    rf"\[[^][]{{1,40}}\](?!\w)|[*_~`]+(?=[\s{re.escape(_CLOSERS + _QUOTES)}]|\Z)"
)
_CLOSING_APART = re.compile(r" [)\]}”]+(?=\s|\Z)")
_ELIDED = re.compile(r"^\w{1,2}['’](?=\w\w)")  # l'ing.
_NUMBER = re.compile(r"[-.,]?\d[\d,.-]*")
_ROMAN = re.compile("[IVX]+")
_INITIAL = re.compile(r"[^\W\d_]\.")
_SHORT = re.compile(r"[^\W\d_]{1,3}\.")
_ELLIPSES = ("…", "..", "...", ". . .")
_INITIALS = re.compile(r"[^\W\d_](?:[.-]+[^\W\d_])+")  # J.R.R, M.I.T, J.-C
_BEFORE = _OPENERS + _QUOTES + "*_~`: "
_LONGEST = 7  # letters of an abbreviation that no list has


def _sentences(block: str, marker: int, boundaries: Boundaries) -> Iterator[tuple[int, int]]:
    """The sentences of a block as spans. Its bullet stays with the first; lone marks stay with what they follow."""
    line = re.sub(r"[^\S ]", " ", block)  # one for one: offsets stay
    held, start = None, 0
    for end in chain(boundaries(line, marker), [len(block)]):
        span = _trim(block, start, end)
        start = max(start, end)
        if span[0] >= span[1]:
            continue
        if held and _ONLY_MARKS.fullmatch(block, *span):
            held = held[0], span[1]
            continue
        if held:
            yield held
        held = span
    if held:
        yield held


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


# What the Punkt package calls the languages that it has models or abbreviations for, where that is not their name.
_PUNKT = {"lvs_Latn": "latvian", "nno_Latn": "norwegian", "nob_Latn": "norwegian", "slv_Latn": "slovene"}


@lru_cache(maxsize=32)
def _boundaries(lang: str, nltk_data: str, own: frozenset[str]) -> Boundaries:
    """The splitter of a language, its parameters loaded once. `nltk_data`: the user's own punkt_tab goes first.
    `own` are the user's own abbreviations."""
    import punkt  # not NLTK's own engine, whose matching stops with an error after 5 s on a long or odd paragraph

    name = _PUNKT.get(lang, NAMES[lang].casefold())
    parameters = _own_parameters(name, nltk_data)
    titles = set() if parameters else _words(TITLES.get(lang, ""))
    trained = bool(parameters) or name in punkt.available_languages()
    if not parameters:
        learned = punkt.load_model(name) if trained else punkt.PunktParameters()
        # Punkt learned from newspapers: it lacks e.g., Fig. 1, z. B. The package's lists mend that, but their single
        # letters hide ends ("à 17 h. Il part"), and Punkt knows initials anyway.
        parameters = punkt.with_nonbreaking_prefixes(learned, name) if punkt.has_prefixes(name) else learned
        words = learned.abbrev_types | {word for word in parameters.abbrev_types if len(word) > 1}
        parameters = replace(parameters, abbrev_types=words | titles | _words(ABBREVIATIONS.get(lang, "")))
    parameters = replace(parameters, abbrev_types=parameters.abbrev_types | own)
    if trained:
        ends = _trained(parameters, titles, lang in ORDINALS)
        return partial(_cuts, ends=ends, marks=_MARKS_GREEK if lang == "ell_Grek" else _MARKS)
    words = parameters.abbrev_types | _words(TITLES[""])
    return partial(_cuts, ends=partial(_ends_by_rule, words=words, numeric=parameters.numeric_abbrev_types))


def _words(listed: str) -> set[str]:
    return set(listed.split())


def _own_parameters(name: str, nltk_data: str) -> Any:
    """The parameters in $NLTK_DATA/tokenizers/punkt_tab/<name> (plain text, no pickle), or None if not there."""
    roots = [root for root in nltk_data.split(os.pathsep) if root]
    if not (roots and name.isascii() and name.isalpha()):
        return None
    from nltk.data import find
    from nltk.tokenize.punkt import load_punkt_params
    from punkt import PunktParameters

    try:
        place = find(f"tokenizers/punkt_tab/{name}/", paths=roots)
    except LookupError:
        return None
    try:
        own = load_punkt_params(place)
    except (LookupError, OSError, ValueError) as broken:
        cure = "reinstall punkt_tab there, or unset NLTK_DATA to use the models that come with this program"
        raise UserError(f"cannot read the Punkt model in {place}: {broken}", cure) from broken
    return PunktParameters(own.abbrev_types, own.collocations, own.sent_starters, set(), dict(own.ortho_context))


def _cuts(line: str, begin: int, ends: Ends, marks: re.Pattern[str] = _MARKS) -> Iterator[int]:
    """Where sentences of `line` end from `begin` on: behind a mark, and what closes there, that `ends` one."""
    start = begin
    for found in marks.finditer(line, begin):
        mark, at = found.group(), found.start()
        end = found.end()
        hard = _HARD_MARK.search(mark)
        if not hard and end < len(line) and line[end].isalnum() and not _UNSPACED.match(line, end):
            continue  # 3.14, example.org
        back = max(start, at - _LOOK_BACK)
        closed = end
        end = _close(line, back, end)
        gap, between, after = _NEXT.match(line, end).groups()  # type: ignore[union-attr]  # matches anything
        if mark in _ELLIPSES and at - start < 8 and not line[start:at].strip(_BEFORE):
            continue  # it begins a sentence
        if not gap and (after or between):  # something touches the mark
            first = (between + after)[0]
            opens = first in _OPENERS + _QUOTES or line[end - 1] in ")]}"  # “One.”“Two.”
            opens = opens and (after[:1].isupper() or after[:1].isdigit())
            if not (hard or opens or (mark[-1] in "!?" and _UNSPACED.match(first))):
                continue
            if line[end - 1] in "」』" and first in "とっ":  # 「…！」と言った: a quotation within
                continue
            if mark[-1] == "．" and first.isdigit():
                continue
        if after and after[0] in _CLAUSE + ",;:":
            continue
        if not hard and after:
            if after[0].islower() and (end > closed or "—" in between or "–" in between):
                continue  # “Stop!” he said. (Really?) and. ¡Fuera! —gritó.
            word = line[max(back, line.rfind(" ", back, at) + 1) : at].lstrip(_BEFORE)
            asks = after[0].isupper() and ("¿" in between or "¡" in between)
            if not asks and not ends(mark, word, after, line, at - len(word)):
                continue
        yield end
        start = end


def _close(line: str, start: int, end: int) -> int:
    """Where the sentence that has its mark before `end` is closed: behind quotes, brackets, mark-up and notes."""
    while end < len(line):
        if found := _CLOSING.match(line, end):
            end = found.end()
        elif _closes(line, start, end):
            end += 1
        elif found := _CLOSING_APART.match(line, end):
            end = found.end()
        elif line[end] == " " and line[end + 1 : end + 2] in ("»", "›") and _open(line, start, end):  # « Oui. »
            end += 2
        else:
            break
    return end


def _closes(line: str, start: int, at: int) -> bool:
    """Whether line[at] is a quotation mark that closes: white space follows, or the sentence has one open."""
    mark, after = line[at], line[at + 1 : at + 2]
    if mark not in _QUOTES or (mark in "“‘«" and after.isalnum()):  # “One.”“Two.”
        return False
    return after in ("", " ") or line.count(mark, start, at) % 2 == 1


def _open(line: str, start: int, at: int) -> bool:
    """Whether a guillemet that opens ("« ") has not been closed."""
    return line.count("«", start, at) + line.count("‹", start, at) > line.count("»", start, at) + line.count(
        "›", start, at
    )


def _ends_by_rule(
    mark: str, word: str, after: str, line: str, at: int, words: Container[str], numeric: Container[str]
) -> bool:
    """Without a model: no end before a lower-case letter, nor at an initial (J., т. е.) or an abbreviation. `words` are
    abbreviations, `numeric` those that are one only before a number. Syllables are none."""
    if after[0].islower():
        return False
    if mark != ".":
        return True
    word = word.casefold()
    if all(len(part) == 1 and (part.islower() or "\u0590" <= part < "\u0900") for part in word.split(".")):
        return word.isalpha() and after[0].isupper() and _follows_number(line, at)  # a unit: 1990 р.
    return not (word in words or (word in numeric and after[0].isdigit()))


def _follows_number(line: str, at: int) -> bool:
    """Whether the word at `at` stands behind a number, as a unit does: 17 h., 1990 г."""
    return at >= 2 and line[at - 1] == " " and line[at - 2].isdigit()


def _trained(parameters: Any, titles: Container[str], ordinals: bool) -> Ends:
    """Punkt's decision (Kiss & Strunk 2006, §4) for a mark between two words, and beside it: a lower-case word or a
    number after a full stop speaks against an end, unless the word before it is known to be no abbreviation."""
    from punkt import OrthoContext
    from punkt.rules.tokens import NUMBER_TYPE

    seen, collocations, starters = parameters.ortho_context, parameters.collocations, parameters.sent_starters
    abbreviations, numeric = parameters.abbrev_types, parameters.numeric_abbrev_types
    LC, UC, MID_UC = int(OrthoContext.LC), int(OrthoContext.UC), int(OrthoContext.MID_UC)
    learned = len(seen) > 1

    def ends(mark: str, word: str, after: str, line: str, at: int) -> bool:
        if mark[-1] not in ".…" or ("?" in mark or "!" in mark):
            return mark[-1] not in ".…" or not after[0].islower()
        found = _WORD.match(after)
        following = found.group() if found else after[0]
        lower, upper, digit = following[0].islower(), following[0].isupper(), following[0].isdigit()
        next_type = NUMBER_TYPE if digit else following.lower()
        context = seen.get(next_type, 0)
        starts = (
            upper and not _INITIAL.match(after) and ((context & LC and not context & MID_UC) or next_type in starters)
        )
        if mark != ".":  # an ellipsis
            return bool(starts) and (mark != "…" or line[at - 1] != " ")  # I … I love you
        kind = _ELIDED.sub("", word.lower())
        number = _NUMBER.fullmatch(kind)
        if kind in titles and upper and not (next_type in starters and context & LC):
            return False
        if (NUMBER_TYPE if number else kind, next_type) in collocations or (digit and kind in numeric):
            return False
        if len(kind) == 1 and kind.isalpha():
            if word.islower() and upper and _follows_number(line, at) and not _SHORT.match(after):  # 17 h., 1990 г.
                return True
            if kind in abbreviations or _INITIAL.match(after):  # z. B., J. R. R.
                return False
            return word.isupper() if digit else not lower and (starts or not upper or bool(context & LC))
        if kind in abbreviations or kind.rsplit("-", 1)[-1] in abbreviations or _INITIALS.fullmatch(kind):
            return bool(starts) or (upper and not learned and _follows_number(line, at))
        if ordinals and ((number and len(kind) <= 2) or _ROMAN.fullmatch(word)):
            return bool(starts) or not (upper or lower or digit)
        if number:
            return not lower
        if lower or digit:
            return len(kind) > _LONGEST or known(kind, word)
        return True

    def known(kind: str, word: str) -> bool:
        if not learned:
            return len(kind) > 3 and "." not in kind
        if kind in OPEN_LISTS:
            return False
        return bool(seen.get(kind, 0) & (LC if word.islower() else LC | UC)) or not (kind.isalpha() or "." in kind)

    return ends


# ---- sentences that are too long ----

_CLOSER = f"[{re.escape(_CLOSERS)}]"
_CUTS = (  # from the best place to the worst, before "inside a word"; the first kind needs no white space after it
    re.compile(
        rf"[—…{_CLAUSE}]+{_CLOSER}*|(?:[,;:–]|(?<!-)--+|(?<=\s)-){_CLOSER}*(?=\s)|(?<!{_CLOSER}){_CLOSER}+(?=\s)"
    ),
    re.compile(r"(?<=\S)(?=\s)"),
)
_WHOLE = 20_000  # characters: of a longer sentence nobody is asked about the whole at once
_SLACK = 64  # characters: a token cut in two may count for more than the whole one


def _cut(text: str, start: int, end: int, small: Fits) -> Iterator[tuple[int, int]]:
    """The span in pieces that are `small`, each as long as can be; a single grapheme is never cut, small or not.

    `small` should hold for less of a text where it holds for more; it is asked O(log length) times a piece.
    """
    if end - start <= _WHOLE and small(_flat(text[start:end])):
        yield start, end
        return
    places = [array("I", (found.end() for found in cuts.finditer(text, start, end))) for cuts in _CUTS]
    guess = 1
    while start < end:
        reach = _reach(text, start, end, guess, small)
        stop = end
        if reach < end:
            small_ends = (at for at in _candidates(text, start, reach, places) if small(_flat(text[start:at])))
            graphemes = (at for at in range(start + 1, end) if not _inside_grapheme(text, start, at))
            stop = next(small_ends, 0) or next(graphemes, end)
        yield _trim(text, start, stop)
        guess = max(1, reach - start)
        start, _ = _trim(text, stop, end)


def _reach(text: str, start: int, end: int, guess: int, small: Fits) -> int:
    """The last place up to which `text` from `start` is small: by growing steps from `guess`, then by halving."""
    low, high, step = start, min(start + guess, end), 16
    grows = small(_flat(text[start:high]))
    if grows and high == end:
        return end
    while grows:
        low, high, step = high, min(high + step, end), 2 * step
        grows = small(_flat(text[start:high]))
        if grows and high == end:
            return end
    while low == start and high - step > start:
        if small(_flat(text[start : high - step])):
            low = high - step
        else:
            high, step = high - step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if small(_flat(text[start:middle])) else (low, middle)
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
