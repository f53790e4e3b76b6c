"""Documents as people keep them → records, one at a time, each with its place for messages.

    for place, record in records("train.jsonl.xz"): ...

An input is JSON Lines (.jsonl, .ndjson, .json; also .gz .xz .bz2), Parquet (a record a row), a plain-text file or a
folder of them (*.txt, *.md; a document each), or `hf:ORG/NAME[:SPLIT]`, a data set of the Hugging Face hub, read by the
`datasets` package where that is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..bounds import Count, Share, Whole, Within
from ..errors import RunError, UserError
from ..io.files import numbered_lines, open_bytes, parse_json, read_errors, read_text, text_ending
from ..io.texts import expand

Record = dict[str, Any]
PLAIN = (".txt", ".md")
LONGEST = 10_000_000  # characters of a line
_HUB = re.compile(r"hf:(?P<name>[\w./-]+?)(?::(?P<split>[\w\[\]%:+-]+))?")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run reads. Paths are relative to `root`, which is relative to the current folder."""

    root: str = "."
    documents: list[str] = field(default_factory=list)  # JSON Lines, {"paragraphs": [[block, …], …], "title"?}; of
    # sonar-speech: clips, {"audio": …, "text": …, "lang"?}, also TSV and Parquet with bytes
    pairs: list[str] = field(default_factory=list)  # JSON Lines, {"lang": "it", "en": …, "it": …}
    valid_documents: list[str] = field(default_factory=list)
    valid_pairs: list[str] = field(default_factory=list)
    valid_share: Annotated[float, Within(low=0, below=1)] = 0.0  # of documents held out, where no valid_documents are
    prepared: str = ""  # one file with tokenizer, items, documents and a teacher's vectors (recipes/mini/prepare.py)
    store: str = ""  # a folder that `sonarllm embed --store` made: documents, embedded once
    valid_store: str = ""
    lang: str = "eng_Latn"  # of documents
    limit: Whole = 0  # rows of each file; 0: all
    max_tokens: Annotated[int, Within(low=4)] = 128  # of a sentence; longer ones are left out and counted
    max_sentences: Annotated[int, Within(low=2)] = 32  # of a document
    min_sentences: Count = 2
    split: bool = False  # a document over max_sentences goes on as the next one; if not, its rest is left out
    summaries: Share = 0.5  # share of documents read as body, marker, title


def records(source: str, root: str = "") -> Iterator[tuple[str, Record]]:
    """(place, record) of everything in `source`, a path under `root` or a data set's name.

    Raises UserError, now or on the way, for what can't be read as documents.
    """
    if on_hub(source):
        return _hub(source)
    path = Path(root, source)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    if text_ending(path) in PLAIN:
        return _text(path, path.name)
    return _json(path)


def on_hub(source: str) -> bool:
    """Whether a source is a data set's name, not a path."""
    return source.startswith("hf:")


def source_files(source: str, root: str = "") -> list[Path]:
    """The files that `records` reads of a path under `root`."""
    path = Path(root, source)
    return list(map(Path, expand([str(path)], PLAIN))) if path.is_dir() else [path]


def _json(path: Path) -> Iterator[tuple[str, Record]]:
    with open_bytes(path) as stream:
        for number, line in numbered_lines(stream, path, max_chars=LONGEST):
            place = f"{path}, line {number}"
            record = parse_json(line, place)
            if not isinstance(record, dict):
                raise UserError(f"{place}: not a JSON object", "give one object a line")
            yield place, record


def _text(path: Path, name: str) -> Iterator[tuple[str, Record]]:
    try:
        text = read_text(path)
    except UserError as error:
        if "is empty" not in error.message:
            raise
        text = ""  # counted with the other empty documents
    yield str(path), {"id": name, "text": text}


def _folder(path: Path) -> Iterator[tuple[str, Record]]:
    for file in source_files(str(path)):
        yield from _text(file, file.relative_to(path).as_posix())


def _parquet(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow.parquet as pq

    with parquet_errors(path):
        file = pq.ParquetFile(path, memory_map=True)
        row = 0
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                row += 1
                yield f"{path}, row {row}", {k: v for k, v in record.items() if v is not None}


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """What goes wrong while a Parquet file is read, as a UserError that names it."""
    import pyarrow as pa

    with read_errors(path):
        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged or no Parquet file: {error}", "make or fetch it again") from error


def _hub(source: str) -> Iterator[tuple[str, Record]]:
    found = _HUB.fullmatch(source)
    if not found:
        raise UserError(f"{source!r} names no data set", "give hf:org/name, or hf:org/name:split")
    try:
        import datasets
    except ImportError:
        raise UserError(f"{source} needs the package datasets", "pip install datasets") from None
    name, split = found["name"], found["split"] or "train"
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
        for number, record in enumerate(rows, 1):
            yield f"{name}, row {number}", dict(record)
    except UserError:
        raise
    except Exception as error:  # what its network and file libraries raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunError(f"can't read {source}: {first}", "check its name, the network and HF_TOKEN") from error
