"""sonarllm evaluate: a task, a model and data → figures."""

from __future__ import annotations

import click

from ..errors import UserError
from .common import Compute, compute_options, json_option, line, output_option

TASKS = ("autoencode", "translate", "xsim", "summarize", "nextsentence", "generate")


@click.command()
@click.argument("task", type=click.Choice(TASKS))
@click.option("--data", multiple=True, metavar="FILE", help="JSON Lines to score on; may be given again.")
@click.option("--seen", multiple=True, metavar="FILE", help="Training data: its texts are left out.")
@click.option("--limit", default=500, show_default=True, help="Texts of each language; 0: all.")
@click.option("--beam", default=5, show_default=True, help="Beams of the search.")
@json_option
@output_option
@compute_options
def evaluate(
    task: str,
    data: tuple[str, ...],
    seen: tuple[str, ...],
    limit: int,
    beam: int,
    as_json: bool,
    output: str | None,
    compute: Compute,
) -> None:
    """Score a model.

    autoencode, translate and xsim take pairs (autoencode also documents); summarize takes documents with titles,
    nextsentence and generate documents.

    \b
    Example:
      sonarllm evaluate xsim --data examples/pairs.jsonl
    """
    from ..files import open_output
    from ..measure.tasks import evaluate as score
    from ..measure.tasks import seen_texts

    if not data:
        raise UserError("nothing to score on", "name a file: --data valid.jsonl")
    result = score(
        task,
        compute.model,
        data,
        runtime=compute.runtime,
        seen=seen_texts(seen) if seen else (),
        limit=limit,
        beam=beam,
        seed=compute.seed or 0,
    )
    with open_output(output) as out:
        if as_json:
            print(line(result), file=out)
            return
        width = max(len(name) for name in result["figures"])
        for name, value in result["figures"].items():
            print(f"{name:{width}}  {value:8g}", file=out)
