"""Scores on cases whose answer is known, and `evaluate` end to end on a tiny model."""

import functools
import json
import math

import pytest
import torch

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.say import Said
from sonarllm_cli.runtime import choose
from sonarllm_cli.score import metrics
from sonarllm_cli.score.tasks import evaluate


def test_xsim_counts_the_texts_whose_translation_is_not_nearest():
    x_ND = torch.eye(8) + 0.1
    assert metrics.xsim(x_ND, 3 * x_ND) == 0
    assert metrics.xsim(x_ND, x_ND.roll(1, 0)) == 100
    swapped = x_ND[[1, 0, 2, 3, 4, 5, 6, 7]]
    assert metrics.xsim(x_ND, swapped) == 25


def test_more_candidates_may_be_nearer_and_blocks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(50, 6, generator=generator)
    target = source + 0.8 * torch.randn(50, 6, generator=generator)
    error = metrics.xsim(source, target)
    assert 0 < error < metrics.xsim(source, torch.cat([target, source[:25] + 0.01]))
    monkeypatch.setattr(metrics, "BLOCK", 7)
    assert metrics.xsim(source, target) == error


def test_xsims_errors_are_told_by_what_was_found_in_the_place(home, tmp_path, monkeypatch):
    from sonarllm_cli.runtime import choose
    from sonarllm_cli.score import spaces

    x_ND = torch.eye(8) + 0.1
    vector = {f"de{i}": x_ND[i] for i in range(8)} | {f"en{i}": x_ND[i] for i in range(8)}
    vector |= {"en0": x_ND[1] + 0.01, "en2": x_ND[2] + 0.5, "no 2": x_ND[2], "en3": x_ND[3] + 0.5, "two 3": x_ND[3]}
    monkeypatch.setattr(spaces, "embed_sentences", lambda texts, lang, space: torch.stack([vector[t] for t in texts]))
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"lang": "de", "en": f"en{i}", "de": f"de{i}"}) + "\n" for i in range(8))
    )
    (tmp_path / "types.json").write_text(json.dumps({"no 2": {"src": "en2", "errtype": "negated"}, "two 3": "number"}))
    types = spaces.altered_types(str(tmp_path / "types.json"))
    run = functools.partial(spaces.xsim_errors, plus=["no 2", "two 3"], types=types)
    found = evaluate("xsim", "tiny", [str(tmp_path / "pairs.jsonl")], run=run, runtime=choose("cpu"))["figures"]
    told = {name.split("++ ")[1]: value for name, value in found.items() if "++ " in name}
    assert told["negated"] == told["number"] == 12.5
    assert sum(told.values()) == pytest.approx(found["deu_Latn → eng error ++"]) and told["misaligned"] > 0
    (tmp_path / "types.json").write_text('{"no 2": {"src": "en2"}}')
    with pytest.raises(UserError, match="'no 2' has no type"):
        spaces.altered_types(str(tmp_path / "types.json"))


def test_a_text_that_stands_twice_is_found_in_all_its_translations():
    x_ND, y_ND = torch.eye(9)[[0, 1, 2, 3, 4, 0]], torch.eye(9)[[0, 1, 2, 3, 4, 5]]
    y_ND[5, 0] = 2  # near enough to its source, yet not the nearest
    sources, targets = list("abcdea"), list("uvwxyz")
    assert metrics.xsim(x_ND, y_ND, sources=sources, targets=targets) == 0
    assert metrics.xsim(y_ND, x_ND, sources=targets, targets=sources) == 0
    assert metrics.xsim(x_ND[:5], y_ND[[1, 0, 2, 3, 4]]) == pytest.approx(40)


def test_bleu_of_short_equal_texts_is_100_and_says_how_it_was_reckoned():
    score = metrics.bleu(["it works", "yes"], ["it works", "yes"])
    assert score == pytest.approx(100) and "eff:yes|tok:13a" in score.signature
    want = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert metrics.bleu(["a b c d e f"], ["a b c d x f"]) == pytest.approx(want)


