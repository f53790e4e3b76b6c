"""sonarllm segment: text → one sentence a line."""

from __future__ import annotations

import click

from .common import file_argument, json_option, lang_option, line, output_option, quiet_options


@click.command()
@file_argument
@lang_option
@click.option("--max-chars", type=int, help="Cut longer sentences, at clause marks, then at words.")
@json_option
@output_option
@quiet_options
def segment(file: str, lang: str, max_chars: int | None, as_json: bool, output: str | None, quiet: bool) -> None:
    """Split text into sentences, one a line (--json: text, start, end).

    A blank line ends a sentence; nothing but white space is lost.

    \b
    Example:
      sonarllm segment examples/article.txt
    """
    from ..files import open_output, read_text
    from ..flow.segment import segment as split

    with open_output(output) as out:
        for s in split(read_text(file), lang=lang, max_chars=max_chars):
            print(line({"text": s.text, "start": s.start, "end": s.end}) if as_json else s.flat, file=out)
