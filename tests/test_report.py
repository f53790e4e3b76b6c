"""The page of a comparison: what stands in the folder stands on it, once, and it loads nothing."""

import json
from html.parser import HTMLParser

import pytest

from sonarllm_cli.errors import UserError
from sonarllm_cli.score.report import report
from sonarllm_cli.score.scaling import LossPoint, scaling


def result(name, seed, value, **more):
    return {
        "figures": {"BLEU": value, "texts": 3},
        "model": {"name": name, "kind": "sonar-llm", "parameters": 2_500_000, "space": "ab", "steps": 7, "seed": seed},
        "settings": {"task": "nlg"},
        "data": {"valid.jsonl": "00ff"},
        "versions": {"torch": "2"},
        "samples": [{"text": "A <b>.", "found": f"{name} wrote | this", "wanted": "The truth."}],
        "command": f"sonarllm evaluate nlg -m {name} --data 'a b.jsonl'",
    } | more


@pytest.fixture
def folder(tmp_path):
    points = [LossPoint("sonar-llm", n, 9 * n**-0.5 + 1) for n in (1e6, 2e6, 4e6, 8e6)]
    files = {
        "a1": result("one", 1, 2.0),
        "a2": result("one", 2, 4.0),
        "b": result("two", 1, 7.25, deviation={"BLEU": 0.5, "texts": 0.0}),
        "law": {"laws": scaling(points), "figure": "valid_text_nll", "command": "sonarllm evaluate scaling r"},
        "noise": ["neither"],
    }
    for name, record in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "broken.json").write_text("{")
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.toml").write_text('kind = "sonar-llm"\nname = "one"\n')
    lines = [{"step": 5, "valid_text_nll": 3.0}, {"step": 9, "nll": 1.0}, {"step": 10, "valid_text_nll": 2.0}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 11, "val')
    return tmp_path


class Page(HTMLParser):
    """Every tag closed in its order; text and addresses gathered."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.addresses, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "data")]
        if tag not in ("meta", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_loads_nothing(folder):
    page = Page(report(folder)[0])
    assert not page.open and not page.addresses and not {"script", "link", "img"} & set(page.tags)
    assert page.tags.count("svg") == 2 and "polyline" in page.tags and "A <b>." in page.words


def test_seeds_become_a_mean_and_a_deviation(folder):
    markdown = report(folder)[1]
    assert "| BLEU | 3.00 (1.41) | 7.25 (0.50) |" in markdown and "| texts | 3 | 3 |" in markdown
    assert "| one | sonar-llm | 2.50 M | 7 | ab | 1, 2, 42 |" in markdown


def test_samples_stand_side_by_side_and_commands_as_they_were(folder):
    markdown = report(folder)[1]
    assert "| A <b>. | The truth. | one wrote \\| this | two wrote \\| this |" in markdown
    assert "sonarllm evaluate nlg -m two --data 'a b.jsonl'" in markdown
    assert f"sonarllm train {folder}/run/settings.toml -o {folder}/run" in markdown
    assert "| sonar-llm | 9 | 9 … 9 | 0.5 | 0.5 … 0.5 | 1 | 1 … 1 | 1.0000 | 4 |" in markdown


def test_the_same_folder_gives_the_same_page(folder):
    assert report(folder) == report(folder)


def test_a_folder_without_results_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError):
            report(place)


@pytest.mark.parametrize("record", [
    {"figures": [], "settings": {}, "model": {}},
    {"figures": {"a": "z"}, "settings": {"task": "x"}, "data": {}, "versions": {},
     "model": {"name": "m", "kind": "k", "seed": 0, "parameters": 1, "steps": 1, "space": "s"}},
    {"laws": {"x": 1}},
])  # fmt: skip
def test_a_result_that_is_none_is_named(tmp_path, record):
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"a\.json is no result as evaluate --json writes it"):
        report(tmp_path)
