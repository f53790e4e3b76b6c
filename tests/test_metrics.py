"""Scores on cases whose answer is known, and `evaluate` end to end on a tiny model."""

import json

import pytest
import torch

from sonarllm_cli.errors import UserError
from sonarllm_cli.measure import metrics
from sonarllm_cli.measure.tasks import evaluate
from sonarllm_cli.runtime import choose


def test_xsim_counts_the_texts_whose_translation_is_not_nearest():
    x_ND = torch.eye(8) + 0.1
    assert metrics.xsim(x_ND, 3 * x_ND) == 0
    assert metrics.xsim(x_ND, x_ND.roll(1, 0)) == 100
    swapped = x_ND[[1, 0, 2, 3, 4, 5, 6, 7]]
    assert metrics.xsim(x_ND, swapped) == 25


def test_the_margin_passes_over_a_hub_that_cosine_falls_for():
    """Four texts lean towards a fifth's translation, which is nearer to each than its own; the margin is not fooled."""
    own, private, hub = torch.eye(9)[:4], torch.eye(9)[4:8], torch.eye(9)[8:]
    source = torch.cat([own + 2 * hub, hub])
    target = torch.cat([own + 2 * hub + 1.5 * private, hub])
    cosine = torch.nn.functional.normalize(source, dim=1) @ torch.nn.functional.normalize(target, dim=1).T
    assert cosine.argmax(1).tolist() == [4] * 5
    assert metrics.xsim(source, target) == 0


@pytest.mark.parametrize(
    ("text", "want"), [("a b c d e", 0), ("a a a a a", 50), ("a b c d " * 3, 5 / 9 * 100), ("a", 0)]
)
def test_repetition_is_the_share_of_four_grams_seen_before(text, want):
    assert metrics.repetition([text]) == pytest.approx(want)


def test_perfect_texts_score_100_and_foreign_ones_little():
    texts = ["the cat sat on the mat today", "a music player for the desktop"]
    for score in (metrics.bleu, metrics.chrf, metrics.rouge_l, metrics.exact):
        assert score(texts, texts) == pytest.approx(100) and score(["x y z", "q"], texts) < 15
    assert metrics.meteor(texts, texts) > 99


@pytest.fixture
def data(tmp_path):
    rows = [{"id": str(i), "lang": "it", "en": f"tool number {i}", "it": f"strumento numero {i}"} for i in range(6)]
    docs = [{"title": f"tool {i}", "paragraphs": [[f"It is tool {i}. It works."]]} for i in range(3)]
    longer = [{"text": f"It is tool {i}. It works. It is fast. It is free."} for i in range(2)]
    longer.append({"text": "It is good. " + "library, printer, " * 40 + "end. It is fine."})  # ends after its first
    for name, lines in (("pairs", rows), ("docs", docs), ("longer", longer)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


@pytest.mark.parametrize(
    ("task", "file", "figure", "count"),
    [
        ("autoencode", "pairs", "ita_Latn texts", 4),
        ("translate", "pairs", "ita_Latn texts", 4),
        ("xsim", "pairs", "ita_Latn texts", 4),
        ("summarize", "docs", "texts", 3),
        ("nextsentence", "docs", "sentences", 6),
        ("generate", "longer", "texts", 2),
    ],
)
def test_a_task_scores_what_was_not_seen_and_says_how(home, data, task, file, figure, count):
    seen = ["tool number 0", "strumento numero 1"] if file == "pairs" else []
    if task == "autoencode":
        seen = ["strumento numero 0", "strumento numero 1"]
    path = str(data / f"{file}.jsonl")
    found = evaluate(task, "tiny-llm", [path], runtime=choose("cpu"), seen=seen, beam=1)
    assert found["figures"][figure] == count
    assert found["data"].keys() == {f"{file}.jsonl"} and found["versions"]["torch"] == torch.__version__
    again = evaluate(task, "tiny-llm", [path], runtime=choose("cpu"), seen=seen, beam=1)
    assert again == found


def test_data_without_pairs_is_refused(home, data):
    with pytest.raises(UserError, match="no parallel text"):
        evaluate("translate", "tiny", [str(data / "docs.jsonl")], runtime=choose("cpu"))
