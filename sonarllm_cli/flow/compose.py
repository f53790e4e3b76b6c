"""The chain composed: a beginning → its continuation, an article → its summary. No tensor code of its own.

for sentence in generate_stream(["Once upon a time."], writer, Writing()): print(sentence.text)
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError, nearest
from ..io.audio import Recording
from ..languages import NAMES, resolve
from ..nets.kinds import TOKENS
from ..runtime import Runtime, log
from ..weights.loaded import DEFAULT, Writer, load_writer
from .back import Distances
from .decode import Hypothesis, Search, decode_batch
from .embed import embed_sentences, fits
from .embed_speech import SpeechModel
from .extract import best_sentences, share
from .familiar import unfamiliar
from .hear import read_recording
from .language import AUTO as TELL
from .language import reading
from .predict import Report
from .say import say
from .segment import Sentence, segment_stream
from .special import Special
from .utterances import Utterance
from .write import author_of

STOPS = ("predicted", "reembedded")
FEEDBACKS = ("reembed", "latent")
BLOCK = 1024  # sentences of a text embedded at once
AUTO = 3  # sentences a summary of its own length may have
COPY = 0.95  # cosine of a sentence with one written before, from which on it is a near copy of it
NEVER = 2.0  # no cosine is so much
SUPPORT = 0.7  # share of an extract's support that what is written has, or the extract is better; docs/extract.md


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a text is written. Defaults are the published SONAR-LLM code's, but for the penalty of repetition in
    `ConceptAuthor` (which has 1): a sentence is decoded by beam search and embedded again; it ends the text if that
    embedding's cosine with the ending's, or the predicted one's, is `stop_threshold` or more, or its words are the
    ending's (see `Special`). Before `min_sentences` are written, an ending is passed over for the best hypothesis that
    is none, if there is one.

    A model that goes round in circles is stopped before the first near copy: a sentence whose embedding has a cosine of
    `repeat_threshold` or more with that of one written before (the same words have 1). The published code has no such
    rule (`NEVER`); LCM's has it for two sentences in a row (`stop_on_repetition_cosine_threshold`)."""

    max_sentences: int = 32
    min_sentences: int = 0
    stop: str = "reembedded"
    stop_threshold: float = 0.98
    repeat_threshold: float = COPY
    feedback: str = "reembed"
    no_repeat: bool = False
    out_lang: str = ""  # empty: the model's own
    search: Search = field(default_factory=Search)
    sampling: dict[str, Any] = field(default_factory=dict)  # of a diffusion model: fields of its config, anew

    def __post_init__(self) -> None:
        for name, value, known in (("stop", self.stop, STOPS), ("feedback", self.feedback, FEEDBACKS)):
            if value not in known:
                raise UserError(f"{name} {value!r} is unknown", f"use {' or '.join(known)}")
        if self.max_sentences < 1:
            raise UserError(f"max-sentences {self.max_sentences} writes nothing", "use 1 or more")
        if math.isnan(self.stop_threshold + self.repeat_threshold):
            raise UserError("a threshold is not a number", "use a cosine, such as 0.98")

    def but(self, **options: Any) -> Writing:
        """The same with other values of some fields, its own or its `Search`'s. UserError for a name neither has."""
        known = {f.name for f in fields(Search)}
        own = {name: value for name, value in options.items() if name not in known}
        if unknown := [name for name in own if name not in {f.name for f in fields(Writing)}]:
            guess = nearest(unknown[0], [*known, *(f.name for f in fields(Writing))])
            cure = f"did you mean {guess}?" if guess else "see sonarllm_cli.flow.compose.Writing"
            raise UserError(f"no option {unknown[0]!r} of writing", cure)
        search = {name: value for name, value in options.items() if name in known}
        return replace(self, **{"search": replace(self.search, **search)} | own)


