"""align: pairs in order, joined, left out; the search near a coarser path finds what looking everywhere finds."""

import json

import numpy as np
import pytest

from sonarllm_cli.errors import UserError
from sonarllm_cli.use.align import Bead, align, document, heard_document, read_vectors, strict_f1, windows

WORDS = np.random.default_rng(0).standard_normal((4000, 32)).astype(np.float32)


def bag(texts):
    """A text's vector is the sum of its words' (numbers): joined sentences are those of their words."""
    return np.stack([WORDS[[int(word) for word in text.split()]].sum(0) for text in texts])


def sentences(count, seed=1, words=4):
    numbers = np.random.default_rng(seed).permutation(4000)[: count * words].reshape(count, words)
    return [" ".join(map(str, row)) for row in numbers]


def pairs(a, b, **options):
    most = options.get("most", 4)
    return [(p.a, p.b) for p in align(document(a, bag, most=most), document(b, bag, most=most), **options)]


def test_sentences_are_paired_joined_and_left_out():
    s = sentences(8)
    b = [s[0], f"{s[1]} {s[2]}", *(" ".join(half) for half in (s[3].split()[:2], s[3].split()[2:])), s[5], s[6], s[7]]
    assert pairs(s, b) == [
        (range(0, 1), range(0, 1)),
        (range(1, 3), range(1, 2)),
        (range(3, 4), range(2, 4)),
        (range(4, 5), range(4, 4)),
        (range(5, 6), range(4, 5)),
        (range(6, 7), range(5, 6)),
        (range(7, 8), range(6, 7)),
    ]


def test_a_pair_has_no_more_sentences_than_asked():
    s = sentences(6)
    three = [" ".join(s[:3]), *s[3:]]
    assert (range(0, 3), range(0, 1)) in pairs(s, three)
    assert all(len(a) + len(b) <= 3 for a, b in pairs(s, three, most=3))


def mixed(count, seed):
    """A document and its twin with sentences left out, joined and put in."""
    random = np.random.default_rng(seed)
    a, b = sentences(count, seed), []
    for i, text in enumerate(a):
        fate = random.random()
        if fate < 0.1 and b:
            b[-1] += " " + text
        elif fate > 0.1 and not (fate > 0.9 or count // 3 < i < count // 3 + 40):
            b.append(text)
    return a, b


def test_the_search_near_the_coarser_path_is_the_search_everywhere():
    a, b = mixed(600, 3)
    assert pairs(a, b) == pairs(a, b, radius=None)


def test_every_sentence_is_in_one_pair_and_in_order():
    a, b = mixed(500, 4)
    found = pairs(a, b)
    assert [i for rows, _ in found for i in rows] == list(range(len(a)))
    assert [j for _, rows in found for j in rows] == list(range(len(b)))


def test_f1_counts_pairs_that_are_exactly_true():
    found = [Bead(range(0, 1), range(0, 1), 0), Bead(range(1, 2), range(1, 3), 0), Bead(range(2, 3), range(3, 3), 0)]
    true = [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 2)), (range(2, 3), range(2, 3))]
    assert strict_f1(found, true) == pytest.approx((50, 100 / 3, 40))


def test_vectors_of_others_give_the_same_pairs(tmp_path):
    s = sentences(5)
    texts = windows(s, 3)
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    bag(texts).tofile(tmp_path / "a.emb")
    look_up = read_vectors(str(tmp_path / "a.txt"), str(tmp_path / "a.emb"))
    assert np.array_equal(look_up(texts[3:7]), bag(texts[3:7]))
    with pytest.raises(UserError, match="lacks the text"):
        look_up(["1 2"])
    (tmp_path / "a.emb").write_bytes(b"123")
    with pytest.raises(UserError, match="no float32 vectors"):
        read_vectors(str(tmp_path / "a.txt"), str(tmp_path / "a.emb"))
    with pytest.raises(UserError, match=r"no such file: .*b\.emb"):
        read_vectors(str(tmp_path / "a.txt"), str(tmp_path / "b.emb"))


def test_bad_documents_are_refused():
    one = document(["1"], bag)
    with pytest.raises(UserError, match="no sentence"):
        document([], bag)
    with pytest.raises(UserError, match="all zeros"):
        document(["1"], lambda texts: np.zeros((1, 4)))
    with pytest.raises(UserError, match="32 and 4 numbers"):
        align(one, document(["1"], lambda texts: np.ones((1, 4))))


def test_the_command_writes_tsv_json_and_vecaligns_form_and_takes_its_vectors(tmp_path, home, sonarllm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A music player. A chess game.\n")
    (tmp_path / "b.txt").write_text("A music player.\n\nA chess game.\n")
    plain = sonarllm("align", "a.txt", "b.txt", "-m", "tiny", "--write-vectors", "v")
    assert plain.out.splitlines() == [f"0.0000\t{text}\t{text}" for text in ("A music player.", "A chess game.")]
    given = ["--vectors-a", "v/a.txt", "v/a.emb", "--vectors-b", "v/b.txt", "v/b.emb", "-m", "none"]
    as_numbers = sonarllm("align", "a.txt", "b.txt", *given, "--vecalign")
    assert [row.rpartition(":")[0] for row in as_numbers.out.splitlines()] == ["[0]:[0]", "[1]:[1]"]
    rows = sonarllm("align", "a.txt", "b.txt", *given, "--json").out.splitlines()
    assert [(r["a"], r["text_b"]) for r in map(json.loads, rows)] == [([0], "A music player."), ([1], "A chess game.")]
    (tmp_path / "empty.txt").write_text("")
    done = sonarllm("align", "a.txt", "empty.txt", *given)
    assert (done.returncode, done.err) == (2, "sonarllm: empty.txt is empty; give it some text\n")
    done = sonarllm("align", "a.txt", "v", *given)
    assert (done.returncode, done.err) == (2, "sonarllm: v is a folder, not a file; name a file in it\n")


def test_joined_utterances_have_the_direction_of_their_mean():
    vectors_ND = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    got = heard_document(vectors_ND, most=4)
    want = document(
        list("abcde"), lambda texts: np.stack([sum(unit_ND["abcde".index(c)] for c in t[::2]) for t in texts])
    )
    for a_ND, b_ND in zip(got.joined, want.joined, strict=True):
        np.testing.assert_allclose(a_ND, b_ND, atol=1e-6)
    assert [part.any() for part in heard_document(vectors_ND[:1], most=4).joined] == [True, False, False]
