"""Where the sentences of a line end, in each language.

    list(boundaries("eng_Latn", "", frozenset())("Dr. Smith left. He was tired.", 0))      # [15]

Punkt (Kiss & Strunk 2006) decides in the languages that have a trained model; elsewhere a rule does: a sentence ends at
a mark that is never anything else (。 । ۔ ؟ …), with or without a space after it, and at `. ! ?` before white space
unless a lower-case letter follows or the word is an initial or a listed abbreviation. Thai and Lao have no such marks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from ..errors import UserError
from ..languages import NAMES
from .abbreviations import ABBREVIATIONS, ENDINGS, OPEN_LISTS, ORDINALS, STARTERS, TITLES
from .marks import CLAUSE, CLOSERS, HARD, LOOK_BACK, OPENERS, QUOTES, UNSPACED

Boundaries = Callable[[str, int], Iterator[int]]  # a block on one line, where it begins → where sentences end, in order
# Mark, words before and after it, line, where the first of them and where the sentence begins → does it end?
Ends = Callable[[str, str, str, str, int, int], bool]

_HARD_MARK = re.compile(f"[{HARD}]")
_MARK = rf"(?:\.(?: \.){{2,}}|[.!?…{HARD}]+)"  # a spaced ellipsis is one mark
_MARKS = re.compile(_MARK)
_MARKS_GREEK = re.compile(_MARK.replace("!?", "!?;\u037e"))  # a Greek question ends in ; or its twin
_NEXT = re.compile(rf"(\s*)([\s–—{re.escape(OPENERS + QUOTES)}-]*)(\S{{0,40}})")
_WORD = re.compile(r"\w+(?:[.,-]\w+)*")
# What closes a sentence behind its mark, beside quotes: brackets, mark-up (**Bold.** <b>Bold.</b>), notes (.[3] .³).
_CLOSING = re.compile(
    rf"[{re.escape(CLOSERS)}⁰¹²³⁴-⁹]+|</\w{{1,10}}>|"
    rf"\[[^][]{{1,40}}\](?!\w)|[*_~`]+(?=[\s{re.escape(CLOSERS + QUOTES)}]|\Z)"
)
_CLOSING_APART = re.compile(r" [)\]}”]+(?=\s|\Z)")
_ELIDED = re.compile(r"^\w{1,2}['’](?=\w\w)")  # l'ing.
_NUMBER = re.compile(r"[-.,]?\d[\d,.-]*")
_ROMAN = re.compile("[IVX]+")
_INITIAL = re.compile(r"[^\W\d_]\.")
_SHORT = re.compile(r"[^\W\d_]{1,3}\.")
_ELLIPSES = ("…", "..", "...", ". . .")
_INITIALS = re.compile(r"[^\W\d_](?:[.-]+[^\W\d_])+")  # J.R.R, M.I.T, J.-C
_BEFORE = OPENERS + QUOTES + "*_~`: "
# What a sentence that was only this would be: the number or letter of what follows, a postscript's sign.
_LABEL = re.compile(rf"[\s{re.escape(OPENERS + QUOTES)}]*(?:\d{{1,3}}|[A-Za-z\u00c0-\u052f]|[IVX]{{1,5}}|P\.?S|N\.?B)")
_DATE = re.compile(r"(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])")  # 31.12.
_SPACED = re.compile(r"(?<!\w)(\w{1,2}\.) \Z")  # т. before д.
_LONGEST = 7  # letters of an abbreviation that no list has


# What the Punkt package calls the languages that it has models or abbreviations for, where that is not their name.
_PUNKT = {"lvs_Latn": "latvian", "nno_Latn": "norwegian", "nob_Latn": "norwegian", "slv_Latn": "slovene"}


@lru_cache(maxsize=32)
def boundaries(lang: str, nltk_data: str, own: frozenset[str]) -> Boundaries:
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
        words = (words | titles | _words(ABBREVIATIONS.get(lang, ""))) - OPEN_LISTS
        parameters = replace(parameters, abbrev_types=words)
    parameters = replace(parameters, abbrev_types=parameters.abbrev_types | own)
    if trained:
        ends = _trained(parameters, titles, _words(STARTERS.get(lang, "")), lang in ORDINALS, ENDINGS.get(lang, ()))
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
        if not hard and end < len(line) and line[end].isalnum() and not UNSPACED.match(line, end):
            continue  # 3.14, example.org
        back = max(start, at - LOOK_BACK)
        closed = end
        end = _close(line, back, end)
        gap, between, after = _NEXT.match(line, end).groups()  # type: ignore[union-attr]  # matches anything
        if mark in _ELLIPSES and at - start < 8 and not line[start:at].strip(_BEFORE):
            continue  # it begins a sentence
        if not gap and (after or between):  # something touches the mark
            first = (between + after)[0]
            opens = first in OPENERS + QUOTES or line[end - 1] in ")]}"  # “One.”“Two.”
            opens = opens and (after[:1].isupper() or after[:1].isdigit())
            if not (hard or opens or (mark[-1] in "!?" and UNSPACED.match(first))):
                continue
            if line[end - 1] in "」』" and first in "とっ":  # 「…！」と言った: a quotation within
                continue
            if line[end - 1] in "》〉" or (mark[-1] == "．" and first.isdigit()):  # 小说《你好！》很好看
                continue
        if after and after[0] in CLAUSE + ",;:":
            continue
        if not hard and after:
            if after[0].islower() and (end > closed or "—" in between or "–" in between):
                continue  # “Stop!” he said. (Really?) and. ¡Fuera! —gritó.
            word = line[max(back, line.rfind(" ", back, at) + 1) : at].lstrip(_BEFORE)
            if mark == "." and _LABEL.fullmatch(line, start, at):
                continue
            asks = after[0].isupper() and ("¿" in between or "¡" in between)
            if not asks and not ends(mark, word, after, line, at - len(word), start):
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
    if mark not in QUOTES or (mark in "“‘«" and after.isalnum()):  # “One.”“Two.”
        return False
    return after in ("", " ") or line.count(mark, start, at) % 2 == 1


def _open(line: str, start: int, at: int) -> bool:
    """Whether a guillemet that opens ("« ") has not been closed."""
    return line.count("«", start, at) + line.count("‹", start, at) > line.count("»", start, at) + line.count(
        "›", start, at
    )


def _ends_by_rule(
    mark: str, word: str, after: str, line: str, at: int, start: int, words: Container[str], numeric: Container[str]
) -> bool:
    """Without a model: no end before a lower-case letter, nor at an initial (J., т. е.) or an abbreviation. `words` are
    abbreviations, `numeric` those that are one only before a number. Syllables are none."""
    if after[0].islower():
        return False
    if mark != ".":
        return True
    word = word.casefold()
    if _whole(word, line, at) in OPEN_LISTS:
        return True
    if all(len(part) == 1 and (part.islower() or "\u0590" <= part < "\u0900") for part in word.split(".")):
        return word.isalpha() and after[0].isupper() and _follows_number(line, at, start)  # a unit: 1990 р.
    return not (word in words or (word in numeric and after[0].isdigit()))


def _whole(word: str, line: str, at: int) -> str:
    """The abbreviation that the word at `at` is the last part of: т.д of "т. д"."""
    before = _SPACED.search(line, max(0, at - 4), at)
    return before[1].casefold() + word if before else word


def _follows_number(line: str, at: int, start: int) -> bool:
    """Whether the word at `at` stands behind a number, as a unit does (17 h., 1990 г.), and more than a preposition
    before it: В 1812 г. Наполеон напал."""
    if at < 2 or line[at - 1] != " " or not line[at - 2].isdigit():
        return False
    words = line[max(start, at - LOOK_BACK) : at].split()
    return len(words) != 2 or len(words[0]) > 2


def _trained(
    parameters: Any, titles: Container[str], own_starters: Container[str], ordinals: bool, endings: tuple[str, ...]
) -> Ends:
    """Punkt's decision (Kiss & Strunk 2006, §4) for a mark between two words, and beside it: a lower-case word or a
    number after a full stop speaks against an end, unless the word before it is known to be no abbreviation."""
    from punkt import OrthoContext
    from punkt.rules.tokens import NUMBER_TYPE

    seen, collocations, starters = parameters.ortho_context, parameters.collocations, parameters.sent_starters
    abbreviations, numeric = parameters.abbrev_types, parameters.numeric_abbrev_types
    LC, UC, MID_UC = int(OrthoContext.LC), int(OrthoContext.UC), int(OrthoContext.MID_UC)
    learned = len(seen) > 1

    def ends(mark: str, word: str, after: str, line: str, at: int, start: int) -> bool:
        if mark[-1] not in ".…" or ("?" in mark or "!" in mark):
            return mark[-1] not in ".…" or not after[0].islower()
        found = _WORD.match(after)
        following = found.group() if found else after[0]
        lower, upper, digit = following[0].islower(), following[0].isupper(), following[0].isdigit()
        next_type = NUMBER_TYPE if digit else following.lower()
        context = seen.get(next_type, 0)
        pronoun = upper and after.lower() in own_starters
        starts = pronoun or (
            upper and not _INITIAL.match(after) and ((context & LC and not context & MID_UC) or next_type in starters)
        )
        if mark != ".":  # an ellipsis
            return bool(starts) and (mark != "…" or line[at - 1] != " ")  # I … I love you
        form = _ELIDED.sub("", word.lower())
        number, whole = _NUMBER.fullmatch(form), _whole(form, line, at)
        if whole in OPEN_LISTS and upper:
            return True
        if upper and "." in whole and whole in titles:  # z. B. Sie
            return False
        if upper and form in titles and not (next_type in starters and context & LC):
            return False
        if (NUMBER_TYPE if number else form, next_type) in collocations or (digit and form in numeric):
            return False
        if len(form) == 1 and form.isalpha():
            if pronoun:
                return True
            unit = word.islower() and upper and _follows_number(line, at, start)  # 17 h., 1990 г.
            if unit and not _SHORT.match(after):
                return True
            if form in abbreviations or _INITIAL.match(after):  # z. B., J. R. R.
                return False
            named = at > start + 1 and line[at - 2] == "."  # dr. B. Verdi
            if digit:
                return word.isupper()
            return not lower and (starts or not upper or bool(context & LC and not named))
        listed = form in abbreviations or form.endswith(endings) or form.rsplit("-", 1)[-1] in abbreviations
        if listed or _INITIALS.fullmatch(form):
            return bool(starts) or (upper and not learned and _follows_number(line, at, start))
        if ordinals and ((number and (len(form) <= 2 or _DATE.fullmatch(form))) or _ROMAN.fullmatch(word)):
            return bool(starts) or not (upper or lower or digit)
        if number:
            return not lower
        if lower or digit:
            return len(form) > _LONGEST or known(form, word)
        return True

    def known(form: str, word: str) -> bool:
        if not learned:
            return len(form) > 3 and "." not in form
        if form in OPEN_LISTS:
            return False
        return bool(seen.get(form, 0) & (LC if word.islower() else LC | UC)) or not (form.isalpha() or "." in form)

    return ends
