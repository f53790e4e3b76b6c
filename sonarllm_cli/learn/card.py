"""A model card from what a run knows of itself."""

from __future__ import annotations

from typing import Any

from .recipe import Settings, to_toml


def card(settings: Settings, kind: str, facts: dict[str, Any], unit: str = "target tokens") -> str:
    """Markdown: what the model is, what it was trained on, its validation figures, and its recipe in full."""
    data = settings.data
    files = "".join(f"- `{name}`\n" for name in [*data.documents, *data.pairs])
    figures = "".join(f"| {name} | {value:g} |\n" for name, value in facts["figures"].items())
    return (
        f"# {settings.name or kind}\n\n{settings.about or f'A {kind} model.'}\n\n"
        f"Licence: {settings.licence or 'not stated'}\n\n"
        f"## Training\n\n{facts['steps']:,} steps, {facts['tokens']:,} {unit}, on\n\n{files}\n"
        + (f"## Validation\n\n| figure | value |\n|---|---|\n{figures}\n" if figures else "")
        + f"## Recipe\n\n```toml\n{to_toml(settings.as_dict())}```\n"
    )
