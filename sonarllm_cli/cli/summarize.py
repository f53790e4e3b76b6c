"""sonarllm summarize: an article → a summary."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UserError
from .common import (
    Compute,
    compute_options,
    file_argument,
    json_option,
    lang_option,
    line,
    output_option,
    reporting,
    sampling_options,
    search_options,
    speech_option,
    text_or_recording,
)


@click.command()
@file_argument
@lang_option
@click.option("--out-lang", default="", help="Language to write in; the model's own if not given.")
@click.option("--sentences", default="auto", metavar="N|auto", show_default=True, help="Sentences at most; auto is 3.")
@click.option(
    "--extract/--abstract",
    default=None,
    help="The text's own sentences nearest to the predicted ones, or the model's. If neither is said the model writes, "
    "but of text unlike its training it extracts, and says so.",
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
    file: str,
    lang: str,
    out_lang: str,
    sentences: str,
    extract: bool | None,
    cite: bool,
    speech: str,
    beam: int,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int,
    as_json: bool,
    output: str | None,
    sampling: dict[str, Any],
    compute: Compute,
) -> None:
    """Summarise a text or a recording, one sentence a line (--json: text, score, sources).

    \b
    Example:
      sonarllm summarize --cite examples/article.txt
    """
    from ..files import open_output
    from ..flow.compose import Writing
    from ..flow.compose import summarize as shorten
    from ..flow.decode import Search

    if sentences != "auto" and not sentences.isdigit():
        raise UserError(f"--sentences {sentences!r} is not a number", "use --sentences 2, or auto")
    search = Search(beam=beam, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    text = text_or_recording(file, speech)
    with reporting(compute.bar) as report:
        found = shorten(
            text,
            sentences=None if sentences == "auto" else int(sentences),
            lang=lang,
            model=compute.model,
            runtime=compute.runtime,
            extract=extract,
            cite=3 if cite else 0,
            writing=Writing(no_repeat=True, out_lang=out_lang, search=search, sampling=sampling),
            report=report,
            speech=speech,
        )
    with open_output(output) as out:
        for s in found:
            if as_json:
                sources = [{"sentence": i + 1, "text": text, "cosine": round(c, 4)} for i, text, c in s.sources]
                sources = [{**one, "start": t.start, "end": t.end} for one, t in zip(sources, s.times)] or sources
                print(line({"text": s.text, "score": round(s.score, 6), "sources": sources}), file=out)
                continue
            print(s.text, file=out)
            for at, (i, text, cosine) in enumerate(s.sources if cite else []):
                time = f"{s.times[at]} " if s.times else ""
                print(f"  {cosine:.3f}  [{i + 1}] {time}{text}", file=out)
