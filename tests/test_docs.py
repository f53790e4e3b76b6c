"""Every command has help with an example, and docs/cli.md is that help. `python tests/test_docs.py` writes it anew."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sonarllm_cli.cli import sonarllm

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cli.md"


def commands(group, context):
    """(path, command) of every command under a group, itself included."""
    yield context.command_path, group, context
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            yield from commands(command, click.Context(command, info_name=name, parent=context, terminal_width=100))


def render() -> str:
    """The page: each command's --help under its name."""
    wide = {"terminal_width": 100, "max_content_width": 100}
    root = click.Context(sonarllm, info_name="sonarllm", **wide, **sonarllm.context_settings)
    parts = ["# The command line\n\nWhat `--help` says of each command.\n"]
    parts += [
        f"\n## {path}\n\n```text\n{command.get_help(ctx).strip()}\n```\n"
        for path, command, ctx in commands(sonarllm, root)
    ]
    return "".join(parts)


def test_the_page_is_what_help_says():
    assert PAGE.read_text("utf-8") == render(), "run: python tests/test_docs.py"


def test_every_command_has_help_and_an_example():
    root = click.Context(sonarllm, info_name="sonarllm", **sonarllm.context_settings)
    for path, command, _ in commands(sonarllm, root):
        assert command.help, path
        if not isinstance(command, click.Group):
            assert "Example" in command.help, path
            assert f"{path}" in command.help.replace("  ", " "), path


def examples():
    """The example commands of every --help, but for those that need a network, or a registry (tested there)."""
    root = click.Context(sonarllm, info_name="sonarllm", **sonarllm.context_settings)
    for path, command, _ in commands(sonarllm, root):
        text = (command.help or "").partition("Example")[2]
        if not {"models", "completion", "judge"} & set(path.split()) and path != "sonarllm evaluate speech":
            yield from re.findall(r"^ *((?:sonarllm|echo) .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("command", list(examples()))
def test_an_example_runs(command, tmp_path):
    for folder in ("examples", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    function = f'sonarllm() {{ "{sys.executable}" -m sonarllm_cli "$@"; }}; set -o pipefail; '
    done = subprocess.run(["bash", "-c", function + command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
