"""sonarllm align: two documents → their sentences in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from ..errors import UserError
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

if TYPE_CHECKING:
    import numpy as np

    from ..flow.utterances import Utterance


@click.command()
@click.argument("a", metavar="A", shell_complete=complete.files)
@click.argument("b", metavar="B", shell_complete=complete.files)
@text_lang_option
@to_lang_option
@speech_option
@click.option("--lines", is_flag=True, help="A sentence a line: don't segment.")
@click.option(
    "--max", "most", type=click.IntRange(2, 16), default=4, show_default=True, help="Sentences of a pair, in all."
)
@click.option(
    "--vectors-a",
    nargs=2,
    metavar="TEXTS RAW",
    help="Of A's joined sentences, one a line: raw float32.",
    shell_complete=complete.files,
)
@click.option(
    "--vectors-b",
    nargs=2,
    metavar="TEXTS RAW",
    help="The same of B. With both, no model is needed.",
    shell_complete=complete.files,
)
@click.option(
    "--write-vectors", metavar="DIR", help="Write them: a.txt, a.emb, b.txt, b.emb.", shell_complete=complete.folders
)
@click.option("--vecalign", is_flag=True, help="Write numbers from 0 and costs, [0, 1]:[0]:0.25, as vecalign does.")
@json_option
@output_option
@compute_options
def align(
    a: str,
    b: str,
    lang: str,
    to_lang: str,
    speech: str,
    lines: bool,
    most: int,
    vectors_a: tuple[str, str] | None,
    vectors_b: tuple[str, str] | None,
    write_vectors: str | None,
    vecalign: bool,
    as_json: bool,
    output: str | None,
    compute: Compute,
) -> None:
    """Align the sentences of two documents that say the same, in order, many to many: cost, A's sentences, B's, with
    tabs between. A side is empty where a sentence has no counterpart. Of a recording, such as a talk beside its
    translation's text, the sentences are utterances; --json has the seconds from start to end.

    The lower the cost, the surer. By the embedded model most right pairs cost less than 0.65, and what costs more wants
    a look (docs/recipes.md).

    \b
    Example:
      sonarllm align examples/story.de.txt examples/story.en.txt
    """
    import numpy as np

    from ..flow.language import check_languages
    from ..io.audio import check_speech, is_recording
    from ..io.files import open_output
    from ..use import align as aligning
    from ..use.sides import read_recorded

    check_languages(lang, to_lang, model=compute.model)
    check_speech(speech, [a, b])
    sides = []
    times: dict[str, Sequence[Utterance]] = {}
    for path, own, given, name in ((a, lang, vectors_a, "a"), (b, to_lang, vectors_b, "b")):
        if is_recording(path):
            if given or write_vectors:
                raise UserError(
                    f"{path} is a recording, without texts to name its vectors",
                    "leave out --vectors-a, --vectors-b and --write-vectors",
                )
            spoken = read_recorded(path, own, compute.space, speech, compute.batch_size)
            vectors_ND = np.concatenate(list(spoken.blocks()))
            times[name] = spoken.heard.times
            sides.append((spoken.heard.words(), aligning.heard_document(vectors_ND, most=most, name=spoken.name)))
            continue
        sentences = aligning.read_sentences(path, own, lines)
        embed = aligning.read_vectors(*given) if given else _embedding(path, own, compute)
        if write_vectors:
            embed = aligning.writing_vectors(embed, write_vectors, name)
        sides.append((sentences, aligning.document(sentences, embed, most=most, name=path)))
    (texts_a, document_a), (texts_b, document_b) = sides
    with open_output(output) as out:
        for pair in aligning.align(document_a, document_b, most=most):
            text_a, text_b = (" ".join(t[i] for i in r) for t, r in ((texts_a, pair.a), (texts_b, pair.b)))
            if vecalign:
                print(aligning.line_of(pair), file=out)
            elif as_json:
                record = {"a": list(pair.a), "b": list(pair.b), "cost": round(pair.cost, 4)}
                record |= {"text_a": text_a, "text_b": text_b}
                for name, rows in (("a", pair.a), ("b", pair.b)):
                    if rows and name in times:
                        first, last = times[name][rows[0]], times[name][rows[-1]]
                        record |= {f"start_{name}": first.start, f"end_{name}": last.end}
                print(line(record), file=out)
            else:
                print(f"{pair.cost:.4f}\t{text_a}\t{text_b}", file=out)


def _embedding(path: str, lang: str, compute: Compute) -> Callable[[list[str]], np.ndarray]:
    from ..flow.embed_text import Line
    from ..flow.language import TOLD, language_of
    from ..use.sides import embed_lines

    def embed(texts: list[str]) -> np.ndarray:
        space = compute.space
        own = language_of("\n".join(texts[:TOLD]), lang, space.tokenizer.langs, path)
        lines = [Line(text, own, f"sentences {i}") for i, text in enumerate(texts, 1)]
        return embed_lines(path, lines, space, compute.batch_size).vectors_ND

    return embed
