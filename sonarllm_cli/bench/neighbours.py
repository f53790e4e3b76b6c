"""Finding neighbours, side by side: our exact search beside numpy, faiss's flat index and its approximate ones; our
mining beside LASER's way. And aligning, over the length of the documents.

    bench_search(SearchWish(count=100_000)); bench_mine(MineWish(count=20_000)); bench_align(100_000)

What is searched lies in a file, as vectors do that are more than memory holds, and every way begins there, but for
faiss's indexes, which hold their vectors in memory: making them is a column of its own.

Legend: Q queries, N and M vectors, K nearest, D embedding.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..io.vectors import read_embeddings
from ..score.peers import peer_aligner
from ..use.align import MOST, Spans, align
from ..use.align import strict_f1 as score
from ..use.mine import candidates
from ..use.neighbours import BLOCK, Mutual, mutual, nearest_rows, unit
from ..use.sides import open_vectors, unit_blocks
from .timing import Timing, clock, side_by_side

INDEXES = ("flat", "ivf", "hnsw")
NEIGHBOURS = 32  # links of a vector of hnsw
SEARCHED = 128  # of hnsw: vectors held while searching; of ivf: one list in so many is read, at least 8
NOISE = 0.3  # of hidden pairs: its length beside that of the vectors


@dataclass(frozen=True, kw_only=True)
class SearchWish:
    """How many vectors of which width are searched, or whose file; by how many queries, for how many nearest."""

    vectors: str = ""
    count: int = 100_000
    dim: int = 1024
    queries: int = 16
    k: int = 5
    index: tuple[str, ...] = ("flat",)  # of INDEXES; flat is left out where faiss is not installed
    rounds: int = 3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class MineWish:
    """Sets of `count` vectors each, a tenth of which have their partner in the other, a little moved."""

    count: int = 20_000
    dim: int = 1024
    k: int = 4
    rounds: int = 3
    seed: int = 0


def bench_search(wish: SearchWish) -> dict[str, Any]:
    """Seconds of a search of all queries at once, and the share of the true nearest that it finds. UserError for an
    index that is not of `INDEXES`, or one without faiss."""
    faiss = _faiss()
    if unknown := set(wish.index) - set(INDEXES):
        raise UserError(f"index {min(unknown)!r} is unknown", f"use {', '.join(INDEXES)}")
    if set(wish.index) - {"flat"} and not faiss:
        raise UserError("faiss is not installed", "pip install faiss-cpu, or leave --index out")
    with _vectors(wish) as path:
        side = open_vectors(path)
        query_QD = _queries(path, wish)
        found: dict[str, np.ndarray] = {}
        runs: dict[str, Callable[[], None]] = {
            "ours": _keeping(found, "ours", lambda: nearest_rows(query_QD, unit_blocks(side), wish.k)[1].numpy())
        }
        if path.endswith(".npy"):
            runs["numpy"] = _keeping(found, "numpy", lambda: by_numpy(query_QD.numpy(), path, wish.k))
        built = dict.fromkeys(runs, 0.0)
        for name in wish.index if faiss else ():
            index, built[f"faiss {name}"] = _built(faiss, name, path, side.dim)
            runs[f"faiss {name}"] = _keeping(found, f"faiss {name}", partial(_asked, index, query_QD, wish.k))
        timings = side_by_side(runs, wish.rounds)
        count = sum(len(batch.embeddings_ND) for batch in read_embeddings(path, batch=BLOCK))
    rows = [
        {**_row(name, t), "build s": built[name], "of nearest found": _recall(found[name], found["ours"])}
        for name, t in timings.items()
    ]
    facts = {"vectors": count, "dim": side.dim, "queries": len(query_QD), "k": wish.k}
    return {"bench": "search", **facts, "threads": torch.get_num_threads(), "rows": rows}


def bench_mine(wish: MineWish) -> dict[str, Any]:
    """Seconds of mining, from vectors in memory to pairs, and the share of the hidden pairs among the best."""
    faiss = _faiss()
    random = np.random.default_rng(wish.seed)
    a_ND, b_ND = (random.standard_normal((wish.count, wish.dim), np.float32) for _ in "ab")
    hidden = wish.count // 10
    b_ND[:hidden] = a_ND[:hidden] + NOISE * b_ND[:hidden]
    sets = [unit(value_ND) for value_ND in (a_ND, b_ND)]
    found: dict[str, list[tuple[float, int, int]]] = {}

    def ours() -> None:
        a, b = ((lambda value_ND=value_ND: iter(value_ND.split(BLOCK))) for value_ND in sets)
        found["ours"] = candidates(mutual(a, b, wish.k), "ratio", "max")

    def laser() -> None:
        found["faiss flat, both directions"] = candidates(_by_faiss(faiss, sets[0], sets[1], wish.k), "ratio", "max")

    timings = side_by_side({"ours": ours, **({"faiss flat, both directions": laser} if faiss else {})}, wish.rounds)
    rows = [
        {**_row(name, t), "of hidden pairs found": sum(i == j for _, i, j in found[name][:hidden]) / max(1, hidden)}
        for name, t in timings.items()
    ]
    facts = {"vectors a side": wish.count, "dim": wish.dim, "k": wish.k, "threads": torch.get_num_threads()}
    return {"bench": "mine", **facts, "rows": rows}


def bench_align(count: int, dim: int = 1024, seed: int = 0, peer: str = "") -> dict[str, Any]:
    """Aligning documents of a quarter, a half and all of `count` sentences a side, from their vectors: seconds of the
    clock and of the processor, ours and a `peer`'s (see score/peers.py) after it. B is A, a little moved, with a
    sentence in ten left out."""
    ways = {"": align} | ({f"{peer} ": peer_aligner(peer)} if peer else {})
    rows = []
    for size in (count // 4, count // 2, count):
        random = np.random.default_rng(seed)
        a_ND = random.standard_normal((size, dim), np.float32)
        kept = np.flatnonzero(random.random(size) > 0.1)
        b_MD = a_ND[kept] + NOISE * random.standard_normal((len(kept), dim), np.float32)
        one, other = (Spans(_joined(value_ND)) for value_ND in (a_ND, b_MD))
        true = [(range(i, i + 1), range(j, j + 1)) for j, i in enumerate(kept.tolist())]
        row: dict[str, Any] = {"sentences": size}
        for who, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            found = way(one, other)
            seconds, spent = time.perf_counter() - wall, time.process_time() - processor
            row |= {f"{who}seconds": seconds, f"{who}processor s": spent, f"{who}F1": score(found, true)[2]}
        rows.append(row)
    return {"bench": "align", "dim": dim, "rows": rows}


def _joined(vectors_ND: np.ndarray) -> list[np.ndarray]:
    """Vectors of one to three sentences that end with each, as sums."""
    sums = [vectors_ND]
    for j in range(1, MOST - 1):
        sums.append(sums[-1].copy())
        sums[-1][j:] += vectors_ND[:-j]
        sums[-1][:j] = 0
    return [value_ND / np.maximum(np.linalg.norm(value_ND, axis=1, keepdims=True), 1e-9) for value_ND in sums]


def by_numpy(query_QD: np.ndarray, path: str, k: int) -> np.ndarray:
    """What one writes with numpy alone, in blocks: → row_QK."""
    vectors_ND = np.load(path, mmap_mode="r")
    score_QK, row_QK = np.zeros((len(query_QD), 0), np.float32), np.zeros((len(query_QD), 0), np.int64)
    for first in range(0, len(vectors_ND), BLOCK):
        block_ND = vectors_ND[first : first + BLOCK].astype(np.float32)
        cosine_QN = query_QD @ (block_ND / np.linalg.norm(block_ND, axis=1, keepdims=True)).T
        best_QK = np.argpartition(-cosine_QN, min(k, cosine_QN.shape[1]) - 1, axis=1)[:, :k]
        score_QC = np.concatenate([score_QK, np.take_along_axis(cosine_QN, best_QK, 1)], 1)
        row_QC = np.concatenate([row_QK, best_QK + first], 1)
        order_QK = np.argsort(-score_QC, axis=1, kind="stable")[:, :k]
        score_QK, row_QK = (np.take_along_axis(value_QC, order_QK, 1) for value_QC in (score_QC, row_QC))
    return row_QK


def _by_faiss(faiss: Any, a_ND: torch.Tensor, b_MD: torch.Tensor, k: int) -> Mutual:
    """LASER's mine_bitexts.py: the neighbours of A in B by a flat index of B, and those of B in A by one of A."""
    both: list[torch.Tensor] = []
    for query_ND, held_MD in ((a_ND, b_MD), (b_MD, a_ND)):
        index = faiss.IndexFlatIP(held_MD.shape[1])
        index.add(held_MD.numpy())
        both += map(torch.from_numpy, index.search(query_ND.numpy(), k))
    return Mutual(*both)


