"""sonarllm evaluate …: tasks of embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from ..errors import UserError
from . import complete
from .evaluate_task import (
    beam_option,
    bleu_option,
    encoder_peer_option,
    out_option,
    task,
    task_options,
    whole_option,
    words_option,
)


def _pair_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return task_options(command, ())


def _beside(peer: str | None, result: dict[str, Any]) -> dict[str, Any]:
    """A result whose settings say which peer's figures are in it."""
    result["settings"] |= {"peer": peer} if peer else {}
    return result


autoencode = task(
    "autoencode",
    "Embed and decode in one language",
    "Embed and decode in the same language: BLEU and exact match of sentences of so many words, of pairs or documents.",
    "--data examples/pairs.jsonl --limit 2",
    (beam_option, words_option, bleu_option),
)
translate = task(
    "translate",
    "Translate into English, or out of it",
    "Translate sentences into English, or out of it, as `translate` does: chrF and BLEU by language, of pairs.",
    "--data examples/pairs.jsonl --limit 2",
    (beam_option, words_option, out_option, whole_option, bleu_option),
)


@click.command(short_help="Find each text's translation by its embedding")
@click.option(
    "--plus",
    metavar="FILE",
    help="More English candidates, one a line: xsim++'s altered sentences.",
    shell_complete=complete.files,
)
@click.option(
    "--types",
    metavar="FILE",
    help='JSON of each altered sentence\'s type: {SENTENCE: {"errtype": TYPE}}.',
    shell_complete=complete.files,
)
@_pair_options
def xsim(options: dict[str, Any], plus: str | None, types: str | None) -> dict[str, Any]:
    """How often a text's translation is not its nearest neighbour, of pairs. With --plus also among altered sentences
    (xsim++: LASER's eng_Latn_augmented.devtest for FLORES): then errors are told by kind, misaligned with another
    text's translation or altered, and with --types how.

    \b
    Example:
      sonarllm evaluate xsim --data examples/pairs.jsonl
    """
    from ..io.files import read_lines
    from ..score import spaces, tasks

    candidates = [row.text for row in read_lines(plus)] if plus else []
    if types and not plus:
        raise UserError("--types are those of altered sentences", "give them with --plus FILE")
    named = spaces.altered_types(types) if types else None
    run = functools.partial(spaces.xsim_errors, plus=candidates, types=named)
    result = tasks.evaluate("xsim", run=run, **options)
    result["settings"] |= {"plus": plus, **({"types": types} if types else {})} if plus else {}
    return result


@click.command(short_help="Find the note that answers a query")
@encoder_peer_option
@_pair_options
def search(options: dict[str, Any], peer: str | None) -> dict[str, Any]:
    """How often the note that answers a query is the nearest, and among the five nearest, of notes ({"id", "lang",
    "text"}) and queries ({"lang", "text", "note"}: the note's id), each in its own language.

    \b
    Example:
      sonarllm evaluate search --data examples/search.jsonl
    """
    from ..score.spaces import retrieval
    from ..score.tasks import evaluate as score

    return _beside(peer, score("search", run=functools.partial(retrieval, peer=peer or ""), **options))


speech = task(
    "speech",
    "Clips against their words: search, decoding",
    "Clips ({audio, text, lang}, JSON Lines, TSV or Parquet) against their words: how often the vector of one is not "
    "nearest to the other's, and what is decoded: BLEU, chrF, word error rate. -m is a speech encoder.",
    "-m my-ears --data clips.tsv",
    (beam_option,),
)


@click.command(short_help="Align documents whose pairs are known")
@click.option("--noise", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of pairs changed.")
@click.option(
    "--peer",
    type=click.Choice(["vecalign"]),
    help="Beside its own code on the same vectors (pip install sentweave).",
)
@_pair_options
def align(options: dict[str, Any], noise: float, peer: str | None) -> dict[str, Any]:
    """Precision, recall and F1 of the pairs that `align` finds in documents made of pairs, in their order, of which a
    share is joined, split, left out or exchanged on one side; strict: a pair counts if all of it is right.

    \b
    Example:
      sonarllm evaluate align --data examples/pairs.jsonl
    """
    from ..score.spaces import aligned
    from ..score.tasks import evaluate as score

    result = score("align", run=aligned(noise, peer or ""), **options)
    result["settings"]["noise"] = noise
    return _beside(peer, result)


@click.command(short_help="Mine pairs hidden among strangers")
@click.option("--strangers", type=click.IntRange(0), default=10, show_default=True, help="Times as many as pairs.")
@click.option("--threshold", type=float, help="Figures at this margin, too.")
@encoder_peer_option
@_pair_options
def bitext(options: dict[str, Any], strangers: int, threshold: float | None, peer: str | None) -> dict[str, Any]:
    """Precision, recall and F1 of `mine` (ratio margin, max) on pairs among texts without counterpart, at the threshold
    that makes F1 best: of the pairs of the data one in 1 + STRANGERS is kept, the others give one side.

    \b
    Example:
      sonarllm evaluate bitext --data examples/pairs.jsonl --strangers 2
    """
    from ..score.spaces import mined
    from ..score.tasks import evaluate as score

    result = score("bitext", run=mined(strangers, threshold, peer or ""), **options)
    result["settings"]["strangers"] = strangers
    return _beside(peer, result)


@click.command(short_help="Tell foreign text from a space's own field")
@click.option(
    "--foreign",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help='Texts of other kinds: {"text", "kind"}; may be given again.',
)
@_pair_options
def familiar(options: dict[str, Any], foreign: tuple[str, ...]) -> dict[str, Any]:
    """How well a space tells text of its field (--data, documents) from text of other kinds (--foreign): the area under
    the ROC curve, in per cent (50: not at all), of the bits a byte by which it reconstructs a text, for all and for
    each kind; and, of a model that writes, how much of each it takes for its own.

    \b
    Example:
      sonarllm evaluate familiar --data examples/documents.jsonl --foreign examples/foreign.jsonl
    """
    from ..score.field import fields
    from ..score.tasks import evaluate as score

    if not foreign:
        raise UserError("no foreign text to tell from the field", "name it: --foreign examples/foreign.jsonl")
    options["data"] = [*options["data"], *foreign]  # both are hashed
    return score("familiar", run=functools.partial(fields, foreign=foreign), **options)


SPACES = (autoencode, translate, xsim, search, speech, align, bitext, familiar)
