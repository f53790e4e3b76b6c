"""A recording as a document: what is read where somebody speaks instead of writing.

    heard = read_recording(Recording("talk.wav"), space, "eng_Latn", speech="sonar-speech-eng")
    print(heard.times, heard.words())

Legend: S utterances, D embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..io.audio import Recording
from ..runtime import log
from ..weights import registry
from ..weights.loaded import Space
from .decode import Search, decode_batch
from .embed import load_speech
from .embed_speech import SpeechModel, embed_recordings
from .language import language_of
from .utterances import Utterance


@dataclass(frozen=True)
class Listened:
    """A recording's utterances, their vectors text_SD of `space`, and the language spoken. Words are decoded for those
    who ask."""

    times: list[Utterance]
    text_SD: Tensor = field(repr=False)
    lang: str
    space: Space = field(repr=False)

    def words(self, rows: Sequence[int] | None = None, lang: str = "", search: Search | None = None) -> list[str]:
        """What the utterances `rows`, or all, say in `lang`, or the language spoken."""
        chosen_SD = self.text_SD if rows is None else self.text_SD[list(rows)]
        if not len(chosen_SD):
            return []
        return [found[0].text for found in decode_batch(chosen_SD, lang or self.lang, self.space, search or Search())]


@dataclass(frozen=True)
class Ears:
    """What hears for a space: the encoder `speech`, or if it is "" the one that comes with the space. It is loaded at
    the first recording."""

    space: Space
    speech: str | SpeechModel = ""

    @functools.cached_property
    def encoder(self) -> SpeechModel:
        """UserError where there is none, and for one of another space."""
        speech = self.speech or registry.speech_of(self.space.fingerprint)
        if not speech:
            cure = "name the encoder of the language spoken: --speech sonar-speech-eng"
            raise UserError(f"{self.space.name} has no encoder of its own for recordings", cure)
        heard = speech if isinstance(speech, SpeechModel) else load_speech(speech, self.space.runtime)
        heard.check(self.space)
        return heard

    def of(self, name: str) -> SpeechModel:
        """The encoder for the recording called `name`, which the UserError names."""
        try:
            return self.encoder
        except UserError as error:
            raise UserError(f"{name} is a recording: {error.message}", error.cure) from None


def read_recording(
    recording: Recording,
    space: Space,
    lang: str,
    *,
    speech: str | SpeechModel = "",
    batch_size: int | None = None,
) -> Listened:
    """The utterances of a recording as vectors of `space`. The language spoken in it is the encoder's own, or `lang`,
    for one of several.

    UserError for a speech encoder of another space, or a recording without speech; an utterance that can't be embedded
    is told and passed over.
    """
    heard = Ears(space, speech).of(recording.name)
    times, vectors_SD = hear_utterances(recording, heard, batch_size)
    return as_listened(times, vectors_SD, heard, space, lang)


def hear_utterances(
    recording: Recording, heard: SpeechModel, batch_size: int | None = None
) -> tuple[list[Utterance], np.ndarray]:
    """A recording's utterances and their vectors: → S times, vectors_SD, float32."""
    times: list[Utterance] = []
    blocks: list[np.ndarray] = []
    for block in embed_recordings([recording], heard, batch_size=batch_size):
        if block.failures and not block.heard and not times:
            raise block.failures[0]
        for failure in block.failures:
            log.warning("sonarllm: %s", failure)
        times += [Utterance(one.start, one.end) for one in block.heard]
        blocks.append(block.embeddings_ND)
    return times, np.concatenate(blocks)


def as_listened(
    times: list[Utterance], vectors_SD: np.ndarray, heard: SpeechModel, space: Space, lang: str
) -> Listened:
    """What was heard, in the language that the encoder hears, where the space has it; else in `lang`, of "auto" the
    space's English."""
    known = space.tokenizer.langs
    spoken = heard.lang if heard.lang in known else language_of("", lang, known)
    text_SD = torch.from_numpy(vectors_SD).to(space.runtime.device, space.runtime.dtype)
    return Listened(times, text_SD, spoken, space)