def _built(faiss: Any, name: str, path: str, dim: int) -> tuple[Any, float]:
    """A faiss index of a file's vectors, and the seconds that making it took. ivf and hnsw keep them in float16."""
    count = sum(len(batch.embeddings_ND) for batch in read_embeddings(path, batch=BLOCK))
    lists = max(1, int(count**0.5))
    kind = {"flat": "Flat", "ivf": f"IVF{lists},SQfp16", "hnsw": f"HNSW{NEIGHBOURS},SQfp16"}
    index = faiss.index_factory(dim, kind[name], faiss.METRIC_INNER_PRODUCT)

    def build() -> None:
        if not index.is_trained:
            step = max(1, count // (40 * lists))
            index.train(np.concatenate([b.numpy()[::step] for b in unit_blocks(open_vectors(path))]))
        for block_ND in unit_blocks(open_vectors(path)):
            index.add(block_ND.numpy())

    seconds = clock(build)
    if name == "ivf":
        index.nprobe = max(8, lists // SEARCHED)
    if name == "hnsw":
        index.hnsw.efSearch = SEARCHED
    return index, seconds


@contextmanager
def _vectors(wish: SearchWish) -> Iterator[str]:
    """The file that is searched: the one named, or random numbers in float16 for as long as it takes."""
    if wish.vectors:
        yield wish.vectors
        return
    random = np.random.default_rng(wish.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        out_ND = np.lib.format.open_memmap(path, "w+", np.float16, (wish.count, wish.dim))
        for first in range(0, wish.count, BLOCK):
            size = min(BLOCK, wish.count - first)
            out_ND[first : first + size] = random.random((size, wish.dim), np.float32) - 0.5
        out_ND.flush()
        del out_ND
        yield str(path)


def _queries(path: str, wish: SearchWish) -> torch.Tensor:
    """Vectors of the file, of its first blocks, a little moved: → query_QD."""
    first_ND = next(read_embeddings(path, batch=max(BLOCK, wish.queries))).embeddings_ND
    random = np.random.default_rng(wish.seed + 1)
    rows = random.choice(len(first_ND), min(wish.queries, len(first_ND)), replace=False)
    noise_QD = random.standard_normal((len(rows), first_ND.shape[1]), np.float32)
    scale = NOISE * np.linalg.norm(first_ND[rows], axis=1, keepdims=True) / first_ND.shape[1] ** 0.5
    return unit(first_ND[rows] + scale * noise_QD)


def _asked(index: Any, query_QD: torch.Tensor, k: int) -> np.ndarray:
    return index.search(query_QD.numpy(), k)[1]


def _keeping(found: dict[str, np.ndarray], name: str, run: Callable[[], np.ndarray]) -> Callable[[], None]:
    def keep() -> None:
        found[name] = run()

    return keep


def _recall(row_QK: np.ndarray, true_QK: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(row_QK.tolist(), true_QK.tolist())]))


def _row(name: str, timing: Timing) -> dict[str, Any]:
    return {"way": name, "seconds": timing.median, "spread": timing.spread}


def _faiss() -> Any:
    """The library, with as many threads as PyTorch has; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
