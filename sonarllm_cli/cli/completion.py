"""sonarllm completion: the script that makes a shell complete commands, options and models."""

from __future__ import annotations

import click
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from ..errors import UserError
from .common import quiet_options

SHELLS = ("bash", "zsh", "fish")

# Click's scripts, but that the value of `--lang=it` is completed as that of `--lang it` is.


@add_completion_class
class Bash(BashComplete):
    """Bash gives `--lang=it` as three words, of which it replaces the last."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        kept = [word for before, word in zip(["", *args], args) if word != "=" or not before.startswith("--")]
        return kept, incomplete


@add_completion_class
class Zsh(ZshComplete):
    """Zsh is told that what stands before the value is no part of it, which `-U` would have it forget."""

    source_template = ZshComplete.source_template.replace(" -U", "").replace(
        "    for type key", "    [[ $PREFIX == --*=* ]] && compset -P 1 '*='\n\n    for type key"
    )


@add_completion_class
class Fish(FishComplete):
    """Fish wants the word as a whole, so what stands before the value is set before what was found. Its own completion
    gets a path as it was typed, with `~` and escaped blanks."""

    source_template = (
        FishComplete.source_template.replace(
            "    for completion",
            "    set -l before (string match -r '^--[^=]*=' -- (commandline -ct); or echo);\n"
            "    set -l typed (string replace -r '^--[^=]*=' '' -- (commandline -ct));\n\n    for completion",
        )
        .replace("__fish_complete_directories $metadata[2]", '__fish_complete_directories "$typed"')
        .replace("__fish_complete_path $metadata[2]", "complete -C \"'' $typed\"")
        .replace("    end;\nend;", "    end | string replace -r '^' -- $before;\nend;")
    )


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@quiet_options
def completion(shell: str, quiet: bool) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      sonarllm completion bash > ~/.local/share/bash-completion/completions/sonarllm
    """
    from ..cli import sonarllm

    kind = get_completion_class(shell)
    if kind is None:
        raise UserError(f"no completion for {shell}", f"use one of {', '.join(SHELLS)}")
    click.echo(kind(sonarllm, {}, "sonarllm", "_SONARLLM_COMPLETE").source())