@dataclass(frozen=True)
class Written:
    """A sentence written: its text, decoder score, cosine with the ending, and the embedding it was decoded from."""

    text: str
    score: float
    ending: float
    predicted_D: Tensor
    embedding_D: Tensor  # of the text, or the predicted one where that is fed back
    ended: bool = False  # whether the text would have ended before it, but for `min_sentences`


class End(NamedTuple):
    """How a text ended: after how many sentences, and whether because the next was a near copy of one of them."""

    written: int
    circles: bool = False


Stream = Generator[Written, None, End]


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


def sentence_texts(text: str, lang: str, writer: Writer) -> list[str]:
    """A text's sentences as the encoder takes them; UserError if it has none."""
    found = [s.flat for s in segment_stream([text], lang=lang, fits=fits(writer.space))]
    if not found:
        raise UserError("the text has no sentence", "give it some text")
    return found


def read_document(
    text: str, lang: str, writer: Writer, report: Report | None = None, name: str = "the text"
) -> tuple[list[Sentence], Tensor]:
    """A text's sentences, which the encoder takes flat, and their embeddings: → S sentences, text_SD. A block of them
    at a time, so that a long text needs little more than what comes out. UserError if it has no sentence."""
    sentences: list[Sentence] = []
    blocks: list[Tensor] = []
    found = segment_stream([text], lang=lang, fits=fits(writer.space))
    while block := list(islice(found, BLOCK)):
        sentences += block
        blocks.append(embed_sentences([s.flat for s in block], lang, writer.space))
        if report:
            report("embedding", block[-1].end, len(text))
    if not sentences:
        raise UserError(f"{name} has no sentence", "give it some text")
    return sentences, torch.cat(blocks)


def read_input(
    source: str | Recording,
    lang: str,
    writer: Writer,
    report: Report | None = None,
    speech: str | SpeechModel = "",
    words: Search | None = None,
    name: str = "the text",
) -> tuple[list[str], Tensor, Sequence[Sentence | Utterance], str, str]:
    """`read_document`, or a recording's utterances by the encoder `speech` (by default the one that comes with the
    space): → S texts, text_SD, their S places, the language, and what was noted of it, or "". What is said in a
    recording is decoded only for those who say how to search `words`, or need them; else its texts are empty. Messages
    call a text by its `name`."""
    if isinstance(source, str):
        lang, note = reading(source, lang, writer.space.tokenizer.langs, name)
        sentences, text_SD = read_document(source, lang, writer, report, name)
        if note:
            log.info("%s", note)
        return [s.flat for s in sentences], text_SD, sentences, lang, note
    heard = read_recording(source, writer.space, lang, speech=speech)
    known = words or writer.row.reads == TOKENS
    texts = heard.words(search=words) if known else [""] * len(heard.times)
    return texts, heard.text_SD, heard.times, heard.lang, ""


def generate(
    text: str | Recording,
    *,
    lang: str = TELL,
    model: str | Writer = DEFAULT,
    runtime: Runtime | None = None,
    writing: Writing | None = None,
    speech: str | SpeechModel = "",
    **options: Any,
) -> list[str]:
    """The sentences that continue `text`, or a recording heard by the encoder `speech`. `options` are fields of
    `Writing` and of `Search`, and change `writing`.

    >>> generate("This package contains the documentation.", max_sentences=2, beam=3)      # doctest: +SKIP

    `lang` is the text's language, "auto" what it looks like. Raises UserError for a text without sentences, a language
    the model lacks, a model that can't write, and for options that are not known or make no sense.
    """
    writing = (writing or Writing()).but(**options)
    found = continuation(text, lang=lang, model=model, runtime=runtime, writing=writing, speech=speech)
    return [s.text for s in found]


