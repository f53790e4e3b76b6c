"""Fits of scaling laws recover the law that made the points."""

import json
import math

import numpy as np
import pytest

from sonarllm_cli.errors import UserError
from sonarllm_cli.score import scaling
from sonarllm_cli.score.plot import Series, svg_plot

SIZES = [11e6, 34.6e6, 169.9e6, 453.6e6, 698.4e6, 1078e6]
# The paper's laws at its last epoch (arXiv 2508.05305, both versions): a, α, b. Its points were not published.
LAWS = {
    "llm v1": (4.06e5, 0.791, 1.24),
    "mse v1": (3.21e4, 0.515, 199),
    "diffusion v1": (1.58e5, 0.485, 84.0),
    "sonar-llm v1": (2.09e3, 0.569, 1.73),
    "llm v2": (1.44e5, 0.724, 1.04),
    "sonar-llm v2": (2.86e3, 0.596, 1.70),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_points_on_a_law_give_it_back(law):
    a, alpha, b = law
    found = scaling.fit(SIZES, [a * n**-alpha + b for n in SIZES])
    assert (found.a, found.alpha, found.b) == pytest.approx(law, rel=1e-4) and found.r2 == pytest.approx(1)
    assert found.alpha_interval == pytest.approx((alpha, alpha), abs=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator, hits = np.random.default_rng(0), 0
    clean = np.array([2.09e3 * n**-0.569 + 1.73 for n in SIZES])
    for _ in range(200):
        low, high = scaling.fit(SIZES, clean + generator.normal(0, 0.002, len(SIZES))).alpha_interval
        hits += low <= 0.569 <= high
    assert 180 <= hits <= 199  # 190 of 200 expected


@pytest.mark.parametrize(("freedom", "want"), [(1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (100, 1.984)])
def test_quantiles_of_students_t(freedom, want):
    """The table of any textbook."""
    assert scaling.student(0.975, freedom) == pytest.approx(want, abs=1e-3)


def test_three_points_fit_themselves_and_say_nothing_of_error():
    found = scaling.fit([1e6, 4e6, 2e7], [3.0, 2.5, 2.2])
    assert found.r2 == pytest.approx(1) and found.alpha_interval == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("sizes", "losses", "words"),
    [
        ([1e6, 1e6, 2e6], [3, 3, 2], "at least three sizes"),
        ([1e6, 2e6, 4e6], [2.0, 2.5, 2.7], "do not fall|no such law"),
        ([1e6, 2e6, 4e6], [2.0, float("nan"), 2.7], "mend the points"),
    ],
)
def test_points_without_a_law_are_refused(sizes, losses, words):
    with pytest.raises(UserError, match=words):
        scaling.fit(sizes, losses)


def test_points_come_from_csv_and_json_alike(tmp_path):
    rows = [{"kind": "x", "size": 10.0, "loss": 3.0}, {"kind": "y", "size": 20.0, "loss": 2.0}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.csv").write_text("kind,size,loss\nx,10,3\ny,2e1,2.0\n")
    assert scaling.points_of_file(str(tmp_path / "p.csv")) == scaling.points_of_file(str(tmp_path / "p.json"))
    (tmp_path / "bad.csv").write_text("n,l\n1,2\n")
    (tmp_path / "none.csv").write_text("size,loss\n")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("bad.csv", "none.csv", "deep.json"):
        with pytest.raises(UserError, match="give the columns size and loss"):
            scaling.points_of_file(str(tmp_path / name))


def test_a_plot_holds_every_point_and_is_xml():
    from xml.etree import ElementTree

    svg = svg_plot([Series("a & b", [(1e6, 3), (1e7, 2), (1e8, math.nan)], dots=True)], x="N", y="loss", log_x=True)
    root = ElementTree.fromstring(svg)
    dots = [e for e in root if e.tag.endswith("circle")]
    assert len(dots) == 2 and float(dots[0].get("cx")) < float(dots[1].get("cx"))
    assert float(dots[0].get("cy")) < float(dots[1].get("cy"))  # a loss that is lower is drawn lower
    assert svg_plot([], x="x", y="y") == ""


def test_a_kind_without_a_law_says_why_and_leaves_the_others_theirs():
    good = [scaling.LossPoint("good", n, 9 * n**-0.5 + 1) for n in SIZES]
    bad = [scaling.LossPoint("bad", n, loss) for n, loss in ((1e6, 2.0), (2e6, 2.5), (4e6, 2.7))]
    found = scaling.scaling([*bad, *good])
    assert found["good"]["alpha"] == pytest.approx(0.5, rel=1e-4)
    assert found["bad"].keys() == {"points", "why"} and scaling.drawing_of(found).count("<polyline") == 1
    with pytest.raises(UserError):
        scaling.scaling(bad)
