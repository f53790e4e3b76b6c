"""sonarllm segment: text → one sentence a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from . import complete
from .common import (
    COUNT,
    files_argument,
    json_option,
    line,
    model_option,
    output_option,
    quiet_options,
    text_lang_option,
    texts_or_recordings,
)

if TYPE_CHECKING:
    from ..io.audio import Recording


@click.command()
@files_argument
@text_lang_option
@model_option("Cut sentences over this model's limit.")
@click.option("--max-chars", type=COUNT, help="Cut sentences over this length instead.")
@click.option("--max-seconds", default=30.0, show_default=True, help="Of a recording: cut longer utterances at pauses.")
@click.option(
    "--newline",
    type=click.Choice(["auto", "join", "keep"]),
    default="auto",
    show_default=True,
    help="A line's end is a space (join), ends a sentence (keep), or what the text shows (auto).",
)
@click.option("--abbreviations", metavar="FILE", help="More abbreviations, one a line.", shell_complete=complete.files)
@json_option
@output_option
@quiet_options
def segment(
    files: tuple[str, ...],
    lang: str,
    model: str,
    max_chars: int | None,
    max_seconds: float,
    newline: str,
    abbreviations: str | None,
    as_json: bool,
    output: str | None,
    quiet: bool,
) -> None:
    """Split texts into sentences, one a line (--json: text, file, start, end), or recordings into utterances: seconds
    at which each starts and ends (--json: file, start, end).

    A FILE is plain text, HTML or subtitles (.srt, .vtt), a DIR the text files in it. A blank line ends a sentence;
    nothing but white space is lost. Headings, list items, rows of tables, code and a mail's head are sentences of their
    own. A sentence longer than the model's encoder takes is cut at clause marks, then at words. Places are characters
    of the text; of HTML, of the text taken from it, and of subtitles, of what is said, a turn a line.
    Markdown (.md) is read without front matter, code within fences and rules.

    \b
    Example:
      sonarllm segment examples/article.txt
      sonarllm segment examples/talk.flac
      sonarllm segment --json examples/notes | sonarllm embed -o notes.parquet
    """
    from functools import cache

    from ..flow.language import AUTO, language_of
    from ..flow.segment import segment_stream
    from ..io.files import open_output, read_text
    from ..io.texts import TEXT_ENDINGS
    from ..tokens import fitting
    from ..weights.registry import space_tokenizer

    fits = cache(lambda: None if max_chars else fitting(*space_tokenizer(model)))  # which no recording needs
    words = read_text(abbreviations).split("\n") if abbreviations else []
    failures, texts = texts_or_recordings(files, folders=TEXT_ENDINGS)
    with failures, open_output(output) as out:
        for file, text in texts:
            with failures.told():
                if not isinstance(text, str):
                    _show_utterances(text, file, max_seconds, as_json, out)
                    continue
                own = language_of(text, lang) if lang == AUTO else lang
                for s in segment_stream(
                    [text], lang=own, max_chars=max_chars, fits=fits(), newline=newline, abbreviations=words
                ):
                    record = {"text": s.text, "file": file, "start": s.start, "end": s.end}
                    print(line(record) if as_json else s.flat, file=out)


def _show_utterances(recording: Recording, file: str, max_seconds: float, as_json: bool, out: TextIO) -> None:
    from ..flow.utterances import utterances

    for start, end in utterances(recording, max_seconds):
        print(line({"file": file, "start": start, "end": end}) if as_json else f"{start:.2f}\t{end:.2f}", file=out)
