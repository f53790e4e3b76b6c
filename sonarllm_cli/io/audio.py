"""Recordings in: any form that libsndfile reads, any rate, any number of channels → 16 kHz, mono, float32, in blocks.

    for block_N in Recording("talk.flac").blocks(): ...
    samples_N = Recording(array, 44_100).samples()

Channels are averaged, then resampled by torchaudio's default filter (a windowed sinc, Hann, 6 zero crossings, cut off
at 0.99 of the lower Nyquist rate), in float64. Memory does not grow with the recording. Needs the extra `speech`.

Legend: N samples, C channels, K taps of the filter.
"""

from __future__ import annotations

import io
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .files import PathName, begins_as_sound, display_name, first_bytes, open_bytes, read_errors

RATE = 16_000  # Hz
ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
FOREIGN = (".m4a", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".wma", ".amr", ".3gp")  # sound that it doesn't read
MOST_CHANNELS, LEAST_RATE = 64, 1_000
BLOCK = 4  # seconds read at once
EXTRA = "pip install 'sonarllm-cli[speech]'"
AGAIN = "record or fetch it again"
UNKNOWN = 0x7FFFFFFF  # bytes: what programs that write to a pipe put for a length they don't know yet


def is_recording(path: PathName) -> bool:
    """Whether a file, or standard input ("-"), holds sound, by its ending or by its first bytes, which stay unread."""
    return Path(path).suffix.lower() in (*ENDINGS, *FOREIGN) or begins_as_sound(first_bytes(path))


def check_speech(speech: str, names: Iterable[PathName]) -> None:
    """UserError where a speech encoder is named, and there is nothing to hear."""
    if speech and not any(map(is_recording, names)):
        raise UserError(f"--speech {speech} hears recordings, and none is given", "leave it out, or name a recording")


