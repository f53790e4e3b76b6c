"""sonarllm embed: one text a line → embeddings; or documents → a store to train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from ..errors import UserError
from . import complete
from .common import (
    COUNT,
    Compute,
    Failures,
    begun,
    compute_options,
    files_argument,
    output_option,
    progress,
    text_lang_option,
)
from .launch import is_first, launch


@click.command()
@files_argument
@text_lang_option
@click.option("--text-field", metavar="KEY", help="The input is JSON Lines; embed this key's text.")
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "split", "error"]),
    help="What to do with a text over the encoder's limit; each is reported.  [default: truncate; of a store: split]",
)
@click.option("--whole", is_flag=True, help="Of recordings: each is one utterance.")
@click.option("--max-seconds", default=30.0, show_default=True, help="Of a recording: cut longer utterances at pauses.")
@click.option("--half", is_flag=True, help="Write float16 (.npy, .safetensors, .parquet).")
@output_option
@click.option(
    "--store",
    metavar="DIR",
    help="Segment and embed documents into this folder, for training.",
    shell_complete=complete.folders,
)
@click.option(
    "--max-tokens",
    type=COUNT,
    default=256,
    show_default=True,
    help="Of a store's sentence, at most what the model decodes.",
)
@click.option("--shard-documents", type=click.IntRange(1), default=4096, show_default=True, help="Of a store's shard.")
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes that make a store's shards.")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="What makes a store: --nproc processes, or workers of Ray, here or on a cluster.",
)
@click.option(
    "--ray-address", metavar="ADDRESS", help="Of a Ray that runs (auto, HOST:PORT); else one is started here."
)
@click.option("--workers", type=click.IntRange(1), help="Of Ray, at most.  [default: as many as there is room for]")
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="Of a Ray worker without a GPU.")
@compute_options
@click.pass_obj
def embed(
    words: list[str],
    files: tuple[str, ...],
    lang: str,
    text_field: str | None,
    on_long: str | None,
    whole: bool,
    max_seconds: float,
    half: bool,
    output: str | None,
    store: str | None,
    max_tokens: int,
    shard_documents: int,
    nproc: int,
    engine: str,
    ray_address: str | None,
    workers: int | None,
    cores: int,
    compute: Compute,
) -> None:
    """Turn texts, one a line, into embeddings, in order.

    OUT's ending tells the format: .npy, .safetensors, .parquet, .jsonl or .emb; without it, JSON Lines on stdout.
    Several files, and those of folders, follow each other; JSON Lines and Parquet name each text's file.
    The first fifty lines of a file tell the language of all, or where they are in several each line its own; --lang
    goes before, and before it a record's own "lang". A blank line keeps its place and has the embedding of no words,
    which decode takes for a blank line where the format keeps texts (.parquet, JSON Lines).

    With a speech encoder for -m (or a space with which one comes), FILEs are recordings (.wav, .flac, .ogg, .mp3 …): a
    row an utterance, with its file and the seconds at which it starts and ends.

    With --store, FILEs are documents of one language: JSON Lines ({"text": …, "title"?, "id"?}; also .xz, .gz),
    Parquet, plain texts and folders of them, or hf:ORG/NAME[:SPLIT]. Parquet shards in DIR are what data.store of a
    recipe names. Run again, it goes on where it was; --nproc and torchrun divide the shards. --engine ray gives them to
    workers of Ray, one a GPU or one every so many cores, on all machines of a cluster that see DIR: docs/scale.md.

    \b
    Example:
      sonarllm segment examples/article.txt | sonarllm embed -o article.parquet
      sonarllm embed --store store examples/documents.jsonl
    """
    from ..io.audio import is_recording

    if store is None and any(map(is_recording, files or "-")):
        _embed_recordings(files or ["-"], whole, max_seconds, half, output, compute)
        return
    if store is None:
        if nproc > 1:
            raise UserError("several processes make a store", "add --store DIR, or leave --nproc out")
        _embed_lines(files, lang, text_field, on_long or "truncate", half, output, compute)
        return
    if output or not files or "-" in files:
        raise UserError("a store is made of files, in a folder", "sonarllm embed --store DIR FILE…, without -o")
    options: dict[str, Any] = {
        "lang": lang,
        "text_field": text_field or "text",
        "on_long": on_long or "split",
        "max_tokens": max_tokens,
    }
    if engine == "ray":
        if nproc > 1:
            raise UserError("Ray has workers, not processes", "give --workers in place of --nproc")
        _embed_on_ray(files, store, compute, shard_documents, ray_address, workers, cores, options)
    elif ray_address or workers:
        raise UserError("--ray-address and --workers are Ray's", "add --engine ray")
    elif nproc > 1 and "RANK" not in os.environ:
        launch(nproc, words)  # the same command, which RANK then tells what to do
    else:
        _embed_documents(files, store, compute, shard_documents=shard_documents, **options)


def _embed_lines(
    files: Sequence[str],
    lang: str,
    text_field: str | None,
    on_long: str,
    half: bool,
    output: str | None,
    compute: Compute,
) -> None:
    from ..flow.embed import load_encoder
    from ..flow.embed_text import Line, with_hint
    from ..flow.language import check_languages, lines_told
    from ..io.files import JSON_ENDINGS, display_name, read_lines
    from ..io.texts import expand
    from ..io.vectors import KEEP_TEXTS
    from ..io.vectors_out import EmbeddingWriter, check_output
    from ..runtime import log

    dtype = "float16" if half else "float32"
    check_languages(lang, model=compute.model)
    check_output(output or "-", dtype)  # as a typo: before anything is loaded
    names = expand(files, (".txt", ".text", *JSON_ENDINGS))
    files_rows = begun((name, begun(read_lines(name, text_field=text_field, blank=True))) for name in names)
    encoder = load_encoder(compute.model, compute.runtime)
    several = len(names) > 1
    lines = (
        Line(row.text, own, f"{name + ', ' if several else ''}line {row.number}", name)
        for name, rows in files_rows
        for row, own in with_hint(lines_told(rows, lang, encoder.langs, display_name(name)), display_name(name))
    )
    blank, seen = 0, ""
    options: dict[str, Any] = {"dtype": dtype, "columns": {"file": str}}
    with EmbeddingWriter(output or "-", dim=encoder.dim, fingerprint=encoder.fingerprint, **options) as writer:
        blocks = encoder.stream(lines, batch_size=compute.batch_size, on_long=on_long)
        for block in progress(blocks, "embedding", compute.bar, lambda b: len(b.lines), None):
            for cut in block.cuts:
                log.warning("sonarllm: %s", cut)
            empty = [x.place for x in block.lines if not x.text.strip()]
            blank, seen = blank + len(empty), seen or "".join(empty[:1])
            writer.write(
                block.embeddings_ND,
                [x.text for x in block.lines],
                [x.lang for x in block.lines],
                [{"file": x.file} for x in block.lines],
            )
    if blank:
        lost = "" if writer.ending in KEEP_TEXTS else f"; {' and '.join(KEEP_TEXTS)} tell decode so"
        log.warning("sonarllm: %d blank (first: %s), embedded as no words%s", blank, seen, lost)


def _embed_recordings(
    files: Sequence[str], whole: bool, max_seconds: float, half: bool, output: str | None, compute: Compute
) -> None:
    from ..flow.embed import load_speech
    from ..flow.embed_speech import COLUMNS, embed_recordings
    from ..io.audio import Recording
    from ..io.vectors_out import EmbeddingWriter, check_output

    check_output(output or "-", "float16" if half else "float32")
    speech = load_speech(compute.model, compute.runtime)
    options: dict[str, Any] = {"dtype": "float16" if half else "float32", "columns": COLUMNS}
    writing = EmbeddingWriter(output or "-", dim=speech.dim, fingerprint=speech.fingerprint, **options)
    with Failures(several=True) as failures, writing as writer:
        blocks = embed_recordings(
            map(Recording, files), speech, whole=whole, max_seconds=max_seconds, batch_size=compute.batch_size
        )
        for block in progress(blocks, "embedding", compute.bar, lambda b: len(b.heard), None):
            if block.failures and len(files) == 1 and not writer.count and not block.heard:
                raise block.failures[0]  # and no file is left behind
            for failure in block.failures:
                failures.tell(failure)
            failures.done |= bool(block.heard)
            count, facts = len(block.heard), [heard._asdict() for heard in block.heard]
            writer.write(block.embeddings_ND, [None] * count, [speech.lang or None] * count, facts)


def _embed_on_ray(
    files: Sequence[str],
    store: str,
    compute: Compute,
    shard_documents: int,
    address: str | None,
    workers: int | None,
    cores: int,
    options: dict[str, Any],
) -> None:
    from pathlib import Path

    from ..data.embedder import DocumentEmbedder
    from ..data.on_ray import embed_on_ray
    from ..runtime import set_up_logging

    set_up_logging(compute.quiet)
    embedder = DocumentEmbedder(model=compute.model, device=compute.device, dtype=compute.dtype, **options)
    made = embed_on_ray(
        files,
        Path(store),
        embedder,
        shard_documents=shard_documents,
        address=address,
        workers=workers,
        cores=cores,
        shown=_counted(""),
    )
    _told(made, store)


def _counted(by: str) -> Callable[[int], None]:
    """Says how many documents are done, together, whenever some are."""
    from ..runtime import log

    done = 0

    def shown(documents: int) -> None:
        nonlocal done
        done += documents
        log.info("%d documents%s", done, by)

    return shown


def _told(made: dict[str, Any], store: str) -> None:
    from ..runtime import log

    log.info("%d documents, %d sentences in %d shards", made["documents"], made["sentences"], len(made["shards"]))
    click.echo(store)


def _embed_documents(files: Sequence[str], store: str, compute: Compute, *, lang: str, **options: Any) -> None:
    from pathlib import Path

    from ..data.store import embed_documents
    from ..flow.language import check_languages
    from ..learn.ranks import Ranks
    from ..runtime import choose, set_up_logging
    from ..weights.loaded import load_space

    check_languages(lang, model=compute.model)
    set_up_logging(compute.quiet or not is_first())
    ranks = Ranks(compute.device)
    space = load_space(compute.model, choose(str(ranks.device), compute.dtype))
    by = f" by each of {ranks.count} processes" if ranks.count > 1 else ""
    made = embed_documents(files, Path(store), space, lang=lang, ranks=ranks, shown=_counted(by), **options)
    ranks.leave()
    if made:
        _told(made, store)