@pytest.mark.parametrize(
    ("lang", "found", "wanted"),
    [("zho_Hans", "我喜欢读书", "我喜欢看书"), ("tha_Thai", "ฉันชอบอ่านหนังสือ", "ฉันชอบซื้อหนังสือ")],
)
def test_a_script_that_sets_no_words_apart_is_scored_by_less_than_sentences(lang, found, wanted):
    assert metrics.bleu([found], [wanted]) < 1 < metrics.bleu([found], [wanted], metrics.tokenizer_of(lang))
    assert metrics.tokenizer_of("deu_Latn") == "13a"


def test_the_margin_passes_over_a_hub_that_cosine_falls_for():
    """Four texts lean towards a fifth's translation, which is nearer to each than its own; the margin is not fooled."""
    own, private, hub = torch.eye(9)[:4], torch.eye(9)[4:8], torch.eye(9)[8:]
    source = torch.cat([own + 2 * hub, hub])
    target = torch.cat([own + 2 * hub + 1.5 * private, hub])
    cosine = torch.nn.functional.normalize(source, dim=1) @ torch.nn.functional.normalize(target, dim=1).T
    assert cosine.argmax(1).tolist() == [4] * 5
    assert metrics.xsim(source, target) == 0


def test_the_best_threshold_takes_all_of_a_score_and_no_more():
    best = metrics.best_f1([0.9, 0.8, 0.8, 0.5], [True, True, False, False], wanted=2)
    assert best == pytest.approx({"threshold": 0.8, "precision": 200 / 3, "recall": 100, "F1": 80})
    assert metrics.best_f1([0.9, 0.8], [False, True], wanted=1)["threshold"] == 0.8
    assert metrics.best_f1([], [], wanted=3)["F1"] == 0


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


FOUND = ["the cat sits on a mat, again", "a player of music", "it", ""]
TRUE = ["the cats sat on the mat", "a music player for the desktop", "it plays", "nothing"]


def lcs(a, b):
    """Length of the longest common subsequence, as the textbook has it."""
    if not a or not b:
        return 0
    return lcs(a[:-1], b[:-1]) + 1 if a[-1] == b[-1] else max(lcs(a[:-1], b), lcs(a, b[:-1]))


def test_rouge_l_is_rouge_scores_own_and_the_f_of_a_subsequence():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    each = [scorer.score(t, f)["rougeL"].fmeasure for f, t in zip(FOUND, TRUE)]
    assert metrics.rouge_l(FOUND, TRUE) == pytest.approx(25 * sum(each))
    found, true = ["a", "player", "of", "music"], ["a", "music", "player", "for", "the", "desktop"]
    p, r = lcs(found, true) / len(found), lcs(found, true) / len(true)
    assert each[1] == pytest.approx(2 * p * r / (p + r))


def test_meteor_is_nltks_own_and_its_formula():
    from nltk.translate.meteor_score import single_meteor_score

    from sonarllm_cli.score.wordnet import wordnet

    each = [single_meteor_score(t.split(), f.split(), wordnet=wordnet()) for f, t in zip(FOUND, TRUE)]
    assert metrics.meteor(FOUND, TRUE) == pytest.approx(25 * sum(each))
    matches, chunks, words, wanted = 3, 3, 4, 6  # a, player, music: three words, each a chunk of its own
    p, r = matches / words, matches / wanted
    assert each[1] == pytest.approx(10 * p * r / (r + 9 * p) * (1 - 0.5 * (chunks / matches) ** 3))


def test_sentence_bleu_is_nltks_own_and_its_formula():
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method4
    each = [sentence_bleu([t.split()], f.split(), smoothing_function=smooth) if f else 0 for f, t in zip(FOUND, TRUE)]
    assert metrics.sentence_bleu(FOUND, TRUE) == pytest.approx(25 * sum(each))
    text = "a b c d e f g h"  # all n-grams of five words of eight are right: the brevity penalty alone is left
    assert metrics.sentence_bleu(["a b c d e"], [text]) == pytest.approx(100 * math.exp(1 - 8 / 5))


