"""Every way of finding neighbours that is timed finds the same ones."""

import sys

import numpy as np
import pytest
import torch

from sonarllm_cli.bench.neighbours import MineWish, SearchWish, bench_align, bench_mine, bench_search
from sonarllm_cli.errors import UserError
from sonarllm_cli.use.neighbours import BLOCK, unit
from sonarllm_cli.use.sides import Embedded, unit_blocks


def test_exact_ways_find_the_same(tmp_path):
    made = bench_search(SearchWish(count=BLOCK + 100, dim=16, queries=8, rounds=1))
    assert made["vectors"] == BLOCK + 100 and made["rows"][1]["way"] == "numpy"
    assert {row["of nearest found"] for row in made["rows"]} == {1.0}
    vectors_ND = np.random.default_rng(0).standard_normal((40, 16), np.float32)
    np.save(tmp_path / "v.npy", vectors_ND)
    own = bench_search(SearchWish(vectors=str(tmp_path / "v.npy"), queries=64, rounds=1))
    assert (own["vectors"], own["dim"], own["queries"]) == (40, 16, 40)


def test_an_approximate_index_is_known_and_needs_its_library(monkeypatch):
    with pytest.raises(UserError, match="'tree' is unknown; use flat, ivf, hnsw"):
        bench_search(SearchWish(index=("tree",)))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        bench_search(SearchWish(index=("ivf",)))


def test_mining_finds_what_is_hidden():
    rows = bench_mine(MineWish(count=200, dim=32, rounds=1))["rows"]
    assert rows[0]["way"] == "ours" and {row["of hidden pairs found"] for row in rows} == {1.0}


def test_aligning_is_timed_on_what_it_aligns_rightly():
    assert [(row["sentences"], row["F1"]) for row in bench_align(400, 64)["rows"]] == [
        (100, 100),
        (200, 100),
        (400, 100),
    ]


def test_a_side_keeps_its_vectors_when_its_blocks_are_made_unit():
    vectors_ND = np.full((3, 4), 2, np.float32)
    [block_ND] = unit_blocks(Embedded("x", "", ["a", "b", "c"], vectors_ND))
    assert torch.equal(block_ND, torch.full((3, 4), 0.5)) and (vectors_ND == 2).all()
    assert torch.equal(unit(vectors_ND), block_ND) and (vectors_ND == 2).all()
