"""sonarllm mine: two sets of texts → pairs that say the same; one → the set without near-duplicates."""

from __future__ import annotations

import functools

import click

from ..errors import UserError
from . import complete
from .common import (
    COUNT,
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
@click.option("-k", type=COUNT, default=4, show_default=True, help="Neighbours that the margin is over.")
@click.option("--margin", type=click.Choice(["ratio", "distance", "absolute"]), default="ratio", show_default=True)
@click.option(
    "--retrieval",
    type=click.Choice(["max", "intersection", "forward", "backward"]),
    default="max",
    show_default=True,
    help="A's best of B, B's best of A, both, or either while both are free.",
)
@click.option(
    "--threshold",
    type=float,
    help="Least margin; with --dedup the cosine of near-duplicates.  [then: 0.95]",
)
@click.option("--dedup", is_flag=True, help="Instead: A without near-duplicates, of which the first stays.")
@json_option
@output_option
@compute_options
def mine(
    a: str,
    b: str | None,
    lang: str,
    to_lang: str,
    speech: str,
    k: int,
    margin: str,
    retrieval: str,
    threshold: float | None,
    dedup: bool,
    as_json: bool,
    output: str | None,
    compute: Compute,
) -> None:
    """Find pairs that say the same in two sets of texts, one a line, recordings, or files that embed wrote: margin, A's
    text, B's, with tabs between, best first. Of equal texts of a set the first is taken.

    Files of embeddings are read in blocks, so that sets may be larger than memory.

    The higher the margin, the surer. By the embedded model 1.15 is right nine times in ten among sentences of news, and
    1.3 seven times in ten among short everyday ones, of which many are nearly the same (docs/recipes.md).

    \b
    Example:
      sonarllm mine examples/article.txt examples/otters.txt --margin absolute
      sonarllm mine examples/otters.txt --dedup
    """
    from ..flow.language import check_languages
    from ..io.audio import check_speech
    from ..io.files import open_output
    from ..use import mine as mining
    from ..use.sides import read_side

    if dedup == (b is not None):
        raise UserError("two sets are mined, one is rid of near-duplicates", "name A and B, or A and --dedup")
    check_languages(lang, to_lang, model=compute.model)
    check_speech(speech, filter(None, [a, b]))
    space, batch_size = lambda: compute.space, compute.batch_size
    read = functools.partial(read_side, space=space, speech=speech, batch_size=batch_size, hint=True)
    one = read(a, lang=lang)
    if b is None:
        rows = mining.without_duplicates(one, 0.95 if threshold is None else threshold)
        texts = one.texts(rows)
        with open_output(output) as out:
            for row in rows:
                print(line({"row": row, "text": texts[row]}) if as_json else texts[row], file=out)
        return
    found = mining.mine(one, read(b, lang=to_lang), k=k, margin=margin, retrieval=retrieval, threshold=threshold)
    with open_output(output) as out:
        for pair in found:
            score = round(pair.score, 6)
            if as_json:
                record = {"score": score, "a": pair.a, "b": pair.b, "text_a": pair.text_a, "text_b": pair.text_b}
                print(line(record), file=out)
            else:
                print(f"{score:.6f}\t{pair.text_a}\t{pair.text_b}", file=out)
