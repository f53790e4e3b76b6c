"""sonarllm decode: embeddings → text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from .common import (
    Compute,
    begun,
    compute_options,
    files_argument,
    json_option,
    line,
    output_option,
    progress,
    search_options,
    write_lang_option,
)


@click.command()
@files_argument
@write_lang_option("--lang")
@search_options
@click.option(
    "--shortlist",
    metavar="FILE",
    type=click.Path(),
    help="Write only words that this text, of the language, is made of: faster, inexact.",
)
@click.option("--num-return", default=1, show_default=True, help="Texts for each embedding.")
@click.option("--column", default="", metavar="NAME", help="What holds the embeddings; else embedding, or LCM's own.")
@click.option(
    "--dim", type=click.IntRange(1), metavar="N", help="Width of .emb (raw float32; LASER's 1024), or of - if raw."
)
@json_option
@output_option
@compute_options
def decode(
    files: tuple[str, ...],
    lang: str,
    shortlist: str | None,
    num_return: int,
    column: str,
    dim: int | None,
    as_json: bool,
    output: str | None,
    search: dict[str, Any],
    compute: Compute,
) -> None:
    """Turn embeddings (.npy, .safetensors, .parquet, .emb, JSON Lines) into text, one a line.

    --json gives records: file, text, score (log-probability a token), back_cosine (of the text, embedded again, with
    the embedding; 1 is the best): how many rows came out far is told. Files and folders follow each other. A blank
    text's row is a blank line, if the file keeps texts (.parquet, JSON Lines).

    \b
    Example (translates):
      echo "Non ho tempo oggi." | sonarllm embed | sonarllm decode --lang en
    """
    from ..flow.back import Distances
    from ..flow.decode import Hypothesis, Search, decode_stream
    from ..flow.language import check_languages
    from ..io.files import open_output, read_text
    from ..io.texts import expand
    from ..io.vectors import ENDINGS, EmbeddingBatch, read_embeddings
    from ..runtime import log
    from ..weights.loaded import load_space, shortlisted

    check_languages(lang, model=compute.model)
    how = Search(num_return=num_return, **search)
    words = read_text(shortlist).splitlines() if shortlist else []

    def batches() -> Iterator[tuple[str, EmbeddingBatch]]:
        for name in expand(files, ENDINGS):
            for batch in read_embeddings(name, column=column, dim=dim or 0):
                yield name, batch

    def decoded() -> Iterator[tuple[str, list[Hypothesis]]]:
        found = begun(batches())
        space = load_space(compute.model, compute.runtime)
        space = shortlisted(space, words) if words else space
        for name, batch in found:
            for hypotheses in decode_stream([batch], lang, space, how, compute.batch_size):
                yield name, hypotheses

    distances = Distances()
    with open_output(output) as out:
        for row, (name, hypotheses) in enumerate(progress(decoded(), "decoding", compute.bar, lambda _: 1, None), 1):
            distances.see(row, hypotheses[0].cosine)
            for h in hypotheses:
                cosine = None if h.cosine is None else round(h.cosine, 4)
                record = {"file": name, "text": h.text, "score": round(h.score, 6), "back_cosine": cosine}
                print(line(record) if as_json else " ".join(h.text.splitlines()), file=out)
            out.flush()
    if told := distances.told("embeddings", "row"):
        log.info("%s", told)
