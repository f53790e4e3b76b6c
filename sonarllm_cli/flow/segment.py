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
from typing import Any, NamedTuple

from ..errors import UserError
from ..languages import NAMES, resolve


class Sentence(NamedTuple):
    text: str  # the exact slice of the source
    start: int  # characters from the beginning of the source
    end: int
    paragraph: int  # counted from 0; blank ones do not count

    @property
    def flat(self) -> str:
        """The sentence on one line, as it is embedded: every run of white space is a single space."""
        return _flat(self.text)


Fits = Callable[[str], bool]  # is a sentence, on one line, short enough?
Boundaries = Callable[[str], list[int]]  # a block on one line → where sentences end, in order


def segment(
    text: str, *, lang: str = "eng_Latn", max_chars: int | None = None, fits: Fits | None = None
) -> list[Sentence]:
    """The sentences of `text`. One longer than `max_chars`, or whose flat text `fits` denies, is cut into pieces."""
    return list(segment_stream([text], lang=lang, max_chars=max_chars, fits=fits))


def segment_stream(
    lines: Iterable[str], *, lang: str = "eng_Latn", max_chars: int | None = None, fits: Fits | None = None
) -> Iterator[Sentence]:
    """`segment("".join(lines))`, holding one paragraph at a time. `lines` may be cut anywhere."""
    if max_chars is not None and max_chars < 1:
        raise UserError(f"a sentence of at most {max_chars} characters holds nothing", "give max_chars of 1 or more")
    boundaries = _boundaries(resolve(lang), os.environ.get("NLTK_DATA", ""))

    def small(piece: str) -> bool:
        return (max_chars is None or len(piece) <= max_chars) and (fits is None or fits(piece))

    def sentences() -> Iterator[Sentence]:
        for paragraph, (offset, whole) in enumerate(_paragraphs(lines)):
            for at, marker, block in _blocks(offset, whole):
                for span in _sentences(block, marker, boundaries):
                    for start, end in _cut(block, *span, small):
                        yield Sentence(block[start:end], at + start, at + end, paragraph)

    return sentences()


def _flat(text: str) -> str:
    return " ".join(text.split())


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


