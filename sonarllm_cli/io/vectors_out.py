"""Embeddings to files, batch by batch: the writing half of vectors.py.

    with EmbeddingWriter("out.npy", dim=1024) as writer:
        writer.write(embeddings_ND, texts, langs)

Legend: N rows, D embedding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, Protocol, TextIO

import numpy as np

from ..errors import RunError, UserError
from .files import atomic_file, check_target, open_output
from .vectors import COLUMNS, DTYPES, KEY, NPY_MAGIC, RAW, Strings, format_of

GROUP_ROWS = 2048  # a Parquet row group: 8 MiB of float32 at width 1024


Columns = Mapping[str, type[str] | type[float]]  # beside text, language and embedding: their names, and what they hold
Facts = Sequence[Mapping[str, Any]]  # what they hold, row by row; .npy and .safetensors have no place for it


class Header(NamedTuple):
    """What all rows of a file share: their width, their number format, the space they come from, and columns of their
    own."""

    dim: int
    dtype: np.dtype
    fingerprint: str
    columns: Columns = MappingProxyType({})


class _Sink(Protocol):
    """One file being written. `finish` makes it whole, `abort` lets go of it."""

    def write(self, block_ND: np.ndarray, texts: Strings, langs: Strings, facts: Facts) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...


class _RawSink:
    """Rows of numbers behind a header of fixed length, which gets the true count at the end."""

    def __init__(self, stream: BinaryIO, header: Callable[[int, Header], bytes], space: Header) -> None:
        self.stream, self.header, self.space, self.count = stream, header, space, 0
        stream.write(header(0, space))

    def write(self, block_ND: np.ndarray, texts: Strings, langs: Strings, facts: Facts) -> None:
        self.stream.write(block_ND.tobytes())
        self.count += len(block_ND)

    def finish(self) -> None:
        self.stream.seek(0)
        self.stream.write(self.header(self.count, self.space))

    def abort(self) -> None:
        """Nothing to let go of: the file goes with its temporary name."""


def _npy_header(count: int, space: Header) -> bytes:
    """128 bytes for every count: the format's magic, version 1.0, length, and a padded Python dict."""
    text = f"{{'descr': '{space.dtype.str}', 'fortran_order': False, 'shape': ({count}, {space.dim}), }}"
    return NPY_MAGIC + struct.pack("<BBH", 1, 0, 118) + text.ljust(117).encode() + b"\n"


