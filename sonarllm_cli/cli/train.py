"""sonarllm train: a recipe → a run folder with a model; or the curves of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..errors import UserError
from . import complete
from .common import Whole, check_room, quiet_options
from .launch import is_first, launch


@click.command()
@click.argument("recipes", nargs=-1, metavar="RECIPE|RUN…", shell_complete=complete.files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="The run folder, runs/NAME if not given; or the picture.",
    shell_complete=complete.files,
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting: --set optim.lr=3e-4.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="End within so many minutes, model written.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder: train --resume RUN.")
@click.option("--print-config", is_flag=True, help="Show all settings and what data is there; train nothing.")
@click.option("--plot", is_flag=True, help="Draw the curves of these RUN folders into OUT (curves.png).")
@click.option("--threads", type=Whole(high=4096), help="Threads of each process on a CPU.")
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes on this machine that share the work.")
@quiet_options
@click.pass_obj
def train(
    words: list[str],
    recipes: tuple[str, ...],
    output: str | None,
    overrides: tuple[str, ...],
    minutes: float | None,
    resume: bool,
    print_config: bool,
    plot: bool,
    threads: int | None,
    nproc: int,
    quiet: bool,
) -> None:
    """Train a model from a recipe (TOML): metrics.jsonl, checkpoints and the final model/ in one folder. To continue
    a run, name its folder: --resume RUN.

    \b
    Example:
      sonarllm train recipes/mini/sonar.toml --print-config
    """
    if plot:
        _plot(recipes, output or "curves.png")
        return
    if len(recipes) != 1:
        raise UserError(f"{len(recipes)} recipes given", "name one, such as recipes/39m.toml")
    from ..learn.recipe import load, to_toml

    recipe, folder = _places(recipes[0], output, resume)
    settings = load(recipe, [*overrides, *([f"run.minutes={minutes}"] if minutes else [])])
    if print_config:
        from ..data.survey import survey
        from ..io.files import open_output
        from ..learn.budget import estimate
        from ..learn.build import check_trained
        from ..nets.kinds import SOUND, kind_of

        check_trained(settings)
        with open_output(None) as out:
            for text in estimate(settings, int(os.environ.get("WORLD_SIZE", nproc))).lines():
                print(f"# {text}", file=out)
            print(to_toml(settings.as_dict()), file=out, end="")
        for text in [] if quiet else survey(settings.data, clips=kind_of(settings.kind).reads == SOUND):
            click.echo(text, err=True)
        return
    if nproc > 1 and "RANK" not in os.environ:
        launch(nproc, words)  # the same command, which RANK then tells what to do
        return
    check_room()
    from ..learn.loop import Trainer
    from ..runtime import choose, set_up_logging

    set_up_logging(quiet or not is_first())
    choose("cpu", threads=threads)
    folder = folder or Path("runs", settings.name or Path(recipe).stem)
    try:
        Trainer(settings, folder, resume=resume).run()
    except UserError as error:
        if is_first():
            raise
        sys.exit(error.exit_code)  # the first process says it
    if is_first():
        click.echo(folder / "model")


def _places(named: str, output: str | None, resume: bool) -> tuple[str, Path | None]:
    """The recipe, and the run folder if it is known: a run is its own recipe, and goes on in its folder."""
    if resume and not Path(named).exists() and Path(named).suffix != ".toml":
        raise UserError(f"no such run folder: {named}", "name the folder that the run's -o gave, or a recipe")
    if not Path(named).is_dir():
        return named, Path(output) if output else None
    recipe = Path(named, "settings.toml")
    if not recipe.is_file():
        raise UserError(f"{named} is no run folder: it has no settings.toml", "name a recipe, such as recipes/39m.toml")
    if not resume:
        raise UserError(f"{named} is a run folder", "continue it with --resume, or draw its curves with --plot")
    if output and Path(output).resolve() != Path(named).resolve():
        raise UserError(f"the run in {named} can't go on in {output}", "leave -o out")
    return str(recipe), Path(named)


def _plot(runs: tuple[str, ...], out: str) -> None:
    if not runs:
        raise UserError("no run to plot", "name run folders: sonarllm train --plot runs/a runs/b -o curves.png")
    from ..learn.curves import plot_runs

    plot_runs([Path(run) for run in runs], Path(out))
    click.echo(out)
