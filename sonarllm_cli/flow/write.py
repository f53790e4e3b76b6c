"""A text so far → hypotheses for its next sentence, whatever the kind of model. The last two arrows as one.

    author = author_of(writer, lang, search)
    hypotheses, next_1D = author.next(["Once upon a time."], embed_sentences(["Once upon a time."], lang, space))

A concept model reads embeddings and predicts one, which the space's decoder turns into words. A token LLM reads and
writes the words themselves: it has no prediction to show but the sentence, embedded.

Legend: S sentences, T tokens, R rows (beams, samples), V vocabulary, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..nets.kinds import TOKENS
from ..nets.layers import KVCache, moves
from ..nets.token_lm import TokenLM
from ..tokens import EOS
from ..weights.loaded import Writer
from .decode import Hypothesis, Search, decode_batch, draw_tokens, log_softmax, ngrams, search_beams
from .embed_text import embed_sentences
from .predict import Reader, Report

# How what is predicted is decoded, where nothing else is said: it is vaguer than a sentence's vector. docs/quality.md
PREDICTED: dict[str, Any] = {"repetition_penalty": 1.1, "no_repeat_ngram": 4, "length_penalty": 0.7}
PLAIN: dict[str, Any] = {"repetition_penalty": 1.0, "no_repeat_ngram": 0, "length_penalty": 1.0}  # the published way
Proposal = tuple[list[Hypothesis], Tensor]  # best first, and the predicted embedding_1D


class Author(Protocol):
    """Reads sentences (words and embeddings) after those read before, and proposes the next."""

    def next(self, texts: Sequence[str], embedding_SD: Tensor, report: Report | None = None) -> Proposal: ...


def author_of(
    writer: Writer,
    lang: str,
    search: Search,
    generator: torch.Generator | None = None,
    sampling: Any = None,
) -> Author:
    """The author that a model's kind is. UserError for a token LLM asked for another language than its own."""
    if writer.row.reads != TOKENS:
        return ConceptAuthor(writer, lang, search, generator, sampling)
    if writer.space.tokenizer.lang_id(lang) != writer.space.tokenizer.lang_id(writer.lang):
        raise UserError(f"{writer.name} writes tokens of {writer.lang}, not {lang}", "leave --out-lang out")
    return TokenAuthor(writer, writer.net, search, generator)


class _Own:
    """What an author wrote: the ids of those of its proposals that were then read."""

    def __init__(self) -> None:
        self.ids: list[tuple[int, ...]] = []
        self.proposed: dict[str, tuple[int, ...]] = {}

    def read(self, texts: Sequence[str]) -> None:
        """Sentences are read: the beginning, then one that was proposed, again and again."""
        self.ids += [self.proposed[text] for text in texts if text in self.proposed]

    def propose(self, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        """The hypotheses, which are remembered."""
        self.proposed = {h.text: h.ids[:-1] for h in reversed(hypotheses)}
        return hypotheses


class ConceptAuthor:
    """Embeddings → the next embedding → its hypotheses, by the space's decoder."""

    def __init__(
        self,
        writer: Writer,
        lang: str,
        search: Search,
        generator: torch.Generator | None,
        sampling: Any,
    ) -> None:
        search = replace(search, **{name: value for name, value in PREDICTED.items() if getattr(search, name) is None})
        self.space, self.lang, self.search, self.generator = writer.space, lang, search, generator
        self.reader = Reader(writer, generator, sampling)
        self.own = _Own()

    def next(self, texts: Sequence[str], embedding_SD: Tensor, report: Report | None = None) -> Proposal:
        self.own.read(texts)
        next_1D = self.reader.read(embedding_SD, report)[None]
        generator = self.generator if self.search.samples else None
        found = decode_batch(next_1D, self.lang, self.space, self.search, generator=generator, before=self.own.ids)
        return self.own.propose(found[0]), next_1D


class TokenAuthor:
    """Words → the next sentence's hypotheses, by the model itself. What was read stays in the cache."""

    def __init__(self, writer: Writer, net: TokenLM, search: Search, generator: torch.Generator | None) -> None:
        self.writer, self.net, self.search, self.generator = writer, net, search, generator
        self.caches = net.body.caches(512)
        self.unread: list[int] = list(writer.space.tokenizer.prompt(writer.lang))
        self.own = _Own()

    @torch.inference_mode()
    def next(self, texts: Sequence[str], embedding_SD: Tensor, report: Report | None = None) -> Proposal:
        if len(texts) != len(embedding_SD):
            raise UserError(f"{self.writer.name} reads words, not embeddings", "give it the text")
        space = self.writer.space
        self.own.read(texts)
        for words in space.tokenizer.content(texts):
            self.unread += [*words, EOS]
        ids_1T = torch.tensor([self.unread], device=space.runtime.device)
        log_1V = log_softmax(self.net.logits(self.net(ids_1T, self.caches)[:, -1]), space.tokenizer.vocab_size)
        self.unread = []
        state = _Continuation(self.net, self.caches, log_1V, self.search)
        before_GN = ngrams(self.own.ids, self.search)
        if self.search.samples:
            found = draw_tokens(state, self.search, self.generator, before_GN)
        else:
            found = search_beams(state, self.search, before_GN)
        hypotheses = [
            Hypothesis(space.tokenizer.text(ids), score, ids) for ids, score in found[0][: self.search.num_return]
        ]
        return self.own.propose(hypotheses), embed_sentences([hypotheses[0].text], self.writer.lang, space)


class _Continuation:
    """A search's rows from what was read: they share it and write into copies of its caches. The `</s>` before the
    sentence is the prompt, so that a score is log-probability over words and `</s>`."""

    def __init__(self, net: TokenLM, caches: Sequence[KVCache], log_1V: Tensor, search: Search) -> None:
        rows = search.num_return if search.samples else 1
        self.net, self.vocab_size = net, log_1V.shape[1]
        self.caches = [cache.copy(rows) for cache in caches]
        self.score_S, self.log_SV = log_1V.new_zeros(rows), log_1V.repeat(rows, 1)
        self.prompt, self.limit = 1, search.max_tokens - 1  # which counts `</s> __lang__` as for a concept model

    def step(self, next_R: Tensor, source_R: Tensor | None = None) -> Tensor:
        if source_R is not None:
            moved = moves(source_R)
            for cache in self.caches:
                cache.select(source_R, moved)
        return log_softmax(self.net.logits(self.net(next_R[:, None], self.caches)[:, 0]), self.vocab_size)
