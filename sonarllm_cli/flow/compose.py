"""The chain composed: a beginning → its continuation, an article → its summary. No tensor code of its own.

for sentence in generate_stream(["Once upon a time."], writer, Writing()): print(sentence.text)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..io.audio import Recording
from ..nets.diffusion_lcm import DiffusionLCM, DiffusionLCMConfig
from ..runtime import Runtime, log
from .author import author_of
from .decode import Hypothesis, Search
from .embed import embed_sentences, fits
from .embed_speech import SpeechModel, load_speech
from .hear import read_recording
from .model import DEFAULT, Writer, load_writer
from .predict import Report
from .reconstruct import reconstruction
from .segment import segment_stream
from .utterances import Utterance

STOPS = ("predicted", "reembedded")
FEEDBACKS = ("reembed", "latent")
BLOCK = 1024  # sentences of a text embedded at once
AUTO = 3  # sentences a summary of its own length may have


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a text is written. Defaults are the published SONAR-LLM code's: a sentence is decoded by beam search and
    embedded again; it ends the text if that embedding's cosine with the ending's is `stop_threshold` or more. Before
    `min_sentences` are written, an ending is passed over for the best hypothesis that is not the ending's words."""

    max_sentences: int = 32
    min_sentences: int = 0
    stop: str = "reembedded"
    stop_threshold: float = 0.98
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


@dataclass(frozen=True)
class Written:
    """A sentence written: its text, decoder score, cosine with the ending, and the embedding it was decoded from."""

    text: str
    score: float
    ending: float
    predicted_D: Tensor
    embedding_D: Tensor  # of the text, or the predicted one where that is fed back
    ended: bool = False  # whether the text would have ended before it, but for `min_sentences`


@dataclass(frozen=True)
class Cited:
    """A summary sentence and the article's sentences nearest to it: (index, text, cosine), nearest first."""

    text: str
    score: float
    sources: list[tuple[int, str, float]]
    times: list[Utterance] = field(default_factory=list)  # of the sources, where they were spoken


def sentences_of(text: str, lang: str, writer: Writer) -> list[str]:
    """A text's sentences as the encoder takes them; UserError if it has none."""
    found = [s.flat for s in segment_stream([text], lang=lang, fits=fits(writer.space))]
    if not found:
        raise UserError("the text has no sentence", "give it some text")
    return found


def read_document(text: str, lang: str, writer: Writer, report: Report | None = None) -> tuple[list[str], Tensor]:
    """A text's sentences as the encoder takes them, and their embeddings: → S texts, text_SD. A block of sentences at a
    time, so that a long text needs little more than what comes out. UserError if it has no sentence."""
    texts: list[str] = []
    blocks: list[Tensor] = []
    found = segment_stream([text], lang=lang, fits=fits(writer.space))
    while block := list(islice(found, BLOCK)):
        texts += [s.flat for s in block]
        blocks.append(embed_sentences(texts[-len(block) :], lang, writer.space))
        if report:
            report("embedding", block[-1].end, len(text))
    if not texts:
        raise UserError("the text has no sentence", "give it some text")
    return texts, torch.cat(blocks)


def read_source(
    source: str | Recording,
    lang: str,
    writer: Writer,
    report: Report | None = None,
    speech: str | SpeechModel = "",
    words: bool = False,
) -> tuple[list[str], Tensor, list[Utterance]]:
    """`read_document`, or a recording's utterances by the encoder `speech`: → S texts, text_SD, S times (none of a
    text). What is said in a recording is decoded only for those who need `words`."""
    if isinstance(source, str):
        return *read_document(source, lang, writer, report), []
    if not speech:
        raise UserError(f"{source.name} is a recording", "name the encoder of its language: --speech sonar-speech-eng")
    heard = speech if isinstance(speech, SpeechModel) else load_speech(speech, writer.space.runtime)
    listened = read_recording(source, heard, writer.space, lang, words=words or writer.kind == "token-llm")
    return listened.texts, listened.text_SD, listened.times


def generate(
    text: str | Recording,
    *,
    lang: str = "eng_Latn",
    model: str | Writer = DEFAULT,
    runtime: Runtime | None = None,
    writing: Writing | None = None,
    speech: str | SpeechModel = "",
) -> list[str]:
    """The sentences that continue `text`, or a recording heard by the encoder `speech`. See `Writing` for the choices.

    >>> generate("This package contains the documentation.")      # doctest: +SKIP
    """
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
) -> Iterator[Written]:
    """`generate`, each sentence as soon as it is written. What is random comes from `generator`, if not from the
    runtime's seed. `report` hears how far embedding and reading are."""
    writer = model if isinstance(model, Writer) else load_writer(model, runtime)
    beginning, context_SD, _ = read_source(text, lang, writer, report, speech)
    return _continued(beginning, context_SD, writer, writing or Writing(), generator, report)


