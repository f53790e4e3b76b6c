"""search: exact, in blocks; files of embeddings and texts; what was embedded is kept; bad input in one line."""

import io
import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from sonarllm_cli.errors import UserError
from sonarllm_cli.io.vectors_out import EmbeddingWriter
from sonarllm_cli.use import search as module
from sonarllm_cli.use.neighbours import nearest_rows, unit
from sonarllm_cli.use.search import search


def test_the_nearest_in_blocks_are_those_of_one_product():
    generator = torch.Generator().manual_seed(0)
    query_QD, all_ND = (unit(torch.randn(n, 16, generator=generator)) for n in (3, 103))
    score_QK, row_QK = nearest_rows(query_QD, all_ND.split(10), 7)
    want = (query_QD @ all_ND.T).topk(7)
    assert row_QK.tolist() == want.indices.tolist()
    assert torch.allclose(score_QK, want.values)
    assert nearest_rows(query_QD, all_ND[:4].split(3), 7)[1].shape == (3, 4)


@pytest.mark.parametrize("value", [3e38, 1e20, 1e-30, 1e-44])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_vector_has_a_direction_however_long_or_short_it_is(value, in_place):
    vectors_ND = torch.tensor([[1.0, 1.0], [value, -value]])
    found_ND = unit(vectors_ND.clone(), in_place=in_place)
    torch.testing.assert_close(found_ND, torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5)


@pytest.mark.parametrize(("value", "says"), [(0.0, "row 8: the vector is all zeros"), (float("nan"), "row 8.*finite")])
def test_a_vector_without_a_direction_is_named(value, says):
    vectors_ND = np.ones((3, 2))
    vectors_ND[1] = value
    with pytest.raises(UserError, match=says):
        unit(vectors_ND, "x", first=6)


TEXT = "A music player. A tool for backups.\n\nThe package contains documentation."


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text(TEXT, "utf-8")
    (tmp_path / "notes/b.txt").write_text("A chess game.", "utf-8")
    (tmp_path / "notes/blank.txt").write_text(" \n", "utf-8")
    return tmp_path / "notes"


def test_a_sentence_finds_itself_with_its_place_and_what_stands_around_it(notes, space):
    [[hit]] = search(["A tool for backups."], [str(notes)], space, k=1, context=1).hits
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert (TEXT[hit.start : hit.end], hit.file) == ("A tool for backups.", str(notes / "a.txt"))
    assert (hit.before, hit.after) == (("A music player.",), ("The package contains documentation.",))


def test_the_threshold_leaves_out_what_is_farther(notes, space):
    found = search(["A chess game.", "A music player."], [str(notes)], space, k=4, threshold=0.9999)
    assert [[h.text for h in hits] for hits in found.hits] == [["A chess game."], ["A music player."]]


def test_only_new_and_changed_files_are_embedded_again(notes, space, monkeypatch, tmp_path):
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path / "home"))
    embedded = []
    real = module.embed_stream

    def spying(lines, *args, **options):
        embedded.extend(line.text for line in lines)
        return real(lines, *args, **options)

    monkeypatch.setattr(module, "embed_stream", spying)
    first = search(["x"], [str(notes)], space)
    assert len(embedded) == 4
    assert search(["x"], [str(notes)], space) == first and len(embedded) == 4
    (notes / "b.txt").write_text("A card game.", "utf-8")
    search(["x"], [str(notes)], space)
    assert embedded[4:] == ["A card game."]
    want = search(["x"], [str(notes)], space)
    whole = {kept: kept.read_bytes() for kept in (tmp_path / "home/search").iterdir()}
    for damage in (lambda data: b"damaged", lambda data: data[:-9], lambda data: data[:-1] + bytes([data[-1] ^ 1])):
        embedded.clear()
        for kept, data in whole.items():
            kept.write_bytes(damage(data))
        assert search(["x"], [str(notes)], space) == want and len(embedded) == 4


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_a_file_that_embed_wrote_is_an_index(notes, space, tmp_path, ending):
    lines = TEXT.replace("\n\n", " ").replace(". ", ".\n").split("\n")
    index = str(tmp_path / f"index{ending}")
    vectors_ND = module.embed(lines, model=space)
    with EmbeddingWriter(index, dim=space.dim, fingerprint=space.fingerprint) as writer:
        writer.write(vectors_ND, lines, ["eng_Latn"] * 3)
    [hits] = search(["A tool for backups."], [index], space, k=3, context=1).hits
    assert (hits[0].row, hits[0].start, hits[0].text) == (1, None, lines[1])
    assert (hits[0].before, hits[0].after) == ((lines[0],), (lines[2],))
    assert len(hits) == 3


