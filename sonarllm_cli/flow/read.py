"""What the chain begins with: a text's sentences or a recording's utterances, and their embeddings.

    texts, text_SD, places, lang, _ = read_input("One sentence. Another.", "auto", writer)

Legend: S sentences, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from ..errors import UserError
from ..io.audio import Recording
from ..nets.kinds import TOKENS
from ..runtime import log
from ..weights.loaded import Writer
from .decode import Search
from .embed_speech import SpeechModel
from .embed_text import embed_sentences, fits
from .hear import read_recording
from .language import reading
from .predict import Report
from .segment import Sentence, segment_stream
from .utterances import Utterance

BLOCK = 1024  # sentences of a text embedded at once


def sentence_texts(text: str, lang: str, writer: Writer) -> list[str]:
    """A text's sentences as the encoder takes them; UserError if it has none."""
    found = [s.flat for s in segment_stream([text], lang=lang, fits=fits(writer.space))]
    if not found:
        raise UserError("the text has no sentence", "give it some text")
    return found


def read_document(
    text: str, lang: str, writer: Writer, report: Report | None = None, name: str = "the text"
) -> tuple[list[Sentence], Tensor]:
    """A text's sentences, which the encoder takes flat, and their embeddings: → S sentences, text_SD. A block of them
    at a time, so that a long text needs little more than what comes out. UserError if it has no sentence."""
    sentences: list[Sentence] = []
    blocks: list[Tensor] = []
    found = segment_stream([text], lang=lang, fits=fits(writer.space))
    while block := list(islice(found, BLOCK)):
        sentences += block
        blocks.append(embed_sentences([s.flat for s in block], lang, writer.space))
        if report:
            report("embedding", block[-1].end, len(text))
    if not sentences:
        raise UserError(f"{name} has no sentence", "give it some text")
    return sentences, torch.cat(blocks)


def read_input(
    source: str | Recording,
    lang: str,
    writer: Writer,
    report: Report | None = None,
    speech: str | SpeechModel = "",
    words: Search | None = None,
    name: str = "the text",
) -> tuple[list[str], Tensor, Sequence[Sentence | Utterance], str, str]:
    """`read_document`, or a recording's utterances by the encoder `speech` (by default the one that comes with the
    space): → S texts, text_SD, their S places, the language, and what was noted of it, or "". What is said in a
    recording is decoded only for those who say how to search `words`, or need them; else its texts are empty. Messages
    call a text by its `name`."""
    if isinstance(source, str):
        lang, note = reading(source, lang, writer.space.tokenizer.langs, name)
        sentences, text_SD = read_document(source, lang, writer, report, name)
        if note:
            log.info("%s", note)
        return [s.flat for s in sentences], text_SD, sentences, lang, note
    heard = read_recording(source, writer.space, lang, speech=speech)
    known = words or writer.row.reads == TOKENS
    texts = heard.words(search=words) if known else [""] * len(heard.times)
    return texts, heard.text_SD, heard.times, heard.lang, ""
