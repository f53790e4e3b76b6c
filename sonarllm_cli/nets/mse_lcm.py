"""The base LCM: a Llama body that predicts the next sentence's embedding itself, by squared error.

Legend: B documents, S sentences, D embedding.
Source: LCM team 2024 (arXiv 2412.08821), 2.3.1, on the body that all kinds share here: no biases and no dropout in
its layers, rotary positions as Llama 3 has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .layers import KVCache
from .normaliser import Normaliser
from .sonar_llm import SonarLLM, SonarLLMConfig


@dataclass(frozen=True, kw_only=True)
class MseLCMConfig(SonarLLMConfig):
    """The shape of a SONAR-LLM: only what it is taught differs."""


class MseLCM(SonarLLM):
    """context_BSD, caches → predicted_BSD, as `SonarLLM`; between them it sees and makes normalised embeddings."""

    def __init__(self, config: MseLCMConfig) -> None:
        super().__init__(config)
        self.normaliser = Normaliser(config.embedding)

    def forward(self, context_BSD: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        normal_BSD = super().forward(self.normaliser(context_BSD).to(context_BSD.dtype), caches)
        return self.normaliser.invert(normal_BSD).to(context_BSD.dtype)
