"""sonarllm segment: text → one sentence a line."""

from __future__ import annotations

import click

from .common import file_argument, json_option, lang_option, line, output_option, quiet_options


@click.command()
@file_argument
@lang_option
@click.option("-m", "--model", default="mini", show_default=True, help="Cut sentences over this model's limit.")
@click.option("--max-chars", type=int, help="Cut sentences over this length instead.")
@click.option("--max-seconds", default=30.0, show_default=True, help="Of a recording: cut longer utterances at pauses.")
@json_option
@output_option
@quiet_options
def segment(
    file: str,
    lang: str,
    model: str,
    max_chars: int | None,
    max_seconds: float,
    as_json: bool,
    output: str | None,
    quiet: bool,
) -> None:
    """Split text into sentences, one a line (--json: text, start, end), or a recording into utterances: seconds at
    which each starts and ends (--json: start, end).

    A blank line ends a sentence; nothing but white space is lost. A sentence longer than the model's encoder takes is
    cut at clause marks, then at words.

    \b
    Example:
      sonarllm segment examples/article.txt
      sonarllm segment examples/talk.flac
    """
    from ..files import open_output, read_text
    from ..io.audio import Recording, is_recording

    if is_recording(file):
        from ..flow.utterances import utterances

        found = utterances(Recording(file), max_seconds)
        with open_output(output) as out:
            for start, end in found:
                print(line({"start": start, "end": end}) if as_json else f"{start:.2f}\t{end:.2f}", file=out)
        return
    from ..flow.segment import segment as split
    from ..tokens import fitting
    from ..weights.registry import space_tokenizer

    text, fits = read_text(file), None if max_chars else fitting(*space_tokenizer(model))
    with open_output(output) as out:
        for s in split(text, lang=lang, max_chars=max_chars, fits=fits):
            print(line({"text": s.text, "start": s.start, "end": s.end}) if as_json else s.flat, file=out)
