"""sonarllm completion: the script that makes a shell complete commands, options and models."""

from __future__ import annotations

import click

from ..errors import UserError
from .common import quiet_options

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@quiet_options
def completion(shell: str, quiet: bool) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      sonarllm completion bash > ~/.local/share/bash-completion/completions/sonarllm
    """
    from click.shell_completion import get_completion_class

    from ..cli import sonarllm

    kind = get_completion_class(shell)
    if kind is None:
        raise UserError(f"no completion for {shell}", f"use one of {', '.join(SHELLS)}")
    click.echo(kind(sonarllm, {}, "sonarllm", "_SONARLLM_COMPLETE").source())
