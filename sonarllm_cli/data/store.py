"""Documents segmented, tokenised and embedded once, on disk: what `sonarllm embed --store DIR` writes and training
reads.

`DIR/shard-00000.parquet` … hold a sentence a row: text, lang, document (its id), position (0, 1, …; −1 is the title),
tokens (words, without control tokens), bytes (of UTF-8). Beside each lie its rows' embeddings,
`shard-00000.vectors.npy` (float16, N × D), and the ids of their words one after the other, `shard-00000.tokens.npy`
(int32): NumPy maps both. `DIR/manifest.json` names the space by its fingerprint, and the files with their SHA-256,
which are checked when a store of up to 4 GiB is opened, and by `embed --store` run again. pandas, DuckDB, Arrow and
`datasets` read the shards; training reads them by `stored.py`.

    embed_documents(["train.jsonl.xz"], Path("store"), space)

Legend: N sentences, D embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ..errors import RunError, UserError
from ..flow.embed_text import encode
from ..flow.language import AUTO, TOLD, language_of
from ..flow.segment import segment
from ..io.files import atomic_file, atomic_write, load_json, locked, make_folder
from ..runtime import log
from ..tokens import EOS, Tokenizer, fitting
from ..weights.loaded import Space
from ..weights.model_dir import digest
from . import corpus
from .records import Record, records

FORMAT = 2
GROUP_ROWS = 256  # of a Parquet row group: what is read to have one document
SHARD_DOCUMENTS = 4096
BESIDE = ("vectors", "tokens")  # the arrays of a shard
NAMED = 5  # of each kind of skip, by place
MANIFEST = "manifest.json"


# ---------------------------------------------------------------------------------------------- writing


class Processes(Protocol):
    """Those among which the shards are divided, seen from one of them: learn/ranks.py's, or none but this one."""

    rank: int
    count: int

    @property
    def first(self) -> bool: ...
    def wait(self) -> None: ...


@dataclass
class Alone:
    """The only process."""

    rank: int = 0
    count: int = 1
    first = True

    def wait(self) -> None:
        """For nobody."""


@dataclass
class Skips:
    """What was left out or cut, counted, and the first few by name."""

    count: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, place: str) -> None:
        self.count[what] = self.count.get(what, 0) + 1
        if len(self.places.setdefault(what, [])) < NAMED:
            self.places[what].append(place)

    def merge(self, other: Skips) -> None:
        for what, count in other.count.items():
            self.count[what] = self.count.get(what, 0) + count
            self.places[what] = (self.places.get(what, []) + other.places[what])[:NAMED]


class StoredSentence(NamedTuple):
    text: str
    document: str
    position: int


def embed_documents(
    inputs: Sequence[str],
    folder: Path,
    space: Space,
    *,
    lang: str = AUTO,
    text_field: str = "text",
    max_tokens: int = 256,
    on_long: str = "split",
    shard_documents: int = SHARD_DOCUMENTS,
    ranks: Processes | None = None,
    shown: Callable[[int], None] = lambda documents: None,
) -> dict[str, Any]:
    """Every document of `inputs` into the store `folder`; → its manifest. All are of one language: `lang`, or with
    "auto" what the first of them look like.

    Shards of `shard_documents` are divided among the processes; one that is there already, of the same documents,
    encoder and options, is kept. A sentence over `max_tokens`, or over what the model decodes, is split,
    kept as it is for training to end the document before it (`truncate`), or an error. `shown` is told of progress.
    """
    ranks = ranks or Alone()
    lang = language_of_documents(inputs, lang, space, text_field)
    with writing(folder, space) if ranks.first else nullcontext():
        ranks.wait()
        options = options_of(space, lang, text_field, max_tokens, on_long)
        shards, known = 0, _known(folder)
        for number, rows in split(inputs, shard_documents):
            if number % ranks.count == ranks.rank:
                make_shard(folder, number, rows, space, options, known)
                shown(len(rows))
            shards += 1
        ranks.wait()
        manifest = finish(folder, shards, space, lang, inputs) if ranks.first else {}
        ranks.wait()
    return manifest


