"""Embeddings → sentences: beam search and sampling. The last arrow of the chain.

Beam search is fairseq2's, as sonar-space runs it: token for token and score for score. A sentence ends when it has
`beam` finished hypotheses; `</s>` counts only among the best `beam` candidates of a step; a hypothesis' score is its
log-probability, language token included, over its length less one. They are ranked by that, or as a length penalty
says.

Legend: S sentences still decoded, K beams, V vocabulary, M model width, D embedding, L layers, R rows, T tokens
written, G their n-grams, B those that would stand twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..io.vectors import EmbeddingBatch
from ..nets.layers import KVCache, moves
from ..runtime import Runtime, shrinking
from ..tokens import EOS, PAD
from ..weights import registry
from ..weights.loaded import DEFAULT, Space, load_space
from .back import back_cosines

MOST_BEAMS = 1000


class Hypothesis(NamedTuple):
    """A decoded sentence; `ids` are its tokens after the prompt, `</s>` included. `cosine`, where it was asked for, is
    that of its own embedding with the one it was decoded from (see `back.py`)."""

    text: str
    score: float
    ids: tuple[int, ...]
    cosine: float | None = None


NOTHING = Hypothesis("", 0.0, ())  # of no words
Found = list[tuple[tuple[int, ...], float]]  # (ids after the prompt, score), best first; none where numbers overflowed


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to decode. With a `temperature` or `top_p` tokens are sampled, else beam search finds them.

    `max_tokens` counts as sonar-space's max_seq_len: prompt (2) and `</s>` included. `no_repeat_ngram`: no so many
    tokens stand twice in what is written, a sentence or a text of several (0: they may). `repetition_penalty`: a token
    that was written in the sentence has its logit divided by it where above 0, else multiplied (Keskar et al. 2019).
    `length_penalty`: hypotheses are ranked by their log-probability over this power of their length (Wu et al. 2016):
    less than 1 favours short ones. None is 0, 1 and 1, but of what a concept model predicts (`PREDICTED` in
    flow/write.py). Scores are of the distribution that this leaves.
    """

    beam: int = 5
    temperature: float | None = None
    top_p: float | None = None
    num_return: int = 1
    max_tokens: int = 256
    length_penalty: float | None = None
    no_repeat_ngram: int | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.beam <= MOST_BEAMS and 1 <= self.num_return <= MOST_BEAMS):
            raise UserError(
                f"beam {self.beam} or num-return {self.num_return} is not 1 to {MOST_BEAMS:,}",
                "use --beam 5 --num-return 1",
            )
        if self.max_tokens < 4:
            raise UserError(f"max-tokens {self.max_tokens} leaves no room for a word", "use 4 or more")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UserError(f"temperature {self.temperature} is not a number above 0", "use 0.6, or none for beams")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p} is not in (0, 1]", "use 0.9")
        if self.ngram < 0:
            raise UserError(f"no-repeat-ngram {self.no_repeat_ngram} is below 0", "use 3, or 0 for none")
        if self.length_penalty is not None and not 0 <= self.length_penalty < math.inf:
            raise UserError(f"length-penalty {self.length_penalty} is not 0 or more", "use 0.7, or 1 for none")
        if not 1 <= self.penalty < math.inf:
            raise UserError(f"repetition-penalty {self.repetition_penalty} is not 1 or more", "use 1.2, or 1 for none")
        if not self.samples and self.num_return > self.beam:
            raise UserError(f"beam {self.beam} finds only {self.beam} texts", f"use --beam {self.num_return}")

    @property
    def samples(self) -> bool:
        return self.temperature is not None or self.top_p is not None

    @property
    def penalty(self) -> float:
        """Of repetition; 1 is none."""
        return 1.0 if self.repetition_penalty is None else self.repetition_penalty

    @property
    def ngram(self) -> int:
        """Tokens that don't stand twice; 0 is none."""
        return self.no_repeat_ngram or 0

    def ranked(self, found: Found, prompt: int) -> Found:
        """What was found after a prompt of so many tokens, by its scores a token, best first."""
        power = 0.0 if self.length_penalty is None else 1 - self.length_penalty
        return sorted(found, key=lambda h: -h[1] * (len(h[0]) + prompt - 1) ** power)

    @property
    def discourages(self) -> bool:
        """Whether it keeps a text from repeating itself."""
        return self.ngram > 0 or self.penalty != 1


