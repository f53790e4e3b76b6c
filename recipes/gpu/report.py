"""What the parts of check.sh left in OUT → OUT/report.json and OUT/report.md; a part that was not reached, ran out of
time or failed is said. The standard library alone.

    python recipes/gpu/report.py OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WANTED_SHARE = 0.40  # of the peak, for a step of the 600m model
ENDS = {"0": "done", "124": "out of time", "137": "out of time", "unreached": "not reached"}
SHARES = ("of float32 rate", "of own rate", "of bandwidth", "spread", "same texts")


def parts(out: Path) -> list[dict[str, Any]]:
    """Each part that was asked for: name, how it ended, seconds, seconds it was given, command."""
    found = []
    for line in (out / "parts.tsv").read_text("utf-8").splitlines():
        name, code, seconds, limit, command = line.split("\t")
        end = ENDS.get(code, f"failed ({code})")
        found.append({"name": name, "end": end, "seconds": int(seconds), "limit": int(limit), "command": command})
    return found


def result(out: Path, name: str) -> Any:
    """What a part measured: the JSON it printed, pytest's last line, a run's best figures; None where it has none."""
    if name == "step":
        return run(out / "step" / "run" / "metrics.jsonl")
    path = out / f"{name}.out"
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    if name == "tests":
        return lines[-1] if lines else None
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return None


def run(path: Path) -> dict[str, Any] | None:
    """The figures of a run's window with the largest share of the peak; the first, which warms up, only if alone."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    steps = [line for line in lines if "tokens_s" in line]
    return max(steps[1:] or steps, key=lambda line: line.get("peak_share", 0), default=None)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of named values as Markdown, a column a name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---", *["---:"] * (len(names) - 1)]]
    lines += [[cell(name, row.get(name, "")) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{100 * value:.0f} %" if name in SHARES or name == "of peak" else f"{value:.5g}"


def section(name: str, found: Any) -> str:
    """One part's results as Markdown."""
    if name == "tests":
        return f"## tests\n\n{found}\n"
    if name == "step":
        share = found.get("peak_share")
        row = {"tokens/s": found["tokens_s"], "sentences/s": found.get("sentences_s", ""), "of peak": share or ""}
        row |= {"memory GiB": found["memory_gib"], "nats a token": found.get("nll", "")}
        said = "" if share is None else f"\nWanted: {WANTED_SHARE:.0%} of the peak or more; "
        said += "" if share is None else ("reached.\n" if share >= WANTED_SHARE else "not reached.\n")
        return f"## step: training the 600m recipe\n\n{table([row])}\n{said}"
    if name.startswith("train"):
        rows = [{"step": side, **train_row(found[side])} for side in ("published", "ours")]
        said = f"ours: {found['speed_up']:.2f} × the sentences/s, {found['memory_share']:.2f} × the memory"
        return f"## {name}\n\n{table(rows)}\n\n{said}\n"
    facts = [f"{k} {cell(k, v)}" for k, v in found.items() if not isinstance(v, dict | list)]
    return f"## {name}\n\n{', '.join(facts)}\n\n{table(found['rows'])}\n"


def train_row(side: dict[str, Any]) -> dict[str, Any]:
    memory = side["peak_bytes"] / 2**30
    return {"sentences/s": side["sentences_s"], "memory GiB": memory, "of peak": side["peak_share"]}


def device(results: dict[str, Any]) -> str:
    """The card's name, from what any part says of it."""
    for found in results.values():
        if isinstance(found, dict) and (said := found.get("device") or found.get("ours", {}).get("device")):
            return str(said)
    return "unknown device"


def main(out: Path) -> None:
    done = parts(out)
    results = {p["name"]: found for p in done if (found := result(out, p["name"])) is not None}
    report = {"device": device(results), "parts": done, "results": results}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    shown = table([{k: p[k] for k in ("name", "end", "seconds", "limit")} for p in done])
    body = [section(name, found) for name, found in results.items()]
    (out / "report.md").write_text("\n".join([f"# {report['device']}\n", shown + "\n", *body]), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