def language_of_documents(inputs: Sequence[str], lang: str, space: Space, text_field: str) -> str:
    """`language_of` the first documents of `inputs`."""
    first = chain.from_iterable(rows for _, rows in islice(split(inputs, TOLD), 1))
    text = "\n".join(block for place, record in first for block in corpus.blocks(record, place, text_field))
    return language_of(text, lang, space.tokenizer.langs, "the first documents")


Rows = Sequence[tuple[str, Record]]  # documents, each with its place


def options_of(space: Space, lang: str, text_field: str, max_tokens: int, on_long: str) -> dict[str, Any]:
    """What a shard depends on beside its documents and encoder."""
    max_tokens = min(max_tokens, space.net.config.max_target_tokens)
    return {"lang": lang, "field": text_field, "max_tokens": max_tokens, "on_long": on_long, "dim": space.dim}


def split(inputs: Sequence[str], shard_documents: int) -> Iterator[tuple[int, Rows]]:
    """The documents of `inputs` in order, each shard's with its number."""
    stream = (row for source in inputs for row in records(source))
    number = 0
    while rows := list(islice(stream, shard_documents)):
        yield number, rows
        number += 1


def make_shard(
    folder: Path,
    number: int,
    rows: Rows,
    space: Space,
    options: dict[str, Any],
    known: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Segment, embed and write a shard; one that is there already, undamaged, of the same documents, encoder and
    options, is kept. `known` are the SHA-256 of shards, by their key. JSON gives the same documents back: who makes
    shards elsewhere may send them as that."""
    path = folder / f"shard-{number:05d}.parquet"
    key = hashlib.sha256(json.dumps([FORMAT, space.fingerprint, options, rows], default=str).encode()).hexdigest()
    if _footer(path).get("key") != key or not _whole(path, known.get(key)):
        sentences, skips = sentences_of(rows, space.tokenizer, options)
        _write_shard(path, sentences, skips, space, key, options)
    return path


@contextmanager
def writing(folder: Path, space: Space) -> Iterator[None]:
    """`begin`, and the folder as this command's alone. UserError where another has it."""
    begin(folder, space)
    lock = folder / ".lock"
    with locked(lock, f"another embed --store writes {folder}", "wait for its end, or choose another folder"):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows, where a locked file stays
                lock.unlink()


def begin(folder: Path, space: Space) -> None:
    """Make a new folder, or go on with a store of the same space. UserError for a folder that is neither."""
    if (folder / MANIFEST).is_file():
        found = read_manifest(folder)["space"]
        if found["fingerprint"] != space.fingerprint:
            raise UserError(
                f"{folder} was made with {found['name']} ({found['fingerprint']}), not {space.name}",
                "choose another --store, or delete this one",
            )
    elif folder.is_dir() and any(not p.name.startswith((".", "shard-")) for p in folder.iterdir()):
        raise UserError(f"{folder} holds other things and no {MANIFEST}", "choose another --store")
    make_folder(folder)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    for scratch in folder.glob(".shard-*.tmp-*"):  # what a killed process left half-written
        scratch.unlink()


def sentences_of(rows: Rows, tokenizer: Tokenizer, options: dict[str, Any]) -> tuple[list[StoredSentence], Skips]:
    """Documents → their titles and sentences in reading order, and what was left out."""
    lang, out, skips = options["lang"], [], Skips()
    fits = fitting(tokenizer, options["max_tokens"] - 1)  # a target has one control token more
    for place, record in rows:
        name = str(record.get("id") or record.get("document") or place)
        title = " ".join(str(record.get("title") or "").split())
        body: list[str] = []
        for block in corpus.blocks(record, place, options["field"]):
            for sentence in segment(block, lang=lang):
                if fits(sentence.flat):
                    body.append(sentence.flat)
                    continue
                if options["on_long"] == "error":
                    cure = "use --on-long split, or a larger --max-tokens"
                    raise UserError(f"{place}: a sentence is longer than {options['max_tokens']} tokens", cure)
                skips.add(f"sentences over {options['max_tokens']} tokens", place)
                split = options["on_long"] == "split"
                body += [s.flat for s in segment(sentence.text, lang=lang, fits=fits)] if split else [sentence.flat]
        if not body:
            skips.add("empty documents", place)
            continue
        if len(body) == 1 and not title:
            skips.add("documents of one sentence (kept)", place)
        if title:
            out.append(StoredSentence(title, name, -1))
        out += [StoredSentence(text, name, i) for i, text in enumerate(body)]
    return out, skips


def embedded(texts: Sequence[str], lang: str, space: Space) -> tuple[Tensor, list[list[int]]]:
    """Sentences → embeddings_ND in float16, and the ids of each one's words. RunError for what float16 can't hold."""
    words, room = space.tokenizer.content(texts), space.net.config.max_source_tokens - 2
    embeddings_ND = encode([[space.tokenizer.lang_id(lang), *w[:room], EOS] for w in words], space).cpu().half()
    if not bool(embeddings_ND.isfinite().all()):
        row = int((~embeddings_ND.isfinite()).any(1).nonzero()[0])
        raise RunError(f"the embedding of {texts[row][:60]!r} has no place in float16", "leave it out")
    return embeddings_ND, words


def _write_shard(
    path: Path, sentences: list[StoredSentence], skips: Skips, space: Space, key: str, options: dict[str, Any]
) -> None:
    lang = options["lang"]
    texts = [s.text for s in sentences]
    embeddings_ND, words = embedded(texts, lang, space)
    documents = sum(s.position == 0 for s in sentences)
    facts = {"key": key, "documents": documents, "skipped": skips.count, "places": skips.places}
    columns = {
        "text": pa.array(texts, pa.string()),
        "lang": pa.array([lang] * len(sentences), pa.string()),
        "document": pa.array([s.document for s in sentences], pa.string()),
        "position": pa.array([s.position for s in sentences], pa.int32()),
    }
    metadata = {"fingerprint": space.fingerprint, "store": json.dumps(facts, ensure_ascii=False)}
    write_files(path, pa.table(columns).replace_schema_metadata(metadata), embeddings_ND.numpy(), words)


def _beside(path: Path) -> tuple[Path, Path]:
    """The arrays of a shard: vectors and tokens."""
    vectors, tokens = (path.with_suffix(f".{name}.npy") for name in BESIDE)
    return vectors, tokens


def _known(folder: Path) -> dict[str, str]:
    """The SHA-256 of a finished store's shards, by their keys."""
    if not (folder / MANIFEST).is_file():
        return {}
    return {entry["key"]: entry["sha256"] for entry in read_manifest(folder)["shards"] if "key" in entry}


def _whole(path: Path, sha256: str | None) -> bool:
    """Whether all of a shard is there as it was written."""
    noted = _footer(path).get("arrays", {})  # shards of before have none
    try:
        if sha256 and digest(path) != sha256:
            return False
        return all(digest(other) == noted.get(name, digest(other)) for name, other in zip(BESIDE, _beside(path)))
    except OSError:
        return False


def write_files(path: Path, table: pa.Table, embeddings_ND: np.ndarray, words: Sequence[Sequence[int]]) -> None:
    """A shard: its arrays, and last the Parquet file, without which they are nothing."""
    ids = np.fromiter((i for w in words for i in w), np.int32)
    for beside, array in zip(_beside(path), (embeddings_ND, ids)):
        with atomic_file(beside) as scratch, open(scratch, "wb") as file:
            np.save(file, array)
    facts = load_json(table.schema.metadata[b"store"])
    facts["arrays"] = {name: digest(other) for name, other in zip(BESIDE, _beside(path))}
    table = table.replace_schema_metadata({**table.schema.metadata, b"store": json.dumps(facts, ensure_ascii=False)})
    sizes = [len(text.encode()) for text in table["text"].to_pylist()]
    counts = {"tokens": [len(w) for w in words], "bytes": sizes}
    for name, column in counts.items():
        table = table.append_column(name, pa.array(column, pa.int32()))
    dictionaries = ["lang", "document"]
    with atomic_file(path) as scratch:
        pq.write_table(
            table,
            scratch,
            row_group_size=GROUP_ROWS,
            compression={name: "zstd" if name in ("text", "document") else "none" for name in table.column_names},
            use_dictionary=dictionaries,
            write_statistics=["document", "position"],
        )


def _footer(path: Path) -> dict[str, Any]:
    """What a shard says of itself; {} for one that is missing or damaged."""
    try:
        return load_json(pq.read_schema(path).metadata[b"store"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return {}


def entry_of(path: Path) -> dict[str, Any]:
    """What the manifest says of a shard; all of it is read."""
    rows, facts = pq.read_metadata(path).num_rows, _footer(path)
    beside = {name: _facts(other) for name, other in zip(BESIDE, _beside(path))}
    return {"rows": rows, "documents": facts["documents"], "key": facts["key"], **_facts(path), **beside}


def _facts(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest(path)}


def finish(
    folder: Path,
    count: int,
    space: Space,
    lang: str,
    inputs: Sequence[str],
    entries: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the manifest of the first `count` shards, and delete what an earlier, longer store left beyond them.
    `entries` are those that are known already, by file. UserError where there is no shard."""
    if not count:
        raise UserError("no documents in " + ", ".join(inputs), "give files with documents")
    _sweep(folder)
    made, skips = [], Skips()
    for path in sorted(folder.glob("shard-*.parquet")):
        if int(path.stem.split("-")[1]) >= count:
            for old in (path, *_beside(path)):
                old.unlink(missing_ok=True)
            continue
        made.append((entries or {}).get(path.name) or entry_of(path))
        facts = _footer(path)
        skips.merge(Skips(facts["skipped"], facts["places"]))
    for what, number in skips.count.items():
        log.info("%d %s: %s%s", number, what, ", ".join(skips.places[what]), " …" if number > NAMED else "")
    manifest = {
        "format": FORMAT,
        "space": {"name": space.name, "fingerprint": space.fingerprint, "dim": space.dim},
        "lang": lang,
        "inputs": list(inputs),
        "documents": sum(entry["documents"] for entry in made),
        "sentences": sum(entry["rows"] for entry in made),
        "skipped": skips.count,
        "shards": made,
    }
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


# ---------------------------------------------------------------------------------------------- reading


def read_manifest(folder: Path) -> dict[str, Any]:
    """UserError for a folder that is no store, or one that is not finished."""
    path = folder / MANIFEST
    if not path.is_file():
        what = "is not finished" if any(folder.glob("shard-*")) else "is no store"
        raise UserError(f"{folder} {what}: it has no {MANIFEST}", f"run sonarllm embed --store {folder} FILE… again")
    try:
        manifest = load_json(path.read_bytes())
        if not 1 <= manifest["format"] <= FORMAT:
            raise UserError(f"{path} has format {manifest['format']}", "upgrade sonarllm-cli")
        return {**manifest, "shards": list(manifest["shards"]), "space": dict(manifest["space"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}", f"run sonarllm embed --store {folder} FILE… again") from error


def check_size(path: Path, size: int) -> None:
    """UserError for a file of a store that is missing or has not so many bytes."""
    if not path.is_file():
        raise UserError(f"{path} is missing", again(path.parent))
    if path.stat().st_size != size:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, not {size:,}: it was cut short", again(path.parent))


def again(folder: Path) -> str:
    """What cures a damaged store."""
    return f"delete it and run sonarllm embed --store {folder} FILE… again"


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """UserError where a file of a store can't be read in here."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged: {error}", again(path.parent)) from error
