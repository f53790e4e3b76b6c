"""An article → its summary: what a model writes after it, or the article's own sentences where those are better.

    print([s.text for s in summarize("A long text. …", sentences=3)])

Legend: S sentences of the article, N of the summary, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..io.audio import Recording
from ..languages import resolve
from ..runtime import Runtime, log
from ..weights.loaded import DEFAULT, Writer, load_writer
from .back import Distances
from .compose import Writing, Written, generate_stream, nothing_written, tell_language
from .decode import Search, decode_batch
from .embed_speech import SpeechModel
from .embed_text import embed_sentences
from .extract import best_sentences, share
from .familiar import unfamiliar
from .language import AUTO as TELL
from .predict import Report
from .read import read_input
from .say import say
from .segment import Sentence
from .utterances import Utterance

AUTO = 3  # sentences a summary of its own length may have
SUPPORT = 0.7  # share of an extract's support that what is written has, or the extract is better; docs/extract.md


@dataclass(frozen=True)
class Cited:
    """A sentence of a summary. It was "written" by the model, or "extracted" from the article, whose characters `start`
    to `end` it is (seconds of a recording). `score` is the decoder's log-probability a token, None where nothing was
    decoded; `back_cosine`, of what was said in another language, is that of its embedding with the one that was to be
    said. `sources` are the article's sentences nearest to it: (index, text, cosine), nearest first; of one extracted
    at least itself."""

    text: str
    score: float | None
    sources: list[tuple[int, str, float]]
    how: str = "written"
    start: float | None = None
    end: float | None = None
    times: Sequence[Utterance] = ()  # of the sources, where they were spoken
    back_cosine: float | None = None


def summarize(
    text: str | Recording,
    *,
    sentences: int | None = None,
    lang: str = TELL,
    model: str | Writer = DEFAULT,
    runtime: Runtime | None = None,
    extract: bool | None = None,
    cite: int = 0,
    writing: Writing | None = None,
    report: Report | None = None,
    speech: str | SpeechModel = "",
    name: str = "",
    **options: Any,
) -> list[Cited]:
    """A summary of `text`, or of a recording heard by the encoder `speech`, in at most `sentences` sentences; if it is
    None in as many as the model writes, 3 at most, or a third of the text's own. Fewer are logged where a number was
    asked for.

    >>> [s.text for s in summarize("A long text. …", sentences=3, extract=True)]      # doctest: +SKIP

    `extract` gives the article's own sentences that tell most of it, in its order (see `flow.extract`); False has the
    model write. If it is None the model writes, but of a text that its space knows less of than of the field it was
    trained on, or whose words it does not take up, it extracts, which is logged; a text of one sentence is its own
    summary. So it is with the words decoded of a recording. With `out_lang` what is extracted is decoded in that
    language from its embeddings. `cite` names that many of the article's sentences beside each. What is logged of
    the text begins with its `name`, if it has one. `options` are as for `generate`, and change `writing`.

    Raises UserError for a text without sentences or a model that can't write.
    """
    writer = model if isinstance(model, Writer) else load_writer(model, runtime)
    if sentences is not None and sentences < 1:
        raise UserError(f"a summary of {sentences} sentences is empty", "use --sentences 1 or more, or auto")
    writing = (writing or Writing(no_repeat=True)).but(**options)
    words = writing.search if extract is not False or cite else None
    texts, article_SD, places, lang, note = read_input(text, lang, writer, report, speech, words, name or "the text")
    out_lang = resolve(writing.out_lang, writer.space.tokenizer.langs) if writing.out_lang else ""
    chosen = best_sentences(texts, sentences or min(AUTO, max(1, len(texts) // 3)))
    choose, translated = extract is None, out_lang not in ("", lang)
    if choose:
        extract = len(texts) == 1 or unfamiliar(texts, article_SD, lang, writer) > 0
        if extract and len(texts) > 1 and not note:  # of a language misread there is nothing to learn
            _told(name, f"{writer.name} has not learnt to write of such text", translated, "what it writes")
    written: list[Written] = []
    if not extract:
        written = shortened(texts, article_SD, writer, writing, sentences or AUTO, report=report)
        if not written and any(texts):  # those of a recording may not have been decoded
            _told(name, f"{writer.name} wrote nothing", translated)
            extract = True
        elif not written:
            log.info("%s", nothing_written(writer))
        elif choose:
            same = (out_lang or writer.lang) == lang
            extract = _unsupported(written, chosen, texts, writer, "" if same else lang)
            if extract:
                _told(name, f"what {writer.name} wrote strays from the text", translated, "what it wrote")
    found: list[Cited]
    if extract:
        found = _extracted(texts, article_SD, places, chosen, cite)
        if translated:
            found = _said_in(out_lang, found, lang, article_SD[chosen], writer, writing.search, isinstance(text, str))
    else:
        tell_language(lang, writer, writing)
        if sentences and len(written) < sentences:
            log.info("%s ended its summary after %d of %d sentences", writer.name, len(written), sentences)
        found = [Cited(w.text, w.score, _nearest(texts, article_SD, w.embedding_D, cite)) for w in written]
    if isinstance(text, str):
        return found
    times = [Utterance(place.start, place.end) for place in places]
    return [replace(c, times=[times[i] for i, _, _ in c.sources]) for c in found]


def shortened(
    article: Sequence[str],
    article_SD: Tensor,
    writer: Writer,
    writing: Writing,
    most: int,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> list[Written]:
    """What the model writes after an article and its marker: `most` sentences at most, never the ending; none where it
    has nothing else to say. What tells the whole is no better for being short (docs/quality.md)."""
    context_SD, texts = article_SD, [*article]
    if writer.marker:
        context_SD = torch.cat([article_SD, embed_sentences([writer.marker], writer.lang, writer.space)])
        texts = [*article, writer.marker]
    if writing.search.length_penalty is None:
        writing = writing.but(length_penalty=1.0)
    writing = replace(writing, max_sentences=most, min_sentences=1)
    stream = generate_stream(
        context_SD, writer, writing, [writer.ending], texts=texts, generator=generator, report=report
    )
    return list(stream)


def _unsupported(written: list[Written], chosen: list[int], article: list[str], writer: Writer, lang: str) -> bool:
    """Whether what was written shares too few of the article's words, against what would be extracted. What was written
    in another language than the article's is said in `lang`, that, first."""
    said = [w.text for w in written]
    if lang:
        vectors_SD = torch.stack([w.embedding_D for w in written])
        said = [best.text for best, *_ in decode_batch(vectors_SD, lang, writer.space, Search())]
    return share(said, chosen, article) < SUPPORT


