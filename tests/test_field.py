"""`evaluate familiar`: telling foreign text from a space's field."""

import json

import pytest

from sonarllm_cli.score import field


def test_auc_counts_pairs_in_order_and_ties_by_half():
    assert field.auc([1, 2], [3, 4]) == 100 and field.auc([3, 4], [1, 2]) == 0
    assert field.auc([1, 2], [2, 3]) == 100 * 3.5 / 4


@pytest.fixture
def files(tmp_path):
    own, foreign = tmp_path / "own.jsonl", tmp_path / "foreign.jsonl"
    own.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("A cat. A dog.", "A bird sings.")))
    rows = [{"kind": "code", "text": "x = 1"}, {"kind": "verse", "text": "O bird!"}, {"text": "Es regnet."}]
    foreign.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return own, foreign


def test_each_kind_is_told_from_the_field_by_its_bits(sonarllm, home, files, monkeypatch):
    bits = {"A cat.": 1.0, "A bird sings.": 2.0, "x = 1": 3.0, "O bird!": 1.5, "Es regnet.": 0.5}
    monkeypatch.setattr(field, "reconstruction", lambda texts, *_: bits[texts[0]])
    own, foreign = files
    told = sonarllm("evaluate", "familiar", "-m", "tiny-llm", "--data", own, "--foreign", foreign, "--json")
    result = json.loads(told.out)
    figures = result["figures"]
    assert [figures[f"AUC, {kind}"] for kind in ("code", "verse", "foreign")] == [100, 50, 0]
    assert figures["AUC"] == 50 and figures["the field: texts"] == 2 and figures["code: bits a byte"] == 3
    assert {*result["data"]} == {"own.jsonl", "foreign.jsonl"}


def test_without_foreign_text_there_is_nothing_to_tell(sonarllm, home, files):
    told = sonarllm("evaluate", "familiar", "-m", "tiny-llm", "--data", files[0])
    assert told.returncode == 2 and "--foreign" in told.err