def _safetensors_header(count: int, space: Header) -> bytes:
    """As long for every count below 10^15: the JSON's length, and the JSON padded with blanks to 8 bytes."""

    def header(count: int) -> bytes:
        size = count * space.dim * space.dtype.itemsize
        entry = {"dtype": DTYPES[space.dtype.name], "shape": [count, space.dim], "data_offsets": [0, size]}
        return json.dumps({"__metadata__": {"fingerprint": space.fingerprint}, KEY: entry}).encode()

    width = -(-len(header(10**15)) // 8) * 8
    return struct.pack("<Q", width) + header(count).ljust(width)


class _ParquetSink:
    """Row groups of `GROUP_ROWS`, whatever the batches."""

    def __init__(self, stream: BinaryIO, space: Header) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = (pa.string(), pa.string(), pa.list_(pa.from_numpy_dtype(space.dtype), space.dim))
        own = [(name, pa.string() if kind is str else pa.float64()) for name, kind in space.columns.items()]
        self.schema = pa.schema([*zip(COLUMNS, kinds), *own], metadata={"fingerprint": space.fingerprint})
        repeated = [name for name, kind in space.columns.items() if kind is str]
        self.writer = pq.ParquetWriter(stream, self.schema, use_dictionary=["lang", *repeated])
        self.space, self.held, self.rows = space, [], 0  # type: tuple[Header, list[Any], int]

    def write(self, block_ND: np.ndarray, texts: Strings, langs: Strings, facts: Facts) -> None:
        import pyarrow as pa

        lists = pa.FixedSizeListArray.from_arrays(pa.array(block_ND.reshape(-1)), self.space.dim)
        columns = [pa.array(texts, pa.string()), pa.array(langs, pa.string()), lists.cast(self.schema.field(2).type)]
        for name in self.space.columns:
            columns.append(pa.array([fact[name] for fact in facts], self.schema.field(name).type))
        self.held.append(pa.record_batch(columns, schema=self.schema))
        self.rows += len(block_ND)
        if self.rows >= GROUP_ROWS:
            self._flush(self.rows - self.rows % GROUP_ROWS)

    def _flush(self, count: int) -> None:
        """Write the first `count` rows held."""
        import pyarrow as pa

        table = pa.Table.from_batches(self.held, self.schema)
        self.writer.write_table(table.slice(0, count), row_group_size=GROUP_ROWS)
        self.held, self.rows = table.slice(count).to_batches(), self.rows - count

    def finish(self) -> None:
        if self.rows:
            self._flush(self.rows)
        self.writer.close()

    def abort(self) -> None:
        with suppress(Exception):  # it wants to write a footer, and the disk may be full
            self.writer.close()


class _JsonSink:
    """One object a line; numbers are the shortest decimals that read back to the same float32."""

    def __init__(self, stream: TextIO, space: Header) -> None:
        self.stream = stream
        self.named = {"space": space.fingerprint} if space.fingerprint else {}

    def write(self, block_ND: np.ndarray, texts: Strings, langs: Strings, facts: Facts) -> None:
        for numbers, text, lang, fact in zip(_decimals(block_ND), texts, langs, facts):
            start = json.dumps({"text": text, "lang": lang, **fact, **self.named}, ensure_ascii=False)[:-1]
            self.stream.write(f'{start}, "embedding": [{", ".join(numbers)}]}}\n')
        self.stream.flush()

    def finish(self) -> None:
        """Every line is whole already."""

    def abort(self) -> None:
        """Nothing to let go of."""


def _decimals(block_ND: np.ndarray) -> Iterator[list[str]]:
    """The numbers of each row as JSON, exact after parsing as float64 and rounding to float32."""
    import pyarrow as pa

    for row_D in block_ND.astype(np.float32):
        short = pa.array(row_D).cast(pa.string())
        words = short.to_pylist()
        back_D = short.cast(pa.float64()).to_numpy().astype(np.float32)
        for i in np.flatnonzero(back_D != row_D):  # 0x15ae43fd is the only one: rounded twice, it moves
            words[i] = f"{row_D[i]:.9g}"
        yield ["-0.0" if word == "-0" else word for word in words]  # JSON's -0 is the integer 0 to many readers


def check_output(path: str, dtype: str) -> str:
    """The format in which `path` is written, one of `vectors.ENDINGS`. UserError for an unknown ending, a number format
    that is not written (there), and a folder that is not there."""
    if dtype not in DTYPES:
        raise UserError(f'embeddings are not written as "{dtype}"', f"use {' or '.join(DTYPES)}")
    ending = format_of(path, reading=False)
    if ending == ".emb" and dtype != RAW.name:
        raise UserError(f"{path}: .emb holds {RAW.name} and does not say otherwise", "leave --half out, or use .npy")
    if path != "-":
        check_target(path)
    return ending


class EmbeddingWriter:
    """Writes embeddings batch by batch, in the format of the ending of `path` ("-": JSON Lines on stdout).

    A context manager: the file appears under its name at a clean end and not at all after an exception.
    Raises UserError for an unknown ending or a missing folder, RunError for a full disk or a number that is
    NaN or infinite.
    """

    def __init__(
        self, path: str, *, dim: int, fingerprint: str = "", dtype: str = "float32", columns: Columns | None = None
    ) -> None:
        self.path, self.ending, self.count = path, check_output(path, dtype), 0
        self.space = Header(dim, np.dtype(dtype).newbyteorder("<"), fingerprint, columns or {})
        self.sink: _Sink | None = None
        self._session: AbstractContextManager[None] | None = None

    @contextmanager
    def _open(self) -> Iterator[None]:
        with _SINKS[self.ending](self.path, self.space) as self.sink:
            try:
                yield
                self.sink.finish()
            except BaseException:
                self.sink.abort()
                raise

    def __enter__(self) -> EmbeddingWriter:
        self._session = self._open()
        self._session.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        assert self._session is not None
        return self._session.__exit__(*error)

    def write(
        self,
        embeddings_ND: np.ndarray,
        texts: Sequence[str | None],
        langs: Sequence[str | None],
        facts: Facts | None = None,
    ) -> None:
        """Append N rows: (N, D) numbers, N texts, N languages and, where there are own columns, N rows of these."""
        assert self.sink is not None, "use the writer in a with statement"
        with np.errstate(over="ignore"):
            block_ND = np.ascontiguousarray(embeddings_ND, dtype=self.space.dtype)
        if block_ND.shape != (len(texts), self.space.dim) or len(langs) != len(texts):
            raise ValueError(f"{block_ND.shape} for {len(texts)} texts, {len(langs)} languages, width {self.space.dim}")
        bad = ~np.isfinite(block_ND).all(axis=1)
        if bad.any():
            raise RunError(
                f"embedding {self.count + int(bad.argmax()) + 1} is NaN or too large for {self.space.dtype.name}",
                "compute and write it in float32",
            )
        self.sink.write(block_ND, list(texts), list(langs), facts or [{}] * len(texts))
        self.count += len(block_ND)


def _binary_sink(make: Callable[[BinaryIO, Header], _Sink]) -> Callable[[str, Header], AbstractContextManager[_Sink]]:
    @contextmanager
    def opened(path: str, space: Header) -> Iterator[_Sink]:
        with atomic_file(path) as temporary, open(temporary, "wb") as stream:
            yield make(stream, space)

    return opened


@contextmanager
def _json_sink(path: str, space: Header) -> Iterator[_Sink]:
    with open_output(path) as stream:
        yield _JsonSink(stream, space)


_SINKS: dict[str, Callable[[str, Header], AbstractContextManager[_Sink]]] = {
    ".npy": _binary_sink(lambda stream, space: _RawSink(stream, _npy_header, space)),
    ".safetensors": _binary_sink(lambda stream, space: _RawSink(stream, _safetensors_header, space)),
    ".parquet": _binary_sink(_ParquetSink),
    ".jsonl": _json_sink,
    ".emb": _binary_sink(lambda stream, space: _RawSink(stream, lambda count, space: b"", space)),
}
