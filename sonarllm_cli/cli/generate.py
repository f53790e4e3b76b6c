"""sonarllm generate: a beginning → its continuation."""

from __future__ import annotations

from typing import Any

import click

from .common import (
    COUNT,
    Compute,
    begun,
    compute_options,
    files_argument,
    json_option,
    line,
    no_repeat_option,
    out_lang_option,
    output_option,
    reporting,
    rule_options,
    sampling_options,
    search_options,
    speech_option,
    text_lang_option,
    texts_or_recordings,
)


@click.command()
@files_argument
@text_lang_option
@out_lang_option
@click.option("--max-sentences", type=COUNT, default=32, show_default=True, help="Sentences to write at most.")
@click.option(
    "--min-sentences",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Before so many the text does not end, but where its very ending is predicted.",
)
@speech_option
@rule_options
@no_repeat_option
@click.option(
    "--repeat-threshold",
    default=0.95,
    show_default=True,
    help="Cosine with a sentence written before that ends the text: the model goes round in circles. 2: it may.",
)
@search_options
@sampling_options
@json_option
@output_option
@compute_options
def generate(
    files: tuple[str, ...],
    lang: str,
    out_lang: str,
    max_sentences: int,
    min_sentences: int,
    speech: str,
    no_repeat: bool,
    repeat_threshold: float,
    as_json: bool,
    output: str | None,
    search: dict[str, Any],
    rules: dict[str, Any],
    sampling: dict[str, Any],
    compute: Compute,
) -> None:
    """Continue a text: its next sentences, one a line, each as soon as it is written. Each file, and each in a folder,
    is a text of its own; so is a recording. --json: file, text, score (the decoder's log-probability a token), ending
    (cosine with it). It ends where the model does, or goes round in circles.

    \b
    Example:
      echo "This package contains the library." | sonarllm generate --max-sentences 3
    """
    from ..flow.language import check_languages

    check_languages(lang, out_lang, model=compute.model)
    from ..flow.compose import Writing, continuation
    from ..flow.hear import Ears
    from ..io.files import display_name, open_output
    from ..weights.loaded import load_writer

    writing = Writing(sampling=sampling, **rules).but(
        max_sentences=max_sentences,
        min_sentences=min_sentences,
        no_repeat=no_repeat,
        repeat_threshold=repeat_threshold,
        out_lang=out_lang,
        **search,
    )
    failures, texts = texts_or_recordings(files, speech)
    texts = begun(texts)
    writer = load_writer(compute.model, compute.runtime)
    ears = Ears(writer.space, speech)
    with failures, open_output(output) as out:
        for name, text in texts:
            if failures.several and not as_json:
                print(f"==> {name} <==", file=out)
            with failures.told(), reporting(compute.bar) as report:
                heard = "" if isinstance(text, str) else ears.of(name)
                for s in continuation(
                    text,
                    lang=lang,
                    model=writer,
                    writing=writing,
                    report=report,
                    speech=heard,
                    name=display_name(name),
                ):
                    record = {"file": name, "text": s.text, "score": round(s.score, 6), "ending": round(s.ending, 6)}
                    print(line(record) if as_json else s.text, file=out, flush=True)
