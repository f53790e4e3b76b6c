"""What a shell completes: models, languages, dtypes, files. Quick, and silent where it knows nothing."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from ..errors import UserError

Found = list[CompletionItem]
Complete = Callable[[click.Context, click.Parameter, str], Found]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """Models that are here, else folders."""
    from ..weights import registry

    names = [name for name in registry.names() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """Files, as the shell completes them."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """Folders, likewise."""
    return [CompletionItem(incomplete, type="dir")]


def published_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """Models of the catalogue that are not here."""
    from ..weights import registry

    return [CompletionItem(row["name"]) for row in registry.not_here() if row["name"].startswith(incomplete)]


def all_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """Models that are here, and that are published."""
    known = published_models(ctx, param, incomplete)
    return [item for item in models(ctx, param, incomplete) if not known or item.type == "plain"] + known


def languages(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """The languages of the model that `-m` names so far, or all there are; with their English names."""
    from ..languages import FLORES, NAMES
    from ..weights import registry

    try:
        known = registry.space_tokenizer(ctx.params.get("model") or "mini")[0].langs
    except (UserError, OSError):
        known = list(FLORES)
    found = [CompletionItem(code, help=NAMES.get(code, "")) for code in known]
    if _takes_auto(param):
        found.append(CompletionItem("auto", help="what the text looks like"))
    return [item for item in found if item.value.startswith(incomplete)]


def _takes_auto(param: click.Parameter) -> bool:
    return isinstance(param, click.Option) and "auto" in (param.help or "")


def dtypes(ctx: click.Context, param: click.Parameter, incomplete: str) -> Found:
    """The dtypes that a command computes in."""
    return [CompletionItem(name) for name in ("auto", *DTYPES) if name.startswith(incomplete)]


DTYPES = ("float32", "bfloat16", "float16", "tf32", "int8")  # as runtime.choose has them, which needs torch