def test_an_index_without_texts_or_of_another_space_is_refused(space, tmp_path):
    np.save(tmp_path / "bare.npy", np.ones((2, space.dim), np.float32))
    with pytest.raises(UserError, match="holds no texts"):
        search(["x"], [str(tmp_path / "bare.npy")], space)
    np.save(tmp_path / "wide.npy", np.ones((2, space.dim + 1), np.float32))
    with pytest.raises(UserError, match="two spaces"):
        search(["x"], [str(tmp_path / "wide.npy")], space)
    with EmbeddingWriter(str(tmp_path / "o.parquet"), dim=space.dim, fingerprint="other") as writer:
        writer.write(np.ones((1, space.dim)), ["a"], ["eng_Latn"])
    with pytest.raises(UserError, match="two spaces"):
        search(["x"], [str(tmp_path / "o.parquet")], space)


@pytest.mark.parametrize(("queries", "says"), [([" "], "query 1 is empty"), ([], "no query")])
def test_a_query_without_words_is_refused(notes, space, queries, says):
    with pytest.raises(UserError, match=says):
        search(queries, [str(notes)], space)


def test_where_no_vectors_can_be_kept_they_are_made_and_it_is_said(notes, home, sonarllm, monkeypatch):
    kept = sonarllm("search", "A chess game.", notes, "-k", 1, "-m", "tiny")
    monkeypatch.setattr("sonarllm_cli.use.search.check_file", Mock(side_effect=UserError("cannot write it")))
    done = sonarllm("search", "A chess game.", notes, "-k", 1, "-m", "tiny")
    assert (done.returncode, done.out) == (0, kept.out) and "vectors are not kept: cannot write it" in done.err


def test_a_bad_file_of_a_folder_is_told_and_the_others_are_searched(notes, home, sonarllm, monkeypatch):
    (notes / "bad.txt").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"A chess game.\n")))
    done = sonarllm("search", "-", notes, "-k", 1, "-m", "tiny", "--json")
    assert (done.returncode, done.err.count("\n")) == (1, 2) and "bad.txt" in done.err
    found = json.loads(done.out)
    assert (found["text"], found["start"], found["end"]) == ("A chess game.", 0, 13)
    done = sonarllm("search", "x", notes / "bad.txt", "-m", "tiny")
    assert (done.returncode, done.out) == (2, "")


@pytest.mark.parametrize(
    ("vectors_ND", "says"),
    [
        (np.ones((2, 65), np.float32), "two spaces"),
        (np.ones((2, 64), np.float32), "holds no texts"),
        (np.full((2, 64), np.nan, np.float32), "NaN"),
    ],
)
def test_bad_vectors_in_a_folder_are_told_and_the_texts_are_searched(notes, space, vectors_ND, says):
    np.save(notes / "index.npy", vectors_ND)
    found = search(["A chess game."], [str(notes)], space, k=9)
    assert [hits[0].text for hits in found.hits] == ["A chess game."] and len(found.hits[0]) == 4
    assert [says in str(error) for error in found.failed] == [True]


def test_of_an_index_that_breaks_off_in_a_folder_nothing_is_found(notes, space):
    rows = [{"text": f"row {i}", "embedding": [float(i != 5000)] * space.dim} for i in range(5001)]
    (notes / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = search(["A chess game."], [str(notes)], space, k=9)
    assert [hit.text[:3] == "row" for hit in found.hits[0]] == [False] * 4
    assert "row 5001: the vector is all zeros" in str(found.failed[0])


@pytest.mark.parametrize("threshold", [float("nan"), 1.5])
def test_a_threshold_that_is_no_cosine_is_refused(threshold):
    with pytest.raises(UserError, match="no cosine is"):
        search(["a"], ["b"], None, threshold=threshold)