def continuation(
    text: str | Recording,
    *,
    lang: str,
    model: str | Writer,
    runtime: Runtime | None = None,
    writing: Writing | None = None,
    generator: torch.Generator | None = None,
    report: Report | None = None,
    speech: str | SpeechModel = "",
    name: str = "the text",
) -> Iterator[Written]:
    """`generate`, each sentence as soon as it is written. What is random comes from `generator`, if not from the
    runtime's seed. `report` hears how far embedding and reading are. Messages call the text by its `name`. Logged
    is what may not have been expected: another language than the text's, nothing at all, and a model that goes round in
    circles."""
    writer = model if isinstance(model, Writer) else load_writer(model, runtime)
    writing = writing or Writing()
    beginning, context_SD, _, lang, _ = read_input(text, lang, writer, report, speech, name=name)
    _own_language(lang, writer, writing)
    return _announced(_continued(beginning, context_SD, writer, writing, generator, report), writer)


def _announced(stream: Stream, writer: Writer) -> Iterator[Written]:
    """The sentences of a stream, and why there are none, or no more."""
    end = yield from stream
    if end.circles:
        log.info(
            "%s goes round in circles: stopped before a near copy of what it wrote, after %d; --repeat-threshold 2 "
            "lets it go on",
            writer.name,
            end.written,
        )
    elif not end.written:
        log.info("%s", _wrote_nothing(writer))


def _wrote_nothing(writer: Writer) -> str:
    return (
        f"{writer.name} ends this text at once and wrote nothing; try a longer text, or another model with -m: one "
        "that learnt from few documents can do little else"
    )


def _own_language(lang: str, writer: Writer, writing: Writing) -> None:
    """Say so where a text in the language `lang` goes on in another, which nobody asked for."""
    own = resolve(writer.lang, writer.space.tokenizer.langs)
    if writing.out_lang or lang == own:
        return
    other = f"--out-lang {lang} has it write {NAMES.get(lang, lang)}"
    if writer.row.reads == TOKENS:
        other = "it has no other"
    log.info("%s writes %s, its own language; %s", writer.name, NAMES.get(own, own), other)


def continue_sentences(
    beginning: Sequence[str], writer: Writer, writing: Writing, *, lang: str, generator: torch.Generator | None = None
) -> Stream:
    """`continuation` of a text that is in sentences already."""
    context_SD = embed_sentences(beginning, lang, writer.space)
    return _continued(beginning, context_SD, writer, writing, generator)


def _continued(
    beginning: Sequence[str],
    context_SD: Tensor,
    writer: Writer,
    writing: Writing,
    generator: torch.Generator | None,
    report: Report | None = None,
) -> Stream:
    texts = list(beginning)
    if writer.begin:
        context_SD = torch.cat([embed_sentences([writer.begin], writer.lang, writer.space), context_SD])
        texts = [writer.begin, *beginning]
    return generate_stream(context_SD, writer, writing, beginning, texts=texts, generator=generator, report=report)


