"""Segmentation and tokens of a run's text are made once, and again where text, settings or the file are others."""

import json

import numpy as np
import pytest
from test_train import concept, corpus, sonar, trained  # noqa: F401

from sonarllm_cli.data import corpus as texts
from sonarllm_cli.data.kept import packed, unpacked
from sonarllm_cli.data.records import Data
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.tokens import Tokenizer


def test_rows_of_text_come_back():
    for rows in ([], [[]], [["", "a"], [], ["中\n", "\ud800"]]):
        assert unpacked(packed(rows)) == rows


@pytest.mark.parametrize("kind", ["sonar", "sonar-llm"])
def test_a_second_start_segments_and_tokenises_nothing(corpus, trained, tmp_path, monkeypatch, kind):  # noqa: F811
    settings = sonar(corpus) if kind == "sonar" else concept(corpus, trained / "sonar/model")

    def all_of(task):
        if kind == "sonar":
            return [task.train.flat, task.train.start, task.train.lang, task.train.left, task.train.right]
        return [task.table.texts, task.table.ids, task.data.train.flat, task.data.valid.flat]

    first = all_of(Trainer(settings, tmp_path / "r").task)

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(texts, "block_sentences", refuse)
    monkeypatch.setattr(Tokenizer, "content", refuse)
    again = all_of(Trainer(settings, tmp_path / "r").task)
    assert all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(first, again))


def test_text_that_changed_or_a_damaged_file_is_segmented_again(tmp_path, monkeypatch, caplog):
    calls, real = [], texts.block_sentences
    monkeypatch.setattr(texts, "block_sentences", lambda block, lang: calls.append(block) or real(block, lang))
    source, path = tmp_path / "a.jsonl", tmp_path / "a.segmented"

    def read(**changes):
        calls.clear()
        found = texts.documents(Data(**{"root": str(tmp_path)} | changes), ["a.jsonl"], path)
        return len(calls), found

    source.write_text(json.dumps({"title": "T", "text": "It is. It was."}) + "\n")
    want = [("T", ["It is.", "It was."])]
    assert read() == (1, want) and read() == (0, want)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert read() == (1, want) and "a.segmented is damaged: made again" in caplog.text
    assert read() == (0, want)
    for changes in ({"lang": "deu_Latn"}, {"limit": 1}, {"lang": "eng_Latn"}):
        assert read(**changes) == (1, want)
    source.write_text(json.dumps({"text": "It is."}) + "\n")
    assert read() == (1, [("", ["It is."])]) and read()[0] == 0


def test_tokens_are_those_of_the_text_and_the_tokenizer(trained, tmp_path):  # noqa: F811
    tokenizer = Tokenizer(trained / "sonar/tokenizer.model", ["eng_Latn"])
    for some in (["disk", ""], ["disk tool"], ["disk", "tool"], []):
        for _ in range(2):
            assert texts.tokens_of(some, tokenizer, tmp_path / "t") == tokenizer.content(some)
