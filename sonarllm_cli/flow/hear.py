"""A recording as a document: what `summarize` and `generate` read where somebody speaks instead of writing.

    heard = read_recording(Recording("talk.wav"), load_speech("sonar-speech-eng"), space)

Legend: S utterances, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..io.audio import Recording
from ..runtime import log
from ..weights.loaded import Space
from .decode import Search, decode_batch
from .embed_speech import SpeechModel, embed_recordings
from .language import language_of
from .utterances import Utterance


class Listened(NamedTuple):
    """Utterances, what the vectors say (empty where nobody asked for words), and the vectors, text_SD."""

    times: list[Utterance]
    texts: list[str]
    text_SD: Tensor


def read_recording(
    recording: Recording, speech: SpeechModel, space: Space, lang: str, *, words: bool = False
) -> Listened:
    """The utterances of a recording as vectors of `space` and, with `words`, decoded in the language that is spoken,
    which is `lang` for an encoder of several.

    UserError for a speech encoder of another space, or a recording without speech; an utterance that can't be embedded
    is told and passed over.
    """
    speech.check(space)
    times: list[Utterance] = []
    blocks: list[Tensor] = []
    for block in embed_recordings([recording], speech):
        if block.failures and not block.heard and not times:
            raise block.failures[0]
        for failure in block.failures:
            log.warning("sonarllm: %s", failure)
        times += [Utterance(heard.start, heard.end) for heard in block.heard]
        blocks.append(torch.from_numpy(block.embeddings_ND).to(space.runtime.device, space.runtime.dtype))
    text_SD = torch.cat(blocks)
    texts = [""] * len(times)
    if words:
        texts = [found[0].text for found in decode_batch(text_SD, spoken(speech, space, lang), space, Search())]
    return Listened(times, texts, text_SD)


def spoken(speech: SpeechModel, space: Space, lang: str) -> str:
    """The language that a speech encoder hears, where the space has it; else `lang`, of "auto" the space's English."""
    known = space.tokenizer.langs
    return speech.lang if speech.lang in known else language_of("", lang, known)