def decode(
    embeddings: np.ndarray | Tensor,
    *,
    lang: str = "eng_Latn",
    model: str | Space = DEFAULT,
    runtime: Runtime | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> list[list[Hypothesis]]:
    """The texts of embeddings (N, D), or of one (D,): `num_return` hypotheses for each, best first, with their cosines.

    Tensors may be of any dtype, on any device. `options` are fields of `Search`: beam, temperature, top_p,
    num_return, max_tokens, length_penalty, no_repeat_ngram, repetition_penalty. Raises UserError for embeddings of
    another width, or that are not finite, or that overflow.

    >>> decode(embed("A text."))[0][0].text      # doctest: +SKIP
    'A text.'
    """
    space = model if isinstance(model, Space) else load_space(model, runtime)
    embedding_ND = torch.atleast_2d(torch.as_tensor(embeddings).detach())
    check(embedding_ND, space)
    return _read_back(decode_batch(embedding_ND, lang, space, Search(**options), batch_size), embedding_ND, lang, space)


def decode_stream(
    batches: Iterable[EmbeddingBatch],
    lang: str,
    space: Space,
    search: Search,
    batch_size: int | None = None,
) -> Iterator[list[Hypothesis]]:
    """Batches of a file of embeddings → each row's hypotheses with their cosines, as they come. A row whose text the
    file has, and has as blank, comes back as empty text, not as what the decoder makes of no words. UserError for
    another space's."""
    for batch in batches:
        if batch.fingerprint and batch.fingerprint != space.fingerprint:
            made = registry.space_named(batch.fingerprint)
            model = "NAME" if made == batch.fingerprint else made
            raise UserError(
                f"{batch.name} is of the space {made}, not of {space.name}",
                f"decode with the model that embedded them: -m {model}",
            )
        embedding_ND = torch.from_numpy(np.array(batch.embeddings_ND))
        check(embedding_ND, space, batch.first, batch.name)
        found = decode_batch(embedding_ND, lang, space, search, batch_size, first=batch.first, name=batch.name)
        for hypotheses, text in zip(_read_back(found, embedding_ND, lang, space), batch.texts):
            yield [NOTHING] * search.num_return if text is not None and not text.strip() else hypotheses


def _read_back(found: list[list[Hypothesis]], embedding_ND: Tensor, lang: str, space: Space) -> list[list[Hypothesis]]:
    """The hypotheses of each row with their cosines."""
    cosines = back_cosines([[h.text for h in row] for row in found], lang, embedding_ND, space)
    return [[h._replace(cosine=cosine) for h, cosine in zip(*both)] for both in zip(found, cosines)]


def check(embedding_ND: Tensor, space: Space, first: int = 0, name: str = "the embeddings") -> None:
    """UserError for embeddings that are not (N, D) of this space's width, or hold one that is not finite."""
    if embedding_ND.ndim != 2 or embedding_ND.shape[1] != space.dim:
        raise UserError(
            f"{name}: an array of {tuple(embedding_ND.shape)}, {space.name} has width {space.dim}",
            "decode with the model that embedded them",
        )
    bad = (~embedding_ND.isfinite().all(1)).nonzero()
    if len(bad):
        raise UserError(f"{name}, row {first + int(bad[0]) + 1} is not finite", "embed that text again")


@torch.inference_mode()
def decode_batch(
    embedding_ND: Tensor,
    lang: str,
    space: Space,
    search: Search,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    first: int = 0,
    before: Sequence[Sequence[int]] = (),
    name: str = "the embeddings",
) -> list[list[Hypothesis]]:
    """As `decode`, on a loaded space; `generator` goes on from call to call. Row `first` (from 0) of `name` is
    the first, for messages: UserError names the first embedding that can't be decoded. `before` are the ids of
    sentences that each row's text has already, for `no_repeat_ngram`."""
    embedding_ND = embedding_ND.to(space.runtime.device, space.runtime.dtype)
    prompt = space.tokenizer.prompt(lang)
    generator = generator or (space.runtime.generator() if search.samples else None)

    def run(rows: Sequence[int]) -> list[list[Hypothesis]]:
        part_SD = embedding_ND[torch.tensor(list(rows), device=embedding_ND.device)]
        if search.samples:
            found = sample(space, part_SD, prompt, search, generator, before)
        else:
            found = beam_search(space, part_SD, prompt, search, before)
        for row, hyps in zip(rows, found):
            _check_found(f"{name}, row {first + row + 1}", len(hyps), search, space)
        return [
            [Hypothesis(space.tokenizer.text(ids), score, ids) for ids, score in hyps[: search.num_return]]
            for hyps in found
        ]

    size = batch_size or (32 if space.runtime.device.type == "cpu" else 256)
    everything = range(len(embedding_ND))
    return [hyps for i in range(0, len(everything), size) for hyps in shrinking(run, everything[i : i + size])]


def _check_found(row: str, count: int, search: Search, space: Space) -> None:
    """One row in, `num_return` texts out: UserError, which names the `row`, for one that has fewer."""
    if not count:
        dtype = str(space.runtime.dtype).removeprefix("torch.")
        cure = "embed that text again" + (", or use --dtype float32" if dtype != "float32" else "")
        raise UserError(f"{row} overflows {dtype} in the decoder", cure)
    if count < search.num_return:
        raise UserError(f"{row} has only {count} texts", f"use --num-return {count}")


class Speaker(Protocol):
    """What a search asks of a model: the next token's logits, row by row. `score_S` is what the prompt of
    `prompt` tokens has already, `log_SV` of the first token, `limit` the tokens that prompt and text may have."""

    score_S: Tensor
    log_SV: Tensor
    prompt: int
    limit: int

    def step(self, next_R: Tensor, source_R: Tensor | None = None) -> Tensor:
        """A token for each row; with `source_R`, row r goes on from the row `source_R[r]`. → logits_RV"""


def beam_search(
    space: Space, embedding_SD: Tensor, prompt: list[int], search: Search, before: Sequence[Sequence[int]] = ()
) -> list[Found]:
    """embedding_SD → for each sentence its `beam` finished hypotheses, best first."""
    state = _Prefill(space, embedding_SD, prompt, search.max_tokens)
    return state.found(search_beams(state, search, state.placed(ngrams(before, search))))


def search_beams(state: Speaker, search: Search, before_GN: Tensor) -> list[Found]:
    """For each row of a prompt that was read, its `beam` finished hypotheses, best first, without the n-grams
    `before_GN`."""
    K, V = search.beam, state.log_SV.shape[1]
    width = min(2 * K, V - 1)
    alive = list(range(len(state.score_S)))  # the sentence that each row group is
    finished: list[Found] = [[] for _ in alive]
    score_SK = state.score_S[:, None]
    tokens_SKT = torch.zeros(len(alive), 1, 0, dtype=torch.long, device=score_SK.device)
    logits_RV = discouraged(state.log_SV, tokens_SKT.flatten(0, 1), search, before_GN)
    limit = state.limit
    for length in range(state.prompt + 1, limit + 1):  # of the sequence with the token chosen here
        S, now = score_SK.shape
        # the best 2K overall are among the best 2K of each beam; the last place is for </s>
        top_RW, id_RW = best_tokens(logits_RV, V, width, only_end=length == limit)
        top_SKW, id_SKW = top_RW.view(S, now, -1), id_RW.view(S, now, -1)
        flat_SC = (score_SK[..., None] + top_SKW).flatten(1)
        best_SW, place_SW = flat_SC.topk(min(width, flat_SC.shape[1]), dim=1)
        beam_SW = place_SW // top_SKW.shape[-1]
        id_SW = id_SKW.flatten(1).gather(1, place_SW)
        ends_SW = id_SW == EOS
        for s, w in torch.nonzero(ends_SW[:, :K]).tolist():
            found = finished[alive[s]]
            if len(found) < K and best_SW[s, w] > -torch.inf:
                ids = (*tokens_SKT[s, beam_SW[s, w]].tolist(), EOS)
                found.append((ids, best_SW[s, w].item() / (length - 1)))
        keep = [s for s in range(S) if len(finished[alive[s]]) < K]
        if not keep or length == limit:
            break
        # the K best that do not end go on: a stable sort puts them first, in order of score
        go_SK = torch.sort(ends_SW.int(), dim=1, stable=True).indices[:, :K]
        row_S = torch.tensor(keep, device=score_SK.device)
        go_SK = go_SK[row_S]
        score_SK = best_SW[row_S].gather(1, go_SK)
        beam_SK = beam_SW[row_S].gather(1, go_SK)
        next_SK = id_SW[row_S].gather(1, go_SK)
        tokens_SKT = torch.cat([tokens_SKT[row_S[:, None], beam_SK], next_SK[..., None]], -1)
        alive = [alive[s] for s in keep]
        source_R = (row_S[:, None] * now + beam_SK).flatten()
        logits_RV = discouraged(state.step(next_SK.flatten(), source_R), tokens_SKT.flatten(0, 1), search, before_GN)
    return [search.ranked(found, state.prompt) for found in finished]


def sample(
    space: Space,
    embedding_SD: Tensor,
    prompt: list[int],
    search: Search,
    generator: torch.Generator | None,
    before: Sequence[Sequence[int]] = (),
) -> list[Found]:
    """embedding_SD → `num_return` sampled token sequences for each, best score first."""
    many_RD = embedding_SD.repeat_interleave(search.num_return, 0)
    state = _Prefill(space, many_RD, prompt, search.max_tokens)
    return state.found(draw_tokens(state, search, generator, state.placed(ngrams(before, search))))


def draw_tokens(state: Speaker, search: Search, generator: torch.Generator | None, before_GN: Tensor) -> list[Found]:
    """As `search_beams`, on rows that already are `num_return` for each prompt, by sampling: temperature first, then
    the smallest set of tokens whose mass reaches `top_p` (Holtzman et al. 2020)."""
    n, limit = search.num_return, state.limit
    score_R = state.score_S
    rows, vocab_size = state.log_SV.shape
    ids: list[list[int]] = [[] for _ in range(rows)]
    score = score_R.tolist()
    done = [False] * rows
    drawn_RT = torch.zeros(rows, 0, dtype=torch.long, device=score_R.device)
    log_RV = log_softmax(discouraged(state.log_SV, drawn_RT, search, before_GN), vocab_size)
    for length in range(state.prompt + 1, limit + 1):
        log_RV[:, PAD] = -torch.inf
        last = length == limit  # that place is for </s>
        next_R = torch.full((rows,), EOS, device=log_RV.device) if last else _draw(log_RV, search, generator)
        gain = log_RV.gather(1, next_R[:, None])[:, 0].tolist()
        for row, token in enumerate(next_R.tolist()):
            if not done[row]:
                ids[row].append(token)
                score[row] += gain[row]
                done[row] = token == EOS
        if all(done):
            break
        drawn_RT = torch.cat([drawn_RT, next_R[:, None]], 1)
        log_RV = log_softmax(discouraged(state.step(next_R), drawn_RT, search, before_GN), vocab_size)
    out: list[Found] = []
    for s in range(0, rows, n):
        hyps: Found = [
            (tuple(ids[r]), score[r] / (len(ids[r]) + state.prompt - 1))
            for r in range(s, s + n)
            if math.isfinite(score[r])
        ]
        out.append(search.ranked(hyps, state.prompt))
    return out


def _draw(log_RV: Tensor, search: Search, generator: torch.Generator | None) -> Tensor:
    p_RV = torch.softmax(log_RV / (search.temperature or 1.0), -1)
    if search.top_p is not None and search.top_p < 1:
        sorted_RV, order_RV = p_RV.sort(-1, descending=True)
        outside = sorted_RV.cumsum(-1) - sorted_RV >= search.top_p
        outside[:, 0] = False  # the likeliest stays, however small a mass float32 takes for none
        p_RV = torch.zeros_like(p_RV).scatter(1, order_RV, sorted_RV.masked_fill(outside, 0.0))
    p_RV[p_RV[:, 0].isnan()] = 1.0  # a row that overflowed: anything, its score tells
    return torch.multinomial(p_RV, 1, generator=generator)[:, 0]


def ngrams(before: Sequence[Sequence[int]], search: Search) -> Tensor:
    """Ids of sentences → those of their n-grams that don't stand twice, as `search` says: → before_GN"""
    n = search.ngram
    found = [ids[i : i + n] for ids in before for i in range(len(ids) - n + 1)] if n else []
    return torch.tensor(found, dtype=torch.long).view(len(found), n)


def discouraged(logits_RV: Tensor, written_RT: Tensor, search: Search, before_GN: Tensor) -> Tensor:
    """Logits of the next token, those of tokens already written lowered as `search` says; n-grams are those of the
    sentence and `before_GN`. → logits_RV, as they were where it says nothing."""
    if not search.discourages:
        return logits_RV
    logits_RV = logits_RV.float()
    if search.penalty != 1:
        had_RT = logits_RV.gather(1, written_RT)
        less_RT = torch.where(had_RT > 0, had_RT / search.penalty, had_RT * search.penalty)
        logits_RV = logits_RV.scatter(1, written_RT, less_RT)
    n, T = search.ngram, written_RT.shape[1]
    if 0 < n <= T + 1:
        last_R1N = written_RT[:, None, T - n + 1 :]
        grams_RGN = before_GN.to(written_RT.device).expand(len(written_RT), -1, -1)
        if n <= T:
            grams_RGN = torch.cat([grams_RGN, written_RT.unfold(1, n, 1)], 1)
        again_RG = (grams_RGN[..., :-1] == last_R1N).all(-1)
        row_B, gram_B = again_RG.nonzero(as_tuple=True)
        logits_RV[row_B, grams_RGN[row_B, gram_B, -1]] = -torch.inf
    return logits_RV


def best_tokens(logits_RV: Tensor, vocab_size: int, count: int, only_end: bool = False) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of each row, `<pad>` never, and their log-probabilities in float32; or with `only_end` those
    of `</s>`. A few rows at a time: no second table of rows × vocabulary is made.

    logits_RV → log_RW, id_RW. Its plain twin is `log_softmax` and `topk`.
    """
    rows = 8 if logits_RV.device.type == "cpu" else len(logits_RV)
    logs, ids = [], []
    for part_RV in logits_RV.split(rows):
        score_RV = part_RV[:, :vocab_size].float()
        total_R1 = score_RV.logsumexp(-1, keepdim=True)
        if only_end:
            top_RW, id_RW = score_RV[:, EOS : EOS + 1], torch.full_like(total_R1, EOS, dtype=torch.long)
        else:
            score_RV[:, PAD] = -torch.inf
            top_RW, id_RW = score_RV.topk(count, dim=-1)
        logs.append(top_RW - total_R1)
        ids.append(id_RW)
    return torch.cat(logs), torch.cat(ids)


def log_softmax(logits: Tensor, vocab_size: int) -> Tensor:
    """Log-probabilities in float32 over the tokenizer's ids."""
    return torch.log_softmax(logits[..., :vocab_size].float(), -1)


class _Prefill:
    """A SONAR decoder that has read the prompt: caches that hold it, log p(language | </s>) as `score_S`, and the first
    word's `log_SV`."""

    def __init__(self, space: Space, embedding_SD: Tensor, prompt: list[int], limit: int) -> None:
        self.decoder, self.shortlist, self.vocab_size = space.net.decoder, space.shortlist, space.tokenizer.vocab_size
        self.prompt, self.limit = len(prompt), min(limit, space.net.config.max_target_tokens)
        self.caches = [KVCache(min(64, self.limit)) for _ in self.decoder.layers]
        self.cross = self.decoder.cross(embedding_SD)
        ids_S2 = torch.tensor([prompt], device=embedding_SD.device).expand(len(embedding_SD), -1)
        hidden_S2M = self.decoder.step(ids_S2, self.cross, self.caches)
        log_S2V = log_softmax(self._logits(hidden_S2M), self.vocab_size)
        next_S1 = ids_S2[:, 1:] if self.shortlist is None else self.shortlist.place(ids_S2[:, 1:].contiguous())
        self.score_S = log_S2V[:, :-1].gather(2, next_S1[..., None])[..., 0].sum(1)
        self.log_SV = log_S2V[:, -1].clone()

    def step(self, next_R: Tensor, source_R: Tensor | None = None) -> Tensor:
        if source_R is not None:
            moved = moves(source_R)
            for cache in self.caches:
                cache.select(source_R, moved)
            if len(source_R) != len(self.cross[0]):  # else rows keep their sentence, whose beams share it
                self.cross = [added_SM[source_R] for added_SM in self.cross]
        next_R = next_R if self.shortlist is None else self.shortlist.id_W[next_R]
        hidden_R1M = self.decoder.step(next_R[:, None], self.cross, self.caches)
        return self._logits(hidden_R1M[:, 0])

    def _logits(self, hidden: Tensor) -> Tensor:
        """Of the words that may be written, which are numbered by their place in the shortlist where there is one."""
        if self.shortlist is not None:
            return self.shortlist.logits(hidden)
        return self.decoder.logits(hidden)[..., : self.vocab_size]

    def placed(self, before_GN: Tensor) -> Tensor:
        """N-grams in the tokenizer's ids, by the numbers of what may be written; those of other words are left out."""
        if self.shortlist is None:
            return before_GN
        id_W, before_GN = self.shortlist.id_W, before_GN.to(self.shortlist.id_W.device)
        place_GN = self.shortlist.place(before_GN).clamp(max=len(id_W) - 1)
        return place_GN[(id_W[place_GN] == before_GN).all(1)]

    def found(self, found: list[Found]) -> list[Found]:
        """What a search found, in the tokenizer's ids."""
        if self.shortlist is None:
            return found
        ids = self.shortlist.id_W.tolist()
        return [[(tuple(ids[i] for i in words), score) for words, score in hyps] for hyps in found]
