"""What language a text is in: of `--lang auto`, and to notice where `--lang` is not what the text looks like.

    language_of("Il gatto dorme sul divano.", "auto", ["eng_Latn", "ita_Latn"])      # 'ita_Latn'

By py3langid (character sequences, naive Bayes; the model comes with its package), among the languages that a model has.
A text is taken for English, or the model's first language, unless another is four times as likely: of the beginnings of
1,500 sentences in five languages 84 of 100 are told right by two words, 98 by four, all by nine; of the English ones
99, 100 and 100. A line among others is taken for another language than theirs if that is twenty times as likely: of
1,000 sentences none is so to its wrong, 98 of 100 among lines of another language are. Of 7,600 sentences, half of them
shorter than eight words, it never named a wrong language with a share of 0.8 or more, and named the right one so in 84
of 100. Source: Lui & Baldwin 2012 (langid.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from ..errors import UserError
from ..io.files import TextLine
from ..languages import NAMES, readings_of, resolve
from ..weights import registry

log = logging.getLogger("sonarllm")
AUTO = "auto"
USUAL = "eng_Latn"  # of a text that is too short to tell
ODDS = 4.0  # times as likely as the usual one another language must be
LINE_ODDS = 20.0  # … as that of the lines around
SURE = 0.8  # share of the likelihood
SAMPLE = 4000  # characters that are looked at
TOLD = 50  # lines that tell the language of all
_LOCK = threading.Lock()


def check_languages(*langs: str, model: str) -> None:
    """UserError for a language that is not known, before anything is loaded, which says those of the model. "auto" and
    "" name none; for "auto" the identifier begins to be read."""
    if AUTO in langs:
        prepare()
    for lang in langs:
        if lang not in ("", AUTO) and not readings_of(lang):
            resolve(lang, registry.languages_of(model) or None)


def language_of(text: str, lang: str, known: Sequence[str] | None = None, name: str = "the text") -> str:
    """The code of a text's language: of `lang`, as `known` has it, or with "auto" what the text looks like among those
    known. A language that the text surely is in and is not read as is noted in the log, under the text's `name`.

    Raises UserError for a language that is not known.
    """
    code, note = reading(text, lang, known, name)
    if note:
        log.info("%s", note)
    return code


def reading(text: str, lang: str, known: Sequence[str] | None, name: str) -> tuple[str, str]:
    """`language_of`, and what there is to note, or ""."""
    if lang == AUTO and known and len(known) == 1:
        return known[0], ""
    share = _shares(text)
    looks = next(iter(share), "")
    code = likeliest_of(text, known or [USUAL, *share]) if lang == AUTO else resolve(lang, known)
    if not share or share[looks] < SURE or share.get(code) in (None, share[looks]):
        return code, ""
    has = known is None or looks in known
    lacks, cure = (
        "" if has else ", which the model does not have",
        "; --lang auto tells" if has and lang != AUTO else "",
    )
    return code, f"{name} looks {NAMES[looks]}{lacks}, and is read as {NAMES.get(code, code)}{cure}"


def lines_told(
    rows: Iterable[TextLine], lang: str, known: Sequence[str] | None, name: str = "the text"
) -> Iterator[tuple[TextLine, str]]:
    """Lines that are texts of their own, each with its language: that of its record, or `lang`; of "auto" what the
    first fifty look like, and where one of these is surely in another language, so is each line that surely is. A
    record's language that is not known is a UserError with its line."""
    rows = iter(rows)
    first = list(islice(rows, TOLD))
    untold = [row.text for row in first if _to_tell(row)]
    usual = language_of("\n".join(untold), lang, known, name)
    asked = lang == AUTO and (known is None or len(known) > 1)
    mixed = asked and any(language_among(text, usual, known) != usual for text in untold)
    for row in chain(first, rows):
        if not _to_tell(row):
            try:
                yield row, resolve(row.lang or "", known)
            except UserError as error:
                raise UserError(f"{name}, line {row.number}: {error.message}", error.cure) from None
        else:
            yield row, language_among(row.text, usual, known) if mixed else usual


def language_among(text: str, usual: str, known: Sequence[str] | None) -> str:
    """The language of a text among others in the `usual` one: another of those known only where it surely is."""
    return _likelier(text, known, usual, LINE_ODDS)


def lacking(text: str, known: Sequence[str]) -> str:
    """The language that a text surely is in, if it is none of those known; else ""."""
    share = _shares(text)
    looks = next(iter(share), "")
    return looks if looks not in known and share.get(looks, 0.0) >= SURE else ""


def _to_tell(row: TextLine) -> bool:
    """Whether a line does not say what it is in."""
    return row.lang in (None, "", AUTO)


def likeliest_of(text: str, known: Sequence[str]) -> str:
    """The likeliest language of those known; the usual one of them, unless another is likelier by `ODDS`."""
    usual = USUAL if USUAL in known else known[0]
    return _likelier(text, known, usual, ODDS) if len(known) > 1 else usual


def _likelier(text: str, known: Sequence[str] | None, usual: str, odds: float) -> str:
    """The likeliest language, of those known, if a text is in it `odds` times as likely as in the `usual` one."""
    share = _shares(text)
    best = next((code for code in share if known is None or code in known), usual)
    return best if share.get(best, 0.0) >= odds * share.get(usual, 0.0) else usual


def _shares(text: str) -> dict[str, float]:
    """Languages, the likeliest first, with their shares of the likelihood; none of a text without letters."""
    start = max(0, (len(text) - SAMPLE) // 2)  # a text's beginning may be names and numbers
    return _ranked(text[start : start + SAMPLE])


@lru_cache(maxsize=8)
def _ranked(text: str) -> dict[str, float]:
    if not any(c.isalpha() for c in text):
        return {}
    identifier, codes = _identifier()
    return {code: share for label, share in identifier.rank(text) for code in codes[label]}


def prepare() -> None:
    """Begin to read the identifier in a thread of its own, beside what the caller goes on to read: it is a third of a
    second, most of it unpacking, which leaves the interpreter to others."""
    threading.Thread(target=_identifier, daemon=True).start()


def _identifier() -> tuple[Any, dict[str, list[str]]]:
    """`_read`, once, whoever asks for it meanwhile."""
    with _LOCK:
        return _read()


@lru_cache(maxsize=1)
def _read() -> tuple[Any, dict[str, list[str]]]:
    """The identifier, and for each of its labels the FLORES codes, the usual one first; a few labels have none."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier, {label: readings_of(label) for label in identifier.labels}
