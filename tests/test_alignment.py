"""Documents with a known alignment: what is true of them, and that `align` is scored against it."""

import json

import numpy as np
import pytest

from sonarllm_cli.runtime import choose
from sonarllm_cli.score import spaces
from sonarllm_cli.score.alignment import noisy
from sonarllm_cli.score.spaces import aligned, mined
from sonarllm_cli.score.tasks import evaluate

PAIRS = [(f"a{i} a a a", f"b{i} b b b") for i in range(200)]


@pytest.mark.parametrize("noise", [0, 0.3, 1])
def test_true_pairs_hold_the_words_of_both_sides_once(noise):
    a, b, true = noisy(PAIRS, noise, seed=3)
    words = [(" ".join(a[i] for i in x).split(), " ".join(b[j] for j in y).split()) for x, y in true]
    for one, other in words:
        numbers = [[word[1:] for word in side if word[1:]] for side in (one, other)]
        assert numbers[0] == numbers[1] or not one or not other
    assert sorted(i for x, _ in true for i in x) == list(range(len(a)))
    assert sorted(j for _, y in true for j in y) == list(range(len(b)))
    assert (len(true) == 200 and all(len(x) == len(y) == 1 for x, y in true)) == (noise == 0)
    assert noisy(PAIRS, noise, seed=3) == (a, b, true)


def test_a_text_aligned_with_itself_scores_100(home, tmp_path, monkeypatch):
    texts = [f"text number {chr(97 + i)} here" for i in range(10)]
    rows = [{"lang": "it", "en": text, "it": f"il {text}"} for text in texts]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def embed(given, lang, model):
        words = [set(text.removeprefix("il ").split()) for text in given]
        known = sorted({word for text in texts for word in text.split()} - {"text", "number", "here"})
        return np.array([[float(word in own) for word in known] + [0.1] for own in words])

    monkeypatch.setattr(spaces, "embed", embed)
    found = evaluate("align", "tiny", [str(tmp_path / "pairs.jsonl")], runtime=choose("cpu"), run=aligned(0.0))
    assert (found["figures"]["ita_Latn F1"], found["figures"]["ita_Latn sentences"]) == (100, 10)


def test_pairs_that_are_alike_are_mined_among_strangers(home, tmp_path, monkeypatch):
    rows = [{"lang": "it", "en": f"e{i}", "it": f"i{i}"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    random = np.random.default_rng(0).standard_normal((60, 40))
    monkeypatch.setattr(spaces, "embed", lambda texts, lang, model: random[[int(text[1:]) for text in texts]])
    data = [str(tmp_path / "pairs.jsonl")]
    found = evaluate("bitext", "tiny", data, runtime=choose("cpu"), run=mined(5, 100.0))["figures"]
    assert (found["ita_Latn F1"], found["ita_Latn pairs"], found["ita_Latn recall at 100"]) == (100, 10, 0)
