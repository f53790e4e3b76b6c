"""A scaling law through losses of models of several sizes: L(N) = a · N^(−α) + b, N the parameters that were trained.

    fit([1e6, 3e6, 1e7, 3e7], [3.1, 2.8, 2.6, 2.5])      # a, alpha, b with 95 % intervals, and R²

For a given α the law is linear in a and b, so those two are solved for and α alone is sought (variable projection,
Golub & Pereyra 1973). Intervals are of Student's t with the curvature at the optimum, a's on its logarithm.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..io.files import load_json, read_text
from ..learn.curves import read_metrics
from .plot import COLOURS, Series, svg_plot

LOSSES = ("valid_text_mse", "valid_text_nll")  # what a run was taught, and so is judged by, the first that it has
SEARCH = np.linspace(0.01, 3.0, 600)  # α looked at before the finest is sought


@dataclass(frozen=True)
class Fit:
    """The law's parameters, their 95 % intervals (infinite where three points fit themselves), and R²."""

    a: float
    alpha: float
    b: float
    a_interval: tuple[float, float]
    alpha_interval: tuple[float, float]
    b_interval: tuple[float, float]
    r2: float

    def loss(self, n: float) -> float:
        return self.a * n**-self.alpha + self.b


def fit(sizes: Sequence[float], losses: Sequence[float]) -> Fit:
    """Least squares through at least three sizes. UserError for fewer, or where no such law has a least error."""
    n, y = np.asarray(sizes, float), np.asarray(losses, float)
    if len(set(sizes)) < 3:
        raise UserError(f"{len(set(sizes))} sizes can't fit three parameters", "give runs of at least three sizes")
    for bad in np.flatnonzero(~(np.isfinite(y) & (n > 0)))[:1]:
        raise UserError(f"the size {n[bad]:g} with the loss {y[bad]:g} is no point", "mend the points, or leave it out")
    unit = math.exp(np.log(n).mean())  # sizes near 1, so that a and b are of one scale
    x = n / unit

    def solve(alpha: float) -> tuple[np.ndarray, float]:
        columns = np.stack([x**-alpha, np.ones_like(x)], 1)
        coefficient, *_ = np.linalg.lstsq(columns, y, rcond=None)
        return coefficient, float(np.square(columns @ coefficient - y).sum())

    errors = [solve(alpha)[1] for alpha in SEARCH]
    best = int(np.argmin(errors))
    if best in (0, len(SEARCH) - 1):
        raise UserError("the losses follow no such law: the best exponent is at the edge", "give sizes further apart")
    alpha = _least(lambda alpha: solve(alpha)[1], SEARCH[best - 1], SEARCH[best + 1])
    (scaled, b), error = solve(alpha)
    if scaled <= 0:
        raise UserError("the losses do not fall with size", "train the larger ones longer, or check --figure")
    power = x**-alpha
    slope = np.stack([scaled * power, -scaled * power * np.log(x), np.ones_like(x)], 1)  # of log a', α, b
    free = len(y) - 3
    deviation = np.full(3, math.inf)
    spread = np.zeros((3, 3))
    if free:
        spread = np.linalg.pinv(slope.T @ slope) * error / free
        deviation = np.sqrt(np.diag(spread)) * student(0.975, free)
    log_a = math.log(scaled) + alpha * math.log(unit)
    lean = np.array([1.0, math.log(unit), 0.0])  # log a = log a' + α · log unit
    log_a_deviation = math.sqrt(lean @ spread @ lean) * student(0.975, free) if free else math.inf
    total = float(np.square(y - y.mean()).sum())
    return Fit(
        a=math.exp(log_a),
        alpha=alpha,
        b=float(b),
        a_interval=(_exp(log_a - log_a_deviation), _exp(log_a + log_a_deviation)),
        alpha_interval=(alpha - deviation[1], alpha + deviation[1]),
        b_interval=(float(b) - deviation[2], float(b) + deviation[2]),
        r2=1 - error / total if total else 1.0,
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _least(function: Any, low: float, high: float) -> float:
    """Where a function of one dip is least, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    value_a, value_b = function(a), function(b)
    while high - low > 1e-9:
        if value_a < value_b:
            high, b, value_b = b, a, value_a
            a = high - ratio * (high - low)
            value_a = function(a)
        else:
            low, a, value_a = a, b, value_b
            b = low + ratio * (high - low)
            value_b = function(b)
    return (low + high) / 2


def student(p: float, freedom: int) -> float:
    """The quantile of Student's t above 1/2: with t = √ν · tan θ its density is that of cos^(ν − 1) θ."""
    theta = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(theta) ** (freedom - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(2 * p - 1, mass / mass[-1], theta)))