class Recording:
    """Sound from a file, standard input ("-"), the bytes of a file, or an array of numbers and its rate. Float samples
    reach from −1 to 1, integers fill their type; of an array's two dimensions the shorter one counts channels.

    Raises UserError, when it is made or read, for what is no sound, damaged, empty, or not finite.
    """

    def __init__(self, source: PathName | bytes | np.ndarray, rate: int = 0, name: str = "the recording") -> None:
        self.array_NC: np.ndarray | None = None
        self.data = source if isinstance(source, bytes) else None
        self.name = display_name(source) if isinstance(source, str | os.PathLike) else name
        if isinstance(source, str) and source == "-":
            with open_bytes(source) as stream:
                self.data = stream.read()
        if isinstance(source, np.ndarray):
            self.array_NC, self.rate = _channels(source), int(rate)
            _check(self.name, self.rate, *self.array_NC.shape)

    @property
    def seconds(self) -> float:
        """How long it lasts, by what its header says."""
        if self.array_NC is not None:
            return len(self.array_NC) / self.rate
        with _opened(self.name, self.data)[0] as file:
            return file.frames / file.samplerate

    def samples(self) -> np.ndarray:
        """All of it: → samples_N."""
        return np.concatenate(list(self.blocks()))

    def blocks(self) -> Iterator[np.ndarray]:
        """The sound at 16 kHz, block after block: → samples_N, float32."""
        if self.array_NC is None:
            file, soundfile = _opened(self.name, self.data)
            rate, native = file.samplerate, _native(self.name, file, soundfile)
        else:
            step = BLOCK * self.rate
            rate, native = self.rate, (self.array_NC[i : i + step] for i in range(0, len(self.array_NC), step))
        return resampled(self._mixed(native, rate), rate)

    def _mixed(self, native: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        """The mean of the channels, with every number checked."""
        done = 0
        for block_NC in native:
            mixed_N = block_NC[:, 0] if block_NC.shape[1] == 1 else block_NC.mean(1, dtype=np.float64)
            bad = ~np.isfinite(mixed_N)
            if bad.any():
                at = (done + int(bad.argmax())) / rate
                raise UserError(f"{self.name} holds NaN or infinity at {at:.2f} s", "write it again, from the source")
            yield mixed_N.astype(np.float32)
            done += len(block_NC)

    def cut(self, spans: Sequence[tuple[float, float]]) -> Iterator[np.ndarray]:
        """Its parts from start to end in seconds, which don't begin before the one before them: → samples_N each."""
        bounds = [(round(start * RATE), round(end * RATE)) for start, end in spans]
        held, first = np.zeros(0, np.float32), 0  # what was read and may be needed, from sample `first` on
        blocks, more = self.blocks(), True
        for start, end in bounds:
            while more and first + len(held) < end:
                block = next(blocks, None)
                more = block is not None
                if block is not None:
                    held = np.concatenate([held, block])
                gone = min(len(held), max(0, start - first))
                held, first = held[gone:], first + gone
            yield held[start - first : end - first]


def _channels(array: np.ndarray) -> np.ndarray:
    """An array of one or two dimensions as float samples: → array_NC."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise UserError(f"an array of shape {array.shape}, {array.dtype}, is no sound", "give (samples,) of numbers")
    if array.dtype.kind in "iu":
        middle = 128 if array.dtype == np.uint8 else 0
        array = (array.astype(np.float64) - middle) / (128 if middle else -float(np.iinfo(array.dtype).min or -1))
    array = array[:, None] if array.ndim == 1 else array
    return array.T if array.shape[0] < array.shape[1] else array


def _check(name: str, rate: int, samples: int, channels: int) -> None:
    if rate < LEAST_RATE:
        raise UserError(f"{name} has a rate of {rate} Hz", f"give its true rate, {LEAST_RATE} Hz or more")
    if channels > MOST_CHANNELS:
        raise UserError(f"{name} has {channels} channels", "is it sound? mix it down to one first")
    if not samples:
        raise UserError(f"{name} holds no samples", AGAIN)


# ---------------------------------------------------------------------------------------------- files


def _opened(path: str, data: bytes | None) -> tuple[Any, Any]:
    """A file, or `data` under its name, opened, and the package that reads it. What its header tells is checked."""
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package without its library
        raise UserError(f"reading {path} needs the package soundfile", EXTRA) from None
    with read_errors(path), open(path, "rb") if data is None else io.BytesIO(data) as stream:
        if not stream.read(1):
            raise UserError(f"{path} is empty", AGAIN)
    with _decoding(path, soundfile), _hushed():
        file = soundfile.SoundFile(path if data is None else io.BytesIO(data))
        _check_whole(path, file.extra_info)
        _check(path, file.samplerate, file.frames, file.channels)
    return file, soundfile


def _native(path: str, file: Any, soundfile: Any) -> Iterator[np.ndarray]:
    read = 0
    with file:
        while True:
            with _decoding(path, soundfile), _hushed():
                block_NC = file.read(BLOCK * file.samplerate, dtype="float32", always_2d=True)
            if not len(block_NC):
                break
            read += len(block_NC)
            yield block_NC
        if read + file.samplerate // 4 < file.frames:  # compressed forms round their length to packets
            raise _cut_short(path, f"{read / file.samplerate:.1f} of {file.frames / file.samplerate:.1f} s")


def _check_whole(path: str, notes: str) -> None:
    """UserError if libsndfile notes that a file ends before its header says."""
    found = re.search(r"^data\s*: (\d+) \(should be (\d+)\)", notes, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < UNKNOWN:
        raise _cut_short(path, f"{int(found[2]):,} of {int(found[1]):,} bytes of sound")
    if "File ended unexpectedly" in notes:
        raise _cut_short(path, "its last page is missing")


def _cut_short(path: str, what: str) -> UserError:
    return UserError(f"{path} is cut short: {what}", AGAIN)


@contextmanager
def _decoding(path: str, soundfile: Any) -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        why = error.error_string.rstrip(". ").removeprefix("Error : ")
        why = "its header names no rate or no channel" if "SF_INFO" in why else why
        known = "" if "regular file" in why else f" ({why})"  # so it calls an mp3 without frames
        cure = f"is it {', '.join(ending[1:] for ending in ENDINGS[:3])} or mp3? {AGAIN}"
        if Path(path).suffix.lower() in FOREIGN:
            cure = f"ffmpeg -i {shlex.quote(path)} {shlex.quote(str(Path(path).with_suffix('.flac')))}"
        raise UserError(f"{path} is no sound, or damaged{known}", cure) from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing of what C libraries write to standard error by themselves, as libmpg123 does of every frame that it can't
    read: what it means is in our own error."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no standard error
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# ---------------------------------------------------------------------------------------------- rates


def resampled(blocks: Iterable[np.ndarray], rate: int, to: int = RATE) -> Iterator[np.ndarray]:
    """The same sound at another rate, block after block: samples_N → samples_N, float32, ⌈to · N / rate⌉ in all.

    torchaudio's `resample` with its defaults: output n stands at input n · rate/to; its taps are the inputs within 6
    zero crossings of a sinc at 0.99 of the lower rate, under a Hann window.
    """
    if rate == to:
        yield from blocks
        return
    common = math.gcd(rate, to)
    a, b = rate // common, to // common
    weight_bK, reach = _filter(a, b)
    held = np.zeros(reach)  # inputs from `first` on; before the beginning and after the end there is silence
    first, given, made = -reach, 0, 0

    def output(most: int) -> np.ndarray:
        nonlocal held, first, made
        n = np.arange(made, max(made, most), dtype=np.int64)
        at = n * a // b - reach - first
        out_N = np.empty(len(n), np.float32)
        windows_NK = np.lib.stride_tricks.sliding_window_view(held, weight_bK.shape[1])
        for part in (slice(i, i + to) for i in range(0, len(n), to)):
            out_N[part] = np.einsum("nk,nk->n", windows_NK[at[part]], weight_bK[n[part] % b])
        made += len(n)
        gone = max(0, min(len(held), made * a // b - reach - first))
        held, first = held[gone:], first + gone
        return out_N

    for block_N in blocks:
        held, given = np.concatenate([held, block_N.astype(np.float64)]), given + len(block_N)
        whole = (given - reach - 1) * b // a  # outputs all of whose taps are there
        if whole > made:
            yield output(whole)
    held = np.concatenate([held, np.zeros(2 * reach + 2)])
    if (total := -(-to * given // rate)) > made:
        yield output(total)


def _filter(a: int, b: int) -> tuple[np.ndarray, int]:
    """Taps of each of b output phases, from `reach` inputs before it to as many and one after: → weight_bK, reach"""
    base = 0.99 * min(a, b)
    reach = math.ceil(6 * a / base)
    phase_b1 = np.arange(b, dtype=np.int64)[:, None]
    place_bK = phase_b1 * a // b + np.arange(-reach, reach + 2)
    t_bK = np.clip(base * (place_bK / a - phase_b1 / b), -6, 6)
    return np.cos(t_bK * np.pi / 12) ** 2 * np.sinc(t_bK) * base / a, reach
