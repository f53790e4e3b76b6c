"""Sentences → spoken clips by espeak-ng: many voices, rates and pitches, with noise and reverberation; TSV beside them.

    python recipes/speech/make.py OUT eng_Latn=en.txt deu_Latn=de.txt --train 4000 --valid 100

Each text file holds a sentence a line. `--train` and `--valid` bound the clips of each language; validation has other
sentences and other voices. Needs Debian's `espeak-ng` and the extra `speech`. The same arguments give the same clips.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from sonarllm_cli.io.audio import RATE, Recording

ESPEAK = {
    "eng": ["en-us", "en-gb", "en-gb-scotland"],
    "deu": ["de"],
    "fra": ["fr-fr"],
    "ita": ["it"],
    "spa": ["es", "es-419"],
}
SEEN = [
    "",
    "+m1",
    "+m2",
    "+m3",
    "+m4",
    "+m5",
    "+f1",
    "+f2",
    "+f3",
    "+Alex",
    "+Diogo",
    "+Gene",
    "+Lee",
    "+Mario",
    "+anika",
]
UNSEEN = ["+m6", "+m7", "+f4", "+f5", "+Andy", "+linda"]


def spoken(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """What espeak-ng says, at 16 kHz: → samples_N"""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"]
    wave = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wave), dtype="float32")
    return Recording(samples, rate).samples()


def in_a_room(samples_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Echoes that fade by 60 dB in 0.1 to 0.5 s: noise under an exponential, after the direct sound."""
    fades = rng.uniform(0.1, 0.5)
    time = np.arange(int(fades * RATE)) / RATE
    echo = rng.normal(size=len(time)) * 10 ** (-3 * time / fades)
    echo *= rng.uniform(0.1, 0.5) / np.linalg.norm(echo)
    echo[0] = 1
    size = len(samples_N) + len(echo) - 1
    return np.fft.irfft(np.fft.rfft(samples_N, size) * np.fft.rfft(echo, size), size)[: len(samples_N)]


def with_noise(samples_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White to brown noise, 5 to 30 dB below the voice."""
    wave = np.fft.rfft(rng.normal(size=len(samples_N)))
    wave /= np.arange(1, len(wave) + 1) ** rng.uniform(0, 1)
    noise = np.fft.irfft(wave, len(samples_N))
    level = np.std(samples_N) * 10 ** (-rng.uniform(5, 30) / 20)
    return samples_N + noise * level / max(1e-9, np.std(noise))


def clip(text: str, lang: str, voices: list[str], seed: list[int]) -> np.ndarray:
    """One utterance, as drawn by its seed."""
    rng = np.random.default_rng(seed)
    voice = rng.choice(ESPEAK[lang[:3]]) + rng.choice(voices)
    samples = spoken(text, voice, int(rng.integers(130, 200)), int(rng.integers(25, 75)))
    if rng.random() < 0.35:
        samples = in_a_room(samples, rng)
    if rng.random() < 0.5:
        samples = with_noise(samples, rng)
    return samples * rng.uniform(0.2, 0.9) / max(1e-6, np.abs(samples).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+", metavar="LANG=FILE")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--valid", type=int, default=100)
    parser.add_argument("--takes", type=int, default=1, help="Voices that say each training sentence.")
    parser.add_argument("--words", type=int, default=25, help="Of a sentence, at most.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    (args.out / "clips").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for number, one in enumerate(args.texts):
        lang, _, file = one.partition("=")
        lines = dict.fromkeys(" ".join(line.split()) for line in Path(file).read_text("utf-8").splitlines())
        fit = [line for line in lines if 1 < len(line.split()) <= args.words]
        order = np.random.default_rng([args.seed, number]).permutation(len(fit))
        valid, train = order[: args.valid], order[args.valid : args.valid + args.train]
        jobs = [("valid", int(i), UNSEEN, 0) for i in valid]
        jobs += [("train", int(i), SEEN, take) for take in range(args.takes) for i in train]

        def make(
            job: tuple[str, int, list[str], int], lang: str = lang, number: int = number, fit: list[str] = fit
        ) -> str:
            part, i, voices, take = job
            name = f"{lang[:3]}-{part}-{i}-{take}.flac"
            if not (args.out / "clips" / name).exists():
                samples = clip(fit[i], lang, voices, [args.seed, number, i, take])
                soundfile.write(args.out / "clips" / name, samples, RATE, subtype="PCM_16")
            return f"{name}\t{fit[i]}\t{lang}"

        with ThreadPoolExecutor(args.workers) as pool:
            for job, row in zip(jobs, pool.map(make, jobs)):
                rows[job[0]].append(row)
        print(f"{lang}: {len(train) * args.takes} clips to train on, {len(valid)} held out")
    for part, own in rows.items():
        (args.out / f"{part}.tsv").write_text("\n".join(["path\tsentence\tlang", *own]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
