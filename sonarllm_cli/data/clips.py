"""Recordings with their words, as people keep them → clips to train on or to score.

In: JSON Lines or TSV of audio, text, lang; Common Voice's and FLEURS' own TSV files; Parquet, also with the sound's
bytes, or {"bytes", "path"} as the hub's data sets have it. Sound is named by a path, sought beside the file, in its
`clips/`, and in `audio/NAME/` or `NAME/` as FLEURS has it.

    for clip in read_clips(["train.tsv"], "cv/de", lang="deu_Latn"): print(clip.text, clip.seconds)
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.audio import Recording
from ..io.files import numbered_lines, open_bytes
from ..languages import resolve
from ..runtime import log
from .records import LONGEST, parquet_errors, records

AUDIO, TEXT, LANG = (
    ("audio", "path", "file_name", "file"),
    ("text", "sentence", "raw_transcription"),
    ("lang", "locale"),
)
FLEURS = ("id", "file_name", "raw_transcription", "transcription", "chars", "num_samples", "gender")
Stored = tuple[str, int, int]  # a Parquet file, its row group, the row in it


@dataclass(frozen=True)
class Clip:
    """One utterance: where its sound is, what is said in it, in which language, and how long it lasts."""

    audio: str | Stored
    text: str
    lang: str
    seconds: float
    place: str

    def recording(self) -> Recording:
        """Its sound."""
        if isinstance(self.audio, str):
            return Recording(self.audio)
        sound = _stored(*self.audio[:2])[self.audio[2]]
        assert isinstance(sound, bytes)
        return Recording(sound, name=self.place)


def read_clips(
    names: Sequence[str], root: str = "", *, lang: str = "eng_Latn", max_seconds: float = 0.0, limit: int = 0
) -> list[Clip]:
    """All clips of the files that last at most `max_seconds`; longer ones, and those without words or a sound that is
    there and can be read, are left out and counted. `limit` bounds the rows of each file. UserError for a row that is
    no clip, or if nothing is left.
    """
    clips: list[Clip] = []
    long, broken = 0, list[tuple[str, UserError]]()
    for name in names:
        path = Path(root, name)
        for number, (place, source, text, own) in enumerate(_rows(path)):
            if limit and number >= limit:
                break
            try:
                audio = _sought(source, path, Path(root)) if isinstance(source, str) else source
                seconds = Clip(audio, text, "", 0, place).recording().seconds
            except UserError as error:
                broken.append((place, error))
                continue
            if not text.strip() or (max_seconds and seconds > max_seconds):
                long += 1
                continue
            clips.append(Clip(audio, " ".join(text.split()), resolve(own or lang), seconds, place))
    if broken and not clips and not long:
        place, first = broken[0]
        raise UserError(f"no recording can be read, the first, {place}: {first.message}", first.cure)
    if broken:
        log.warning("left out %d recordings that can't be read, the first, %s: %s", len(broken), *broken[0])
    if long:
        log.info("left out %d clips without words, or longer than %g s", long, max_seconds)
    if not clips:
        raise UserError(f"no clip in {', '.join(names) or 'no file'}", 'give rows {"audio": "a.wav", "text": "…"}')
    return clips


Row = tuple[str, str | Stored, str, str]  # place, sound (or its name), words, language


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    for place, record in _tsv(path) if ".tsv" in path.suffixes else records(str(path)):
        audio, text = _first(record, AUDIO, place), _first(record, TEXT, place)
        lang = next((record[key] for key in LANG if record.get(key)), "")
        yield place, str(audio), str(text), str(lang)


def _first(record: Mapping[str, Any], names: Sequence[str], place: str) -> Any:
    for name in names:
        if record.get(name) is not None:
            return record[name]
    cure = 'give rows {"audio": "a.wav", "text": "…", "lang": "de"}'
    raise UserError(f"{place}: no {names[0]} (it has {', '.join(record) or 'nothing'})", cure)


def _tsv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows by the names in the first one; FLEURS' files have none, and seven columns."""
    names: list[str] = []
    with open_bytes(path) as stream:
        for number, text in numbered_lines(stream, path, max_chars=LONGEST):
            place = f"{path}, line {number}"
            row = next(csv.reader([text], delimiter="\t", quoting=csv.QUOTE_NONE))
            if not names:
                names = row
                if len(row) == len(FLEURS) and not set(row) & {*AUDIO, *TEXT}:
                    names = list(FLEURS)
                else:
                    continue
            if len(row) != len(names):
                raise UserError(f"{place}: {len(row)} columns, not {len(names)}", "mend the line")
            yield place, dict(zip(names, row))


def _sought(audio: str, path: Path, root: Path) -> str:
    """The file of a sound that `path` names."""
    base, part = path.parent, path.name.split(".")[0]
    for folder in (base, base / "clips", base / "audio" / part, base / part, root):
        if os.path.isfile(folder / audio):
            return str(folder / audio)
    raise UserError(f"no such recording: {audio[:200]}", f"put it beside {path.name}, or in clips/")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with parquet_errors(path):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        text, lang = (next((n for n in wanted if n in names), "") for wanted in (TEXT, LANG))
        if not text or not any(name in names for name in AUDIO):
            raise UserError(f"{path} has no columns audio and text", f"name them so; it holds {', '.join(names[:8])}")
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=[name for name in (text, lang) if name]).to_pylist()
            for i, (row, sound) in enumerate(zip(rows, _stored(str(path), group))):
                words, own = row[text], row.get(lang)
                source = (str(path), group, i) if isinstance(sound, bytes) else sound
                yield f"{path}, row {group}:{i}", source, "" if words is None else str(words), str(own or "")


@lru_cache(maxsize=4)
def _stored(path: str, group: int) -> list[bytes | str]:
    """The sounds of a row group, or where they are: bytes, a path, or {"bytes": …, "path": …}."""
    import pyarrow.parquet as pq

    with parquet_errors(Path(path)):
        file = pq.ParquetFile(path)
        name = next(name for name in AUDIO if name in file.schema_arrow.names)
        values = file.read_row_group(group, columns=[name]).column(name).to_pylist()
    found = [(v.get("bytes") or v.get("path")) if isinstance(v, dict) else v for v in values]
    return [v if isinstance(v, bytes) else str(v or "") for v in found]
