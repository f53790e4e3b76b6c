"""Text → sentences, each with its place in the text. The first arrow of the chain.

    from sonarllm_cli.flow.segment import segment
    [s.flat for s in segment("Dr. Smith left.\\nHe was tired.")]      # ['Dr. Smith left.', 'He was tired.']

Lines are gathered into paragraphs, which a blank line ends, and paragraphs into blocks, which a list item begins
(layout.py); blocks are split into sentences (boundaries.py), and a sentence too long for the model is cut (cut.py).
Nothing but white space is ever lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from ..errors import UserError
from ..languages import resolve
from .boundaries import Boundaries, boundaries
from .cut import Fits, cut
from .language import AUTO, language_of
from .layout import apart, paragraph_blocks, paragraphs
from .marks import CLOSERS, HARD, QUOTES, flat, trim


class Sentence(NamedTuple):
    text: str  # the exact slice of the source
    start: int  # characters from the beginning of the source
    end: int
    paragraph: int  # counted from 0; blank ones do not count

    @property
    def flat(self) -> str:
        """The sentence on one line, as it is embedded: every run of white space is a single space."""
        return flat(self.text)


NEWLINES = ("auto", "join", "keep")


def segment(
    text: str,
    *,
    lang: str = AUTO,
    max_chars: int | None = None,
    fits: Fits | None = None,
    newline: str = "auto",
    abbreviations: Iterable[str] = (),
) -> list[Sentence]:
    """The sentences of `text`. One longer than `max_chars`, or whose flat text `fits` denies, is cut into pieces.

    `newline`: whether a line's end is a space ("join"), ends a sentence ("keep"), or what the text shows ("auto").
    `abbreviations`, with or without their last full stop, are added to those of the language. `lang` is "auto":
    what the text looks like.
    """
    lang = language_of(text, lang) if lang == AUTO else lang
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
    ends = boundaries(resolve(lang), os.environ.get("NLTK_DATA", ""), own)

    def small(piece: str) -> bool:
        return (max_chars is None or len(piece) <= max_chars) and (fits is None or fits(piece))

    def sentences() -> Iterator[Sentence]:
        fenced = False  # within ``` of a paragraph before
        for paragraph, (offset, whole) in enumerate(paragraphs(lines)):
            alone, fenced = (
                apart(whole, fenced) if newline == "auto" else (range(len(whole) * (newline == "keep")), False)
            )
            for at, marker, block in paragraph_blocks(offset, whole, alone):
                for span in _sentences(block, marker, ends):
                    for start, end in cut(block, *span, small):
                        yield Sentence(block[start:end], at + start, at + end, paragraph)

    return sentences()


_INNER_END = re.compile(r"[.!?…。！？][^\w\s]*\s+\S")


def many_are_several(texts: Sequence[str], lang: str) -> bool:
    """Whether most of the texts that have words are several sentences each."""
    words = [text for text in texts if text.strip()]
    maybe = [text for text in words if _INNER_END.search(text)]  # a look that needs no model of the language
    if 2 * len(maybe) <= len(words):
        return False
    return 2 * sum(len(segment(text, lang=lang)) > 1 for text in maybe) > len(words)


# Emoji too: at the end of a block they belong to what was said.
_EMOJI = "\u2600-\u27bf\u200d\u2b50\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"
_ONLY_MARKS = re.compile(rf"[\s.!?…=*_~{re.escape(HARD + CLOSERS + QUOTES)}{_EMOJI}-]*")


def _sentences(block: str, marker: int, ends: Boundaries) -> Iterator[tuple[int, int]]:
    """The sentences of a block as spans. Its bullet stays with the first; lone marks stay with what they follow."""
    line = re.sub(r"[^\S ]", " ", block)  # one for one: offsets stay
    held, start = None, 0
    for end in chain(ends(line, marker), [len(block)]):
        span = trim(block, start, end)
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
