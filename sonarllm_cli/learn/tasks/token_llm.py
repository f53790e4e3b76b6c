"""Training the token LLM: the next token of the same documents, laid out as in nets/token_lm.py.

What is scored is what a SONAR-LLM is scored on: the words and one `</s>` of every sentence but the first, the marker
read and not scored. So nats a token and bits a byte compare.

Legend: B documents, T tokens, L labelled tokens, N target sentences, M model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data.documents import Batch, Document
from ...nets.sonar import SonarConfig
from ...runtime import by_length
from ...tokens import EOS
from ..ahead import pinned
from ..budget import SENTENCE_TOKENS, body_activations, body_token_flops, logits_bytes
from ..losses import token_nll
from ..recipe import Settings
from .sonar_llm import CPU, SonarLLMTask

TOKENS = 4096  # padded tokens that the body reads at once
MARKED = 1  # the marker's row of the sentence table


class Laid(NamedTuple):
    """Documents of like length as they are read, padded, which tokens are scored, and of which sentences."""

    ids_BT: Tensor  # less the last, which nothing follows
    label_BT: Tensor  # which of the next ones count
    target_L: Tensor  # those
    of_L: Tensor  # the sentence of each
    row_N: np.ndarray


class TokenLLMTask(SonarLLMTask):
    """Data, model and loss of one `token-llm` run, for the loop."""

    embeds = False

    def __init__(self, settings: Settings, folder: Path, device: torch.device = CPU) -> None:
        super().__init__(settings, folder, device)
        del self.space.net.decoder

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """The body over all tokens of a document, and logits of each."""
        body = body_token_flops(model.config, 0, settings.data.max_sentences * SENTENCE_TOKENS)
        return 3 * tokens * (body + 2 * model.config.width * model.config.vocab_size)

    @classmethod
    def activations(cls, settings: Settings, config: Any, space: SonarConfig | None, half: int) -> float:
        """The body's, of every token."""
        return settings.optim.batch_tokens * body_activations(settings, config, half) + logits_bytes(config.vocab_size)

    def _start(self, model: Any) -> Any:
        return model

    def _given(self) -> dict[str, int]:
        return {"vocab_size": self.space.tokenizer.vocab_size}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's mean token cross-entropy, and what to log of it."""
        loaded = batch.loaded or self._loaded(batch.documents)
        total, nll_N = self._score(loaded.groups, 1 / batch.step_tokens)
        nll = nll_N.sum().item()
        facts = {"tokens": loaded.labels, "sentences": len(nll_N), "nll": nll / loaded.labels}
        return total, facts | {"bpb": nll / math.log(2) / loaded.bytes}

    def _wanted(self, row_N: np.ndarray) -> None:
        """Nothing: the groups hold the labels."""

    def _groups(self, documents: Sequence[Document]) -> Any:
        laid = [self._lay_out(d) for d in documents]
        room = None if self.settings.parallel.shard == "full" else TOKENS  # as many calls in every process
        groups = by_length([len(ids) for ids, _ in laid], len(laid), room)
        return [self._group([laid[i] for i in group], [documents[i] for i in group]) for group in groups]

    def _lay_out(self, document: Document) -> tuple[list[int], list[int]]:
        """A document's ids, and for each which of its sentences it is scored for, −1 for none."""
        ids = list(self.space.tokenizer.prompt(self.settings.data.lang))
        scored = [-1] * len(ids)
        for place, target in enumerate(self.table.target_ids(document.rows)):
            words = target[2:]  # less `</s> __lang__`
            counts = place >= document.scored and document.rows[place] != MARKED
            ids += words
            scored += [place if counts else -1] * len(words)
        return ids, scored

    def _group(self, laid: Sequence[tuple[list[int], list[int]]], documents: Sequence[Document]) -> Laid:
        T = max(len(ids) for ids, _ in laid)
        ids_BT, scored_BT = torch.full((len(laid), T), EOS), torch.full((len(laid), T), -1)
        for b, (ids, scored) in enumerate(laid):
            ids_BT[b, : len(ids)], scored_BT[b, : len(ids)] = torch.tensor(ids), torch.tensor(scored)
        label_BT = scored_BT[:, 1:] >= 0
        at_B = torch.arange(len(laid))[:, None].expand_as(label_BT)[label_BT]
        pair_L = at_B * T + scored_BT[:, 1:][label_BT]  # document and sentence, in order
        sentence_N, of_L = pair_L.unique(return_inverse=True)
        row_N = np.array([documents[int(p) // T].rows[int(p) % T] for p in sentence_N])
        read = (ids_BT[:, :-1].contiguous(), label_BT, ids_BT[:, 1:][label_BT])
        ids_BT, label_BT, target_L = (pinned(tensor, self.device) for tensor in read)
        return Laid(ids_BT, label_BT, target_L, of_L, row_N)

    def _score(self, groups: Sequence[Laid], scale: float) -> tuple[Tensor, Tensor]:
        """Groups of documents → scale × Σ nll, and each target sentence's nll."""
        total, parts = torch.zeros((), device=self.device), []
        for ids_BT, label_BT, target_L, of_L, row_N in groups:
            ids, label, target = (t.to(self.device, non_blocking=True) for t in (ids_BT, label_BT, target_L))
            scale_L = torch.full((len(target),), scale, device=self.device)
            value, nll_L = token_nll(self.model(ids)[label], self.model.output, target, scale_L)
            total = total + value
            parts.append(torch.zeros(len(row_N)).index_add_(0, of_L, nll_L.cpu()))
        return total, torch.cat(parts)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """As for SONAR-LLM: nats a token and bits a byte of texts, and of titles after the marker."""
        out: dict[str, float] = {}
        for name, summary in (("text", False), ("title", True)):
            documents = self.data.held_out(summary, 16 * self.settings.run.valid_batches)
            if not documents:
                continue
            loaded = self._loaded(documents)
            nll_N, row_N = self._score(loaded.groups, 0.0)[1], loaded.row_N
            if summary:
                nll_N, row_N = nll_N[torch.from_numpy(row_N != 0)], row_N[row_N != 0]
            nll = nll_N.sum().item()
            out[f"valid_{name}_nll"] = nll / int(self.table.labels[row_N].sum())
            out[f"valid_{name}_bpb"] = nll / math.log(2) / self.table.bytes(row_N)
        return out
