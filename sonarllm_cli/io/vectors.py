"""Embeddings in and out of files, batch by batch, in memory that does not grow with the file.

In: .npy, .safetensors, .parquet, .jsonl (also .ndjson), .emb, or standard input ("-": JSON Lines, .npy, or with a width
.emb).
Out: the same, or JSON Lines on standard output; a file takes its name only once it is whole.

    with EmbeddingWriter("out.npy", dim=1024) as writer:
        writer.write(embeddings_ND, texts, langs)
    for batch in read_embeddings("out.npy"): ...

What each format keeps: .npy only the numbers; .emb (LASER's and vecalign's: float32 without a header) not even their
width; .jsonl also texts and languages; .safetensors the numbers and the fingerprint of the space (texts too, if another
program put them in); .parquet everything. A Parquet of the Large Concept Models' code, a document a row, is read as its
sentences, one after another.

N rows, D embedding, U bytes.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import UserError
from .files import (
    PathName,
    display_name,
    missing_field,
    numbered_lines,
    open_bytes,
    parse_json,
    read_errors,
    text_ending,
)

KEY = "embeddings"  # the tensor's name in .safetensors
ENDINGS = (".npy", ".safetensors", ".parquet", ".jsonl", ".emb")
KEEP_TEXTS = (".parquet", ".jsonl")
RAW = np.dtype("<f4")  # of .emb; source: LASER's embed.py, vecalign's dp_utils
LCM = "_sonar_emb"  # what LCM's code ends a column's name with, whose texts are in the column without it
LCM_ROWS = 16  # documents of LCM's Parquet read at once
COLUMNS = ("text", "lang", "embedding")  # of .parquet and .jsonl
DTYPES = {"float32": "F32", "float16": "F16"}  # what is written; safetensors' names for them
NPY_MAGIC = b"\x93NUMPY"
MAX_LINE_CHARS = 16_000_000  # of JSON Lines: an embedding takes about 12 characters a number

Strings = list[str | None]
Block = tuple[np.ndarray, Strings, Strings, str]  # (N, D) numbers, N texts, N languages, the space's fingerprint
Columns = tuple[Any, dict[str, Any]]  # of Parquet: lists of numbers, and what else is known of each, by its column


class EmbeddingRow(NamedTuple):
    """One embedding (D,) float32 and, where the file keeps them, its text and language."""

    embedding: np.ndarray
    text: str | None
    lang: str | None


class EmbeddingBatch(NamedTuple):
    """Rows `first`, `first` + 1, … (from 0) of the file `name`: (N, D) float32, N texts and N languages."""

    embeddings_ND: np.ndarray
    texts: Strings
    first: int
    fingerprint: str
    langs: Strings
    name: str = "the embeddings"

    def rows(self) -> Iterator[EmbeddingRow]:
        """The batch one embedding at a time."""
        return map(EmbeddingRow, self.embeddings_ND, self.texts, self.langs)


def format_of(path: PathName, *, reading: bool) -> str:
    """The format of `path`, one of `ENDINGS`; only JSON Lines may be compressed, to be read. Raises UserError."""
    suffix = Path(path).suffix.lower()
    if path == "-" or (text_ending(path) if reading else suffix) in (".jsonl", ".ndjson"):
        return ".jsonl"
    if suffix not in ENDINGS:
        raise UserError(f'{os.fspath(path)}: unknown ending "{suffix}"', f"use {', '.join(ENDINGS)} or - (JSON Lines)")
    return suffix


def read_embeddings(path: PathName, *, batch: int = 256, column: str = "", dim: int = 0) -> Iterator[EmbeddingBatch]:
    """The embeddings of a file or of standard input ("-"), in order, `batch` rows or fewer at a time.

    `column` names the Parquet column, safetensors tensor or JSON field that holds them, where it is not the usual one;
    `dim` is the width of .emb, which standard input then is. The file is opened and its header checked at once. Raises
    UserError, now or on the way, for every input that is not finite numbers in rows of one width.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, not 1 or more")
    ending = ".emb" if path == "-" and dim else format_of(path, reading=True)
    if column and ending in (".npy", ".emb"):
        raise UserError(f"{display_name(path)} has no columns to choose from", "leave --column out")
    if (ending == ".emb") != (dim > 0):
        if dim:
            raise UserError(f"{display_name(path)} says itself how wide its rows are", "leave --dim out")
        raise UserError(f"{display_name(path)} does not say how wide its rows are", "give it: --dim 1024 for LASER's")
    with read_errors(path), _parsing(path):
        if ending != ".jsonl" and path != "-":  # which say so themselves
            with open_bytes(path) as stream:
                if not stream.read(1):
                    raise UserError(f"{display_name(path)} is empty", "write it again")
        blocks = _SOURCES[ending](path, batch, dim if ending == ".emb" else column)
    return _batches(path, blocks)


