"""sonarllm translate: documents in one language → in another, layout kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from ..errors import UserError
from . import complete
from .common import Compute, compute_options, files_argument, language_option, search_options, text_lang_option

T = TypeVar("T")


@click.command()
@files_argument
@text_lang_option
@language_option("--to", "Language to write.")
@click.option("--bilingual", is_flag=True, help="Each block, then its translation.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "md", "srt", "vtt"]),
    help="Of the input, if its ending doesn't tell.",
)
@search_options
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="Write here instead of stdout; of several files, the folder.",
    shell_complete=complete.files,
)
@compute_options
def translate(
    files: tuple[str, ...],
    lang: str,
    to: str,
    bilingual: bool,
    kind: str | None,
    search: dict[str, Any],
    output: str | None,
    compute: Compute,
) -> None:
    """Translate documents, sentence by sentence through a space. Blank lines, list marks, Markdown's marks and code,
    and the times of subtitles (.srt, .vtt) stay as they are; of HTML its text is translated.

    Several files, and the texts and subtitles of a DIR, are written to the folder -o, each under its own name. One that
    can't be read is left out, told, and makes the exit code 1.

    \b
    Example:
      sonarllm translate examples/lettera.txt --lang it --to en
      sonarllm translate examples/subtitles.srt --lang fr --to en --bilingual
    """
    import os

    from ..flow.decode import Search
    from ..flow.language import check_languages, language_of
    from ..io.files import check_file, display_name, make_folder, open_output
    from ..languages import resolve
    from ..use.translate import files_of_documents, read_translatable, translator
    from ..use.translate import translate as translated

    check_languages(lang, to, model=compute.model)
    many = len(files) > 1 or any(map(os.path.isdir, files))
    if many and output in (None, "-"):
        raise UserError("several files are translated into a folder", "name it with -o FOLDER")
    places: list[tuple[str, Any]] = (
        files_of_documents(files, output or "") if many else [(files[0] if files else "-", output)]
    )
    if not many and output not in (None, "-"):
        check_file(output)
    failed = 0

    def tried(work: Callable[[], T]) -> T | None:
        nonlocal failed
        try:
            return work()
        except UserError as error:
            if not many:
                raise
            print(f"sonarllm: {error}", file=sys.stderr)
            failed += 1
            return None

    def read(name: str) -> tuple[str, str] | None:
        return tried(lambda: read_translatable(name, f".{kind}" if kind else ""))

    how = Search(**search)
    first = read(places[0][0])  # its faults are told before anything is loaded
    space, langs = compute.space, compute.space.tokenizer.langs
    to = resolve(to, langs)
    for i, (name, place) in enumerate(places):
        found = read(name) if i else first
        own = found and tried(partial(language_of, found[0], lang, langs, display_name(name)))
        if not found or not own:
            continue
        run = translator(space, own, to, how, compute.batch_size)
        if many:
            make_folder(place.parent)
        with open_output(place) as out:
            for part in translated(found[0], run, lang=own, kind=found[1], space=space, bilingual=bilingual):
                print(part, end="", file=out, flush=True)
    if failed:
        raise click.exceptions.Exit(1)
