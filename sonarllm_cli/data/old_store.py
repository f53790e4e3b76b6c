"""Stores of the first format, whose Parquet shards hold the embeddings: made into those of today.

Legend: N sentences, D embedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..io.files import atomic_write
from ..runtime import log
from ..tokens import Tokenizer
from .store import FORMAT, MANIFEST, check, damage, entry_of, write


def converted(folder: Path, manifest: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A store of the first format as one of this, in place; where that was broken off, its rest. → its manifest"""
    log.info("converting %s: vectors and tokens go beside the shards", folder)
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        with damage(path):
            if "embedding" not in pq.read_schema(path).names:
                continue
            check(path, entry["bytes"])
            table = pq.read_table(path).combine_chunks()
        vectors_ND = table["embedding"].chunk(0).flatten().to_numpy().reshape(len(table), -1)
        words = tokenizer.content(table["text"].to_pylist())
        write(path, table.drop_columns(["tokens", "embedding"]), vectors_ND, words)
    shards = [entry_of(folder / entry["file"]) for entry in manifest["shards"]]
    manifest = {**manifest, "format": FORMAT, "shards": shards}
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest
