"""sonarllm decode: embeddings → text."""

from __future__ import annotations

import click

from .common import (
    Compute,
    compute_options,
    file_argument,
    json_option,
    lang_option,
    line,
    output_option,
    progress,
    search_options,
)


@click.command()
@file_argument
@lang_option
@search_options
@click.option(
    "--shortlist", metavar="FILE", help="Write only words that this text, of the language, is made of: faster, inexact."
)
@click.option("--num-return", default=1, show_default=True, help="Texts for each embedding.")
@click.option("--column", default="", metavar="NAME", help="What holds the embeddings; else embedding, or LCM's own.")
@click.option("--dim", type=click.IntRange(1), metavar="N", help="Width of .emb: raw float32 (LASER's 1024).")
@json_option
@output_option
@compute_options
def decode(
    file: str,
    lang: str,
    beam: int,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int,
    shortlist: str | None,
    num_return: int,
    column: str,
    dim: int | None,
    as_json: bool,
    output: str | None,
    compute: Compute,
) -> None:
    """Turn embeddings (.npy, .safetensors, .parquet, .emb, JSON Lines) into text, one a line (--json: text, score).

    \b
    Example (translates):
      echo "Questo pacchetto contiene la documentazione." | sonarllm embed --lang it | sonarllm decode --lang en
    """
    from ..files import open_output, read_text
    from ..flow.decode import Search, decode_stream
    from ..io.vectors import read_embeddings

    search = Search(beam=beam, temperature=temperature, top_p=top_p, num_return=num_return, max_tokens=max_tokens)
    batches = read_embeddings(file, column=column, dim=dim or 0)
    with open_output(output) as out:
        words = read_text(shortlist).splitlines() if shortlist else ()
        found = decode_stream(batches, lang, compute.model, compute.runtime, search, compute.batch_size, words)
        for hypotheses in progress(found, "decoding", compute.bar, lambda _: 1, None):
            for h in hypotheses:
                record = line({"text": h.text, "score": round(h.score, 6)})
                print(record if as_json else " ".join(h.text.splitlines()), file=out)
            out.flush()
