"""The sentences of a store (store.py), read from disk when they are asked for.

    Stored(Path("store"), space).embeddings(np.array([0, 5]))

Stores of the first format are converted when they are first read.

Legend: N sentences, B documents, D embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..errors import UserError
from ..tokens import EOS
from ..weights.loaded import Space
from ..weights.model_dir import digest
from .old_store import converted
from .store import BESIDE, FORMAT, GROUP_ROWS, again, check, damage, read_manifest

CHECKED = 4 << 30  # bytes: of a larger store a run would wait minutes until all is read
HELD_GROUPS = 512  # whose texts are kept: about 16 MiB


class Stored:
    """The sentences of a store, read from disk when they are asked for: rows as in `documents.Sentences`, whose methods
    mean the same. In memory are an index, twenty bytes a sentence, and the texts read last; vectors and tokens are
    mapped.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder, self.tokenizer, self.dim = folder, space.tokenizer, space.dim
        manifest = read_manifest(folder)
        made = manifest["space"]
        if made["fingerprint"] != space.fingerprint:
            raise UserError(
                f"{folder} was made with {made['name']} ({made['fingerprint']}), the run is in {space.name} "
                f"({space.fingerprint})",
                f"use that space, or embed again: sonarllm embed --store DIR -m {space.name}",
            )
        if manifest["format"] < FORMAT:
            manifest = converted(folder, manifest, space.tokenizer)
        self._check_all(manifest["shards"])
        self.prompt = space.tokenizer.prompt(manifest["lang"])
        self.paths = [folder / entry["file"] for entry in manifest["shards"]]
        self.footers = [self._footer(path) for path in self.paths]
        self.first = np.cumsum([0, *(footer.num_rows for footer in self.footers)])  # row of each shard
        self.position = self._column("position")
        self.labels = self._column("tokens") + 1
        self.sizes = self._column("bytes")
        self.start = np.cumsum(np.append(0, self.labels - 1), dtype=np.int64)  # of each row's words, in all shards'
        arrays = [[self._array(folder, entry[name]) for name in BESIDE] for entry in manifest["shards"]]
        self.vectors, self.words = [vectors for vectors, _ in arrays], [tokens for _, tokens in arrays]
        self._check_arrays()
        self._texts: OrderedDict[tuple[int, int], dict[str, Any]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.first[-1])

    def _check_all(self, shards: Sequence[dict[str, Any]]) -> None:
        """That the files are there, as long as they were, and those of a store that is soon read as they were."""
        files = [part for entry in shards for part in (entry, *(entry[name] for name in BESIDE))]
        for part in files:
            check(self.folder / part["file"], part["bytes"])
        if sum(part["bytes"] for part in files) <= CHECKED:
            for part in files:
                if digest(self.folder / part["file"]) != part["sha256"]:
                    raise UserError(
                        f"{self.folder / part['file']} is damaged: not what was written", again(self.folder)
                    )

    def _footer(self, path: Path) -> pq.FileMetaData:
        with damage(path):
            return pq.read_metadata(path)

    def _array(self, folder: Path, entry: dict[str, Any]) -> np.ndarray:
        path = folder / entry["file"]
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}", again(folder)) from error

    def _check_arrays(self) -> None:
        for s, path in enumerate(self.paths):
            rows, words = int(np.diff(self.first)[s]), int(np.diff(self.start[self.first])[s])
            for array, shape, kind in ((self.vectors[s], (rows, self.dim), "f2"), (self.words[s], (words,), "i4")):
                if array.shape != shape or array.dtype != np.dtype(f"<{kind}"):
                    raise UserError(f"the arrays beside {path} are not as this program writes them", again(self.folder))

    def _column(self, name: str) -> np.ndarray:
        out = np.empty(len(self), np.int32)
        for path, footer, at in zip(self.paths, self.footers, self.first):
            with damage(path), pq.ParquetFile(path, metadata=footer) as file:
                out[at : at + footer.num_rows] = file.read([name], use_threads=False)[name].to_numpy()
        return out

    def documents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each document the row of its title (−1 where it has none), its first row and its rows: → three (B,)."""
        first = np.flatnonzero(self.position == 0)
        title = np.where((first > 0) & (self.position[first - 1] == -1), first - 1, -1)
        start = np.where(title >= 0, title, first)
        return title, first, np.diff(np.append(start, len(self))) - (title >= 0)

    # ---------------------------------------------------------------------------------------------- by rows

    def embeddings(self, rows: np.ndarray) -> Tensor:
        """rows_… → embeddings_…D, float32, in the order of the file read."""
        distinct, back = np.unique(rows, return_inverse=True)
        out_ND = np.empty((len(distinct), self.dim), np.float16)
        shard = np.searchsorted(self.first, distinct, "right") - 1
        for s in np.unique(shard):
            here = shard == s
            out_ND[here] = self.vectors[s][distinct[here] - self.first[s]]
        return torch.from_numpy(out_ND)[torch.from_numpy(back.reshape(-1))].float().view(*rows.shape, self.dim)

    def text(self, rows: np.ndarray) -> list[str]:
        """The sentences themselves."""
        return self._strings(rows, "text")

    def target_ids(self, rows: np.ndarray) -> list[list[int]]:
        """`</s> __lang__ w₁ … w_n </s>` of each row."""
        out = []
        for row, s in zip(rows.tolist(), (np.searchsorted(self.first, rows, "right") - 1).tolist()):
            before = self.start[self.first[s]]
            words = self.words[s][self.start[row] - before : self.start[row + 1] - before]
            out.append([*self.prompt, *words.tolist(), EOS])
        return out

    def bytes(self, rows: np.ndarray) -> int:
        """UTF-8 bytes of the rows, together."""
        return int(self.sizes[rows].sum())

    def names(self, rows: np.ndarray) -> list[str]:
        """The ids of the documents that the rows belong to."""
        return self._strings(rows, "document")

    def std(self, sample: int = 16384) -> Tensor:
        """Deviation of each dimension over at most `sample` rows, spread evenly: → std_D."""
        return self.embeddings(np.unique(np.linspace(0, len(self) - 1, sample).astype(np.int64))).std(0)

    def _strings(self, rows: np.ndarray, column: str) -> list[str]:
        out = [""] * len(rows)
        shard = np.searchsorted(self.first, rows, "right") - 1
        own = rows - self.first[shard]
        for s in np.unique(shard):
            here = np.flatnonzero(shard == s)
            group = own[here] // GROUP_ROWS
            wanted = np.unique(group)
            for at in range(0, len(wanted), HELD_GROUPS // 2):
                some = [int(g) for g in wanted[at : at + HELD_GROUPS // 2]]
                self._load(int(s), some)
                for g in some:
                    at_g = here[group == g]
                    found = self._texts[int(s), g][column].take(pa.array(own[at_g] % GROUP_ROWS))
                    for i, value in zip(at_g, found.to_pylist()):
                        out[i] = value
        return out

    def _load(self, shard: int, groups: list[int]) -> None:
        """Hold the texts of these row groups, and let go of those used longest ago."""
        missing = [g for g in groups if (shard, g) not in self._texts]
        path, footer = self.paths[shard], self.footers[shard]
        if missing:
            with damage(path), pq.ParquetFile(path, metadata=footer) as file:
                table = file.read_row_groups(missing, ["text", "document"], use_threads=False)
            start = 0
            for g in missing:
                part = table.slice(start, footer.row_group(g).num_rows).combine_chunks()
                start += len(part)
                self._texts[shard, g] = {name: part[name].chunk(0) for name in part.column_names}
        for g in groups:
            self._texts.move_to_end((shard, g))
        while len(self._texts) > HELD_GROUPS:
            self._texts.popitem(last=False)
