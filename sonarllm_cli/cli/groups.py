"""A group of commands: in the order they were added, and a mistyped one gets the nearest."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UserError, nearest


class NamingGroup(click.Group):
    """What `sonarllm` and its groups are: it names the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if not ctx.resilient_parsing and args and args[0] not in known and not args[0].startswith("-"):
            guess = nearest(args[0], known)
            hint = f"did you mean {guess}?" if guess else f"see {ctx.command_path} --help"
            raise UserError(f"no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)
