"""sonarllm bench train: a step of ours against the published script's."""

from __future__ import annotations

from typing import Any

import click

from . import complete
from .common import SEED, json_option, line


@click.command("train")
@click.option(
    "--data",
    default="",
    metavar="FILE",
    help="Documents to take sentence lengths from; else a sample's.",
    shell_complete=complete.files,
)
@click.option("--documents", type=click.IntRange(1), default=8, show_default=True, help="Of a step.")
@click.option("--micro-batch", type=click.IntRange(1), default=8, show_default=True, help="Documents padded together.")
@click.option("--decoder-layers", type=click.IntRange(1), default=2, show_default=True, help="The published has 24.")
@click.option("--vocab-size", type=click.IntRange(300), default=256_206, show_default=True, help="Words of the table.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Timed; the median is shown.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--dtype", type=click.Choice(["float32", "tf32", "bfloat16"]), default="float32", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="On a CPU.")
@click.option(
    "--nproc", type=click.IntRange(1), default=1, help="Time this many processes, and their waiting, instead."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights and of which documents.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@json_option
def train(
    data: str,
    documents: int,
    micro_batch: int,
    decoder_layers: int,
    vocab_size: int,
    steps: int,
    device: str,
    dtype: str,
    threads: int,
    nproc: int,
    seed: int,
    as_json: bool,
) -> None:
    """Time one optimisation step through a frozen decoder of the published width and vocabulary: ours, and a rewrite
    of the published script's, on the same weights and sentences. With dropout off their losses must agree.

    With --nproc the processes share the documents: how long they wait for each other's gradients is shown for sums
    taken after the backward pass, and while it computes, as train takes them.

    \b
    Example:
      sonarllm bench train --documents 1 --micro-batch 1 --decoder-layers 1 --steps 1
    """
    from ..bench.processes import measure_processes
    from ..bench.step import BenchTrain, compare

    setup = BenchTrain(
        data=data,
        documents=documents,
        micro=micro_batch,
        decoder_layers=decoder_layers,
        vocab_size=vocab_size,
        steps=steps,
        device=device,
        dtype=dtype,
        threads=threads,
        seed=seed,
    )
    if nproc > 1:
        _processes(measure_processes(setup, nproc), as_json)
        return
    found = compare(setup)
    if as_json:
        print(line(found))
        return
    print(f"{'step':10} {'sentences/s':>12} {'peak memory':>12} {'of matrix rate':>15} {'loss, no dropout':>17}")
    for name in ("published", "ours"):
        row = found[name]
        memory = f"{row['peak_bytes'] / 2**30:.2f} GiB"
        share = f"{100 * row['peak_share']:.0f} %"
        print(f"{name:10} {row['sentences_s']:12.2f} {memory:>12} {share:>15} {row['loss']:17.6f}")
    print(f"ours: {found['speed_up']:.2f} × the sentences/s, {found['memory_share']:.2f} × the peak memory")


def _processes(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(line(found))
        return
    print(f"{'gradients':24} {'sentences/s':>12} {'seconds a step':>15} {'spent waiting':>14}")
    names = {"apart": "not summed", "after": "summed after backward", "during": "summed during backward"}
    for way, row in found["ways"].items():
        rate = found["sentences"] / row["seconds"]
        print(f"{names[way]:24} {rate:12.2f} {row['seconds']:15.3f} {100 * row['waiting']:12.1f} %")
    print(f"{found['processes']} processes, {found['gradient_bytes'] / 2**20:.0f} MiB of gradients each")
