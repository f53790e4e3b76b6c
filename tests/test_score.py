"""score: heads and LASER2 equal to sonar-space's on its own numbers; cosines by row; what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.embed import embed, load_encoder
from sonarllm_cli.flow.embed_text import Line
from sonarllm_cli.runtime import choose
from sonarllm_cli.use.score import load_head, score
from sonarllm_cli.use.sides import Embedded, read_side
from sonarllm_cli.weights import registry
from sonarllm_cli.weights.convert_heads import import_blaser, import_laser2, import_mutox

FIXTURES = Path(__file__).parent / "parity-heads"
TOKENIZER = FIXTURES.parent / "parity" / "sentencepiece.model"
WANT = load_file(FIXTURES / "expected.safetensors")


@pytest.fixture(scope="module")
def heads(parity_home):
    """Heads in the space `tiny`, and LASER2 as sonar-space and as LASER read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(parity_home))
        import_blaser("blaser-ref", checkpoint=FIXTURES / "blaser_ref.pt", sonar="tiny")
        import_blaser("blaser-qe", checkpoint=FIXTURES / "blaser_qe.pt", sonar="tiny")
        import_mutox("mutox", checkpoint=FIXTURES / "mutox.pt", sonar="tiny")
        import_laser2("laser2-raw", checkpoint=FIXTURES / "laser2.pt", tokenizer=TOKENIZER, reads_as="sonar-space")
        import_laser2("laser2", checkpoint=FIXTURES / "laser2.pt", tokenizer=TOKENIZER)
        yield parity_home
        for name in ("blaser-ref", "blaser-qe", "mutox", "laser2-raw", "laser2"):  # before the space they live in
            registry.remove(name)


def side(name, fingerprint=""):
    vectors_ND = WANT[name].numpy()
    return Embedded(name, fingerprint, [""] * len(vectors_ND), vectors_ND)


@pytest.mark.parametrize(
    ("name", "given", "want"),
    [
        ("blaser-ref", ["src", "mt", "ref"], "blaser_ref"),
        ("blaser-qe", ["src", "mt"], "blaser_qe"),
        ("mutox", ["mutox.input"], "mutox.logit"),
    ],
)
def test_heads_say_what_sonar_spaces_say(heads, home, name, given, want):
    found = list(score([side(one) for one in given], load_head(name, choose("cpu"))))
    assert torch.allclose(torch.tensor(found), WANT[want][:, 0], atol=2e-6, rtol=2e-6)


def test_laser2_has_sonar_spaces_ids_and_vectors(heads, home):
    texts = json.loads((FIXTURES / "expected.json").read_text("utf-8"))["laser2"]["texts"]
    encoder = load_encoder("laser2-raw", choose("cpu"))
    assert encoder.ids([t["text"] for t in texts]) == [t["ids"] for t in texts]
    lines = [Line(t["text"], "eng_Latn") for t in texts]
    for size in (None, 1):
        [block] = encoder.stream(lines, batch_size=size, on_long="truncate")
        assert np.abs(block.embeddings_ND - WANT["laser2"].numpy()).max() < 2e-6


def test_laser2_lower_cases_and_has_an_unknown_piece_as_laser_does(heads, home):
    encoder, raw = (load_encoder(name, choose("cpu")) for name in ("laser2", "laser2-raw"))
    assert encoder.ids(["A Chess GAME"]) == encoder.ids(["a chess game"]) == raw.ids(["a chess game"])
    assert [3 if i == 0 else i for i in raw.ids(["a ☃"])[0]] == encoder.ids(["a ☃"])[0]
    assert encoder.ids([""]) == [[2]]


def test_laser2_normalises_punctuation_as_laser_does(heads, home):
    encoder, raw = (load_encoder(name, choose("cpu")) for name in ("laser2", "laser2-raw"))
    assert encoder.ids(["„A“ ( b ) … c’d"]) == raw.ids(['"a" (b) ... c\'d'])


def test_laser2_that_reads_otherwise_is_another_space(heads, home):
    laser, raw = (load_encoder(name, choose("cpu")) for name in ("laser2", "laser2-raw"))
    assert laser.fingerprint and laser.fingerprint != raw.fingerprint


def test_laser2s_space_has_one_name_however_it_is_stored(heads, home):
    folder = import_laser2("half", checkpoint=FIXTURES / "laser2.pt", tokenizer=TOKENIZER, dtype="float16")
    name = load_encoder(str(folder), choose("cpu")).fingerprint
    registry.remove("half")
    assert name and name == load_encoder("laser2", choose("cpu")).fingerprint


