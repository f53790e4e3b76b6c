"""sonarllm translate: documents in one language → in another, layout kept."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..errors import UserError
from . import complete
from .common import (
    Compute,
    Failures,
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
    """Translate documents, sentence by sentence through a space. Blank lines, list marks, Markdown's headings and code,
    and of subtitles (.srt, .vtt) times, dashes, speakers (ANN:), sounds ([LAUGHS]), and tags around a cue, stay as they
    are, as do addresses, what has no letters, and sentences in letters of no language that the model has, which are
    told. A sentence around an address or a `code` is translated in parts. Emphasis and links come back where their
    words are said in the translation as by themselves; else emphasis goes, and a link follows its sentence.
    Tags within a cue go.
    Of HTML its text is translated. Of a recording each utterance is a line, or with --format srt or vtt a cue of
    subtitles.

    Without --lang a line that is surely in another language than those around it is read in its own; what is in the
    language --to already stands as it is.

    What came out is embedded again: how many sentences are far from what they say, came out as they were, or stand, and
    on which lines, is told. --json
    gives a record a sentence: file, source, start and end (in characters of the file; of a recording in seconds), text,
    score (the decoder's log-probability a token), back_cosine (of the text's embedding with the source's; 1 is best);
    both null of a sentence that stands, in letters of no language that the model has or in the language --to already.

    Several files, and the texts, subtitles and recordings of a DIR, are written to the folder -o, each under its own
    name, a recording's with .txt, .srt or .vtt after it, a page's (HTML) with .txt; what lies in that folder is not
    taken of a DIR. One that is in the language --to already is copied, and told. One that can't be read is left out,
    told, and makes the exit code 1.

    \b
    Example:
      sonarllm translate examples/lettera.txt --to en
      sonarllm translate examples/subtitles.srt --to en --bilingual
      sonarllm translate examples/talk.flac --to de --format srt
    """
    import os

    from ..flow.decode import Search
    from ..flow.language import check_languages
    from ..io.files import check_file, open_output
    from ..use.translate import Translator
    from ..use.translate_files import translate_files

    check_languages(lang, to, model=compute.model)
    several = len(files) > 1 or any(map(os.path.isdir, files))
    folder = several and not as_json
    if folder and output in (None, "-"):
        raise UserError("several files are translated into a folder", "name it with -o FOLDER, or use --json")
    how: dict[str, Any] = {"lang": lang, "bilingual": bilingual, "clauses": clauses, "speech": speech}
    how |= {"search": Search(**search), "batch_size": compute.batch_size}
    failures = Failures(several)
    found = translate_files(
        files,
        lambda: Translator(space=compute.space, to=to, **how),
        kind=f".{kind}" if kind else "",
        speech=speech,
        output=output or "",
        folder=folder,
        tell=failures.tell if several else None,
    )
    if not folder and output not in (None, "-"):
        check_file(output)
    with failures, nullcontext() if folder else open_output(output) as out:
        for file, part in found:
            failures.done = True
            if out:
                _show(part, file, as_json, out)


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
