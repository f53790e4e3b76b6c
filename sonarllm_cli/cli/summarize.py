"""sonarllm summarize: an article → a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

import click

from .common import (
    Compute,
    Whole,
    begun,
    compute_options,
    files_argument,
    json_option,
    line,
    out_lang_option,
    output_option,
    reporting,
    sampling_options,
    search_options,
    speech_option,
    text_lang_option,
    texts_or_recordings,
)

if TYPE_CHECKING:
    from ..flow.summarize import Cited


@click.command()
@files_argument
@text_lang_option
@out_lang_option
@click.option(
    "--sentences",
    type=Whole(auto=True),
    default="auto",
    metavar="N|auto",
    show_default=True,
    help="Sentences at most; auto is 3.",
)
@click.option(
    "--extract/--abstract",
    default=None,
    help="The text's own sentences that tell most of it, or the model's. If neither is said the model writes, but "
    "where that is likely to be worse it extracts, and says so.",
)
@click.option(
    "--cite",
    is_flag=True,
    help="Show beside each the article's nearest sentences and their cosines; of a recording also their times.",
)
@speech_option
@search_options
@sampling_options
@json_option
@output_option
@compute_options
def summarize(
    files: tuple[str, ...],
    lang: str,
    out_lang: str,
    sentences: int | None,
    extract: bool | None,
    cite: bool,
    speech: str,
    as_json: bool,
    output: str | None,
    search: dict[str, Any],
    sampling: dict[str, Any],
    compute: Compute,
) -> None:
    """Summarise a text, one sentence a line. Each file, and each in a folder, is a text of its own; so is a recording.

    --json gives records: file, text, how ("written" or "extracted"), score (the decoder's log-probability a token; null
    where nothing was decoded), start and end (of what is extracted, in characters of the file; in seconds of a
    recording, as of its sources), sources; of what is extracted and said in another language (--out-lang) back_cosine,
    of its embedding with the sentence's: how many came out far from what they say is told.

    \b
    Example:
      sonarllm summarize --cite examples/article.txt
    """
    from ..flow.language import check_languages

    check_languages(lang, out_lang, model=compute.model)
    from ..flow.compose import Writing
    from ..flow.hear import Ears
    from ..flow.summarize import summarize as shorten
    from ..io.files import display_name, open_output
    from ..weights.loaded import load_writer

    writing = Writing(no_repeat=True, out_lang=out_lang, sampling=sampling).but(**search)
    failures, texts = texts_or_recordings(files, speech)
    texts = begun(texts)
    writer = load_writer(compute.model, compute.runtime)
    ears = Ears(writer.space, speech)
    with failures, open_output(output) as out:
        for name, text in texts:
            with failures.told():
                with reporting(compute.bar) as report:
                    found = shorten(
                        text,
                        sentences=sentences,
                        lang=lang,
                        model=writer,
                        extract=extract,
                        cite=3 if cite else 0,
                        writing=writing,
                        report=report,
                        speech="" if isinstance(text, str) else ears.of(name),
                        name=display_name(name),
                    )
                if failures.several and not as_json:
                    print(f"==> {name} <==", file=out)
                for s in found:
                    _show(s, name, cite, as_json, out)


def _show(s: Cited, file: str, cite: bool, as_json: bool, out: TextIO) -> None:
    if as_json:
        sources = [{"sentence": i + 1, "text": text, "cosine": round(c, 4)} for i, text, c in s.sources]
        sources = [{**one, "start": t.start, "end": t.end} for one, t in zip(sources, s.times)] or sources
        score = None if s.score is None else round(s.score, 6)
        record: dict[str, Any] = {"file": file, "text": s.text, "how": s.how, "score": score}
        record |= {"start": s.start, "end": s.end}
        record |= {} if s.back_cosine is None else {"back_cosine": round(s.back_cosine, 4)}
        print(line(record | {"sources": sources}), file=out, flush=True)
        return
    print(s.text, file=out, flush=True)
    for at, (i, text, cosine) in enumerate(s.sources if cite else []):
        time = f"{s.times[at]} " if s.times else ""
        print(f"  {cosine:.3f}  [{i + 1}] {time}{text}", file=out, flush=True)
