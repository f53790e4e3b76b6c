"""sonarllm score: a number for each row of two files, or one."""

from __future__ import annotations

import functools

import click

from . import complete
from .common import (
    Compute,
    compute_options,
    json_option,
    line,
    output_option,
    speech_option,
    text_lang_option,
    to_lang_option,
)


@click.command()
@click.argument("a", metavar="A", shell_complete=complete.files)
@click.argument("b", metavar="[B]", required=False, shell_complete=complete.files)
@text_lang_option
@to_lang_option
@speech_option
@click.option(
    "--ref",
    metavar="FILE",
    help="Reference translations in B's language, for a BLASER taught with them.",
    shell_complete=complete.files,
)
@click.option("--summary", is_flag=True, help="Only the mean and how many.")
@json_option
@output_option
@compute_options
def score(
    a: str,
    b: str | None,
    lang: str,
    to_lang: str,
    speech: str,
    ref: str | None,
    summary: bool,
    as_json: bool,
    output: str | None,
    compute: Compute,
) -> None:
    """Score rows, texts one a line, a recording's utterances, or files that embed wrote: the cosine of A's and B's, or
    with a head for -m what it says. BLASER 2.0 takes sources A and translations B, and with --ref references (about
    1 to 5, higher is better); MuTox takes A alone (a logit, higher is more toxic). A blank line keeps its row.

    \b
    Example:
      sonarllm score examples/story.de.txt examples/story.de.txt --summary
    """
    from ..errors import RunError
    from ..flow.language import check_languages
    from ..io.audio import check_speech
    from ..io.files import open_output
    from ..use.score import load_head
    from ..use.score import score as scores
    from ..use.sides import read_side
    from ..weights.loaded import load_space

    check_languages(lang, to_lang, model=compute.model)
    check_speech(speech, filter(None, [a, b, ref]))
    head = load_head(compute.model, compute.runtime)
    space = functools.cache(lambda: load_space(head.space if head else compute.model, compute.runtime))
    given = [(a, lang), *((path, to_lang) for path in (b, ref) if path)]
    read = functools.partial(read_side, space=space, speech=speech, batch_size=compute.batch_size, blank=True)
    sides = [read(path, lang=own) for path, own in given]
    score_N = scores(sides, head)
    if not len(score_N):
        raise RunError("there is no row to score", "give some texts")
    with open_output(output) as out:
        if summary:
            mean, count = round(score_N.mean(dtype="float64").item(), 6), len(score_N)
            print(line({"mean": mean, "rows": count}) if as_json else f"mean {mean:.6f} of {count} rows", file=out)
            return
        for row, value in enumerate(score_N.tolist()):
            print(line({"row": row, "score": round(value, 6)}) if as_json else f"{value:.6f}", file=out)
