"""A Llama on tokens: what concept models are compared with. It shares their body, tokenizer and documents.

A document is `</s> __lang__`, then each sentence's words and one `</s>`: what the SONAR decoder writes of each
sentence, one after the other. So the same tokens are scored as in a concept model.

Legend: B documents, T tokens, M model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .layers import KVCache
from .llama import Llama, LlamaConfig


@dataclass(frozen=True, kw_only=True)
class TokenLMConfig(LlamaConfig):
    """A Llama body between a token table and its transpose (`tied`), or a second table."""

    vocab_size: int = 256206
    tied: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocab_size < 1:
            raise UserError(f"model.vocab_size is {self.vocab_size}", "leave it out: the space's tokenizer decides")


class TokenLM(nn.Module):
    """ids_BT, caches → hidden_BTM after the final norm; logits are `hidden · outputᵀ`."""

    def __init__(self, config: TokenLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.body = Llama(config.body)
        self.output_embed = None if config.tied else nn.Embedding(config.vocab_size, config.width)

    @property
    def output(self) -> Tensor:
        """weight_VM of the output projection."""
        return (self.output_embed or self.embed).weight

    def forward(self, ids_BT: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        return self.body(self.embed(ids_BT), caches)

    def logits(self, hidden_M: Tensor) -> Tensor:
        """hidden_…M → logits_…V."""
        return F.linear(hidden_M, self.output)

    @torch.no_grad()
    def init_(self) -> TokenLM:
        self.body.init_()
        for table in (self.embed, self.output_embed):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        return self
