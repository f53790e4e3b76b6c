"""Recordings → embeddings, an utterance a row. The second arrow of the chain, for sound.

    heard = load_speech("sonar-speech-deu")
    for block in embed_recordings([Recording("talk.wav")], heard): print(block.embeddings_ND.shape, block.heard)

Utterances are encoded in batches of like length and come back in their own order. What can't be embedded is told, and
the rest is done.

Legend: N utterances, B those of a batch, S steps of 20 ms, F features of a step, D embedding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..io.audio import RATE, Recording
from ..nets import fbank
from ..nets.speech import SpeechEncoder
from ..runtime import Runtime, by_length, shrinking
from ..weights import model_dir, tensors
from ..weights.loaded import Space, pack
from .utterances import LONGEST, Utterance, utterances

CHUNK = 1200.0  # seconds of speech held at once; batches are sorted by length within a chunk
BATCH_STEPS = {"cpu": 384, "cuda": 32768}  # padded steps of an `auto` batch: a CPU gains from short ones alone


COLUMNS: dict[str, type[str] | type[float]] = {"file": str, "start": float, "end": float}  # of a file of embeddings


class Heard(NamedTuple):
    """An utterance: its recording, and seconds from its beginning."""

    file: str
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.file}, {Utterance(self.start, self.end)}"


@dataclass(frozen=True)
class SpeechModel:
    """A speech encoder ready to run: of a language, in the space of this fingerprint ("" where it was imported without
    one: nothing then decodes its vectors)."""

    name: str
    lang: str
    space: str
    fingerprint: str
    net: SpeechEncoder
    runtime: Runtime
    weights: str = ""  # their hash

    @classmethod
    def load(cls, name: str, folder: Path, config: dict[str, Any], runtime: Runtime) -> SpeechModel:
        """Packed for inference."""
        net = tensors.load_net(folder, config, runtime.device, runtime.dtype)
        pack(net, runtime)
        home = config.get("sonar", {})
        space, fingerprint = home.get("name", ""), home.get("fingerprint", "")
        weights = model_dir.hash_of(folder, config, "model.safetensors")
        return cls(folder.name, config.get("lang", ""), space, fingerprint, net, runtime, weights)

    @property
    def dim(self) -> int:
        return self.net.config.embedding

    @property
    def langs(self) -> list[str] | None:
        return [self.lang] if self.lang else None

    @property
    def limit(self) -> float:
        return self.net.config.max_steps * fbank.STEP / RATE

    def embed(self, items: Iterable[Recording], *, whole: bool = False, batch_size: int | None = None) -> np.ndarray:
        """Recordings → embeddings_ND, a row an utterance, or with `whole` each. Raises the first thing that went
        wrong."""
        found = [np.zeros((0, self.dim), np.float32)]
        for block in embed_recordings(items, self, whole=whole, batch_size=batch_size):
            if block.failures:
                raise block.failures[0]
            found.append(block.embeddings_ND)
        return np.concatenate(found)

    def check(self, space: Space) -> None:
        """UserError if its vectors are not of `space`."""
        if not self.fingerprint or self.fingerprint != space.fingerprint:
            theirs = f"{self.space} ({self.fingerprint})" if self.fingerprint else "none that is known"
            raise UserError(
                f"{self.name}'s space is {theirs}, not {space.name} ({space.fingerprint})",
                "name a speech encoder of that space, or import it with --sonar",
            )


@dataclass(frozen=True)
class SpeechBlock:
    """Embeddings of consecutive utterances, in order, and what could not be embedded between them."""

    embeddings_ND: np.ndarray
    heard: list[Heard]
    failures: list[UserError] = field(default_factory=list)


def embed_recordings(
    recordings: Iterable[Recording],
    model: SpeechModel,
    *,
    whole: bool = False,
    max_seconds: float = LONGEST,
    batch_size: int | None = None,
) -> Iterator[SpeechBlock]:
    """Any number of recordings, a chunk of utterances at a time: memory does not grow with them. With `whole` each is
    one utterance. What fails is in the blocks' `failures`, by recording or utterance."""
    longest = model.limit
    steps: list[Tensor] = []
    heard: list[Heard] = []
    failures: list[UserError] = []
    seconds = 0.0

    def block() -> SpeechBlock:
        vectors_ND = encode_utterances(steps, model, batch_size).float().cpu().numpy()
        return SpeechBlock(vectors_ND, list(heard), list(failures))

    for recording in recordings:
        try:
            for utterance, samples_N in _spoken(recording, whole, min(max_seconds, longest), longest):
                who = Heard(recording.name, *utterance)
                try:
                    steps.append(fbank.steps(samples_N))
                except ValueError as error:
                    failures.append(UserError(f"{who}: {error}", "leave it out"))
                    continue
                heard.append(who)
                seconds += who.end - who.start
                if seconds > CHUNK:
                    yield block()
                    steps, heard, failures, seconds = [], [], [], 0.0
        except UserError as error:
            failures.append(error)
    if heard or failures:
        yield block()


def _spoken(recording: Recording, whole: bool, most: float, longest: float) -> Iterator[tuple[Utterance, np.ndarray]]:
    """A recording's utterances and their samples; what was found before it breaks off comes first."""
    if not whole:
        spans = utterances(recording, most)
        yield from zip(spans, recording.cut(spans))
        return
    samples_N = recording.samples()
    if len(samples_N) // fbank.STEP > longest * RATE // fbank.STEP:
        raise UserError(
            f"{recording.name} lasts {len(samples_N) / RATE:.1f} s, the encoder takes {longest:g}",
            "leave --whole out: it is then embedded by utterances",
        )
    yield Utterance(0.0, len(samples_N) / RATE), samples_N


@torch.inference_mode()
def encode_utterances(steps: Sequence[Tensor], model: SpeechModel, batch_size: int | None = None) -> Tensor:
    """Features of utterances, (S, F) each → embeddings_ND on the model's device, in order. Batches are of like length;
    `batch_size` bounds their utterances, by default their padded steps are bounded."""
    place = model.runtime.device
    out_ND = torch.empty(len(steps), model.dim, device=place, dtype=model.runtime.dtype)
    cost = None if batch_size else BATCH_STEPS.get(place.type, 8192)
    for rows in by_length([len(s) for s in steps], batch_size or 1024, cost):
        parts = shrinking(lambda part: list(model.net(*padded_steps([steps[i] for i in part], place))), rows)
        out_ND[torch.tensor(rows, device=place)] = torch.stack(parts)
    return out_ND


def padded_steps(steps: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Features of several utterances as one tensor, 0 where there is no sound: → step_BSF, length_B"""
    length_B = torch.tensor([len(s) for s in steps])
    step_BSF = torch.nn.utils.rnn.pad_sequence(list(steps), batch_first=True)
    return step_BSF.to(device), length_B.to(device)


def recordings_of(audio: object, rate: int) -> list[Recording]:
    """`embed(audio=…)`: files or arrays, or one of them."""
    several = audio if isinstance(audio, list | tuple) else [audio]
    return [Recording(a if isinstance(a, str | os.PathLike) else np.asarray(a), rate) for a in several]