def test_overlap_is_the_share_of_grams_that_the_source_has():
    assert metrics.overlap(["a b c d x"], ["z a b c d"]) == pytest.approx(200 / 3)
    assert metrics.overlap(["a b"], ["a b"]) == 0  # too short for a gram
    assert metrics.words_apart(["It's (new), 2.0."]) == ["It ' s ( new ) , 2 . 0 ."]


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
    signed = [name for name in found["figures"] if name.split()[-1] in ("BLEU", "chrF")]
    assert list(found.get("signatures", {})) == signed
    assert found["data"].keys() == {f"{file}.jsonl"} and found["versions"]["torch"] == torch.__version__
    again = evaluate(task, "tiny-llm", [path], runtime=choose("cpu"), seen=seen, beam=1)
    assert again == found


def test_a_folder_is_data_and_what_can_not_be_read_is_told_first(home, data, monkeypatch):
    (data / "texts").mkdir()
    for i in range(2):
        (data / "texts" / f"{i}.txt").write_text(f"It is tool {i}. It works.")
    found = evaluate("nextsentence", "tiny-llm", [str(data / "texts")], runtime=choose("cpu"))
    assert found["figures"]["sentences"] == 4 and len(found["data"]["texts"]) == 16
    monkeypatch.setattr("sonarllm_cli.score.writers.load_writer", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match="no such file"):
        evaluate("nextsentence", "tiny-llm", [str(data / "none")], runtime=choose("cpu"))


def test_data_without_a_text_is_refused(home, data):
    (data / "none.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing to score; see what is read: sonarllm evaluate autoencode --help"):
        evaluate("autoencode", "tiny", [str(data / "none.jsonl")], runtime=choose("cpu"))


def test_data_without_pairs_is_refused(home, data):
    with pytest.raises(UserError, match="no parallel text"):
        evaluate("translate", "tiny", [str(data / "docs.jsonl")], runtime=choose("cpu"))


@pytest.mark.parametrize("whole", [False, True])
def test_translations_are_scored_as_translate_writes_them_or_the_likeliest(home, data, monkeypatch, whole):
    monkeypatch.setattr("sonarllm_cli.score.spaces.say", lambda texts, *_: [Said(t.upper(), 0.0, 1.0) for t in texts])
    monkeypatch.setattr("sonarllm_cli.score.spaces._decoded", lambda vectors, *_: ["likeliest"] * len(vectors))
    found = evaluate("translate", "tiny", [str(data / "pairs.jsonl")], runtime=choose("cpu"), whole=whole)
    assert all(s["found"] == ("likeliest" if whole else s["text"].upper()) for s in found["samples"])
    assert found["settings"].get("whole", False) == whole


def test_a_continuation_has_the_length_asked_for_and_enough_are_shown_to_read(home, data):
    row = (data / "longer.jsonl").read_text().splitlines()[0]
    (data / "many.jsonl").write_text("\n".join(row.replace("tool", f"tool {i},") for i in range(12)))
    wish = {"rules": {"stop_threshold": 2.0}, "beam": 1, "limit": 12, "max_sentences": 1}
    found = evaluate("generate", "tiny-llm", [str(data / "many.jsonl")], runtime=choose("cpu"), **wish)
    assert found["figures"]["sentences written"] <= 1 and found["settings"]["max sentences"] == 1
    assert len(found["samples"]) == found["figures"]["texts"] == 12


def test_the_rules_of_writing_are_a_tasks_too(home, data):
    def written(**rules):
        return evaluate(
            "generate", "tiny-llm", [str(data / "longer.jsonl")], runtime=choose("cpu"), beam=1, rules=rules
        )

    assert written(stop_threshold=2.0)["figures"]["sentences written"] > 0
    ended = written(stop="predicted", stop_threshold=-1.0)
    assert ended["figures"]["sentences written"] == 0
    assert ended["settings"]["rules"] == {"stop": "predicted", "stop_threshold": -1.0}
