"""sonarllm train: a recipe → a run folder with a model."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UserError
from .common import quiet_options


@click.command()
@click.argument("recipe")
@click.option("-o", "--output", metavar="DIR", help="The run folder; runs/NAME if not given.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting: --set optim.lr=3e-4.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@click.option("--print-config", is_flag=True, help="Show every setting as it stands, and train nothing.")
@click.option("--threads", type=int, help="Threads on a CPU.")
@quiet_options
def train(
    recipe: str,
    output: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    print_config: bool,
    threads: int | None,
    quiet: bool,
) -> None:
    """Train a model from a recipe (TOML): metrics.jsonl, checkpoints and the final model/ in one folder.

    \b
    Example:
      sonarllm train recipes/mini/sonar.toml --print-config
    """
    from ..learn import recipe as recipes

    settings = recipes.load(recipe, overrides)
    if print_config:
        from ..learn.kinds import trainable_parameters

        click.echo(f"# {trainable_parameters(settings):,} trainable parameters")
        click.echo(recipes.to_toml(settings.as_dict()), nl=False)
        return
    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads} is not a number of threads", "use 1 or more")
    from ..learn.loop import Trainer
    from ..runtime import choose, set_up_logging

    set_up_logging(quiet)
    choose("cpu", threads=threads)
    folder = Path(output or f"runs/{settings.name or Path(recipe).stem}")
    Trainer(settings, folder, resume=resume).run()
    click.echo(folder / "model")