# ---------------------------------------------------------------------------------------------- points


@dataclass(frozen=True)
class LossPoint:
    """A model of a size and its loss; `group` is the kind, each of which gets a law of its own."""

    group: str
    size: float
    loss: float


def points_of_runs(folders: Sequence[str], figure: str = "") -> list[LossPoint]:
    """Run folders of `train` → points: what the recipe trains, and the last validation. UserError names what lacks."""
    from ..learn.build import trainable_parameters
    from ..learn.recipe import load

    points = []
    for name in folders:
        folder = Path(name)
        if not (folder / "settings.toml").is_file() or not (folder / "metrics.jsonl").is_file():
            raise UserError(
                f"{folder} is no run folder",
                "name folders that sonarllm train has written, or a file of points: --points FILE",
            )
        settings = load(str(folder / "settings.toml"))
        last: dict[str, float] = {}
        for record in read_metrics(folder / "metrics.jsonl"):
            last |= record
        wanted = [figure] if figure else [*LOSSES]
        known = [w for w in wanted if w in last]
        if not known:
            have = ", ".join(k for k in last if k.startswith("valid_")) or "no validation"
            raise UserError(f"{folder} has no {' or '.join(wanted)} (it has {have})", "choose one: --figure NAME")
        points.append(LossPoint(settings.kind, trainable_parameters(settings), last[known[0]]))
    return points


def points_of_file(path: str) -> list[LossPoint]:
    """A table of points → the same: CSV with the columns size, loss and, if it likes, kind; or JSON, a list of such."""
    text, cure = read_text(path), "give the columns size and loss, and kind where there are several"
    try:
        rows = load_json(text) if text.lstrip().startswith("[") else list(csv.DictReader(text.splitlines()))
        points = [LossPoint(str(row.get("kind") or ""), float(row["size"]), float(row["loss"])) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no table of points: {error!r}", cure) from None
    if not points:
        raise UserError(f"{path} holds no points", cure)
    return points


def _ends(interval: tuple[float, float]) -> list[float | None]:
    """As JSON has it: no number for what is not finite."""
    return [end if math.isfinite(end) else None for end in interval]


def drawing_of(laws: dict[str, Any], y: str = "loss") -> str:
    """Laws and their points as SVG, size on a logarithmic axis."""
    series = []
    for i, (name, law) in enumerate(laws.items()):
        points = [(n, loss) for n, loss in law["points"]]
        colour = COLOURS[i % len(COLOURS)]
        series.append(Series(name, points, line=False, dots=True, colour=colour))
        if "why" not in law:
            grid = np.geomspace(points[0][0], points[-1][0], 60)
            line = [(float(n), float(law["a"] * n ** -law["alpha"] + law["b"])) for n in grid]
            series.append(Series(name, line, colour=colour))
    return svg_plot(series, x="trainable parameters", y=y, log_x=True, title="scaling")


def scaling(points: Sequence[LossPoint]) -> dict[str, Any]:
    """A law for each kind, and the points it goes through; where a kind has none, `why`. UserError if none has."""
    out: dict[str, Any] = {}
    for group in dict.fromkeys(p.group for p in points):
        own = sorted((p.size, p.loss) for p in points if p.group == group)
        found = out[group or "points"] = {"points": [list(p) for p in own]}
        try:
            law = fit([n for n, _ in own], [loss for _, loss in own])
        except UserError as error:
            found["why"], reason = error.message, error
            continue
        found |= {name: getattr(law, name) for name in ("a", "alpha", "b", "r2")}
        found |= {f"{name} 95%": _ends(getattr(law, f"{name}_interval")) for name in ("a", "alpha", "b")}
    if out and all("why" in found for found in out.values()):
        raise reason
    return out
