"""A recording → its utterances: where somebody speaks. The first arrow of the chain, for sound.

Silero's detector of voice activity tells of every 32 ms how likely speech is; what is likely enough for long enough is
an utterance, and a pause ends it. Its weights come in its package (extra `speech`); nothing is fetched.

    for start, end in utterances(Recording("talk.wav")): print(start, end)

Legend: N samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..io.audio import EXTRA, RATE, Recording

CHUNK = 512  # samples that the detector takes
PAUSE, MARGIN, LEAST = 300, 100, 250  # ms: what ends an utterance; kept before and after it; the shortest one
LONGEST = 30.0  # seconds


class Utterance(NamedTuple):
    """Seconds from the recording's beginning."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"{clock_time(self.start)}–{clock_time(self.end)}"


def clock_time(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock_time(75.25)
    '1:15.2'
    """
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def utterances(recording: Recording, max_seconds: float = LONGEST) -> list[Utterance]:
    """Where somebody speaks, in order; longer speech is cut at its longest pauses. UserError where nobody does."""
    if not max_seconds > 1:
        raise UserError(f"utterances of {max_seconds} s hold no words", "use --max-seconds 30")
    detector = _detector()
    chance, samples = _chances(recording, detector.load_silero_vad())
    found = detector.get_speech_timestamps_from_probs(
        chance,
        sampling_rate=RATE,
        min_speech_duration_ms=LEAST,
        max_speech_duration_s=max_seconds,
        min_silence_duration_ms=PAUSE,
        speech_pad_ms=MARGIN,
        audio_length_samples=samples,
    )
    if not found:
        raise UserError(f"{recording.name}: no speech in {samples / RATE:.1f} s", "is it the right file?")
    return [Utterance(span["start"] / RATE, span["end"] / RATE) for span in found]


def _chances(recording: Recording, listen: Any) -> tuple[list[float], int]:
    """How likely speech is in each chunk, and the samples there are."""
    import torch

    listen.reset_states()
    chance: list[float] = []
    held, samples = np.zeros(0, np.float32), 0
    with torch.inference_mode():
        for block_N in recording.blocks():
            samples += len(block_N)
            held = np.concatenate([held, block_N])
            whole = len(held) // CHUNK * CHUNK
            chance += [listen(torch.from_numpy(chunk), RATE).item() for chunk in held[:whole].reshape(-1, CHUNK)]
            held = held[whole:]
        if len(held):
            chance.append(listen(torch.from_numpy(np.pad(held, (0, CHUNK - len(held)))), RATE).item())
    return chance, samples


def _detector() -> Any:
    """The detector's package. Importing it sets the whole process to one thread, which is undone."""
    import torch

    threads = torch.get_num_threads()
    try:
        import silero_vad
    except ImportError:
        raise UserError("finding speech needs the package silero-vad", EXTRA) from None
    finally:
        torch.set_num_threads(threads)
    return silero_vad
