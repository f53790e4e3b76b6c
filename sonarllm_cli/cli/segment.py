"""sonarllm segment: text → one sentence a line."""

from __future__ import annotations

import click

from .common import file_argument, json_option, lang_option, line, output_option, quiet_options


@click.command()
@file_argument
@lang_option
@click.option("-m", "--model", default="mini", show_default=True, help="Cut sentences over this model's limit.")
@click.option("--max-chars", type=int, help="Cut sentences over this length instead.")
@json_option
@output_option
@quiet_options
def segment(
    file: str, lang: str, model: str, max_chars: int | None, as_json: bool, output: str | None, quiet: bool
) -> None:
    """Split text into sentences, one a line (--json: text, start, end).

    A blank line ends a sentence; nothing but white space is lost. A sentence longer than the model's encoder takes is
    cut at clause marks, then at words.

    \b
    Example:
      sonarllm segment examples/article.txt
    """
    from ..files import open_output, read_text
    from ..flow.segment import segment as split
    from ..tokens import fitting
    from ..weights.registry import space_tokenizer

    text, fits = read_text(file), None if max_chars else fitting(*space_tokenizer(model))
    with open_output(output) as out:
        for s in split(text, lang=lang, max_chars=max_chars, fits=fits):
            print(line({"text": s.text, "start": s.start, "end": s.end}) if as_json else s.flat, file=out)