def _batches(path: PathName, blocks: Iterator[Block]) -> Iterator[EmbeddingBatch]:
    """`blocks` as finite float32, with the rows counted."""
    first = 0
    while True:
        with read_errors(path), _parsing(path), np.errstate(over="ignore"):
            block = next(blocks, None)
            if block is None:
                break
            embeddings_ND = np.array(block[0], dtype=np.float32)
        bad = ~np.isfinite(embeddings_ND).all(axis=1)
        if bad.any():
            raise _not_finite(f"{display_name(path)}, row {first + int(bad.argmax()) + 1}")
        yield EmbeddingBatch(embeddings_ND, block[1], first, block[3], block[2], display_name(path))
        first += len(embeddings_ND)
    if not first:
        raise UserError(f"{display_name(path)} holds no embeddings", "write it again")


@contextmanager
def _parsing(path: PathName) -> Iterator[None]:
    """Turn whatever a parser says about damaged bytes into a UserError: their own errors are of many kinds."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError | MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"{display_name(path)} is damaged, or not what its ending says: {reason}"
        raise UserError(message, "write it again") from error


def _not_finite(where: str) -> UserError:
    return UserError(f"{where}: NaN, infinity or a number too large for float32", "remove it, or embed its text again")


def _shape(path: PathName, shape: tuple[int, ...] | list[int], kind: str) -> tuple[int, int]:
    """(N, D) of an array of numbers; a single vector is one row. Raises UserError for any other array."""
    if kind not in "fiu":
        raise UserError(f"{display_name(path)} does not hold plain numbers", "save it as float32 or float16")
    if len(shape) not in (1, 2) or min(shape) < 0 or shape[-1] == 0:
        raise UserError(f"{display_name(path)} holds an array of shape {tuple(shape)}", "save it as (rows, width)")
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _npy_source(path: PathName, batch: int, _: str) -> Iterator[Block]:
    return _npy_blocks(path, np.memmap(path, np.uint8, mode="r"), batch)


def _raw_source(path: PathName, batch: int, dim: int) -> Iterator[Block]:
    if path == "-":
        with open_bytes(path) as stream:
            data_U = np.frombuffer(stream.read(), np.uint8)
    else:
        data_U = np.memmap(path, np.uint8, mode="r")
    if len(data_U) % (dim * RAW.itemsize):
        raise UserError(
            f"{display_name(path)} is cut short, or its rows are not {dim} wide: it has {len(data_U):,} bytes",
            f"a row of float32 has {dim * RAW.itemsize:,}; give the width with --dim",
        )
    return _bare(data_U.view(RAW).reshape(-1, dim), batch)


def _bare(array_ND: np.ndarray, batch: int) -> Iterator[Block]:
    """Blocks of numbers alone."""
    slices = (array_ND[i : i + batch] for i in range(0, len(array_ND), batch))
    return ((part_ND, [None] * len(part_ND), [None] * len(part_ND), "") for part_ND in slices)


def _npy_blocks(path: PathName, data_U: np.ndarray, batch: int) -> Iterator[Block]:
    """The rows of the bytes of a .npy file. Pickled objects are refused by their dtype, before anything is read."""
    header = io.BytesIO(data_U[:65536].tobytes())
    version = np.lib.format.read_magic(header)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_column, dtype = read_header[version](header)
    if dtype.hasobject:
        raise UserError(f"{display_name(path)} holds pickled Python objects", "save it as float32 or float16")
    count, width = _shape(path, shape, dtype.kind)
    start, size = header.tell(), math.prod(shape) * dtype.itemsize
    if len(data_U) - start != size:
        raise UserError(
            f"{display_name(path)} is cut short or has a tail: {len(data_U) - start:,} bytes where {size:,} are due",
            "write it again, one array a file",
        )
    return _bare(data_U[start:].view(dtype).reshape((count, width), order="F" if by_column else "C"), batch)


def _safetensors_source(path: PathName, batch: int, column: str) -> Iterator[Block]:
    from safetensors import safe_open

    key = column or KEY
    file = safe_open(path, framework="numpy")
    metadata = file.metadata() or {}
    if key not in file.keys():  # noqa: SIM118 (a file is not a dict)
        raise _no_column(path, "tensor", key, list(file.keys()))
    part = file.get_slice(key)
    name = part.get_dtype()  # F32, BF16, I64, …; numpy has no BF16 and no 8-bit floats
    kind = name[0].lower() if name[1:] in ("8", "16", "32", "64") else "V"
    rank, count = len(part.get_shape()), _shape(path, part.get_shape(), kind)[0]
    texts = json.loads(metadata["texts"]) if "texts" in metadata else [None] * count
    if not isinstance(texts, list) or len(texts) != count or not all(isinstance(t, str | None) for t in texts):
        raise UserError(f"{display_name(path)}: its metadata texts are not {count} strings", "write it again")

    def blocks() -> Iterator[Block]:
        for i in range(0, count, batch):
            embeddings_ND = part[i : min(i + batch, count)] if rank == 2 else file.get_tensor(key)[None]
            yield embeddings_ND, texts[i : i + batch], [None] * len(embeddings_ND), metadata.get("fingerprint", "")

    return blocks()


def _no_column(path: PathName, what: str, name: str, held: list[str]) -> UserError:
    return UserError(
        f'{display_name(path)} has no {what} "{name}"',
        f"it holds {', '.join(held[:8]) or 'nothing'}; name the embeddings with --column",
    )


def _parquet_source(path: PathName, batch: int, column: str) -> Iterator[Block]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    schema = file.schema_arrow
    of_lcm = [name for name in schema.names if name.endswith(LCM)]
    if not column:
        column = of_lcm[0] if len(of_lcm) == 1 and COLUMNS[-1] not in schema.names else COLUMNS[-1]
    if column not in schema.names:
        raise _no_column(path, "column", column, of_lcm or schema.names)
    kind, depth = schema.field(column).type, 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    if depth not in (1, 2) or not _is_number(kind):
        found = schema.field(column).type
        raise UserError(
            f'{display_name(path)}: the column "{column}" is {found}, not lists of numbers',
            "cast it to lists of float32",
        )
    fingerprint = (schema.metadata or {}).get(b"fingerprint", b"").decode("utf-8")
    text = column.removesuffix(LCM) if column.endswith(LCM) else COLUMNS[0]
    names = [name for name in (text, COLUMNS[1], column) if name in schema.names]
    parts = file.iter_batches(batch_size=batch if depth == 1 else LCM_ROWS, columns=names)
    columns: Iterator[Columns] = (
        (part.column(column), {name: part.column(name) for name in names[:-1]}) for part in parts
    )
    if depth == 2:
        columns = _sentences(path, columns, batch)
    return _parquet_blocks(path, columns, text, fingerprint)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _sentences(path: PathName, columns: Iterator[Columns], batch: int) -> Iterator[Columns]:
    """Columns of documents as columns of their sentences, `batch` at a time. UserError for a document whose texts and
    vectors differ in number (LCM's own code leaves it out)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = 0
    for documents, others in columns:
        count_B = pc.list_value_length(documents).fill_null(0).to_numpy()
        flat = {}
        for name, column in others.items():
            if not _is_list(column.type):  # one for the whole document
                flat[name] = column.take(pa.array(np.repeat(np.arange(len(column)), count_B)))
                continue
            texts_B = pc.list_value_length(column).fill_null(0).to_numpy()
            for row in np.flatnonzero(texts_B != count_B)[:1]:
                raise UserError(
                    f"{display_name(path)}, row {first + int(row) + 1}: {texts_B[row]} texts, {count_B[row]} "
                    "embeddings",
                    "embed that document again",
                )
            flat[name] = column.flatten()
        vectors = documents.flatten()
        for i in range(0, len(vectors), batch):
            yield vectors.slice(i, batch), {name: column.slice(i, batch) for name, column in flat.items()}
        first += len(documents)


def _parquet_blocks(path: PathName, columns: Iterator[Columns], text: str, fingerprint: str) -> Iterator[Block]:
    import pyarrow.compute as pc

    first = width = 0
    for lists, others in columns:
        texts = {name: column.to_pylist() for name, column in others.items()}
        widths = pc.list_value_length(lists).fill_null(0).to_numpy()
        if not len(widths):
            continue
        for row in np.flatnonzero(widths == 0)[:1]:
            message = f"{display_name(path)}, row {first + int(row) + 1}: there is no embedding"
            raise UserError(message, "remove it, or embed its text again")
        width = width or int(widths[0])
        for row in np.flatnonzero(widths != width)[:1]:
            raise _other_width(f"{display_name(path)}, row {first + int(row) + 1}", int(widths[row]), width)
        values = lists.flatten()
        if values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width
            raise UserError(f"{display_name(path)}, row {first + row + 1}: a number is missing", "embed it again")
        for name, column in texts.items():
            if not all(isinstance(text, str | None) for text in column):
                raise UserError(f'{display_name(path)}: the column "{name}" is not strings', "cast it to strings")
        nothing: Strings = [None] * len(lists)
        block_ND = values.to_numpy(zero_copy_only=False).reshape(len(lists), width)
        yield block_ND, texts.get(text, nothing), texts.get(COLUMNS[1], nothing), fingerprint
        first += len(lists)


def _other_width(where: str, width: int, expected: int) -> UserError:
    return UserError(f"{where}: {width} numbers, where the first row has {expected}", "embed all texts with one model")


def _json_source(path: PathName, batch: int, column: str) -> Iterator[Block]:
    source, head = open_bytes(path), b""
    if path == "-":
        with source as stream:
            head = stream.read(1)
            if head == NPY_MAGIC[:1]:  # no UTF-8 text begins so
                return _npy_blocks(path, np.frombuffer(head + stream.read(), np.uint8), batch)
    return _json_blocks(source, path, batch, head, column or COLUMNS[-1])


def _json_blocks(
    source: AbstractContextManager[BinaryIO], path: PathName, batch: int, head: bytes, field: str
) -> Iterator[Block]:
    held: list[EmbeddingRow] = []
    width, space = 0, ""
    with source as stream:
        for number, line in numbered_lines(stream, path, max_chars=MAX_LINE_CHARS, head=head):
            where = f"{display_name(path)}, line {number}"
            value = parse_json(line, where, parse_int=float)
            row, own = _json_row(value, where, field), _json_space(value, where)
            width, space = width or len(row.embedding), space or own
            if len(row.embedding) != width:
                raise _other_width(where, len(row.embedding), width)
            if own and own != space:
                raise UserError(f"{where} is of another space than those before", "embed all texts with one model")
            held.append(row)
            if len(held) == batch:
                yield _stack(held, space)
                held = []
    if held:
        yield _stack(held, space)


def _json_space(value: Any, where: str) -> str:
    """The fingerprint that a line's object names, or ""."""
    space = value.get("space", "") if isinstance(value, dict) else ""
    if not isinstance(space, str):
        raise UserError(f'{where}: "space" is not a string', "write it again")
    return space


def _json_row(value: Any, where: str, field: str) -> EmbeddingRow:
    """The row of one line: an object with `field` and perhaps "text" and "lang", or a bare list."""
    text = lang = None
    if isinstance(value, dict):
        if field not in value:
            raise missing_field(where, field, value)
        text, lang, value = value.get("text"), value.get("lang"), value[field]
    if not isinstance(text, str | None) or not isinstance(lang, str | None):
        raise UserError(f'{where}: "text" or "lang" is not a string', "write it again")
    if not isinstance(value, list) or set(map(type, value)) != {float}:  # integers are parsed as floats
        raise UserError(f"{where}: the embedding is not a list of numbers", "give one embedding a line")
    with np.errstate(over="ignore"):
        embedding_D = np.array(value, dtype=np.float32)
    if not np.isfinite(embedding_D).all():
        raise _not_finite(where)
    return EmbeddingRow(embedding_D, text, lang)


def _stack(rows: list[EmbeddingRow], space: str) -> Block:
    return np.stack([row.embedding for row in rows]), [row.text for row in rows], [row.lang for row in rows], space


_SOURCES: dict[str, Callable[[PathName, int, Any], Iterator[Block]]] = {  # path, batch, column (of .emb: width)
    ".npy": _npy_source,
    ".safetensors": _safetensors_source,
    ".parquet": _parquet_source,
    ".jsonl": _json_source,
    ".emb": _raw_source,
}
