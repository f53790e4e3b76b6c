"""Blocks of a page → HTML in one file, or Markdown (without the drawings)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1a1a1a;
  background: #fff }
h1, h2 { line-height: 1.2 }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .28rem .7rem; border-bottom: 1px solid #e2e2e2; text-align: left; vertical-align: top }
th { background: #f4f4f4 }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.text { min-width: 11rem }
figure { display: inline-block; margin: .6rem 1rem .6rem 0; width: 34rem; max-width: 100% }
figcaption { font-weight: 600 }
svg { width: 100%; height: auto }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto }
p.note { color: #555 }
"""


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class Grid:
    """`numbers`: whether all cells but the first column are figures, aligned to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True


@dataclass(frozen=True)
class Drawing:
    caption: str
    svg: str


@dataclass(frozen=True)
class Code:
    text: str


Block = Heading | Note | Grid | Drawing | Code


def html(title: str, blocks: Sequence[Block]) -> str:
    """A page that loads nothing."""
    out = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f"<title>{escape(title)}</title>",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>",
        *map(_html, blocks),
        "</body>\n</html>\n",
    ]
    return "\n".join(out)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Note):
        return f'<p class="note">{escape(block.text)}</p>'
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Drawing):
        return f"<figure><figcaption>{escape(block.caption)}</figcaption>{block.svg}</figure>"
    kind = "number" if block.numbers else "text"
    head = "".join(f'<th class="{kind if i else "text"}">{escape(cell)}</th>' for i, cell in enumerate(block.head))
    rows = []
    for first, *rest in block.rows:
        cells = "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell in rest)
        rows.append(f'<tr><td class="text">{escape(first)}</td>{cells}</tr>')
    body = "\n".join(rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def markdown(title: str, blocks: Sequence[Block]) -> str:
    return "\n".join([f"# {title}\n", *(text for block in blocks if (text := _markdown(block)))])


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}\n"
    if isinstance(block, Note):
        return f"{block.text}\n"
    if isinstance(block, Code):
        return f"```sh\n{block.text}\n```\n"
    if isinstance(block, Drawing):
        return ""
    rule = "|---|" + ("---:|" if block.numbers else "---|") * (len(block.head) - 1)
    return "\n".join([_row(block.head), rule, *map(_row, block.rows)]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
