"""mine: margins and retrievals as LASER has them, in blocks; duplicates folded; near-duplicates taken out."""

import numpy as np
import pytest
import torch

from sonarllm_cli.errors import UserError
from sonarllm_cli.io.vectors_out import EmbeddingWriter
from sonarllm_cli.use import neighbours
from sonarllm_cli.use.mine import candidates, mine, without_duplicates
from sonarllm_cli.use.neighbours import Mutual, mutual, unit
from sonarllm_cli.use.sides import Embedded, open_vectors


def side(vectors_ND, texts=None, name="A"):
    return Embedded(name, "space", texts or [f"{name}{i}" for i in range(len(vectors_ND))], np.asarray(vectors_ND))


def random_sides(n=50, m=70, width=8, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((count, width)).astype(np.float32) for count in (n, m))


def test_neighbours_in_tiles_are_those_of_the_whole_product():
    a_ND, b_MD = map(unit, random_sides())
    whole_NM = a_ND @ b_MD.T
    near = mutual(lambda: a_ND.split(7), lambda: b_MD.split(9), 4, held=2)
    assert near.row_NK.tolist() == whole_NM.topk(4, dim=1).indices.tolist()
    assert near.row_MK.tolist() == whole_NM.T.topk(4, dim=1).indices.tolist()
    assert torch.allclose(near.score_MK, whole_NM.T.topk(4, dim=1).values, atol=1e-6)


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_a_pairs_score_is_the_margin_by_its_formula(margin):
    a_ND, b_MD = random_sides()
    cosine = (unit(a_ND) @ unit(b_MD).T).numpy()
    mean_a, mean_b = np.sort(cosine, 1)[:, -4:].mean(1), np.sort(cosine, 0)[-4:].mean(0)
    for pair in mine(side(a_ND), side(b_MD, name="B"), margin=margin, retrieval="forward"):
        mean = (mean_a[pair.a] + mean_b[pair.b]) / 2
        want = {"ratio": cosine[pair.a, pair.b] / mean, "distance": cosine[pair.a, pair.b] - mean}
        assert pair.score == pytest.approx(want.get(margin, cosine[pair.a, pair.b]), abs=1e-5)


# a0 and a1 both have b0 nearest, which has a0; b1 has a1
NEAR = Mutual(
    torch.tensor([[0.9], [0.8]]), torch.tensor([[0], [0]]), torch.tensor([[0.9], [0.7]]), torch.tensor([[0], [1]])
)


@pytest.mark.parametrize(
    ("retrieval", "want"),
    [
        ("forward", [(0, 0), (1, 0)]),
        ("backward", [(0, 0), (1, 1)]),
        ("intersection", [(0, 0)]),
        ("max", [(0, 0), (1, 1)]),
    ],
)
def test_retrievals_keep_the_pairs_they_are_named_for(retrieval, want):
    assert [pair[1:] for pair in candidates(NEAR, "absolute", retrieval)] == want


def test_pairs_hidden_among_strangers_are_found_best_first():
    generator = np.random.default_rng(1)
    a_ND, b_MD = generator.standard_normal((2, 220, 32))
    b_MD[:20] = a_ND[100:120] + 0.1 * generator.standard_normal((20, 32))
    found = mine(side(a_ND), side(b_MD, name="B"))
    assert {(pair.a, pair.b) for pair in found[:20]} == {(100 + i, i) for i in range(20)}
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    least = found[19].score
    assert mine(side(a_ND), side(b_MD, name="B"), threshold=least) == found[:20]


def test_equal_texts_are_folded_into_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("sonarllm_cli.use.sides.BLOCK", 2)
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 0]]
    texts = ["x", "x", "y", "z", "x"]
    with EmbeddingWriter(str(tmp_path / "a.parquet"), dim=4) as writer:
        writer.write(vectors, texts, ["eng_Latn"] * 5)
    for a in (side(vectors, texts), open_vectors(str(tmp_path / "a.parquet"))):
        found = mine(a, side(np.eye(4)[:3], ["X", "Y", "Z"]), k=1, margin="absolute")
        assert sorted((p.text_a, p.text_b, p.a) for p in found) == [("x", "X", 0), ("y", "Y", 2), ("z", "Z", 3)]


def test_a_near_duplicate_of_a_row_kept_is_taken_out_and_of_one_taken_out_is_not(monkeypatch):
    angles = np.radians([0, 10, 20, 90, 95, 5])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    want = [0, 2, 3]  # 10° is near 0°, 20° near that alone, 5° near 0°
    for size in (100, 2):
        monkeypatch.setattr("sonarllm_cli.use.sides.BLOCK", size)
        assert without_duplicates(side(rows), float(np.cos(np.radians(12)))) == want


def test_sets_that_cannot_be_mined_are_refused():
    a_ND, b_MD = random_sides()
    with pytest.raises(UserError, match="two spaces"):
        mine(side(a_ND), side(b_MD[:, :4], name="B"))
    with pytest.raises(UserError, match="margin 'x' is unknown"):
        mine(side(a_ND), side(b_MD), margin="x")
    with pytest.raises(UserError, match="set B is empty"):
        neighbours.mutual(lambda: [unit(a_ND)], list, 4)


def test_the_command_prints_scores_first_and_needs_a_second_set(tmp_path, home, sonarllm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A music player.\nA chess game.\nA music player.\n")
    (tmp_path / "b.txt").write_text("A chess game.\nA music player.\n")

    def run(*arguments):
        return sonarllm("mine", "-m", "tiny", *arguments)

    rows = [row.split("\t") for row in run("a.txt", "b.txt", "--margin", "absolute").out.splitlines()]
    assert sorted(row[1:] for row in rows) == [["A chess game."] * 2, ["A music player."] * 2]
    assert all(float(row[0]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert run("a.txt", "--dedup", "--threshold", "0.99999").out == "A music player.\nA chess game.\n"
    done = run("a.txt")
    assert done.returncode == 2 and done.err.count("\n") == 1