def _told(name: str, why: str, translated: bool, abstract: str = "") -> None:
    """Say why a text is extracted, and what `--abstract` would give."""
    other = (", translated" if translated else "") + (f" (--abstract: {abstract})" if abstract else "")
    log.info("%s%s, so these are the text's own sentences%s", f"{name}: " if name else "", why, other)


def _nearest(article: list[str], article_SD: Tensor, embedding_D: Tensor, count: int) -> list[tuple[int, str, float]]:
    cosine_S = F.cosine_similarity(article_SD.float(), embedding_D.float()[None])
    return [(i, article[i], cosine_S[i].item()) for i in cosine_S.topk(min(count, len(article))).indices.tolist()]


def _extracted(
    texts: list[str],
    article_SD: Tensor,
    places: Sequence[Sentence | Utterance],
    chosen: list[int],
    cite: int,
) -> list[Cited]:
    """Sentences of the article, each with itself as its first source."""
    out = []
    for i in chosen:
        others = [near for near in _nearest(texts, article_SD, article_SD[i], cite) if near[0] != i]
        sources = [(i, texts[i], 1.0), *others][: cite or 1]
        out.append(Cited(texts[i], None, sources, "extracted", places[i].start, places[i].end))
    return out


def _said_in(
    out_lang: str,
    found: list[Cited],
    lang: str,
    embedding_ND: Tensor,
    writer: Writer,
    search: Search,
    by_clauses: bool,
) -> list[Cited]:
    """Sentences of the language `lang` and their embeddings, in another; those that came out far are told."""
    texts = [cited.text for cited in found]
    said = say(texts, lang, out_lang, writer.space, search, embedding_ND=embedding_ND, by_clauses=by_clauses)
    distances = Distances()
    for place, one in enumerate(said, 1):
        distances.see(place, one.cosine)
    if told := distances.told("sentences", "line"):
        log.info("%s", told)
    return [replace(c, text=s.text, score=s.score, back_cosine=s.cosine) for c, s in zip(found, said)]
