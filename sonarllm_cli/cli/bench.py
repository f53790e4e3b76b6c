"""sonarllm bench: what a context costs, and how fast each arrow of the chain is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from . import complete
from .bench_train import train
from .common import (
    COUNT,
    SEED,
    Whole,
    device_option,
    json_option,
    line,
    model_option,
    quiet_options,
    reporting,
)
from .groups import NamingGroup

PEERS = ("sonar-space", "transformers", "ctranslate2", "onnxruntime")  # what bench/peers.py builds
threads_option = click.option("--threads", type=Whole(high=4096), help="Processor cores to use.")
layers_option = click.option(
    "--layers", type=Whole(0), default=0, show_default=True, help="Layers of the published size; 0: all 24."
)


def tokens(text: str) -> int:
    """ "64K", "1M" or a plain number; K is 1,024 and M 1,048,576."""
    number, unit = text[:-1], text[-1:].upper()
    factor = {"K": 1 << 10, "M": 1 << 20}.get(unit)
    digits = number if factor else text
    if not digits.isdecimal() or int(digits) < 1:
        raise UserError(f"--context {text!r} is not a number of tokens", "use --context 1M, or 4096")
    return int(digits) * (factor or 1)


@click.group(cls=NamingGroup, invoke_without_command=True)
@click.option("--context", metavar="N", help="Tokens to go up to: 64K, 1M …")
@click.option(
    "--tokens-per-sentence", type=COUNT, default=60, show_default=True, help="Of the document that is measured."
)
@click.option("--time-limit", default=45.0, show_default=True, help="Seconds for the token LLM; beyond, extrapolated.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="float32, bfloat16, tf32 (GPU), int8 (CPU) or auto.",
    shell_complete=complete.dtypes,
)
@click.option(
    "--plot", metavar="FILE", help="Draw seconds over tokens (.png, .svg, .pdf).", shell_complete=complete.files
)
@model_option()
@device_option
@threads_option
@json_option
@quiet_options
@click.pass_context
def bench(
    ctx: click.Context,
    context: str | None,
    tokens_per_sentence: int,
    time_limit: float,
    dtype: str,
    plot: str | None,
    model: str,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """What a context costs SONAR-LLM and a token LLM with the same body: operations, seconds, memory, crossover.

    With a subcommand: how fast embedding, decoding and generating are on this machine.

    \b
    Example:
      sonarllm bench --context 4K --time-limit 2
    """
    if ctx.invoked_subcommand:
        return
    if not context:
        raise UserError("nothing to measure", "give --context 1M, or see sonarllm bench --help")
    most = tokens(context)
    import sys

    from ..bench.context import bench_context
    from ..bench.context import plot as draw
    from ..learn.curves import check_picture
    from ..runtime import choose, set_up_logging
    from ..weights.loaded import load_writer

    set_up_logging(quiet)
    if plot:
        check_picture(Path(plot))
    writer = load_writer(model, choose(device, dtype, threads))
    with reporting(not quiet and sys.stderr.isatty()) as report:
        result = bench_context(writer, most, tokens_per_sentence, time_limit, report)
    if plot:
        draw(result, plot)
    if as_json:
        print(line(result))
    else:
        _show_context(result)


bench.add_command(train)


def _show_context(result: dict[str, Any]) -> None:
    header = ("tokens", "SONAR-LLM", "", "", "token LLM", "", "", "ratio of seconds")
    rows = [("", "TFLOP", "seconds", "memory", "TFLOP", "seconds", "memory", "")]
    for p in result["points"]:
        mark = "~" if p["extrapolated"] else ""
        rows.append(
            (
                f"{p['tokens']:,}",
                f"{p['sonar_flops'] / 1e12:.3g}",
                f"{p['sonar_seconds']:.3g}",
                f"{p['sonar_bytes'] / 1e6:,.0f} MB",
                f"{p['token_flops'] / 1e12:.3g}",
                f"{mark}{p['token_seconds']:.3g}",
                f"{mark}{p['token_bytes'] / 1e6:,.0f} MB",
                f"{mark}{p['token_seconds'] / p['sonar_seconds']:.3g}",
            )
        )
    _table(header, rows)
    print("Both read the document with a cache; SONAR-LLM embeds it first and writes one sentence (beam 1).")
    print("The token LLM: the same body, a token table, random weights. ~ extrapolated. Memory: above the weights.\n")
    names = list(result["parameters"])
    places = {None: "none up to 16M", 0: "always cheaper"}
    rows = [
        (how, *(places.get(found[n]) or f"{found[n]:,.0f} tokens" for n in names))
        for how, found in result["crossover"].items()
    ]
    _table(("SONAR-LLM costs less from, when we count:", *names), rows)
    print(f"{result['tokens per sentence']} tokens a sentence; encoder and decoder included.")


work_options: tuple[Callable[[Any], Any], ...] = (
    click.option("--peer", type=click.Choice(PEERS), help="Compare with this library; engines in int8 too."),
    click.option(
        "--peer-python",
        default="",
        metavar="PATH",
        help="The Python that has it, if not this one.",
        shell_complete=complete.files,
    ),
    click.option("--size", type=click.Choice(["published"]), help="Random weights of the published shape; no model."),
    layers_option,
    click.option(
        "--dtypes",
        default="auto",
        show_default=True,
        help="To compare, the first is 1: float32,tf32,bfloat16,int8. auto: those that the device has.",
    ),
    click.option("--texts", type=COUNT, default=32, show_default=True, help="Texts at once."),
    click.option("--rounds", type=COUNT, default=3, show_default=True, help="In turns; the median is shown."),
    click.option("--beam", type=COUNT, default=5, show_default=True, help="Beams of the search."),
    click.option(
        "--max-tokens", type=COUNT, default=24, show_default=True, help="Of a decoded text, prompt and </s> included."
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Of random words and weights."),
    model_option(),
    device_option,
    threads_option,
    json_option,
)


def work(command: Callable[..., Any]) -> click.Command:
    """A subcommand with what all of them take; it gets a `Wish`."""
    for option in reversed(work_options):
        command = option(command)
    return bench.command()(quiet_options(command))


def _wish(quiet: bool, threads: int | None, device: str, size: str | None, dtypes: str, texts: int, **own: Any) -> Any:
    from ..bench.chain import Wish
    from ..runtime import choose, multiplies_bfloat16, set_up_logging

    set_up_logging(quiet)
    if dtypes == "auto":
        place = choose(device).device
        gpu, cpu = place.type == "cuda", place.type == "cpu"
        has = {"float32": True, "tf32": gpu, "bfloat16": multiplies_bfloat16(place), "int8": cpu}
        names = tuple(name for name, there in has.items() if there)
    else:
        names = tuple(dtypes.split(","))
    for name in names:
        runtime = choose(device, name, threads)
    return Wish(published=bool(size), dtypes=names, count=texts, device=str(runtime.device), **own)


@work
@click.option(
    "--quality",
    metavar="FILE",
    help="Texts, one a line: what each dtype costs in BLEU, instead of speed.",
    shell_complete=complete.files,
)
@click.option(
    "--lang", default="eng_Latn", show_default=True, help="Language of the texts.", shell_complete=complete.languages
)
def embed(as_json: bool, quality: str | None, lang: str, **values: Any) -> None:
    """Time embedding: texts a second, share of the float32 matrix rate, cosine with the first dtype's embeddings.

    \b
    Example:
      sonarllm bench embed --texts 8 --rounds 1
    """
    from ..bench import chain as measure

    wish = _wish(**values)
    if not quality:
        _show(measure.bench_embed(wish), as_json)
        return
    from ..io.files import read_lines

    result = measure.quality(wish, [row.text for row in read_lines(quality)], lang)
    _show(result, as_json)


@work
@click.option(
    "--shortlist", type=Whole(0), default=0, metavar="N", help="Also with a shortlist of N words; 0: without."
)
def decode(as_json: bool, **values: Any) -> None:
    """Time beam search of one sentence and of --texts at once: a step's time, share of the memory bandwidth.

    \b
    Example:
      sonarllm bench decode --texts 2 --rounds 1
    """
    from ..bench.chain import bench_decode

    _show(bench_decode(_wish(**values)), as_json)


@work
@click.option("--sentences", type=COUNT, default=32, show_default=True, help="To write.")
@click.option("--read", type=COUNT, default=1000, show_default=True, help="Sentences before the one that is predicted.")
def generate(as_json: bool, sentences: int, read: int, **values: Any) -> None:
    """Time predicting, cached and recomputed, and writing a text, against the published loop.

    \b
    Example:
      sonarllm bench generate --sentences 2 --read 20 --rounds 1
    """
    from ..bench.chain import bench_generate

    _show(bench_generate(_wish(**values), sentences, read), as_json)


@bench.command()
@model_option("A speech encoder; else the published shape, with random weights.", default="")
@click.option("--size", type=click.Choice(["published"]), help="Random weights of the published shape; no model.")
@click.option("--peer", type=click.Choice(["sonar-space"]), help="Compare with this library.")
@click.option(
    "--peer-python",
    default="",
    metavar="PATH",
    help="The Python that has it, if not this one.",
    shell_complete=complete.files,
)
@layers_option
@click.option("--dtypes", default="auto", show_default=True, help="float32,bfloat16,int8. auto: those there are.")
@click.option("--texts", type=COUNT, default=16, show_default=True, help="Utterances.")
@click.option("--rounds", type=COUNT, default=3, show_default=True, help="In turns; the median is shown.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of noise and weights.")
@device_option
@threads_option
@json_option
@quiet_options
def speech(
    quiet: bool,
    threads: int | None,
    device: str,
    dtypes: str,
    texts: int,
    as_json: bool,
    model: str,
    size: str | None,
    peer: str | None,
    **own: Any,
) -> None:
    """Time hearing: seconds of sound a second, features' share of the time, cosine with the first dtype's vectors.

    \b
    Example:
      sonarllm bench speech --layers 1 --texts 2 --rounds 1
    """
    from ..bench.speech import SpeechWish, bench_speech

    wish = _wish(quiet, threads, device, None, dtypes, max(texts, 1), rounds=max(own["rounds"], 1))
    own |= {"model": "" if size else model, "peer": peer or ""}
    _show(bench_speech(SpeechWish(dtypes=wish.dtypes, count=texts, device=wish.device, **own)), as_json)


@bench.command()
@click.option(
    "--vectors",
    default="",
    metavar="FILE",
    help="A file of embeddings; else random numbers on disk.",
    shell_complete=complete.files,
)
@click.option("--count", type=click.IntRange(1), default=100_000, show_default=True, help="Random vectors, in float16.")
@click.option("--dim", type=click.IntRange(1), default=1024, show_default=True, help="Of random vectors.")
@click.option("--queries", type=click.IntRange(1), default=16, show_default=True, help="At once.")
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="Nearest to find.")
@click.option("--index", default="flat", show_default=True, metavar="flat,ivf,hnsw", help="Of faiss; '' for none.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="In turns; the median is shown.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of vectors and queries.")
@threads_option
@json_option
@quiet_options
def search(quiet: bool, threads: int | None, index: str, as_json: bool, **own: Any) -> None:
    """Time exact search of vectors on disk beside numpy, and beside faiss where it is installed (its indexes are made
    first and lie in memory): seconds, and the share of the nearest that each finds.

    \b
    Example:
      sonarllm bench search --count 2000 --dim 64 --rounds 1
    """
    from ..bench.neighbours import SearchWish, bench_search
    from ..runtime import choose, set_up_logging

    set_up_logging(quiet)
    choose("cpu", threads=threads)
    _show(bench_search(SearchWish(index=tuple(filter(None, index.split(","))), **own)), as_json)


@bench.command()
@click.option("--count", type=click.IntRange(10), default=20_000, show_default=True, help="Random vectors a side.")
@click.option("--dim", type=click.IntRange(1), default=1024, show_default=True, help="Their width.")
@click.option("-k", type=click.IntRange(1), default=4, show_default=True, help="Neighbours that the margin is over.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="In turns; the median is shown.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the vectors.")
@threads_option
@json_option
@quiet_options
def mine(quiet: bool, threads: int | None, as_json: bool, **own: Any) -> None:
    """Time mining beside LASER's way, a flat index of faiss in each direction, where that is installed.

    \b
    Example:
      sonarllm bench mine --count 500 --dim 64 --rounds 1
    """
    from ..bench.neighbours import MineWish, bench_mine
    from ..runtime import choose, set_up_logging

    set_up_logging(quiet)
    choose("cpu", threads=threads)
    _show(bench_mine(MineWish(**own)), as_json)


@bench.command()
@click.option("--count", type=click.IntRange(400), default=20_000, show_default=True, help="Sentences a side.")
@click.option("--dim", type=click.IntRange(1), default=1024, show_default=True, help="Width of their random vectors.")
@click.option("--peer", type=click.Choice(["vecalign"]), help="Beside its own code (pip install sentweave).")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the vectors.")
@threads_option
@json_option
@quiet_options
def align(quiet: bool, threads: int | None, as_json: bool, peer: str | None, **own: Any) -> None:
    """Time aligning documents of a quarter, a half and all of so many sentences, from their vectors.

    \b
    Example:
      sonarllm bench align --count 400 --dim 64
    """
    from ..bench.neighbours import bench_align
    from ..runtime import choose, set_up_logging

    set_up_logging(quiet)
    choose("cpu", threads=threads)
    _show(bench_align(peer=peer or "", **own), as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    """A result as one line of JSON, or a table under what holds for all its rows."""
    if as_json:
        print(line(result))
        return
    names = list(dict.fromkeys(name for row in result["rows"] for name in row))
    cells = [[_cell(name, row[name]) if name in row else "" for name in names] for row in result["rows"]]
    facts = {k: v for k, v in result.items() if not isinstance(v, (list, dict))}
    print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()))
    _table(names, cells)


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if name.startswith("of ") or name in ("spread", "same texts"):
        return f"{100 * value:.0f} %"
    return f"{value:.5f}" if name == "cosine" else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _table(header: Any, rows: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=200, highlight=False).print(table)
