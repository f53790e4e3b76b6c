"""A store made on Ray: `sonarllm embed --store DIR --engine ray`, on this machine or a cluster.

    embed_on_ray(["train.jsonl.xz"], Path("store"), DocumentEmbedder(model="mini"), workers=8)

One task, on the machine where the command runs, reads the documents; an autoscaling pool of actors, one a GPU or one a
group of cores, segments, embeds and writes shards into the folder, which all machines share. Of a shard whose actor
dies Ray gives the documents to another. Shards and manifest are those of `store.embed_documents`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import RunError, UserError
from ..runtime import choose
from ..weights.loaded import load_space
from . import store
from .embedder import DocumentEmbedder

try:
    import ray
    import ray.exceptions
    from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata
except ImportError:
    raise UserError("Ray is not installed", "pip install 'sonarllm-cli[ray]'") from None

# Bytes, in a Ray of ours, of documents on their way to workers; by itself it takes a third of the memory.
TRAVELLING = 1 << 30


class _Documents(Datasource):
    """The documents of `inputs`, a row a shard, read in order by one task on the machine where the command runs."""

    def __init__(self, inputs: Sequence[str], shard_documents: int, folder: str) -> None:
        self.inputs, self.shard_documents, self.folder = inputs, shard_documents, folder

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        facts = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._read, facts)]

    @property
    def supports_distributed_reads(self) -> bool:
        return False

    def _read(self) -> Iterator[pa.Table]:
        before = os.getcwd()
        os.chdir(self.folder)  # names of inputs are in places, and places in shards
        try:
            for number, rows in store.split(self.inputs, self.shard_documents):
                yield _block(number, len(rows), json.dumps(rows, default=str).encode())
        except UserError as error:
            yield _block(fault=_packed(error))
        finally:
            os.chdir(before)


def _block(number: int = 0, documents: int = 0, rows: bytes = b"", fault: str = "") -> pa.Table:
    """A shard to make, or what stopped the reader."""
    columns = {"number": [number], "documents": [documents], "rows": pa.array([rows], pa.large_binary())}
    return pa.table({**columns, "fault": [fault]})


def _packed(error: UserError) -> str:
    """A fault as a value: of exceptions Ray loses what caused them."""
    return json.dumps([error.message, error.cure, error.exit_code])


def _fault(packed: str) -> UserError:
    message, cure, code = json.loads(packed)
    return (RunError if code == RunError.exit_code else UserError)(message, cure)


class _Worker:
    """An actor: the model stays loaded from shard to shard."""

    def __init__(self, folder: Path, embedder: DocumentEmbedder) -> None:
        self.folder, self.embedder = folder, embedder

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        [number], [rows], [fault] = (shard[name].tolist() for name in ("number", "rows", "fault"))
        entry: dict[str, Any] = {}
        try:
            if not self.folder.is_dir():
                where = f"{self.folder} is not on {platform.node()}"
                raise UserError(where, "choose a --store that all machines share")
            if not fault:
                entry = self.embedder.make_shard(self.folder, number, json.loads(rows))
        except UserError as error:
            fault = _packed(error)
        return {"documents": shard["documents"], "entry": [json.dumps(entry)], "fault": [fault]}


def embed_on_ray(
    inputs: Sequence[str],
    folder: Path,
    embedder: DocumentEmbedder,
    *,
    shard_documents: int = store.SHARD_DOCUMENTS,
    address: str | None = None,
    workers: int | None = None,
    cores: int = 1,
    shown: Callable[[int], None] = lambda documents: None,
) -> dict[str, Any]:
    """Every document of `inputs` into the store `folder`; → its manifest.

    A Ray that runs already in this process, or at `address` (or $RAY_ADDRESS), is used; else one is started here, for
    as long as this takes. Workers have a GPU each, or `cores` cores where there is none or the embedder's device is
    "cpu"; there are at first as many as there is room for, more where the cluster grows, fewer where there is little to
    do, and at most `workers`. `shown` is told of progress. UserError for bad documents, options or a bad folder.
    """
    space = load_space(embedder.model, choose("meta", "float32"), trainable=True)  # its facts; no weights are kept
    lang = store.language_of_documents(inputs, embedder.lang, space, embedder.text_field)
    embedder = replace(embedder, lang=lang, fingerprint=space.fingerprint)
    with store.writing(folder, space):
        ours = not ray.is_initialized()
        if ours:
            _start(address)
        try:
            gpu = embedder.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
            what, each = ("GPU", 1) if gpu else ("CPU", cores)
            room = sum(int(node["Resources"].get(what, 0) // each) for node in ray.nodes() if node["Alive"])
            if not room:
                raise UserError(f"no machine has {cores} cores for a worker", "give fewer --cores")
            pool = ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=min(room, workers or room), max_tasks_in_flight_per_actor=2
            )
            share: dict[str, Any] = {"num_gpus": 1} if gpu else {"num_cpus": cores}
            entries: dict[str, dict[str, Any]] = {}
            for entry, documents in _run(inputs, folder, embedder, shard_documents, pool, share):
                entries[entry["file"]] = entry
                shown(documents)
        finally:
            if ours:
                ray.shutdown()
        return store.finish(folder, len(entries), space, embedder.lang, inputs, entries)


def _start(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless asked
    address = address or os.environ.get("RAY_ADDRESS")
    here: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": TRAVELLING}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:  # what its parts raise, a plain one among them
        what = f"no Ray at {address}" if address else "Ray does not start"
        raise RunError(f"{what}: {str(error).strip().splitlines()[0]}", "see ray status") from error


def _run(
    inputs: Sequence[str],
    folder: Path,
    embedder: DocumentEmbedder,
    shard_documents: int,
    pool: ActorPoolStrategy,
    share: dict[str, Any],
) -> Iterator[tuple[dict[str, Any], int]]:
    """Each shard's entry in the manifest and the number of its documents, empty ones too, as it is done."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard may take hours
    context.target_max_block_size = 1  # a shard is a block: what is given to an actor at once
    with DataContext.current(context):
        source = _Documents(list(inputs), shard_documents, os.getcwd())
        done = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0).map_batches(
            _Worker,
            batch_size=1,
            compute=pool,
            fn_constructor_args=(folder.resolve(), embedder),
            **share,
        )
        try:
            for row in done.iter_rows():
                if row["fault"]:
                    raise _fault(row["fault"])
                yield json.loads(row["entry"]), int(row["documents"])
        except ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            raise RunError(f"Ray: {first}", "run the command again: it goes on at the shard") from error
