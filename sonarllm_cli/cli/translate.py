"""sonarllm translate: documents in one language → in another, layout kept."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from ..errors import UserError
from . import complete
from .common import (
    Compute,
    compute_options,
    files_argument,
    language_option,
    search_options,
    speech_option,
    text_lang_option,
)

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
    help="Of the input, if its ending doesn't tell; of a recording, what is written.",
)
@speech_option
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
    speech: str,
    search: dict[str, Any],
    output: str | None,
    compute: Compute,
) -> None:
    """Translate documents, sentence by sentence through a space. Blank lines, list marks, Markdown's marks and code,
    and the times of subtitles (.srt, .vtt) stay as they are; of HTML its text is translated. Of a recording each
    utterance is a line, or with --format srt or vtt a cue of subtitles.

    Several files, and the texts, subtitles and recordings of a DIR, are written to the folder -o, each under its own
    name, a recording's with .txt, .srt or .vtt after it. One that can't be read is left out, told, and makes the exit
    code 1.

    \b
    Example:
      sonarllm translate examples/lettera.txt --lang it --to en
      sonarllm translate examples/subtitles.srt --lang fr --to en --bilingual
      sonarllm translate examples/talk.flac --to de --format srt
    """
    import os

    from ..flow.decode import Search
    from ..flow.hear import Ears, read_recording
    from ..flow.language import check_languages, language_of
    from ..io.audio import Recording, check_speech
    from ..io.files import check_file, display_name, make_folder, open_output
    from ..languages import resolve
    from ..use.translate import files_of_documents, read_translatable, translate_speech, translator
    from ..use.translate import translate as translated

    check_languages(lang, to, model=compute.model)
    ending = f".{kind}" if kind else ""
    many = len(files) > 1 or any(map(os.path.isdir, files))
    if many and output in (None, "-"):
        raise UserError("several files are translated into a folder", "name it with -o FOLDER")
    places: list[tuple[str, Any]] = (
        files_of_documents(files, output or "", ending) if many else [(files[0] if files else "-", output)]
    )
    check_speech(speech, [name for name, _ in places])
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

    def read(name: str) -> tuple[str | Recording, str] | None:
        return tried(lambda: read_translatable(name, ending))

    def begin(document: str | Recording, form: str, name: str) -> Iterator[str]:
        if isinstance(document, Recording):
            heard = read_recording(document, space, lang, speech=ears.of(name), batch_size=compute.batch_size)
            return translate_speech(heard, to, kind=form, search=how, bilingual=bilingual)
        own = language_of(document, lang, langs, display_name(name))
        run = translator(space, own, to, how, compute.batch_size)
        return translated(document, run, lang=own, kind=form, space=space, bilingual=bilingual)

    how = Search(**search)
    first = read(places[0][0])  # its faults are told before anything is loaded
    space, langs = compute.space, compute.space.tokenizer.langs
    to = resolve(to, langs)
    ears = Ears(space, speech)
    for i, (name, place) in enumerate(places):
        found = read(name) if i else first
        parts = found and tried(functools.partial(begin, *found, name))
        if not parts:
            continue
        if many:
            make_folder(place.parent)
        with open_output(place) as out:
            for part in parts:
                print(part, end="", file=out, flush=True)
    if failed:
        raise click.exceptions.Exit(1)
