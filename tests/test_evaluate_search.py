"""`evaluate search`: how often a query's own note is among the nearest, on vectors made by hand."""

import json
import math
from pathlib import Path

import pytest
import torch

from sonarllm_cli.errors import UserError
from sonarllm_cli.runtime import choose
from sonarllm_cli.score import spaces, tasks

NOTES = Path(__file__).parent / "search"


def rows(name):
    return [json.loads(line) for line in (NOTES / name).read_text("utf-8").splitlines()]


def score(tmp_path, monkeypatch, records, vector):
    """The figures of records whose texts have the vectors of `vector`."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    monkeypatch.setattr(spaces, "_embedded", lambda part, space: torch.tensor([vector[r["text"]] for r in part]))
    return tasks.evaluate("search", "tiny", [str(path)], runtime=choose("cpu"))["figures"]


def test_a_note_that_is_nearest_counts_for_both_and_one_among_five_for_top_5(home, tmp_path, monkeypatch):
    angles = {f"n{i}": i / 10 for i in range(8)} | {"near": 0.31, "third": 0.2, "far": 0.0}
    vector = {text: [math.cos(angle), math.sin(angle)] for text, angle in angles.items()}
    notes = [{"id": str(i), "lang": "en", "text": f"n{i}"} for i in range(8)]
    queries = [("near", "3", "en"), ("third", "4", "de"), ("far", "7", "de")]
    asked = [{"lang": lang, "text": text, "note": note} for text, note, lang in queries]
    found = score(tmp_path, monkeypatch, notes + asked, vector)
    assert (found["all top-1"], found["all top-5"]) == (33.33, 66.67)
    assert (found["the same language top-1"], found["another language top-5"], found["de queries"]) == (100, 50, 2)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([{"id": "1", "lang": "en", "text": "a"}], "no queries"),
        ([{"id": "1", "lang": "en", "text": "a"}, {"lang": "en", "text": "b", "note": "2"}], "not there"),
        ([{"id": "1", "text": "a"}], "neither a note"),
    ],
)
def test_data_without_an_answer_is_refused(home, tmp_path, monkeypatch, records, says):
    with pytest.raises(UserError, match=says):
        score(tmp_path, monkeypatch, records, {"a": [1.0, 0.0], "b": [0.0, 1.0]})


def test_each_query_of_the_notes_here_has_one_note_and_shares_no_text_with_another():
    for kind in ("", "paraphrase-"):
        notes, queries = rows(f"{kind}notes.jsonl"), rows(f"{kind}queries.jsonl")
        assert len({n["id"] for n in notes}) == len({n["text"] for n in notes}) == len(notes)
        assert {q["note"] for q in queries} <= {n["id"] for n in notes}
        assert len({q["note"] for q in queries}) == len(queries)
