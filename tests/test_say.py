"""Sentences said in another language: clauses, what is read back, which of the two is kept."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sonarllm_cli.flow import say as saying
from sonarllm_cli.flow.back import FAR, Distances, back_cosines
from sonarllm_cli.flow.clauses import clauses, rejoined
from sonarllm_cli.flow.decode import Hypothesis, Search, decode
from sonarllm_cli.flow.embed import embed
from sonarllm_cli.flow.figures import with_figures
from sonarllm_cli.flow.say import say


@pytest.mark.parametrize(
    ("sentence", "lang", "pieces"),
    [
        ("It is cold today.", "eng_Latn", 1),
        ("It rained all day long, | but we went out anyway and walked along the river.", "eng_Latn", 2),
        ("The town was quiet that night; | nobody saw him leave the house.", "eng_Latn", 2),
        ("Ich weiß noch nicht genau, | ob er heute kommen kann.", "deu_Latn", 2),
        (
            "Es ist nicht klar, | wer in diesem Jahr die Arbeit machen soll, | weil niemand etwas gesagt hat.",
            "deu_Latn",
            3,
        ),
        ("Siamo arrivati ieri sera, dopo un viaggio molto lungo, | e la casa è piccola e fredda.", "ita_Latn", 2),
        ("Nobody in the village had ever seen so many of them.", "eng_Latn", 1),  # no place is good enough
        ("Wij zagen hem gisteren in de stad, | maar hij zag ons helaas niet.", "nld_Latn", 2),  # marks alone
        ("春天来了，花都开了，鸟儿在树上唱歌，孩子们在外面玩。", "zho_Hans", 1),
    ],
)
def test_a_sentence_is_cut_at_its_clauses(sentence, lang, pieces):
    want = sentence.split(" | ")
    assert clauses(" ".join(want), lang) == want and len(want) == pieces


@given(st.lists(st.sampled_from(["and", "word", "end,", "—", "(so", "one;"]), max_size=60))
def test_the_clauses_are_the_sentence(words):
    assert " ".join(clauses(" ".join(words), "eng_Latn")).split() == words


def test_marks_between_clauses_are_the_sentences_own_and_small_words_have_small_letters():
    pieces = ["Non so,", "se Tom viene —", "ma lo spero."]
    assert rejoined(["I don't know.", "If Tom comes!", "But I hope so."], pieces, "eng_Latn") == (
        "I don't know, if Tom comes — but I hope so."
    )
    assert rejoined(["Tom is here", "Tom knows me."], ["Tom è qui", "Tom mi conosce."], "eng_Latn") == (
        "Tom is here Tom knows me."
    )


@pytest.mark.parametrize(
    ("text", "source", "want"),
    [
        ("Er wurde 1967 geboren.", "He was born in 1976.", "Er wurde 1976 geboren."),
        ("Es kostet 1.250 Euro.", "It costs 1,250 euros.", "Es kostet 1.250 Euro."),
        ("Der Zug fährt um 15 Uhr.", "The train leaves at 3 pm.", "Der Zug fährt um 15 Uhr."),
        ("Von 12 bis 99 sind es 1812.", "From 10 to 12 there are 1,900.", "Von 12 bis 10 sind es 1,900."),
        ("Sie waren 20 oder 30.", "There were 250 of them.", "Sie waren 20 oder 30."),  # which of them?
        ("Keiner kam.", "In 1900 nobody came.", "Keiner kam."),
    ],
)
def test_numbers_are_the_sources(text, source, want):
    assert with_figures(text, source) == want


def test_a_sentence_is_near_itself_and_its_cosine_is_that_of_its_embedding(space):
    vectors = torch.from_numpy(embed(["A music player.", "A chess game."], model=space))
    [[same], [other]] = back_cosines([["A music player."], ["A music player."]], "eng_Latn", vectors, space)
    assert same == pytest.approx(1, abs=1e-5)
    assert other == pytest.approx(torch.cosine_similarity(vectors[0], vectors[1], 0).item(), abs=1e-5)
    [[first, second]] = decode(vectors[0], model=space, num_return=2, max_tokens=8)
    [cosines] = back_cosines([[first.text, second.text]], "eng_Latn", vectors[:1], space)
    assert [first.cosine, second.cosine] == pytest.approx(cosines, abs=1e-5)


def test_of_what_a_search_finds_the_nearest_is_said(space):
    vectors = torch.from_numpy(embed(["A music player.", "A chess game."], model=space))
    said = say(["A music player.", "A chess game."], "eng_Latn", "deu_Latn", space, Search(beam=3, max_tokens=8))
    found = decode(vectors, lang="deu_Latn", model=space, beam=3, num_return=3, max_tokens=8)
    best = [max(row, key=lambda h: h.cosine) for row in found]
    assert [one.text for one in said] == [h.text for h in best] != [row[0].text for row in found]


@pytest.mark.parametrize(("whole", "in_clauses", "kept"), [(0.5, 0.6, "cut"), (0.6, 0.5, "whole"), (FAR, 1.0, "whole")])
def test_the_nearer_of_whole_and_clauses_is_kept(space, monkeypatch, whole, in_clauses, kept):
    """`whole` and `in_clauses` are their cosines. What is near enough is not cut at all."""
    asked = []

    def decoded(embedding_ND, *_):
        asked.append(len(embedding_ND))
        return [[Hypothesis("Whole." if len(asked) == 1 else "Part.", -1.0, ())] for _ in embedding_ND]

    def cosines(texts, *_):
        return [[whole if text == "Whole." else in_clauses for text in row] for row in texts]

    monkeypatch.setattr(saying, "decode_batch", decoded)
    monkeypatch.setattr(saying, "back_cosines", cosines)
    sentence = "It rained all day long, but we went out anyway and walked along the river."
    [said] = say([sentence], "eng_Latn", "deu_Latn", space)
    assert (said.text, said.cosine) == (("Part, Part.", in_clauses) if kept == "cut" else ("Whole.", whole))
    assert asked == ([1] if whole >= FAR else [1, 2, 3])  # what is still far is cut shorter
    asked.clear()
    assert say([sentence], "eng_Latn", "deu_Latn", space, by_clauses=False)[0].text == "Whole." and asked == [1]


def test_many_far_sentences_are_told_by_count_and_the_first_places():
    distances = Distances()
    for place, cosine in enumerate([0.99, 0.3, 0.2, None, FAR], 1):
        distances.see(place, cosine)
    assert distances.told("sentences", "line").startswith(
        "2 of 4 sentences came out far from what they say (lines 2, 3):"
    )
    for place in range(10, 40):
        distances.see(place, 0.0)
    assert "(lines 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, …)" in distances.told("sentences", "line")
    near = Distances()
    near.see(1, FAR)
    assert near.told("sentences", "line") == ""


def test_nothing_is_said_of_no_sentence(space):
    assert say([], "eng_Latn", "deu_Latn", space, Search()) == []


def test_the_command_tells_what_came_out_far_and_json_says_how_far(tmp_path, home, sonarllm, monkeypatch):
    """Nothing is near enough to a threshold over 1."""
    monkeypatch.setattr("sonarllm_cli.flow.back.FAR", 1.1)
    text = "# A title\n\nOne music player.\nAnd a chess\ngame is here.\n"
    (tmp_path / "a.md").write_text(text, "utf-8")
    options = ("-m", "tiny", "--max-tokens", "6")
    done = sonarllm("translate", tmp_path / "a.md", *options, "--to", "de", "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [text[r["start"] : r["end"]] for r in records] == [
        "A title",
        "One music player.",
        "And a chess\ngame is here.",
    ]
    assert all(-1 <= r["back_cosine"] <= 1 and r["score"] < 0 and r["text"] for r in records)
    assert "3 of 3 sentences came out far from what they say (lines 1, 3, 4)" in done.err
    done = sonarllm("translate", tmp_path / "a.md", *options, "--to", "de", "-q")
    assert not done.err
