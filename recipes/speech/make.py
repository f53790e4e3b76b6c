"""Sentences → spoken clips by espeak-ng: many voices, rates and pitches, with noise and reverberation; TSV beside them.

    python recipes/speech/make.py OUT train.jsonl.xz --held-out valid.jsonl.xz --train 6000 --valid 100 --test 500

In: JSON Lines of pairs, {"lang": "de", "en": "…", "de": "…"}, or of texts, {"lang": "de", "text": "…"}. Out: FLAC of
16 kHz in OUT/clips, and train.tsv, valid.tsv, test.tsv with so many clips of each language. What is held out (valid,
test) has sentences and voices of its own; its sentences are those of `--held-out` first. Needs Debian's `espeak-ng` and
the extra `speech`. The same arguments give the same clips; called again, it makes those that aren't there.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from sonarllm_cli.data.records import records
from sonarllm_cli.io.audio import RATE, Recording
from sonarllm_cli.languages import resolve

ESPEAK = {
    "eng": ["en-us", "en", "en-gb-x-rp", "en-gb-scotland"],
    "deu": ["de"],
    "fra": ["fr", "fr-be", "fr-ch"],
    "ita": ["it"],
    "spa": ["es", "es-419"],
}
SEEN = """
    m1 m2 m3 m4 m5 f1 f2 f3 Alex Alicia Andrea Annie Denis Diogo Gene Henrique Hugo Lee Marco Mario anika antonio aunty
    belinda benjamin boris caleb david ed edward grandma iven john klatt klatt2 max michel miguel pablo quincy rob
    sandro shelby steph travis zac
"""
UNSEEN = "m6 m7 m8 f4 f5 Andy Michael adam linda norbert paul steph3 victor"


class Job(NamedTuple):
    """A clip to be made: of which part (train, valid, test), what is said in it, and which take of it this is."""

    part: str
    text: str
    lang: str
    take: int
    seed: int

    @property
    def name(self) -> str:
        """Its file's, which hangs on what is in it."""
        return f"{self.lang[:3]}-{hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:16]}.flac"


class Speaker:
    """Debian's libespeak-ng, in this process."""

    SYNCHRONOUS, RATE, PITCH, CHARACTERS, UTF8 = 2, 1, 3, 1, 1  # as in speak_lib.h
    CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng") from None
        self.rate = self.library.espeak_Initialize(self.SYNCHRONOUS, 0, None, 0)
        self.heard: list[np.ndarray] = []
        self.hear = self.CALLBACK(self._hear)  # held, or it would be freed
        self.library.espeak_SetSynthCallback(self.hear)

    def _hear(self, wave: Any, count: int, _: Any) -> int:
        if wave and count:
            self.heard.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """What a voice says, at 16 kHz: → samples_N"""
        self.heard.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"espeak-ng has no voice {voice}")
        self.library.espeak_SetParameter(self.RATE, speed, 0)
        self.library.espeak_SetParameter(self.PITCH, pitch, 0)
        data = text.encode() + b"\0"
        self.library.espeak_Synth(data, len(data), 0, self.CHARACTERS, 0, self.UTF8, None, None)
        return Recording(np.concatenate(self.heard), self.rate).samples()


@cache
def speaker() -> Speaker:
    """This process' own."""
    return Speaker()


def fast(size: int) -> int:
    """A length for Fourier's transform that is quick: the next power of 2."""
    return 1 << (size - 1).bit_length()


