"""sonarllm segment: text → one sentence a line."""

from __future__ import annotations

import click

from .common import json_option, lang_option, line, output_option, quiet_options


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE|DIR|-]…")
@lang_option
@click.option("-m", "--model", default="mini", show_default=True, help="Cut sentences over this model's limit.")
@click.option("--max-chars", type=int, help="Cut sentences over this length instead.")
@click.option(
    "--newline",
    type=click.Choice(["auto", "join", "keep"]),
    default="auto",
    show_default=True,
    help="A line's end is a space (join), ends a sentence (keep), or what the text shows (auto).",
)
@click.option("--abbreviations", metavar="FILE", help="More abbreviations, one a line.")
@json_option
@output_option
@quiet_options
def segment(
    files: tuple[str, ...],
    lang: str,
    model: str,
    max_chars: int | None,
    newline: str,
    abbreviations: str | None,
    as_json: bool,
    output: str | None,
    quiet: bool,
) -> None:
    """Split texts into sentences, one a line (--json: text, file, start, end).

    A FILE is plain text or HTML, a DIR the text files in it. A blank line ends a sentence; nothing but white space is
    lost. Headings, list items, rows of tables, code and a mail's head are sentences of their own. A sentence longer
    than the model's encoder takes is cut at clause marks, then at words. Places are characters of the text; of HTML,
    of the text taken from it.

    \b
    Example:
      sonarllm segment examples/article.txt
      sonarllm segment --json notes | sonarllm embed -o notes.parquet
    """
    from ..files import open_output, read_text
    from ..flow.segment import segment_stream
    from ..texts import read_texts
    from ..tokens import fitting
    from ..weights.registry import space_tokenizer

    words = read_text(abbreviations).split("\n") if abbreviations else []
    texts, fits = read_texts(files), None if max_chars else fitting(*space_tokenizer(model))
    with open_output(output) as out:
        for file, text in texts:
            for s in segment_stream(
                [text], lang=lang, max_chars=max_chars, fits=fits, newline=newline, abbreviations=words
            ):
                record = {"text": s.text, "file": file, "start": s.start, "end": s.end}
                print(line(record) if as_json else s.flat, file=out)
