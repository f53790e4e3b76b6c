"""Imports go one way: cli → bench → score → use → learn → data → flow → weights → nets → io; `--help` is light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "sonarllm_cli"
ROOMS = ["cli", "bench", "score", "use", "learn", "data", "flow", "weights", "nets", "io"]  # from those after it
SHARED = ["tokens.py", "languages.py", "runtime.py", "parent.py", "bounds.py", "errors.py", "__init__.py"]  # under all
ORDER = ["__main__.py", *ROOMS, *SHARED]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[Path]:
    """The package's files that a file imports, at its top or inside a function."""
    package = path.relative_to(PACKAGE.parent).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            own = package[: len(package) - node.level + 1] if node.level else ()
            whole = PACKAGE.parent.joinpath(*own, *(node.module or "").split("."))
            for place in (whole, *(whole / alias.name for alias in node.names)):
                found |= {place.with_suffix(".py"), place / "__init__.py"} & set(FILES)
    return found


def test_imports_go_one_way():
    for path in FILES:
        own, *others = (ORDER.index(file.relative_to(PACKAGE).parts[0]) for file in (path, *imported(path)))
        assert all(own <= other for other in others), path


def test_no_files_import_one_another():
    """A file that imports nothing of what is left, or that nothing left imports, is taken away: circles stay."""
    left = {path: imported(path) - {path} for path in FILES}
    while free := [
        path for path, own in left.items() if not own & {*left} or not any(path in o for o in left.values())
    ]:
        for path in free:
            del left[path]
    assert not [str(path.relative_to(PACKAGE)) for path in left]


def test_help_imports_nothing_heavy():
    code = "import sys; from sonarllm_cli.cli import sonarllm; sonarllm(['--help'], standalone_mode=False); " + (
        "print(sorted({'torch', 'numpy', 'rich', 'pyarrow', 'nltk'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
