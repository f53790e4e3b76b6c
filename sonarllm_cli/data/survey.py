"""What a recipe's `data` finds, before a run reads it: files, and how many documents, items and clips are in them.

    for line in survey(Data(documents=["train.jsonl.xz"])): print(line)

Read are a megabyte of each text file, of which the rest is reckoned ("about"), the footers of Parquet files, the first
bytes of a prepared corpus, the manifest of a store. No text is segmented: how many sentences there are a run says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import UserError
from ..io.files import OPENERS, read_errors, text_ending
from . import prepared
from .records import PLAIN, Data, on_hub, parquet_errors, source_files
from .store import read_manifest

SAMPLE = 1 << 20  # bytes


def survey(data: Data, *, clips: bool = False) -> list[str]:
    """A line for training and one for validation; what is not there, or can't be read, is said in them. `clips`: the
    recipe's documents are recordings."""
    unit = "clips" if clips else "documents"
    sides = (
        ("training", data.documents, data.pairs, data.store, False),
        ("validation", data.valid_documents, data.valid_pairs, data.valid_store, True),
    )
    lines = []
    for name, documents, pairs, store, held in sides:
        parts = [*_counted(data, documents, unit), *_counted(data, pairs, "pairs")]
        if store:
            parts.append(_told(_store, Path(data.root, store), held))
        if data.prepared:
            parts.append(_told(_prepared, Path(data.root, data.prepared), held))
        if held and data.valid_share and not documents:
            parts.append(f"{100 * data.valid_share:g} % of the training documents")
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
    return lines


def _told(count: Callable[[Path, bool], str], path: Path, held: bool) -> str:
    """What `count` says of a path, or what is wrong with it."""
    try:
        return count(path, held)
    except UserError as error:
        return error.message


def _counted(data: Data, names: list[str], unit: str) -> Iterator[str]:
    """How many rows the files have together; then what can't be counted, one by one."""
    rows = files = 0
    about, others = False, []
    for name in names:
        if on_hub(name):
            others.append(f"{name}, which is not asked")
            continue
        try:
            counted = [_rows(path) for path in source_files(name, data.root)]
        except UserError as error:
            others.append(error.message)
            continue
        count = sum(count for count, _ in counted)
        about |= not all(exact for _, exact in counted) and not 0 < data.limit <= count
        rows, files = rows + (min(count, data.limit) if data.limit else count), files + len(counted)
    if files:
        yield f"{'about ' if about else ''}{rows:,} {unit} in {files:,} file{'s' if files > 1 else ''}"
    yield from others


def _rows(path: Path) -> tuple[int, bool]:
    """How many records a file has, and whether they were counted to its end."""
    if text_ending(path) in PLAIN:
        with read_errors(path):
            path.stat()
        return 1, True
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        with parquet_errors(path):
            return pq.ParquetFile(path).metadata.num_rows, True
    with read_errors(path), open(path, "rb") as raw:
        stream = OPENERS.get(path.suffix.lower(), lambda raw: raw)(raw)
        head, size = stream.read(SAMPLE), os.fstat(raw.fileno()).st_size
        whole = len(head) < SAMPLE
        share = 1.0 if whole else raw.tell() / size
    lines = head.count(b"\n") + (whole and head[-1:] not in (b"", b"\n"))
    return max(0, round(lines / share) - (".tsv" in path.suffixes)), whole


def _store(folder: Path, _: bool) -> str:
    manifest = read_manifest(folder)
    return f"{manifest['documents']:,} documents of {manifest['sentences']:,} sentences in {folder}"


def _prepared(path: Path, held: bool) -> str:
    items, documents = prepared.sizes(path)[held]
    return f"{items:,} items and {documents:,} documents in {path}"