def in_a_room(samples_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Echoes that fade by 60 dB in 0.1 to 0.5 s: noise under an exponential, after the direct sound."""
    fades = rng.uniform(0.1, 0.5)
    time = np.arange(int(fades * RATE)) / RATE
    echo = rng.normal(size=len(time)) * 10 ** (-3 * time / fades)
    echo *= rng.uniform(0.1, 0.5) / np.linalg.norm(echo)
    echo[0] = 1
    size = fast(len(samples_N) + len(echo) - 1)
    return np.fft.irfft(np.fft.rfft(samples_N, size) * np.fft.rfft(echo, size), size)[: len(samples_N)]


def with_noise(samples_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White to brown noise, 5 to 30 dB below the voice."""
    wave = np.fft.rfft(rng.normal(size=fast(len(samples_N))))
    wave /= np.arange(1, len(wave) + 1) ** rng.uniform(0, 1)
    noise = np.fft.irfft(wave)[: len(samples_N)]
    level = np.std(samples_N) * 10 ** (-rng.uniform(5, 30) / 20)
    return samples_N + noise * level / max(1e-9, np.std(noise))


def clip(job: Job) -> np.ndarray:
    """One utterance, as drawn by its name: → samples_N"""
    rng = np.random.default_rng(int(job.name[4:-5], 16))
    voice = f"{rng.choice(ESPEAK[job.lang[:3]])}+{rng.choice((SEEN if job.part == 'train' else UNSEEN).split())}"
    samples_N = speaker().say(job.text, voice, int(rng.integers(130, 200)), int(rng.integers(25, 75)))
    if rng.random() < 0.35:
        samples_N = in_a_room(samples_N, rng)
    if rng.random() < 0.5:
        samples_N = with_noise(samples_N, rng)
    return samples_N * rng.uniform(0.2, 0.9) / max(1e-6, np.abs(samples_N).max())


def make(folder: Path, job: Job) -> None:
    """Write a clip, if it isn't there."""
    path = folder / job.name
    if not path.exists():
        part = path.with_suffix(".part")
        soundfile.write(part, clip(job), RATE, subtype="PCM_16", format="FLAC")
        os.replace(part, path)


def sentences(files: Sequence[str], words: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """All different sentences of 2 to `words` words in the languages that are spoken here, shuffled."""
    found: dict[str, dict[str, None]] = {lang: {} for lang in ESPEAK}
    for file in files:
        for _, row in records(file):
            own = row.get("lang") or "en"
            for code, text in (("en", row.get("en")), (own, row.get(own) or row.get("text"))):
                text = " ".join((text or "").split())
                if 1 < len(text.split()) <= words and (lang := resolve(code)[:3]) in found:
                    found[lang][text] = None
    return {lang: rng.permutation(np.array(list(own), object)).tolist() for lang, own in found.items()}


def jobs(args: argparse.Namespace) -> list[Job]:
    """All clips, the languages in turns."""
    rng = np.random.default_rng(args.seed)
    held, more = (sentences(files, args.words, rng) for files in (args.held_out, args.texts))
    out: list[tuple[int, Job]] = []
    for lang in ESPEAK:
        pool = iter(dict.fromkeys([*held[lang], *more[lang]]))
        code = resolve(lang)
        for part, count in (("test", args.test), ("valid", args.valid), ("train", args.train)):
            chosen = [text for _, text in zip(range(count), pool)]
            takes = args.takes if part == "train" else 1
            out += [
                (i, Job(part, text, code, take, args.seed)) for take in range(takes) for i, text in enumerate(chosen)
            ]
            print(f"{code} {part}: {len(chosen) * takes} clips", flush=True)
    return [job for _, job in sorted(out, key=lambda one: one[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+", help="JSON Lines, also .gz, .xz")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="FILE", help="Sentences that are not trained on.")
    parser.add_argument("--train", type=int, default=6000, help="Sentences of each language to train on.")
    parser.add_argument("--valid", type=int, default=100)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--takes", type=int, default=1, help="Voices that say each training sentence.")
    parser.add_argument("--words", type=int, default=12, help="Of a sentence, at most.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    folder = args.out / "clips"
    folder.mkdir(parents=True, exist_ok=True)

    everything = jobs(args)
    with ProcessPoolExecutor(args.workers) as pool:
        for done, _ in enumerate(pool.map(partial(make, folder), everything, chunksize=50), 1):
            if done % 1000 == 0:
                print(f"{done} of {len(everything)} clips", flush=True)
    for part in ("train", "valid", "test"):
        rows = [f"{job.name}\t{job.text}\t{job.lang}" for job in everything if job.part == part]
        (args.out / f"{part}.tsv").write_text("\n".join(["path\tsentence\tlang", *rows]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
