"""The chain composed: a beginning → its continuation, sentence by sentence.

    for sentence in continuation("Once upon a time.", lang="auto", model="mini"): print(sentence.text)

Legend: S sentences read, W sentences written, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
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
from .decode import Hypothesis, Search
from .embed_speech import SpeechModel
from .embed_text import embed_sentences
from .language import AUTO
from .predict import Report
from .read import read_input
from .special import Special
from .write import author_of

STOPS = ("predicted", "reembedded")
FEEDBACKS = ("reembed", "latent")
COPY = 0.95  # cosine of a sentence with one written before, from which on it is a near copy of it
NEVER = 2.0  # no cosine is so much


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
    """A sentence written: its text, decoder score, cosine with the ending, and what the model reads of it."""

    text: str
    score: float
    ending: float
    embedding_D: Tensor  # of the text, or the predicted one where that is fed back
    ended: bool = False  # whether the text would have ended before it, but for `min_sentences`


class End(NamedTuple):
    """How a text ended: after how many sentences, and whether because the next was a near copy of one of them."""

    written: int
    circles: bool = False


Stream = Generator[Written, None, End]


def generate(
    text: str | Recording,
    *,
    lang: str = AUTO,
    model: str | Writer = DEFAULT,
    runtime: Runtime | None = None,
    writing: Writing | None = None,
    speech: str | SpeechModel = "",
    **options: Any,
) -> list[str]:
    """The sentences that continue `text`, or a recording heard by the encoder `speech`. `options` are fields of
    `Writing` and of `Search`, and change `writing`; without it at least one sentence is asked for.

    >>> generate("This package contains the documentation.", max_sentences=2, beam=3)      # doctest: +SKIP

    `lang` is the text's language, "auto" what it looks like. Raises UserError for a text without sentences, a language
    the model lacks, a model that can't write, and for options that are not known or make no sense.
    """
    writing = (writing or Writing(min_sentences=1)).but(**options)
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
    tell_language(lang, writer, writing)
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
        log.info("%s", nothing_written(writer))


def nothing_written(writer: Writer) -> str:
    return (
        f"{writer.name} ends this text at once and wrote nothing; try a longer text, or another model with -m: one "
        "that learnt from few documents can do little else"
    )


def tell_language(lang: str, writer: Writer, writing: Writing) -> None:
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
        yield Written(best.text, best.score, ending, fed_1D[0], ended)
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
