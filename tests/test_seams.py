"""A kind is one row: outside nets/kinds.py nobody asks what class a network is, nor compares a kind's name. And one
name is one thing."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonarllm_cli.flow.embed import Encoder
from sonarllm_cli.nets.kinds import KINDS, ROWS, kind_of, named

PACKAGE = Path(__file__).parent.parent / "sonarllm_cli"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "nets" / "kinds.py"]
PARTS = {"SonarEncoder", "SonarDecoder", "LlamaConfig", "Llama"}
CLASSES = {part.split(".")[1] for row in ROWS for part in (row.network, row.shape)} | PARTS


def words(node: ast.AST) -> set[str]:
    """Names, attributes and strings in an expression."""
    return {
        word
        for part in ast.walk(node)
        for word in (getattr(part, "id", None), getattr(part, "attr", None), getattr(part, "value", None))
        if isinstance(word, str)
    }


def names_a_kind(found: set[str]) -> bool:
    """Whether a kind is named: "sonar" alone is also a key of configs."""
    return bool(found & KINDS.keys() - {"sonar"}) or {"sonar", "kind"} <= found


def asked(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            if words(node.args[1]) & CLASSES:
                yield node
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "endswith"):
            if "kind" in words(node.func):
                yield node
        elif isinstance(node, ast.Compare) and names_a_kind(words(node)):
            yield node


@pytest.mark.parametrize(
    "code, count",
    [
        ("isinstance(net, (Sonar, int))", 1),
        ("config['kind'] == 'sonar'", 1),
        ("a.kind in ('mse-lcm', 'x')", 1),
        ("kind.endswith('-lcm')", 1),
        ("row.reads == TEXT and 'sonar' in entry and isinstance(x, str)", 0),
    ],
)
def test_what_is_counted(code, count):
    assert len(list(asked(ast.parse(code)))) == count


def test_nobody_asks_for_the_kind():
    found = [f"{path}:{node.lineno}" for path in FILES for node in asked(ast.parse(path.read_text("utf-8")))]
    assert not found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_row_names_is_there(row):
    assert kind_of(row.name) is row and row.net and row.config
    for package, name in (("learn.tasks", row.task), ("flow", row.encoder), ("weights", row.pull)):
        assert not name or callable(named(f"sonarllm_cli.{package}", name))


NAMED_TWICE = {"main"}  # what runs a program


def public(path: Path) -> Iterator[str]:
    """Classes and functions that a module defines for others; commands are left out, named as what they call."""
    for node in ast.parse(path.read_text("utf-8")).body:
        known = isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
        if known and not (path.parent.name == "cli" and node.decorator_list):
            yield node.name


def test_one_name_one_thing():
    count = Counter(name for path in FILES for name in public(path))
    assert {name for name, times in count.items() if times > 1} <= NAMED_TWICE


def test_the_map_is_true():
    """docs/architecture.md: every room has its row, every file that it says to copy is there, an encoder is as told."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert set(re.findall(r"^\| `(\w+)/`", page, re.MULTILINE)) == rooms
    for name in re.findall(r"`([\w/]+\.py)`", page.replace("NAME.py", "")):
        assert (PACKAGE.parent / name).exists() or list(PACKAGE.rglob(name)), name
    parts = re.search(r"a class with (.*?) \|", page).group(1)
    assert set(re.findall(r"`(\w+)`", parts)) == {
        "load",
        *(name for name in vars(Encoder) if not name.startswith("_")),
    }
    assert "docs/architecture.md" in (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
