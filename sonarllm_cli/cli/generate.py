"""sonarllm generate: a beginning → its continuation."""

from __future__ import annotations

from typing import Any

import click

from .common import (
    Compute,
    compute_options,
    file_argument,
    json_option,
    lang_option,
    line,
    no_repeat_option,
    output_option,
    reporting,
    rule_options,
    sampling_options,
    search_options,
    speech_option,
    text_or_recording,
)


@click.command()
@file_argument
@lang_option
@click.option("--out-lang", default="", help="Language to write in; the model's own if not given.")
@click.option("--max-sentences", default=32, show_default=True, help="Sentences to write at most.")
@speech_option
@rule_options
@no_repeat_option
@search_options
@sampling_options
@json_option
@output_option
@compute_options
def generate(
    file: str,
    lang: str,
    out_lang: str,
    max_sentences: int,
    speech: str,
    no_repeat: bool,
    beam: int,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int,
    as_json: bool,
    output: str | None,
    rules: dict[str, Any],
    sampling: dict[str, Any],
    compute: Compute,
) -> None:
    """Continue a text or a recording: its next sentences, one a line, each as soon as it is written.

    \b
    Example:
      echo "This package contains the library." | sonarllm generate --max-sentences 3
    """
    from ..files import open_output
    from ..flow.compose import Writing, continuation
    from ..flow.decode import Search

    writing = Writing(
        max_sentences=max_sentences,
        no_repeat=no_repeat,
        out_lang=out_lang,
        search=Search(beam=beam, temperature=temperature, top_p=top_p, max_tokens=max_tokens),
        sampling=sampling,
        **rules,
    )
    text = text_or_recording(file, speech)
    with reporting(compute.bar) as report, open_output(output) as out:
        for s in continuation(
            text,
            lang=lang,
            model=compute.model,
            runtime=compute.runtime,
            writing=writing,
            report=report,
            speech=speech,
        ):
            record = {"text": s.text, "score": round(s.score, 6), "ending": round(s.ending, 6)}
            print(line(record) if as_json else s.text, file=out, flush=True)
