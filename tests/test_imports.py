"""Imports go one way: cli → bench → score → use → learn → data → flow → weights → nets → io; `--help` is light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "sonarllm_cli"
ROOMS = ["cli", "bench", "score", "use", "learn", "data", "flow", "weights", "nets", "io"]  # from those after it
BELOW = {room: set(ROOMS[place + 1 :]) for place, room in enumerate(ROOMS)}


def imported(path: Path) -> set[str]:
    """The package's folders that a file imports from."""
    base = ["sonarllm_cli", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            whole = base[: len(base) - node.level + 1] + module if node.level else module
            names = whole[1:2] or [alias.name for alias in node.names]
            found |= set(names) if whole[:1] == ["sonarllm_cli"] else set()
    return found & set(BELOW)


def test_imports_go_one_way():
    for folder, allowed in BELOW.items():
        for path in (PACKAGE / folder).rglob("*.py"):
            assert imported(path) <= allowed | {folder}, path


def test_help_imports_nothing_heavy():
    code = "import sys; from sonarllm_cli.cli import sonarllm; sonarllm(['--help'], standalone_mode=False); " + (
        "print(sorted({'torch', 'numpy', 'rich', 'pyarrow', 'nltk'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
