"""sonarllm embed: one text a line → embeddings; or documents → a store to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from ..errors import UserError
from .common import Compute, compute_options, lang_option, output_option, progress
from .launch import is_first, launch


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE|-]…")
@lang_option
@click.option("--text-field", metavar="KEY", help="The input is JSON Lines; embed this key's text.")
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "split", "error"]),
    help="What to do with a text over the encoder's limit; each is reported.  [default: truncate; of a store: split]",
)
@click.option("--half", is_flag=True, help="Write float16 (.npy, .safetensors, .parquet).")
@output_option
@click.option("--store", metavar="DIR", help="Segment and embed documents into this folder, for training.")
@click.option(
    "--max-tokens", default=256, show_default=True, help="Of a store's sentence, at most what the model decodes."
)
@click.option("--shard-documents", type=click.IntRange(1), default=4096, show_default=True, help="Of a store's shard.")
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes that make a store's shards.")
@compute_options
@click.pass_obj
def embed(
    words: list[str],
    files: tuple[str, ...],
    lang: str,
    text_field: str | None,
    on_long: str | None,
    half: bool,
    output: str | None,
    store: str | None,
    max_tokens: int,
    shard_documents: int,
    nproc: int,
    compute: Compute,
) -> None:
    """Turn texts, one a line, into embeddings, in order.

    OUT's ending tells the format: .npy, .safetensors, .parquet or .jsonl; without it, JSON Lines on stdout.
    A record's own "lang" is preferred to --lang.

    With --store, FILEs are documents: JSON Lines ({"text": …, "title"?, "id"?}; also .xz, .gz), Parquet, plain texts
    and folders of them, or hf:ORG/NAME[:SPLIT]. Parquet shards in DIR are what data.store of a recipe names. Run
    again, it goes on where it was; --nproc and torchrun divide the shards.

    \b
    Example:
      sonarllm segment examples/article.txt | sonarllm embed -o article.parquet
      sonarllm embed --store store examples/documents.jsonl
    """
    if store is None:
        if len(files) > 1 or nproc > 1:
            raise UserError("several files or processes make a store", "add --store DIR, or give one file")
        _embed_lines(files[0] if files else "-", lang, text_field, on_long or "truncate", half, output, compute)
        return
    if output or not files or "-" in files:
        raise UserError("a store is made of files, in a folder", "sonarllm embed --store DIR FILE…, without -o")
    if nproc > 1 and "RANK" not in os.environ:
        launch(nproc, words)  # the same command, which RANK then tells what to do
        return
    _embed_documents(
        files,
        store,
        compute,
        lang=lang,
        text_field=text_field or "text",
        on_long=on_long or "split",
        max_tokens=max_tokens,
        shard_documents=shard_documents,
    )


def _embed_lines(
    file: str, lang: str, text_field: str | None, on_long: str, half: bool, output: str | None, compute: Compute
) -> None:
    from ..files import read_lines
    from ..flow.embed import Line
    from ..flow.encoders import load_encoder
    from ..flow.vectors_out import EmbeddingWriter
    from ..languages import resolve
    from ..runtime import log

    resolve(lang)  # a typo is told before anything is loaded
    texts = read_lines(file, text_field=text_field)
    encoder = load_encoder(compute.model, compute.runtime)
    langs = encoder.langs
    lang = resolve(lang, langs)
    lines = (Line(t.text, resolve(t.lang, langs) if t.lang else lang, f"line {t.number}") for t in texts)
    dtype = "float16" if half else "float32"
    with EmbeddingWriter(output or "-", dim=encoder.dim, fingerprint=encoder.fingerprint, dtype=dtype) as writer:
        blocks = encoder.stream(lines, batch_size=compute.batch_size, on_long=on_long)
        for block in progress(blocks, "embedding", compute.bar, lambda b: len(b.lines), None):
            for cut in block.cuts:
                log.warning("sonarllm: %s", cut)
            writer.write(block.embeddings_ND, [x.text for x in block.lines], [x.lang for x in block.lines])


def _embed_documents(files: Sequence[str], store: str, compute: Compute, *, lang: str, **options: Any) -> None:
    from pathlib import Path

    from ..flow.model import load_space
    from ..languages import resolve
    from ..learn.distributed import Ranks
    from ..learn.store import embed_documents
    from ..runtime import choose, log, set_up_logging

    resolve(lang)
    set_up_logging(compute.quiet or not is_first())
    ranks = Ranks(compute.device)
    space = load_space(compute.model, choose(str(ranks.device), compute.dtype))
    lang = resolve(lang, space.tokenizer.langs)
    done = 0

    def shown(documents: int) -> None:
        nonlocal done
        done += documents
        log.info("%d documents%s", done, f" by each of {ranks.count} processes" if ranks.count > 1 else "")

    made = embed_documents(files, Path(store), space, lang=lang, ranks=ranks, shown=shown, **options)
    ranks.leave()
    if made:
        log.info("%d documents, %d sentences in %d shards", made["documents"], made["sentences"], len(made["shards"]))
        click.echo(store)
