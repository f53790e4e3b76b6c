"""What `evaluate` measures: a model and data rows → figures and samples.

Data is what training reads (see data/corpus.py): documents for `summarize`, pairs for `translate` and `xsim`, either
for `autoencode`; for `search`, notes and queries. With `seen` texts, figures are on those that are not among them.
Tasks are in spaces.py and writers.py, by what they need.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import UserError
from ..flow.compose import Writing
from ..io.files import read_errors
from ..nets.kinds import kind_of
from ..runtime import Runtime
from ..weights import model_dir, registry
from . import metrics
from .plan import MOST_WORDS, Plan, Result, Task
from .spaces import autoencoding, retrieval, speech_understood, translation, xsim_errors
from .writers import generated, nextsentence, nlg, summaries

TASKS: dict[str, Task] = {
    "autoencode": autoencoding,
    "translate": translation,
    "xsim": xsim_errors,
    "speech": speech_understood,
    "search": retrieval,
    "summarize": summaries,
    "nextsentence": nextsentence,
    "generate": generated,
    "nlg": nlg,
}


def evaluate(
    task: str,
    model: str,
    data: Sequence[str],
    *,
    runtime: Runtime,
    seen: Sequence[str] = (),
    limit: int = 500,
    beam: int = 5,
    seed: int = 0,
    seeds: int = 1,
    tokenizer: str = "",
    sampling: dict[str, Any] | None = None,
    rules: dict[str, Any] | None = None,
    words: tuple[int, int] = (1, MOST_WORDS),
    out_of_english: bool = False,
    whole: bool = False,
    max_sentences: int = 0,
    run: Task | None = None,
) -> dict[str, Any]:
    """Run a task; → figures beside all that is needed to get them again: settings, data hash, seed, versions.

    With `seeds` the task is run with that many seeds from `seed` on, each another draw of texts and of noise; figures
    are then means, beside their standard deviations. `run` is a task that is not among `TASKS`.
    """
    run = run or TASKS.get(task)
    if run is None:
        raise UserError(f"no task {task!r}", f"use one of {', '.join(TASKS)}")
    if tokenizer and tokenizer not in metrics.TOKENIZERS:
        raise UserError(f"BLEU has no tokenizer {tokenizer!r}", f"use one of {', '.join(metrics.TOKENIZERS)}")
    settings = {"task": task, "model": model, "limit": limit, "beam": beam, "seed": seed, "unseen only": bool(seen)}
    told = {
        "seeds": seeds if seeds > 1 else None,
        "words": words if words != (1, MOST_WORDS) else None,
        "out of English": out_of_english,
        "whole": whole,
        "max sentences": max_sentences,
        "tokenizer": tokenizer,
        "sampling": sampling,
        "rules": rules if rules and Writing(**rules) != Writing() else None,
    }
    settings |= {name: value for name, value in told.items() if value}  # what is not as by default
    hashes = {Path(name).name: _hash(name) for name in data}  # what can't be read is told before anything is loaded
    results: list[Result] = []
    for one in range(seed, seed + seeds):
        own = replace(runtime, seed=one)
        plan = Plan(
            runtime=own,
            seen=list(seen),
            limit=limit,
            beam=beam,
            seed=one,
            generator=own.generator(),
            sampling=sampling or {},
            rules=rules or {},
            words=words,
            out=out_of_english,
            whole=whole,
            most=max_sentences,
            tokenizer=tokenizer,
        )
        results.append(run(model, list(data), plan))
    names = [name for name in results[0][0] if all(name in figures for figures, _ in results)]
    if not names:
        raise UserError("the data hold nothing to score", f"see what is read: sonarllm evaluate {task} --help")
    values = {name: [figures[name] for figures, _ in results] for name in names}
    means = {name: statistics.fmean(v) if seeds > 1 else v[0] for name, v in values.items()}
    out: dict[str, Any] = {"figures": {name: round(value, 2) for name, value in means.items()}}
    if seeds > 1:
        out["deviation"] = {name: round(statistics.stdev(v), 2) for name, v in values.items()}
    signed = {name: v.signature for name, v in results[0][0].items() if isinstance(v, metrics.Score)}
    out |= {"signatures": signed} if signed else {}
    return out | {
        "model": facts_of(model),
        "settings": settings,
        "data": hashes,
        "versions": {"sonarllm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "samples": results[0][1],
    }


def _hash(name: str) -> str:
    """16 digits of the SHA-256 of a file, or of a folder's files and their names; "" for a data set of the hub."""
    if name.startswith("hf:"):
        return ""
    sha, path = hashlib.sha256(), Path(name)
    with read_errors(name):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            sha.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def facts_of(model: str) -> dict[str, Any]:
    """What a result says of its model: name, kind, parameters that were trained, space, and its own run."""
    folder = registry.find(model)
    config = model_dir.read_config(folder)
    training = config.get("training", {})
    settings = training.get("settings", {})
    fixed = 2 * config["model"]["embedding"] if kind_of(config["kind"]).normaliser else 0
    return {
        "name": settings.get("name") or folder.name,
        "kind": config["kind"],
        "parameters": registry.count_parameters(folder) - fixed,
        "space": config.get("sonar", {}).get("fingerprint") or config.get("fingerprint", ""),
        "steps": training.get("steps", 0),
        "seed": settings.get("run", {}).get("seed", 0),
    }
