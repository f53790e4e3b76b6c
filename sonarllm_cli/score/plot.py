"""Lines and points as SVG, for a page that loads nothing: no library draws it, so nothing but text comes out.

svg = svg_plot([Series("sonar-llm", [(1, 3.0), (2, 2.5)])], x="step", y="loss")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44  # margins
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito 2008


@dataclass(frozen=True)
class Series:
    """Points (x, y) of one name; `line` joins them, `dots` marks them."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = True
    dots: bool = False
    colour: str = ""


def svg_plot(series: Sequence[Series], *, x: str, y: str, log_x: bool = False, title: str = "") -> str:
    """An <svg> of the series over common axes, with ticks and a legend. Points that are not finite are left out."""
    clean = [
        [(a, b) for a, b in s.points if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)] for s in series
    ]
    everything = [point for points in clean for point in points]
    if not everything:
        return ""
    xs, ys = [math.log10(a) if log_x else a for a, _ in everything], [b for _, b in everything]
    low_x, high_x = _wide(min(xs), max(xs))
    low_y, high_y = _wide(min(ys), max(ys), 0.05)

    def at(a: float, b: float) -> str:
        u = ((math.log10(a) if log_x else a) - low_x) / (high_x - low_x)
        v = (b - low_y) / (high_y - low_y)
        return f"{LEFT + u * (WIDTH - LEFT - RIGHT):.1f},{TOP + (1 - v) * (HEIGHT - TOP - BOTTOM):.1f}"

    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title or y, quote=True)}" '
        'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12">'
    ]
    for value in _ticks(low_y, high_y):
        height = float(at(everything[0][0], value).split(",")[1])
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end" fill="#444">{value:g}</text>')
    for value in _log_ticks(low_x, high_x) if log_x else _ticks(low_x, high_x):
        place = float(at(value, low_y).split(",")[0])
        bottom = HEIGHT - BOTTOM
        out.append(f'<line x1="{place}" x2="{place}" y1="{bottom}" y2="{bottom + 4}" stroke="#444"/>')
        out.append(f'<text x="{place}" y="{bottom + 17}" text-anchor="middle" fill="#444">{short(value)}</text>')
    for i, (s, points) in enumerate(zip(series, clean)):
        colour = s.colour or COLOURS[i % len(COLOURS)]
        if s.line and len(points) > 1:
            path = " ".join(at(a, b) for a, b in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if s.dots:
            for a, b in points:
                place_x, place_y = at(a, b).split(",")
                out.append(f'<circle cx="{place_x}" cy="{place_y}" r="3.5" fill="{colour}"/>')
    named = [(s.name, s.colour or COLOURS[i % len(COLOURS)]) for i, s in enumerate(series) if s.name and clean[i]]
    for row, (name, colour) in enumerate(dict(named).items()):
        height = TOP + 8 + 16 * row
        out.append(f'<rect x="{WIDTH - 190}" y="{height - 8}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{WIDTH - 174}" y="{height + 1}" fill="#222">{escape(name)}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    out.append(f'<text x="{(WIDTH + LEFT - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    out.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text></svg>')
    return "".join(out)


def short(value: float) -> str:
    """2000000 → 2M"""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _wide(low: float, high: float, share: float = 0.02) -> tuple[float, float]:
    room = (high - low) * share or abs(low) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 6)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten; powers alone where there are many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    return [k * 10.0**e for e in powers for k in steps if low <= math.log10(k * 10.0**e) <= high]
