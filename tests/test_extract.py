"""An extract: which sentences, how many, in what order; and what `evaluate extract` says of it."""

import json
import math
import random
from types import SimpleNamespace

import pytest

from sonarllm_cli.flow.extract import (
    best_sentences,
    candidate,
    centrality,
    cosine,
    ranked,
    share,
    support,
    word_weights,
)
from sonarllm_cli.runtime import choose
from sonarllm_cli.score.extracts import extraction, table
from sonarllm_cli.score.metrics import rouge
from sonarllm_cli.score.tasks import evaluate

STORY = [
    "Chapter one",
    "The old dam above the town burst on Monday night.",
    "Nobody was hurt.",
    "The dam burst after a week of rain above the town.",
    "Some people in the town watched television at home that evening.",
    "Engineers said that the dam above the town was old.",
]


def test_weights_are_those_of_the_formula():
    (first, second), centre = word_weights(["Cat cat dog.", "Dog."])
    cat, dog = (1 + math.log(2)) * (1 + math.log(3 / 2)), 1.0
    size = math.hypot(cat, dog)
    assert first == pytest.approx({"cat": cat / size, "dog": dog / size}) and second == {"dog": 1.0}
    assert centre == pytest.approx({"cat": cat / size / 2, "dog": (dog / size + 1) / 2})
    assert centrality(["Cat cat dog.", "Dog."]) == pytest.approx([cosine(first, centre), cosine(second, centre)])


@pytest.mark.parametrize("count", range(1, 9))
def test_an_extract_has_the_number_asked_for_in_the_texts_order(count):
    found = best_sentences(STORY, count)
    assert found == sorted(found) and len(set(found)) == min(count, len(STORY))


def test_scraps_and_doubles_come_last_or_not_at_all():
    assert {*ranked(STORY)[:4]} == {1, 3, 4, 5} and {*ranked(STORY)[4:]} == {0, 2}
    assert ranked([*STORY, STORY[1]]) and 6 not in ranked([*STORY, STORY[1]])
    assert best_sentences(["Hello."], 3) == [0] and best_sentences(["1", "2"], 1) == [0]


@pytest.mark.parametrize("story", [STORY, [STORY[i] for i in (0, 2, 3, 1, 4, 5)]])
def test_rank_is_the_z_score_of_centrality_and_three_over_place(story):
    proper = [i for i, text in enumerate(story) if candidate(text)]
    central = [centrality(story)[i] for i in proper]
    mean = sum(central) / len(central)
    deviation = math.sqrt(sum((c - mean) ** 2 for c in central) / len(central))
    rank = [(c - mean) / deviation + 3 / (1 + place) for place, c in enumerate(central)]
    want = [i for _, i in sorted(zip(rank, proper), reverse=True)]
    assert ranked(story)[: len(proper)] == want
    assert story is STORY or ranked(story, lead=2.0) != ranked(story)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("He said that it was far “enough.”", True),
        ("El tren llegó tarde otra vez (sí).", True),
        ("大きな犬が来た。", True),
        ("A heading of seven words without stop", False),
        ("Far too short.", False),
    ],
)
def test_a_candidate_is_a_whole_sentence(text, whole):
    assert candidate(text) == whole


def test_support_is_of_the_texts_words():
    assert support(STORY[1:2], STORY) > support(["A music player for the town."], STORY) > 0
    assert support(["A music player for the desktop."], STORY) == 0
    assert support(["Quite other things."], STORY) == 0


@pytest.fixture
def data(tmp_path):
    rows = [
        {"text": " ".join(STORY[1:]).replace("Monday", f"day {i}"), "summary": STORY[3], "title": "no"}
        for i in range(6)
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "docs.jsonl")


def test_evaluate_extract_scores_each_way_as_rouge_does(home, data):
    figures = evaluate("extract", "tiny", [data], runtime=choose("cpu"), run=extraction)["figures"]
    assert figures["texts"] == 6 and figures["best, 1: ROUGE-L"] == 100
    lead = rouge(STORY[1].replace("Monday", "day 0"), [STORY[3]])
    assert figures["Lead, 1: ROUGE-1"] == pytest.approx(lead[0], abs=0.01)
    means = [figures[f"words, {k}: ROUGE-{n}"] for k in (1, 2, 3) for n in ("1", "2", "L")]
    assert figures["words: mean"] == pytest.approx(sum(means) / 9, abs=0.02)
    assert [row[0] for row in table(figures)] == ["", "random", "Lead", "words", "vectors", "both", "fitted", "best"]


def test_sentences_of_grammar_and_invented_numbers_are_about_nothing():
    made_up = "It is known as a 1986, the 20001, and is in the 19000, and the top of the s."
    assert support([made_up], STORY) == 0 < support(["The town was 19000 years old."], STORY)
    assert support(["大犬来"], ["大きな犬が来た。", "雨だ。"]) > 0


def test_the_share_of_what_is_extracted_is_one_and_of_other_things_none():
    assert share([STORY[3]], [3], STORY) == pytest.approx(1) and share(["Quite others."], [3], STORY) == 0


def test_evaluate_extract_sets_writing_against_extracting(sonarllm, home, data):
    told = sonarllm("evaluate", "extract", "-m", "tiny-llm", "--data", data, "--write", "4", "--json")
    figures = {k.partition(", ")[2]: v for k, v in json.loads(told.out)["figures"].items() if "sentence, " in k}
    assert figures["texts written of"] == 4
    lead = [rouge(STORY[1].replace("Monday", f"day {i}"), [STORY[3]])[2] for i in range(6)]
    assert figures["Lead"] == pytest.approx(lead[0], abs=0.01) and len({*lead}) == 1
    kept = [figures[f"share {s}"] for s in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)]
    low, high = sorted((figures["write"], figures["extract"]))
    assert all(low <= value <= high for value in (*kept, figures["default"], figures["chosen"]))
    assert figures["default"] == figures["share 0.7"]  # nobody measured tiny-llm's field


def test_the_share_that_is_kept_is_chosen_on_one_half_and_scored_on_the_other(home, writer, monkeypatch):
    from sonarllm_cli.flow.compose import Writing
    from sonarllm_cli.score import extracts, shares

    said = iter([0.65, 0.95] * 10)
    monkeypatch.setattr(shares, "share", lambda *_: next(said))
    monkeypatch.setattr(shares, "shortened", lambda *_: [SimpleNamespace(text=STORY[5])])
    rows = [(STORY[1:], [STORY[5] if good else STORY[1]]) for good in (False, True) * 10]
    found = shares.trial(rows, writer, Writing(), extracts._fitted, random.Random(0))
    assert found["one sentence, share 0.7"] == found["one sentence, default"] == found["one sentence, chosen"]
    assert found["one sentence, share 0.7"] > max(found["one sentence, write"], found["one sentence, extract"])
