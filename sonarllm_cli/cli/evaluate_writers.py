"""sonarllm evaluate …: tasks of what a model writes."""

from __future__ import annotations

import functools
import os
from typing import Any, TextIO

import click

from ..errors import UserError
from .common import Whole, sampling_options
from .evaluate_task import CONTINUES, WRITES, bleu_option, most_option, show_figures, task, task_options

summarize = task(
    "summarize",
    "Body → title, against the title",
    "Body → title: ROUGE-L and METEOR of as many sentences as the title has, and of the model's own length; beside the "
    "body's first sentence; repetition, and how much is copied. Takes documents with titles.",
    "--data examples/documents.jsonl --limit 2",
    WRITES,
)
nextsentence = task(
    "nextsentence",
    "Cross-entropy of the next sentence",
    "Cross-entropy of the next sentence: clean and reference readings in nats a token, and bits a byte. For the LCMs "
    "it is the decoder's, on the embedding that they predict. Takes documents.",
    "--data examples/documents.jsonl --limit 2",
    (sampling_options,),
)
generate = task(
    "generate",
    "Continue a text: repetition, first sentence",
    "A text continued from two sentences: repetition, and ROUGE-L and METEOR of the first written; --json has texts to "
    "read. Takes documents.",
    "--data examples/documents.jsonl --limit 2",
    (*CONTINUES, most_option),
)
nlg = task(
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


@click.command("extract", short_help="Choose a text's own sentences, or write: ways side by side")
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


@click.command(short_help="Have a language model grade continuations")
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


WRITERS = (summarize, nextsentence, generate, nlg, extract, judge)