def continue_sentences(
    beginning: Sequence[str], writer: Writer, writing: Writing, *, lang: str, generator: torch.Generator | None = None
) -> Iterator[Written]:
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
) -> Iterator[Written]:
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
) -> Iterator[Written]:
    """Sentences after the context, each as soon as it is decoded. The one that ends the text is not among them.

    `texts` are the context's sentences, which a token LLM reads. With `no_repeat`, texts written before, and those in
    `used`, are passed over for the next-best hypothesis."""
    space = writer.space
    lang = writing.out_lang or writer.lang
    ending_1D = embed_sentences([writer.ending], writer.lang, space)
    search, seen = writing.search, set(used)
    if writing.no_repeat or writing.min_sentences:
        many = max(search.num_return, search.beam if not search.samples else 4)
        search = Search(**{**vars(search), "num_return": many})
    sampling = sampling_of(writer, writing)
    author = author_of(writer, lang, search, generator or space.runtime.generator(), sampling)

    def judge(hypothesis: Hypothesis, next_1D: Tensor) -> tuple[Tensor, float]:
        again_1D = embed_sentences([hypothesis.text], lang, space)
        judged_1D = next_1D if writing.stop == "predicted" else again_1D
        return again_1D, F.cosine_similarity(judged_1D.float(), ending_1D.float()).item()

    unread_SD, unread = context_SD, list(texts)
    for count in range(writing.max_sentences):
        hypotheses, next_1D = author.next(unread, unread_SD, None if count else report)
        if writing.no_repeat:
            hypotheses = [h for h in hypotheses if h.text not in seen]
            if not hypotheses:
                return
        best = hypotheses[0]
        again_1D, ending = judge(best, next_1D)
        ended = ending >= writing.stop_threshold
        if ended and count >= writing.min_sentences:
            return
        others = [h for h in hypotheses if h.text != writer.ending] if ended else []
        if others and others[0] is not best:
            best = others[0]
            again_1D, ending = judge(best, next_1D)
        fed_1D = again_1D if writing.feedback == "reembed" else next_1D
        yield Written(best.text, best.score, ending, next_1D[0], fed_1D[0], ended)
        seen.add(best.text)
        unread_SD, unread = fed_1D, [best.text]


def sampling_of(writer: Writer, writing: Writing) -> DiffusionLCMConfig | None:
    """How a diffusion model samples: its own way, but for what `writing` says. UserError for other kinds asked to."""
    if isinstance(writer.net, DiffusionLCM):
        return replace(writer.net.config, **writing.sampling)
    if writing.sampling:
        cure = "leave --guidance and --diffusion-steps out"
        raise UserError(f"{writer.name} is a {writer.kind} model: it makes no embedding from noise", cure)
    return None


def summarize(
    text: str | Recording,
    *,
    sentences: int | None = None,
    lang: str = "eng_Latn",
    model: str | Writer = DEFAULT,
    runtime: Runtime | None = None,
    extract: bool | None = None,
    cite: int = 0,
    writing: Writing | None = None,
    report: Report | None = None,
    speech: str | SpeechModel = "",
) -> list[Cited]:
    """A summary of `text`, or of a recording heard by the encoder `speech`, in at most `sentences` sentences, by
    default 3; the model may end it sooner, which is logged where a number was asked for.

    `extract` gives the article's own sentences nearest to the predicted embeddings. If it is None, so does a text that
    the model's space knows less of than of the field it was trained on, which is logged; False never does. `cite` names
    that many of the article's sentences beside each. Raises UserError for a text without sentences or a model that
    can't write.
    """
    writer = model if isinstance(model, Writer) else load_writer(model, runtime)
    if sentences is not None and sentences < 1:
        raise UserError(f"a summary of {sentences} sentences is empty", "use --sentences 1 or more, or auto")
    article, article_SD, times = read_source(text, lang, writer, report, speech, words=bool(extract or cite))
    if extract is None and not times:
        extract = _unfamiliar(article, article_SD, lang, writer)
    writing = writing or Writing(no_repeat=True)
    written = shortened(article, article_SD, writer, writing, sentences or AUTO, report=report)
    if sentences and len(written) < sentences:
        log.info("%s ended its summary after %d of %d sentences", writer.name, len(written), sentences)
    if extract:
        found = _extracted(article, article_SD, written)
    else:
        found = [Cited(w.text, w.score, _nearest(article, article_SD, w.embedding_D, cite)) for w in written]
    return [replace(c, times=[times[i] for i, _, _ in c.sources]) for c in found] if times else found


def shortened(
    article: Sequence[str],
    article_SD: Tensor,
    writer: Writer,
    writing: Writing,
    most: int,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> list[Written]:
    """What the model writes after an article and its marker: one to `most` sentences, never the ending."""
    context_SD, texts = article_SD, [*article]
    if writer.marker:
        context_SD = torch.cat([article_SD, embed_sentences([writer.marker], writer.lang, writer.space)])
        texts = [*article, writer.marker]
    writing = replace(writing, max_sentences=most, min_sentences=1)
    stream = generate_stream(
        context_SD, writer, writing, [writer.ending], texts=texts, generator=generator, report=report
    )
    return list(stream)


def _unfamiliar(article: list[str], article_SD: Tensor, lang: str, writer: Writer) -> bool:
    """Whether a text is of another kind than the model writes: its space reconstructs it worse than `familiar`."""
    if not writer.familiar:
        return False
    bits = reconstruction(article, article_SD, lang, writer.space)
    if bits > writer.familiar:
        log.info(
            "%s knows little of such text (%.2f bits a byte, its own field is under %.2f): these are the text's own "
            "sentences; --abstract has it write",
            writer.name,
            bits,
            writer.familiar,
        )
    return bits > writer.familiar


def _nearest(article: list[str], article_SD: Tensor, embedding_D: Tensor, count: int) -> list[tuple[int, str, float]]:
    cosine_S = F.cosine_similarity(article_SD.float(), embedding_D.float()[None])
    return [(i, article[i], cosine_S[i].item()) for i in cosine_S.topk(min(count, len(article))).indices.tolist()]


def _extracted(article: list[str], article_SD: Tensor, written: list[Written]) -> list[Cited]:
    """For each sentence written, the article's nearest that is not taken yet."""
    out: list[Cited] = []
    taken: set[str] = set()
    for w in written:
        for i, text, cosine in _nearest(article, article_SD, w.predicted_D, len(article)):
            if text not in taken:
                taken.add(text)
                out.append(Cited(text, cosine, [(i, text, cosine)]))
                break
    return out