def test_a_cosine_is_of_directions_row_by_row_whatever_the_blocks(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    a_ND, b_ND = generator.standard_normal((2, 25, 8)).astype(np.float32)
    want = (a_ND * b_ND).sum(1) / np.linalg.norm(a_ND, axis=1) / np.linalg.norm(b_ND, axis=1)
    monkeypatch.setattr("sonarllm_cli.use.sides.BLOCK", 7)
    a, b = (Embedded(name, "", [""] * 25, v) for name, v in (("a", 3 * a_ND), ("b", b_ND)))
    assert np.allclose(list(score([a, b])), want, atol=1e-6)
    with pytest.raises(UserError, match="a has 25 rows, b has 20 rows"):
        score([a, Embedded("b", "", [""] * 20, b_ND[:20])])


def test_rows_that_do_not_match_are_not_half_printed(tmp_path, home, sonarllm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One.\nTwo.\n")
    (tmp_path / "b.txt").write_text("One.\n")
    done = sonarllm("score", "a.txt", "b.txt", "-m", "tiny")
    assert (done.returncode, done.out) == (2, "") and "a.txt has 2 rows, b.txt has 1 row;" in done.err


def test_a_blank_line_keeps_its_row(tmp_path, home, sonarllm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "b.txt").write_text("One.\nNo.\nTwo.\n")
    done = sonarllm("score", "a.txt", "b.txt", "-m", "tiny")
    first, blank, last = map(float, done.out.split())
    assert first == last == pytest.approx(1, abs=1e-5) != blank and "a.txt: 1 blank (first: line 2)" in done.err


def test_what_does_not_fit_a_head_is_refused(heads, home):
    head = load_head("blaser-ref", choose("cpu"))
    with pytest.raises(UserError, match="takes a source, a translation, a reference: 2 given"):
        score([side("src"), side("mt")], head)
    foreign = [side(name, "another") for name in ("src", "mt", "ref")]
    with pytest.raises(UserError, match="of the space another"):
        score(foreign, head)
    wide = Embedded("wide", "", [""], np.ones((1, 48), np.float32))
    with pytest.raises(UserError, match="48 numbers"):
        score([wide], load_head("mutox", choose("cpu")))
    with pytest.raises(UserError, match="two spaces"):
        score([side("src", "x"), side("mt", "y")])


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda: import_blaser("x", checkpoint=FIXTURES / "blaser_ref.pt"), "no BLASER of vectors of 1024"),
        (lambda: import_mutox("x", checkpoint=FIXTURES / "laser2.pt"), "not a MuTox"),
        (lambda: import_laser2("x", checkpoint=FIXTURES / "laser2.pt", tokenizer="none"), "no such file"),
    ],
)
def test_files_that_are_something_else_are_refused(home, run, says):
    with pytest.raises(UserError, match=says):
        run()
    assert "x" not in registry.names()


def test_the_command_scores_texts_in_the_heads_space_and_vectors(heads, home, tmp_path, sonarllm):
    (tmp_path / "a.txt").write_text("A music player.\nA chess game.\n")
    (tmp_path / "b.txt").write_text("A music player.\nTools for backups.\n")
    rows = [float(row) for row in sonarllm("score", tmp_path / "a.txt", tmp_path / "b.txt", "-m", "tiny").out.split()]
    assert rows[0] == pytest.approx(1, abs=1e-5) and rows[1] < 0.9999
    done = sonarllm("embed", tmp_path / "a.txt", "-m", "tiny", "-o", tmp_path / "a.parquet")
    by_text = sonarllm("score", tmp_path / "a.txt", "-m", "mutox", "--json")
    by_vector = sonarllm("score", tmp_path / "a.parquet", "-m", "mutox", "--json")
    assert by_text.out == by_vector.out and json.loads(by_text.out.splitlines()[1])["row"] == 1, done.err
    scores = [json.loads(row)["score"] for row in by_text.out.splitlines()]
    summary = json.loads(sonarllm("score", tmp_path / "a.txt", "-m", "mutox", "--json", "--summary").out)
    assert summary == {"mean": pytest.approx(sum(scores) / 2, abs=1e-5), "rows": 2}


def test_embed_takes_laser2(heads, home, tmp_path, sonarllm):
    (tmp_path / "a.txt").write_text("A Music Player.\na music player.\n")
    done = sonarllm("embed", tmp_path / "a.txt", "-m", "laser2", "-o", tmp_path / "a.npy")
    vectors_ND = np.load(tmp_path / "a.npy")
    assert vectors_ND.shape == (2, 48) and np.array_equal(vectors_ND[0], vectors_ND[1]), done.err


def test_texts_that_are_cut_are_told_with_their_file(space, tmp_path, caplog):
    long = "library, printer; " * 14
    (tmp_path / "a.txt").write_text(f"short\n{long}\n{long}\n")
    read_side(str(tmp_path / "a.txt"), lang="eng_Latn", space=lambda: space)
    assert [r.getMessage().partition(" has ")[0] for r in caplog.records] == [f"{tmp_path}/a.txt: line 2"]
    assert "truncated, and 1 more" in caplog.text
    caplog.clear()
    embed(["short", long], model=space)
    assert "text 2 has" in caplog.text


def test_a_file_of_what_is_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_side(str(tmp_path / "a.jsonl"), lang="eng_Latn", space=pytest.fail)
