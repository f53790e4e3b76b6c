"""SONAR-LLM: a Llama body that reads a document as sentence embeddings and predicts the next one.

Legend: B documents, S sentences, D embedding, M model width.
Source: Dragunov et al. 2025 (arXiv 2508.05305); position k − 1 predicts sentence k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .layers import KVCache
from .llama import Llama, LlamaConfig

ENDING = "End of sequence."  # the last sentence of every document; source: the published scripts
BEGINNING = "Begin of text."  # the first, in the published generation script, where a config says so
MARKER = "Summary:"  # between a text and its summary, in documents of ours


@dataclass(frozen=True, kw_only=True)
class SonarLLMConfig(LlamaConfig):
    """A Llama body between two projectors; `embedding` is D of the space it lives in."""

    embedding: int = 1024


class SonarLLM(nn.Module):
    """context_BSD, caches → predicted_BSD: at each position, the embedding of the sentence after it."""

    def __init__(self, config: SonarLLMConfig) -> None:
        super().__init__()
        self.config = config
        self.project_in = nn.Linear(config.embedding, config.width)
        self.body = Llama(config.body)
        self.project_out = nn.Linear(config.width, config.embedding)

    def forward(self, context_BSD: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        return self.project_out(self.body(self.project_in(context_BSD.to(self.body.norm.weight.dtype)), caches))

    def remember(self, chunk_BSD: Tensor, caches: list[KVCache] | None, memory: list[Tensor]) -> None:
        """Read sentences after those in `caches`. `memory` holds what `next` needs of all that was read."""
        memory[:] = [self(chunk_BSD, caches)[:, -1]]

    def next(self, memory: list[Tensor], generator: torch.Generator | None = None, sampling: Any = None) -> Tensor:
        """The embedding after all that was read: → next_BD. What begins as noise draws it from `generator`, and may be
        sampled otherwise than its config says."""
        return memory[-1]

    def next_all(self, context_BSD: Tensor, generator: torch.Generator | None = None, sampling: Any = None) -> Tensor:
        """What follows each beginning of the context: → next_BSD."""
        return self(context_BSD)

    def init_(self) -> SonarLLM:
        """The body's start; projectors keep PyTorch's."""
        self.body.init_()
        return self
