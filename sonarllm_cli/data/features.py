"""What a speech encoder reads of clips, made by threads in advance, and once where there is a file to keep it in.

    features = Features(clips, workers=2, kept=folder / "features.int8")
    features.announce([3, 1]); step_SF = features.take(3)

Kept features are bytes, a sixteenth of a deviation each, so that hours of sound are a third of what their samples take;
an error of a thirty-second is nothing to a student whose input is masked and noised.

Legend: N clips, S steps of 20 ms, F features of a step.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..io.audio import RATE
from ..nets import fbank
from .clips import Clip

PARTS = 16  # of a deviation


class Features:
    """Features of clips by number, made by `workers` threads in advance where they were announced."""

    def __init__(self, clips: Sequence[Clip], workers: int, kept: Path | None = None) -> None:
        self.clips = clips
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.coming: dict[int, Future[Tensor]] = {}
        self.kept = Kept(clips, kept) if kept else None

    def announce(self, numbers: Sequence[int]) -> None:
        if self.pool is not None:
            for i in numbers:
                if i not in self.coming:
                    self.coming[i] = self.pool.submit(self.make, i)

    def take(self, number: int) -> Tensor:
        """step_SF of a clip."""
        coming = self.coming.pop(number, None)
        return coming.result() if coming else self.make(number)

    def make(self, number: int) -> Tensor:
        """What `take` gives, now. UserError for a clip in which there is nothing to hear."""
        if self.kept and (found := self.kept.read(number)) is not None:
            return found
        clip = self.clips[number]
        try:
            step_SF = fbank.steps(clip.recording().samples())
        except ValueError as error:
            raise UserError(f"{clip.place}: {error}", "leave the clip out") from None
        return self.kept.write(number, step_SF) if self.kept else step_SF


class Kept:
    """A file of features: the length of each clip's, 0 where they are not made yet, their checksums, then those of all
    clips. It is made anew where the clips are others, a clip's features where they are not what was written."""

    def __init__(self, clips: Sequence[Clip], path: Path) -> None:
        most_N = [max(1, int(clip.seconds * RATE + 1) // fbank.STEP) for clip in clips]
        self.begin_N = np.concatenate([[0], np.cumsum(most_N, dtype=np.int64)])
        key = hashlib.sha256(repr([(clip.audio, clip.seconds) for clip in clips]).encode()).digest()
        head, size = len(key) + 8 * len(clips), int(self.begin_N[-1]) * fbank.FEATURES
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.stat().st_size != head + size or path.open("rb").read(len(key)) != key:
            fresh = path.with_suffix(".part")
            fresh.write_bytes(key)
            os.truncate(fresh, head + size)  # a hole, filled as clips are read
            os.replace(fresh, path)
        self.length_N, self.sum_N = np.memmap(path, np.uint32, "r+", len(key), (2, len(clips)))
        self.part_SF = np.memmap(path, np.int8, "r+", head, (int(self.begin_N[-1]), fbank.FEATURES))

    def read(self, number: int) -> Tensor | None:
        """step_SF of a clip, if they are there."""
        begin, length = int(self.begin_N[number]), int(self.length_N[number])
        part_SF = self.part_SF[begin : begin + length]
        if not length or zlib.crc32(part_SF.tobytes()) != self.sum_N[number]:
            return None
        return torch.from_numpy(part_SF.astype(np.float32)).div_(PARTS)

    def write(self, number: int, step_SF: Tensor) -> Tensor:
        """Keep them; → as they will be read."""
        begin, room = self.begin_N[number], self.begin_N[number + 1] - self.begin_N[number]
        part_SF = (step_SF[:room] * PARTS).round().clamp(-127, 127)
        self.part_SF[begin : begin + len(part_SF)] = bytes_SF = part_SF.to(torch.int8).numpy()
        self.sum_N[number], self.length_N[number] = zlib.crc32(bytes_SF.tobytes()), len(part_SF)
        return part_SF.div_(PARTS)
