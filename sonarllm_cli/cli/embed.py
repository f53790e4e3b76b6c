"""sonarllm embed: one text a line → embeddings."""

from __future__ import annotations

import click

from .common import Compute, compute_options, file_argument, lang_option, output_option, progress


@click.command()
@file_argument
@lang_option
@click.option("--text-field", metavar="KEY", help="The input is JSON Lines; embed this key's text.")
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "split", "error"]),
    default="truncate",
    show_default=True,
    help="What to do with a text over the encoder's limit; each is reported.",
)
@click.option("--half", is_flag=True, help="Write float16 (.npy, .safetensors, .parquet).")
@output_option
@compute_options
def embed(
    file: str, lang: str, text_field: str | None, on_long: str, half: bool, output: str | None, compute: Compute
) -> None:
    """Turn texts, one a line, into embeddings, in order.

    OUT's ending tells the format: .npy, .safetensors, .parquet or .jsonl; without it, JSON Lines on stdout.
    A record's own "lang" is preferred to --lang.

    \b
    Example:
      sonarllm segment examples/article.txt | sonarllm embed -o article.parquet
    """
    from ..files import read_lines
    from ..flow.embed import Line, embed_stream
    from ..flow.model import load_space
    from ..flow.vectors_out import EmbeddingWriter
    from ..languages import resolve
    from ..runtime import log

    resolve(lang)  # a typo is told before anything is loaded
    texts = read_lines(file, text_field=text_field)
    space = load_space(compute.model, compute.runtime)
    langs = space.tokenizer.langs
    lang = resolve(lang, langs)
    lines = (Line(t.text, resolve(t.lang, langs) if t.lang else lang, f"line {t.number}") for t in texts)
    dtype = "float16" if half else "float32"
    with EmbeddingWriter(output or "-", dim=space.dim, fingerprint=space.fingerprint, dtype=dtype) as writer:
        blocks = embed_stream(lines, space, batch_size=compute.batch_size, on_long=on_long)
        for block in progress(blocks, "embedding", compute.bar, lambda b: len(b.lines), None):
            for cut in block.cuts:
                log.warning("sonarllm: %s", cut)
            writer.write(block.embeddings_ND, [x.text for x in block.lines], [x.lang for x in block.lines])