def generate_stream(
    context_SD: Tensor,
    writer: Writer,
    writing: Writing,
    used: Sequence[str] = (),
    *,
    texts: Sequence[str] = (),
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> Stream:
    """Sentences after the context, each as soon as it is decoded; → how the text ended. The one that ends it is not
    among them, in whatever words, nor is another that the model is told by, nor a near copy (see `Writing`).

    `texts` are the context's sentences, which a token LLM reads. With `no_repeat`, texts written before, and those in
    `used`, are passed over for the next-best hypothesis."""
    space = writer.space
    lang = resolve(writing.out_lang or writer.lang, space.tokenizer.langs)
    special = Special(writer, lang)
    search, seen = writing.search, set(used)
    if writing.no_repeat or writing.min_sentences:
        many = max(search.num_return, search.beam if not search.samples else 4)
        search = replace(search, num_return=many)
    sampling = sampling_of(writer, writing)
    author = author_of(writer, lang, search, generator or space.runtime.generator(), sampling)

    def again(hypothesis: Hypothesis) -> Tensor:
        return embed_sentences([hypothesis.text], lang, space)

    unread_SD, unread, written_WD = context_SD, list(texts), context_SD[:0]
    for count in range(writing.max_sentences):
        hypotheses, next_1D = author.next(unread, unread_SD, None if count else report)
        hypotheses = [h for h in hypotheses if not special.mark(h.text)]
        if writing.no_repeat:
            hypotheses = [h for h in hypotheses if h.text not in seen]
        if not hypotheses:
            return End(count)
        best, again_1D = hypotheses[0], again(hypotheses[0])
        meant = ending = special.cosine(next_1D)
        if writing.stop == "reembedded":
            ending = max(meant, special.cosine(again_1D))
        ended = ending >= writing.stop_threshold or special.ending(best.text)
        if ended:
            if meant >= writing.stop_threshold or count >= writing.min_sentences:
                return End(count)
            words = ((h, again(h)) for h in hypotheses if not special.ending(h.text))
            instead = next((o for o in words if special.cosine(o[1]) < writing.stop_threshold), None)
            if instead is None:
                return End(count)
            best, again_1D = instead
        if count >= writing.min_sentences and _is_copy(again_1D, written_WD, writing.repeat_threshold):
            return End(count, circles=True)
        fed_1D = again_1D if writing.feedback == "reembed" else next_1D
        yield Written(best.text, best.score, ending, next_1D[0], fed_1D[0], ended)
        seen.add(best.text)
        written_WD = torch.cat([written_WD, again_1D])
        unread_SD, unread = fed_1D, [best.text]
    return End(writing.max_sentences)


def _is_copy(sentence_1D: Tensor, written_WD: Tensor, threshold: float) -> bool:
    """Whether a sentence is nearly one of those written."""
    cosine_W = F.cosine_similarity(written_WD.float(), sentence_1D.float())
    return bool((cosine_W >= threshold).any())


def sampling_of(writer: Writer, writing: Writing) -> Any:
    """The config by which a diffusion model samples: its own, but for what `writing` says; None for other kinds, and
    UserError where one is asked to."""
    if writer.row.noise:
        return replace(writer.net.config, **writing.sampling)
    if writing.sampling:
        cure = "leave --guidance and --diffusion-steps out"
        raise UserError(f"{writer.name} is a {writer.kind} model: it makes no embedding from noise", cure)
    return None


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
    choose = extract is None
    if choose:
        extract = len(texts) == 1 or unfamiliar(texts, article_SD, lang, writer) > 0
        if extract and len(texts) > 1 and not note:  # of a language misread there is nothing to learn
            _told(name, f"{writer.name} has not learnt to write of such text", "what it writes")
    written: list[Written] = []
    if not extract:
        written = shortened(texts, article_SD, writer, writing, sentences or AUTO, report=report)
        if not written and any(texts):  # those of a recording may not have been decoded
            _told(name, f"{writer.name} wrote nothing")
            extract = True
        elif not written:
            log.info("%s", _wrote_nothing(writer))
        elif choose:
            same = (out_lang or writer.lang) == lang
            extract = _unsupported(written, chosen, texts, writer, "" if same else lang)
            if extract:
                _told(name, f"what {writer.name} wrote strays from the text", "what it wrote")
    found: list[Cited]
    if extract:
        found = _extracted(texts, article_SD, places, chosen, cite)
        if out_lang not in ("", lang):
            found = _said_in(out_lang, found, lang, article_SD[chosen], writer, writing.search, isinstance(text, str))
    else:
        _own_language(lang, writer, writing)
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
    has nothing else to say."""
    context_SD, texts = article_SD, [*article]
    if writer.marker:
        context_SD = torch.cat([article_SD, embed_sentences([writer.marker], writer.lang, writer.space)])
        texts = [*article, writer.marker]
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


def _told(name: str, why: str, abstract: str = "") -> None:
    """Say why a text is extracted, and what `--abstract` would give."""
    other = f" (--abstract: {abstract})" if abstract else ""
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
