"""sonarllm translate: documents in one language → in another, layout kept."""

from __future__ import annotations

from typing import Any

import click

from .common import Compute, compute_options, file_argument, lang_option, output_option, search_options


@click.command()
@file_argument
@lang_option
@click.option("--to", "to_lang", default="eng_Latn", show_default=True, help="Language to write.")
@click.option("--bilingual", is_flag=True, help="Each block, then its translation.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "md", "srt", "vtt"]),
    help="Of the input, if its ending doesn't tell.",
)
@search_options
@output_option
@compute_options
def translate(
    file: str,
    lang: str,
    to_lang: str,
    bilingual: bool,
    kind: str | None,
    search: dict[str, Any],
    output: str | None,
    compute: Compute,
) -> None:
    """Translate a document, sentence by sentence through a space. Blank lines, list marks, Markdown's marks and code,
    and the times of subtitles (.srt, .vtt) stay as they are.

    \b
    Example:
      sonarllm translate examples/lettera.txt --lang it --to en
      sonarllm translate examples/subtitles.srt --lang fr --to en --bilingual
    """
    from ..flow.decode import Search
    from ..io.files import open_output, read_text, text_ending
    from ..languages import resolve
    from ..use.translate import pieces, translator
    from ..use.translate import translate as translated
    from ..weights.loaded import load_space

    resolve(lang), resolve(to_lang)
    text = read_text(file)
    ending = f".{kind}" if kind else "" if file == "-" else text_ending(file)
    ending = ending if ending in (".srt", ".vtt", ".md") else ""
    list(pieces(text, ending))  # broken times are told before anything is loaded
    space = load_space(compute.model, compute.runtime)
    own, to = (resolve(name, space.tokenizer.langs) for name in (lang, to_lang))
    run = translator(space, own, to, Search(**search), compute.batch_size)
    with open_output(output) as out:
        for part in translated(text, run, lang=own, kind=ending, space=space, bilingual=bilingual):
            print(part, end="", file=out, flush=True)
