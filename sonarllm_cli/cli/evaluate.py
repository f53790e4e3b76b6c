"""sonarllm evaluate: a task, a model and data → figures; and what many of them say together."""

from __future__ import annotations

import shlex
import sys

import click

from ..errors import UserError
from . import complete
from .common import json_option, line, output_option, quiet_options
from .evaluate_spaces import SPACES
from .evaluate_writers import WRITERS
from .groups import NamingGroup


@click.group(cls=NamingGroup)
def evaluate() -> None:
    """Score a model on data, and set many scores side by side.

    Every kind of model takes every task that is of its sort: embeddings (autoencode to familiar) or texts (summarize to
    judge). `scaling` and `report` read what train, and the others, have written.
    """


for _command in (*SPACES, *WRITERS):
    evaluate.add_command(_command)


@evaluate.command(short_help="Fit a scaling law to runs of several sizes")
@click.argument("runs", nargs=-1, metavar="[RUN]…", shell_complete=complete.folders)
@click.option(
    "--points",
    metavar="FILE",
    help="Fit these instead: CSV or JSON with size, loss and kind.",
    shell_complete=complete.files,
)
@click.option("--figure", default="", help="A validation figure of the runs, if not what each was taught.")
@click.option("--plot", "plot_file", metavar="FILE.svg", help="Draw points and laws.", shell_complete=complete.files)
@json_option
@output_option
@quiet_options
def scaling(
    runs: tuple[str, ...],
    points: str | None,
    figure: str,
    plot_file: str | None,
    as_json: bool,
    output: str | None,
    quiet: bool,
) -> None:
    """Fit L(N) = a · N^(−α) + b to the last losses of runs of at least three sizes, a law for each kind of model; with
    95 % intervals and R².

    \b
    Example:
      sonarllm evaluate scaling --points examples/points.csv --plot scaling.svg
    """
    from ..io.files import atomic_write, open_output
    from ..score import scaling as laws

    if bool(runs) == bool(points):
        raise UserError("no points to fit", "name run folders, or --points FILE, one of both")
    found = laws.scaling(laws.points_of_file(points) if points else laws.points_of_runs(runs, figure))
    if plot_file:
        atomic_write(plot_file, laws.drawing_of(found, figure or "loss"))
    with open_output(output) as out:
        if as_json:
            record = {"laws": found, "figure": figure, "command": shlex.join(["sonarllm", *sys.argv[1:]])}
            print(line(record), file=out)
            return
        for name, law in found.items():
            if "why" in law:
                print(f"{name}: no law through {len(law['points'])} points: {law['why']}", file=out)
                continue
            print(f"{name}: L(N) = a · N^(−α) + b, R² {law['r2']:.4f}, {len(law['points'])} points", file=out)
            for key, sign in (("a", "a"), ("alpha", "α"), ("b", "b")):
                low, high = ("?" if end is None else f"{end:.4g}" for end in law[f"{key} 95%"])
                print(f"  {sign}  {law[key]:.4g}  [{low}, {high}]", file=out)


@evaluate.command(short_help="Gather runs and results into one page")
@click.argument("folder", metavar="DIR", shell_complete=complete.folders)
@click.option(
    "-o",
    "--output",
    metavar="NAME",
    help="Write NAME.html and NAME.md; DIR/report if not given.",
    shell_complete=complete.files,
)
@click.option("--title", default="", help="Of the page.")
@quiet_options
def report(folder: str, output: str | None, title: str, quiet: bool) -> None:
    """Gather the runs and the results (of evaluate … --json) under a folder into one page, HTML and Markdown: tables,
    curves, samples side by side, exact commands. The page needs no network and no other file.

    \b
    Example:
      sonarllm evaluate report examples/results -o report
    """
    from ..io.files import atomic_write
    from ..score.report import report as gather

    html, markdown = gather(folder, title)
    base = output or f"{folder.rstrip('/')}/report"
    atomic_write(f"{base}.html", html)
    atomic_write(f"{base}.md", markdown)
    click.echo(f"{base}.html")
