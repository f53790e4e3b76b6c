"""sonarllm search: a query → the nearest sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from . import complete
from .common import (
    COUNT,
    Compute,
    Failures,
    compute_options,
    json_option,
    language_option,
    line,
    output_option,
    speech_option,
    text_lang_option,
)

if TYPE_CHECKING:
    from ..use.search import Hit


@click.command()
@click.argument("arguments", nargs=-1, metavar="QUERY FILE…", shell_complete=complete.files)
@click.option("-e", "--query", "queries", multiple=True, metavar="QUERY", help="A query; may be given again.")
@text_lang_option
@language_option("--query-lang", "Language of the queries, if not --lang.", "")
@speech_option
@click.option("-k", type=COUNT, default=5, show_default=True, help="Sentences for each query.")
@click.option("--threshold", default=-1.0, help="Least cosine of a sentence.")
@click.option("--context", type=click.IntRange(0), default=0, metavar="N", help="Sentences around each, too.")
@click.option("--no-cache", is_flag=True, help="Embed every file anew, and keep nothing.")
@json_option
@output_option
@compute_options
def search(
    arguments: tuple[str, ...],
    queries: tuple[str, ...],
    lang: str,
    query_lang: str,
    speech: str,
    k: int,
    threshold: float,
    context: int,
    no_cache: bool,
    as_json: bool,
    output: str | None,
    compute: Compute,
) -> None:
    """Find the sentences nearest to a query in texts, recordings, folders, and files that embed wrote, in any language
    of the space: cosine, place in characters or time, sentence. What is said in a recording is decoded for the hits.

    With -e every argument is a FILE; the QUERY - reads queries from standard input, one a line. The vectors of texts
    and recordings are kept in the cache directory: only new and changed files are embedded. A file that can't be
    read within a folder is left out, told, and makes the exit code 1.

    \b
    Example:
      sonarllm search "What do otters eat?" examples/otters.txt
      sonarllm search -e "loutre de mer" --json examples/otters.txt examples/article.txt
    """
    from ..flow.language import check_languages
    from ..io.files import open_output, read_lines
    from ..use.search import search as find

    asked, files = list(queries), list(arguments)
    if not queries and files:
        first = files.pop(0)
        asked = [row.text for row in read_lines("-")] if first == "-" else [first]
    if not asked or not files:
        example = 'sonarllm search "toothache" notes/'
        if not asked:
            raise UserError("a query and files to search are wanted", example)
        if not queries and Path(asked[0]).exists():
            raise UserError(f"no query: {asked[0]} is what to search", f"name the query before it: {example}")
        raise UserError(f"no files to search: {asked[0]!r} was taken as the query", f"name them after it: {example}")
    check_languages(lang, query_lang, model=compute.model)
    found = find(
        asked,
        files,
        compute.space,
        lang=lang,
        query_lang=query_lang,
        speech=speech,
        k=k,
        threshold=threshold,
        context=context,
        batch_size=compute.batch_size,
        cache=not no_cache,
    )
    with open_output(output) as out:
        colour = output is None and out.isatty()
        for query, hits in zip(asked, found.hits):
            if len(asked) > 1 and not as_json:
                print(f"# {query}", file=out)
            for hit in hits:
                print(_record(query, hit) if as_json else _shown(hit, colour), file=out)
    with Failures(several=True) as failures:
        failures.done = True
        for error in found.failed:
            failures.tell(error)


def _record(query: str, hit: Hit) -> str:
    """A hit as a line of JSON: `start` and `end` of a sentence of running text, or of an utterance in seconds; `row` of
    another."""
    place = {"row": hit.row} if hit.start is None else {"start": hit.start, "end": hit.end}
    around = {name: list(value) for name, value in (("before", hit.before), ("after", hit.after)) if value}
    return line({"query": query, "score": round(hit.score, 4), "file": hit.file, **place, "text": hit.text, **around})


def _shown(hit: Hit, colour: bool) -> str:
    """A hit as a line: cosine, file and place, sentence; the sentences around it are lines of their own, indented."""
    rows = [f"{hit.score:.3f}  {hit.file}:{hit.place}  {hit.text}"]
    if colour:
        score, file = click.style(f"{hit.score:.3f}", fg="green"), click.style(hit.file, fg="magenta")
        rows = [f"{score}  {file}:{hit.place}  {click.style(hit.text, bold=True)}"]
    before, after = ([f"       {text}" for text in side] for side in (hit.before, hit.after))
    return "\n".join([*before, *rows, *after])