def _blocks(at: int, lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """What a sentence never crosses within a paragraph, as (offset in the text, length of its bullet, text)."""
    held, start, marker = [lines[0]], at, _BULLET.match(lines[0])
    for line in lines[1:]:
        at += len(held[-1])
        if bullet := _BULLET.match(line):
            yield start, marker.end() if marker else 0, "".join(held)
            held, start, marker = [], at, bullet
        held.append(line)
    yield start, marker.end() if marker else 0, "".join(held)


# ---- sentences ----

_HARD = "。｡．！？‼⁇⁈⁉।॥۔؟։።፧፨။།༎។៕᱾᱿꯫"  # full stops of many scripts: need no space after them
_CLAUSE = "，、；：،؛፣፤፥၊"
_CLOSERS = ")]}”’›）］｝」』】〕〉》\ufe0e\ufe0f\u20e3"
_QUOTES = "\"'“‘«»"  # open as well as close, by language
_OPENERS = "([{„‚‹¿¡（［｛「『【〔〈《"
_ANY_HARD = re.compile(f"[{_HARD}]")
_MARKS = re.compile(f"[.!?…{_HARD}]+")
_NEXT = re.compile(rf"(\s*)[\s–—{re.escape(_OPENERS + _QUOTES)}-]*(\S{{0,2}})")
_ONLY_MARKS = re.compile(rf"[\s.!?…=*_~{re.escape(_HARD + _CLOSERS + _QUOTES)}-]*")
_QUOTED = re.compile(rf"[!?…][{re.escape(_CLOSERS + _QUOTES)}]+\Z")
_UNSPACED = re.compile("[\u0e00-\u0eff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")


def _sentences(block: str, marker: int, boundaries: Boundaries) -> Iterator[tuple[int, int]]:
    """The sentences of a block as spans. Its bullet stays with the first; lone marks stay with what they follow."""
    line = re.sub(r"[^\S ]", " ", block)  # one for one: offsets stay
    held, start = None, 0
    for end in (*(marker + cut for cut in boundaries(line[marker:])), len(block)):
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
# Abbreviations of languages without a model, beside those listed.
_TITLES = {"dr", "prof", "mr", "mrs", "ms", "st", "др", "проф", "им", "ім", "ул", "вул", "डॉ", "प्रो", "ডা", "ড"}


@lru_cache(maxsize=32)
def _boundaries(lang: str, nltk_data: str) -> Boundaries:
    """The splitter of a language, its parameters loaded once. `nltk_data`: the user's own punkt_tab goes first."""
    import punkt  # not NLTK's own engine, whose matching stops with an error after 5 s on a long or odd paragraph

    name = _PUNKT.get(lang, NAMES[lang].casefold())
    parameters = _own_parameters(name, nltk_data)
    if not parameters:
        trained = name in punkt.available_languages()
        learned = punkt.load_model(name) if trained else punkt.PunktParameters()
        # Punkt learned from newspapers: it lacks e.g., Fig. 1, z. B. The package's lists mend that, but their single
        # letters hide ends ("à 17 h. Il part"), and Punkt knows initials anyway.
        parameters = punkt.with_nonbreaking_prefixes(learned, name) if punkt.has_prefixes(name) else learned
        words = learned.abbrev_types | {word for word in parameters.abbrev_types if len(word) > 1}
        parameters = replace(parameters, abbrev_types=words)
        if not trained:
            return partial(_rule_cuts, words=words | _TITLES, numeric=parameters.numeric_abbrev_types)
    ends = ".?!;\u037e" if lang == "ell_Grek" else ".?!"  # a Greek question ends in ; or its twin
    return partial(_punkt_cuts, punkt.PunktSentenceTokenizer(parameters, rules=punkt.LanguageVars(tuple(ends))))


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


def _punkt_cuts(tokenizer: Any, line: str) -> list[int]:
    cuts, start = [], 0
    for _, end in tokenizer.span_tokenize(line):
        word, after = _before(line, start, end), _after(line, end)[1]
        spoken = after[:1].islower() and _QUOTED.search(word)  # “Stop!” he said.
        if not (spoken or _initials(word, after)):
            cuts.append(end)
        start = end
    if _ANY_HARD.search(line):  # another script's sentences within the text
        cuts = sorted({*cuts, *_rule_cuts(line, hard_only=True)})
    return cuts


def _rule_cuts(
    line: str, words: Container[str] = (), numeric: Container[str] = (), hard_only: bool = False
) -> list[int]:
    """Ends by rule. `words` are abbreviations, `numeric` those that are one only before a number."""
    cuts, start = [], 0
    for found in _MARKS.finditer(line):
        marks, end = found.group(), found.end()
        hard = _ANY_HARD.search(marks)
        if hard_only and not hard:
            continue
        while end < len(line) and (line[end] in _CLOSERS or _closes(line, max(start, end - 1000), end)):
            end += 1
        gap, after = _after(line, end)
        touching = "" if gap else after[:1]
        if touching and not hard and not (marks[-1] in "!?" and _UNSPACED.match(touching)):
            continue
        if after and after[0] in _CLAUSE + ",;:":
            continue
        if touching and line[end - 1] in "」』" and touching in "とっ":  # 「…！」と言った: a quotation within
            continue
        if marks[-1] == "．" and touching.isdigit():
            continue
        if not hard and (after[:1].islower() or (marks == "." and _abbreviated(line, start, end, words, numeric))):
            continue
        cuts.append(end)
        start = end
    return cuts


def _closes(line: str, start: int, at: int) -> bool:
    """Whether line[at] is a quotation mark that closes: white space follows, or the sentence has one open."""
    mark = line[at]
    return mark in _QUOTES and (line[at + 1 : at + 2] in ("", " ") or line.count(mark, start, at) % 2 == 1)


def _before(line: str, start: int, end: int) -> str:
    """The last word of line[start:end], without what opens before it."""
    return line[max(start, line.rfind(" ", start, end) + 1) : end].lstrip(_OPENERS + _QUOTES)


def _after(line: str, end: int) -> tuple[str, str]:
    """The white space at `end`, and the first two characters of the word after it."""
    found = _NEXT.match(line, end)
    return (found[1], found[2]) if found else ("", "")


def _initials(word: str, after: str) -> bool:
    """Whether one initial follows another: the first does not end a sentence. "z. B.", "J. R."."""
    return len(word) == 2 and word[0].isalpha() and word[1] == "." and after[:1].isalpha() and after[1:] == "."


def _abbreviated(line: str, start: int, end: int, words: Container[str], numeric: Container[str]) -> bool:
    """Whether the full stop at `end` belongs to its word: an initial (J., т. е.), or listed. Syllables are none."""
    parts = _before(line, start, end).casefold().removesuffix(".").split(".")
    if all(len(part) == 1 and (part.islower() or "\u0590" <= part < "\u0900") for part in parts):
        return True
    word, after = ".".join(parts), _after(line, end)[1]
    return word in words or (word in numeric and after[:1].isdigit())


# ---- sentences that are too long ----

_CLOSER = f"[{re.escape(_CLOSERS)}]"
_CUTS = (  # from the best place to the worst, before "inside a word"; the first kind needs no white space after it
    re.compile(
        rf"[—…{_CLAUSE}]+{_CLOSER}*|(?:[,;:–]|(?<!-)--+|(?<=\s)-){_CLOSER}*(?=\s)|(?<!{_CLOSER}){_CLOSER}+(?=\s)"
    ),
    re.compile(r"(?<=\S)(?=\s)"),
)
_SLACK = 64  # characters: a token cut in two may count for more than the whole one


def _cut(text: str, start: int, end: int, small: Fits) -> Iterator[tuple[int, int]]:
    """The span in pieces that are `small`, each as long as can be; a single grapheme is never cut, small or not.

    `small` should hold for less of a text where it holds for more; it is asked O(log length) times a piece.
    """
    if small(_flat(text[start:end])):
        yield start, end
        return
    places = [array("Q", (found.end() for found in cuts.finditer(text, start, end))) for cuts in _CUTS]
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
    while small(_flat(text[start:high])):
        if high == end:
            return end
        low, high, step = high, min(high + step, end), 2 * step
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
