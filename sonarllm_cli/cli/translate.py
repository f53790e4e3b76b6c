"""sonarllm translate: documents in one language → in another, layout kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..errors import UserError
from . import complete
from .common import (
    Compute,
    Failures,
    begun,
    compute_options,
    files_argument,
    json_option,
    line,
    search_options,
    speech_option,
    text_lang_option,
    write_lang_option,
)

if TYPE_CHECKING:
    from ..use.translate import Part


@click.command()
@files_argument
@text_lang_option
@write_lang_option("--to")
@click.option("--bilingual", is_flag=True, help="Each block, then its translation.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "md", "srt", "vtt"]),
    help="Of the input, if its ending doesn't tell; of a recording, what is written.",
)
@click.option(
    "--clauses/--no-clauses",
    default=True,
    show_default=True,
    help="A long sentence that came out far from what it says is tried clause by clause, and the nearer is kept.",
)
@speech_option
@search_options
@json_option
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
    clauses: bool,
    speech: str,
    as_json: bool,
    search: dict[str, Any],
    output: str | None,
    compute: Compute,
) -> None:
    """Translate documents, sentence by sentence through a space. Blank lines, list marks, Markdown's marks and code,
    and of subtitles (.srt, .vtt) times, dashes, and tags around a cue, stay as they are, as do addresses, numbers, and
    sentences in letters of no language that the model has, which are told. Tags within a cue go. Of HTML its text is
    translated. Of a recording each utterance is a line, or with --format srt or vtt a cue of subtitles.

    What came out is embedded again: how many sentences are far from what they say, and on which lines, is told. --json
    gives a record a sentence: file, source, start and end (in characters of the file; of a recording in seconds), text,
    score (the decoder's log-probability a token), back_cosine (of the text's embedding with the source's; 1 is best);
    both null of a sentence in letters of no language that the model has.

    Several files, and the texts, subtitles and recordings of a DIR, are written to the folder -o, each under its own
    name, a recording's with .txt, .srt or .vtt after it, a page's (HTML) with .txt; what lies in that folder is not
    taken of a DIR. One that can't be read is left out, told, and makes the exit code 1.

    \b
    Example:
      sonarllm translate examples/lettera.txt --to en
      sonarllm translate examples/subtitles.srt --to en --bilingual
      sonarllm translate examples/talk.flac --to de --format srt
    """
    import os

    from ..flow.back import Distances
    from ..flow.decode import Search
    from ..flow.hear import Ears, read_recording
    from ..flow.language import check_languages, language_of
    from ..io.audio import Recording, check_speech
    from ..io.files import check_file, display_name, make_folder, open_output
    from ..io.texts import expand
    from ..languages import resolve
    from ..runtime import log
    from ..use.translate import TAKEN, check_kept, files_of_documents, read_translatable, translate_speech, translator
    from ..use.translate import translate as translated

    check_languages(lang, to, model=compute.model)
    ending = f".{kind}" if kind else ""
    several = len(files) > 1 or any(map(os.path.isdir, files))
    many = several and not as_json
    if many and output in (None, "-"):
        raise UserError("several files are translated into a folder", "name it with -o FOLDER, or use --json")
    places: list[tuple[str, Any]] = (
        [*files_of_documents(files, output or "", ending)]
        if many
        else [(name, output) for name in (expand(files, TAKEN) if several else files[:1] or ["-"])]
    )
    if not many and output not in (None, "-"):
        check_kept([name for name, _ in places], output)
    check_speech(speech, [name for name, _ in places])
    if not many and output not in (None, "-"):
        check_file(output)
    failures = Failures(several)

    def documents() -> Iterator[tuple[str, Any, str | Recording, str]]:
        found = False
        for name, place in places:
            try:
                document, form = read_translatable(name, ending)
            except UserError as error:
                if not several:
                    raise
                failures.tell(error)
                continue
            found = True
            yield name, place, document, form
        if not found:
            raise UserError("no file could be read", "they are named above")

    def begin(document: str | Recording, form: str, name: str) -> Iterator[Part]:
        if isinstance(document, Recording):
            heard = read_recording(document, space, lang, speech=ears.of(name), batch_size=compute.batch_size)
            return translate_speech(heard, to, kind=form, search=how, bilingual=bilingual)
        own = language_of(document, lang, langs, display_name(name))
        if own == to:
            cure = "--lang says what it is in, --to what to write"
            raise UserError(f"{display_name(name)} would go from {own} into {to}", cure)
        run = translator(space, own, to, how, compute.batch_size, clauses)
        return translated(document, run, lang=own, kind=form, space=space, bilingual=bilingual)

    how = Search(**search)
    waiting = begun(documents())
    space, langs = compute.space, compute.space.tokenizer.langs
    to = resolve(to, langs)
    ears = Ears(space, speech)
    with failures, ExitStack() as stack:
        shared = None if many else stack.enter_context(open_output(output))
        for name, place, document, form in waiting:
            with failures.told():
                parts = begin(document, form, name)
                if many:
                    make_folder(place.parent)
                distances = Distances()
                with nullcontext(shared) if shared else open_output(place) as out:
                    for part in parts:
                        for one in part.sentences:
                            if one.said:
                                distances.see(one.line, one.said.cosine)
                            else:
                                distances.leave(one.line)
                        _show(part, name, as_json, out)
                if told := distances.told("sentences", "utterance" if isinstance(document, Recording) else "line"):
                    log.info("%s%s", f"{display_name(name)}: " if several else "", told)


def _show(part: Part, file: str, as_json: bool, out: TextIO) -> None:
    if not as_json:
        print(part.text, end="", file=out, flush=True)
        return
    for one in part.sentences:
        record: dict[str, Any] = {"file": file, "source": one.source, "start": one.start, "end": one.end}
        if one.said:
            record |= {"text": one.said.text, "score": round(one.said.score, 6)}
            record |= {"back_cosine": round(one.said.cosine, 4)}
        else:
            record |= {"text": one.source, "score": None, "back_cosine": None}
        print(line(record), file=out, flush=True)
