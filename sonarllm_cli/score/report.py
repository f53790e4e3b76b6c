"""A folder of runs and results → one page that shows them: tables, curves, samples side by side, exact commands.

    html, markdown = report("runs/small")

Results are what `evaluate … --json` wrote, anywhere under the folder; runs are folders of `train`. Results of models of
one name (seeds) become a mean and a deviation. The page loads nothing, and is the same for the same folder.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import load_json
from ..learn.curves import read_metrics
from .page import Block, Code, Drawing, Grid, Heading, Note, html, markdown
from .plot import COLOURS, Series, svg_plot
from .scaling import drawing_of

SAMPLES = 5  # texts shown of each task
LONGEST = 400  # characters of a sample
Record = dict[str, Any]
Runs = Sequence[tuple[Path, Record, list[Record]]]  # folder, settings, log


def report(folder: str | Path, title: str = "") -> tuple[str, str]:
    """→ (HTML, Markdown). UserError for a folder without results and runs."""
    root = Path(folder)
    results, laws = _results(root)
    runs = _runs(root)
    if not (results or runs or laws):
        cure = "write results into it: sonarllm evaluate nlg … --json -o DIR/nlg.json"
        raise UserError(f"{root} holds no results and no runs", cure)
    title = title or f"Comparison: {root.resolve().name}"
    blocks = _blocks(results, laws, runs)
    return html(title, blocks), markdown(title, blocks)


def _blocks(results: Sequence[Record], laws: Sequence[Record], runs: Runs) -> list[Block]:
    """What the page shows, in order."""
    blocks: list[Block] = [*_models(results, runs), *_tables(results), *_laws(laws), *_curves(runs)]
    return [*blocks, *_samples(results), *_commands(results, laws, runs)]


# ---------------------------------------------------------------------------------------------- what is there


def _results(root: Path) -> tuple[list[Record], list[Record]]:
    """Results of tasks, and of fits, in order of their paths."""
    if not root.is_dir():
        raise UserError(f"no such folder: {root}", "give one with results of evaluate --json")
    tasks: list[Record] = []
    laws: list[Record] = []
    for path in sorted(root.rglob("*.json")):
        try:
            record = load_json(path.read_bytes())
        except (OSError, ValueError):
            continue
        own: tuple[list[Record], list[Record]] = [], []
        if isinstance(record, dict) and isinstance(record.get("laws"), dict):
            own[1].append(record)
        elif isinstance(record, dict) and {"figures", "settings", "model"} <= record.keys():
            own[0].append(record)
        try:
            html("", _blocks(*own, []))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            cure = "score again, or take it out of the folder"
            raise UserError(f"{path} is no result as evaluate --json writes it", cure) from None
        tasks, laws = tasks + own[0], laws + own[1]
    return tasks, laws


def _runs(root: Path) -> Runs:
    from ..learn.build import trainable_parameters
    from ..learn.recipe import load

    found = []
    for path in sorted(root.rglob("settings.toml")):
        if (log := path.with_name("metrics.jsonl")).is_file():
            settings = load(str(path))
            about = {**settings.as_dict(), "parameters": trainable_parameters(settings)}
            found.append((path.parent, about, read_metrics(log)))
    return found


def _name(record: Record) -> str:
    return str(record["model"]["name"])


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """By the name of the model, in the order of their paths."""
    out: dict[str, list[Record]] = {}
    for record in records:
        out.setdefault(_name(record), []).append(record)
    return out


def _by_task(results: Sequence[Record]) -> dict[str, list[Record]]:
    out: dict[str, list[Record]] = {}
    for record in results:
        out.setdefault(record["settings"]["task"], []).append(record)
    return out


# ---------------------------------------------------------------------------------------------- the parts


def _models(results: Sequence[Record], runs: Runs) -> list[Block]:
    rows: dict[str, list[str]] = {}
    seeds: dict[str, set[int]] = {}
    for record in results:
        model, name = record["model"], _name(record)
        seeds.setdefault(name, set()).add(model["seed"])
        trained = f"{model['parameters'] / 1e6:.2f} M"
        rows.setdefault(name, [model["kind"], trained, f"{model['steps']:,}", model["space"]])
    for _, settings, log in runs:
        name = settings["name"] or settings["kind"]
        seeds.setdefault(name, set()).add(settings["run"]["seed"])
        steps = max((line["step"] for line in log if "step" in line), default=0)
        rows.setdefault(name, [settings["kind"], f"{settings['parameters'] / 1e6:.2f} M", f"{steps:,}", ""])
    if not rows:
        return []
    table = [[name, *about, ", ".join(map(str, sorted(seeds[name])))] for name, about in rows.items()]
    return [Heading("Models"), Grid(["model", "kind", "trained parameters", "steps", "space", "seeds"], table)]


def _tables(results: Sequence[Record]) -> list[Block]:
    """A table for each task: figures down, models across."""
    blocks: list[Block] = []
    for task, own in _by_task(results).items():
        groups = _groups(own)
        figures = dict.fromkeys(name for r in own for name in r["figures"])
        rows = [[name, *(_cell(group, name) for group in groups.values())] for name in figures]
        most = max(len(group) for group in groups.values())
        note = f"On {', '.join(sorted({name for r in own for name in r['data']}))}."
        if most > 1:
            note += f" Mean (standard deviation) over {most} results of a model."
        elif any("deviation" in r for r in own):
            note += " Mean (standard deviation) over draws."
        blocks += [Heading(f"Task: {task}"), Note(note), Grid(["", *groups], rows)]
    return blocks


def _cell(group: Sequence[Record], name: str) -> str:
    """Mean over the results of a group and their deviation; of a single one, the deviation that it states."""
    values = [r["figures"][name] for r in group if name in r["figures"]]
    if not values:
        return "–"
    spread = statistics.stdev(values) if len(values) > 1 else group[0].get("deviation", {}).get(name)
    if not spread and values[0] == int(values[0]) and len(set(values)) == 1:
        return f"{int(values[0]):,}"
    return f"{statistics.fmean(values):.2f}" + ("" if spread is None else f" ({spread:.2f})")


def _laws(laws: Sequence[Record]) -> list[Block]:
    blocks: list[Block] = []
    for record in laws:
        rows = []
        for name, law in record["laws"].items():
            if "why" in law:
                rows.append([name, *["–"] * 7, str(len(law["points"]))])
                continue
            cells = [text for key in ("a", "alpha", "b") for text in (f"{law[key]:.4g}", _interval(law[f"{key} 95%"]))]
            rows.append([name, *cells, f"{law['r2']:.4f}", str(len(law["points"]))])
        note = f"L(N) = a · N^(−α) + b through {record.get('figure') or 'the loss'}; N: parameters that were trained."
        head = ["", "a", "95 %", "α", "95 %", "b", "95 %", "R²", "points"]
        none = [f"No law for {name}: {law['why']}." for name, law in record["laws"].items() if "why" in law]
        blocks += [Heading("Scaling"), Note(note), Grid(head, rows), *map(Note, none)]
        blocks += [Drawing(f"Scaling: {name}", drawing_of({name: law})) for name, law in record["laws"].items()]
    return blocks


def _interval(ends: Sequence[float | None]) -> str:
    return "not known" if None in ends else " … ".join(f"{end:.4g}" for end in ends)


def _curves(runs: Runs) -> list[Block]:
    """A drawing for each figure that runs were judged by, over their steps; runs of one name share a colour."""
    figures = dict.fromkeys(key for _, _, log in runs for line in log for key in line if key.startswith("valid_"))
    names = list(dict.fromkeys(settings["name"] for _, settings, _ in runs))
    blocks: list[Block] = [Heading("Curves")] if figures else []
    for figure in figures:
        series = []
        for _, settings, log in runs:
            points = [(line["step"], line[figure]) for line in log if figure in line]
            colour = COLOURS[names.index(settings["name"]) % len(COLOURS)]
            series.append(Series(settings["name"], points, dots=len(points) == 1, colour=colour))
        blocks.append(Drawing(figure, svg_plot(series, x="step", y=figure, title=figure)))
    return blocks


def _samples(results: Sequence[Record]) -> list[Block]:
    """What models wrote after the same beginning, the first result of each."""
    blocks: list[Block] = []
    for task, own in _by_task(results).items():
        first = {name: group[0].get("samples", []) for name, group in _groups(own).items()}
        wrote = {name: {s["text"]: s for s in samples if "found" in s} for name, samples in first.items()}
        wrote = {name: found for name, found in wrote.items() if found}
        one = next(iter(wrote.values()), {})
        shared = [text for text in one if all(text in found for found in wrote.values())][:SAMPLES]
        rows = [
            [_cut(text), _cut(one[text].get("wanted", text)), *(_cut(f[text]["found"]) for f in wrote.values())]
            for text in shared
        ]
        if rows:
            blocks += [Heading(f"Samples: {task}"), Grid(["given", "true", *wrote], rows, numbers=False)]
    return blocks


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _commands(results: Sequence[Record], laws: Sequence[Record], runs: Runs) -> list[Block]:
    blocks: list[Block] = []
    if runs:
        trained = [f"sonarllm train {folder}/settings.toml -o {folder}" for folder, _, _ in runs]
        blocks += [Note("Runs, from their whole settings:"), Code("\n".join(trained))]
    if scored := [r["command"] for r in [*results, *laws] if r.get("command")]:
        blocks += [Note("Results:"), Code("\n".join(scored))]
    data = {f"{name} (SHA-256)": digest for r in results for name, digest in r["data"].items()}
    versions = {name: value for r in results for name, value in r["versions"].items()}
    if data or versions:
        rows = [list(pair) for pair in [*sorted(data.items()), *sorted(versions.items())]]
        blocks.append(Grid(["made with", ""], rows, numbers=False))
    return [Heading("Commands"), *blocks] if blocks else []
