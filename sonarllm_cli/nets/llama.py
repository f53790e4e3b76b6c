"""The Llama-3 body and its key/value cache: causal, pre-norm, rotary positions, grouped queries, SwiGLU, no biases.

Legend: B documents, S positions (new ones), C cached and new positions, M model width, H heads, G key/value heads,
K head size.
Source: Touvron et al. 2023, Grattafiori et al. 2024 (Llama 3); layer order, rotary halves and `llama3` scaling as in
transformers' `LlamaModel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .layers import KVCache, attend


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape of a Llama body. Rotary scaling is Llama 3.2's: factor 32 over 8,192 positions; factor 1 turns it off."""

    width: int = 1280
    ffn: int = 5120
    layers: int = 16
    heads: int = 26
    head_size: int = 64
    kv_heads: int = 0  # 0: as many as heads
    norm_eps: float = 1e-6
    rope_theta: float = 500_000.0
    rope_factor: float = 32.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_positions: int = 8192

    def __post_init__(self) -> None:
        for name in ("width", "ffn", "layers", "heads", "head_size"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}", "use a positive number")
        for name in ("norm_eps", "rope_theta", "rope_factor", "rope_low", "rope_high", "rope_positions"):
            if not getattr(self, name) > 0:
                raise UserError(f"model.{name} is {getattr(self, name)}", "use a number above 0")
        if self.rope_low == self.rope_high:
            raise UserError(f"model.rope_low and model.rope_high are both {self.rope_low}", "use 1 and 4")
        if self.head_size % 2:
            raise UserError(f"model.head_size {self.head_size} is odd", f"use {self.head_size + 1}")
        if self.kv_heads and self.heads % self.kv_heads:
            raise UserError(
                f"model.heads {self.heads} is not a multiple of model.kv_heads {self.kv_heads}",
                f"use model.kv_heads = {math.gcd(self.heads, self.kv_heads)}",
            )

    @property
    def body(self) -> LlamaConfig:
        """The body alone, of a model that has one."""
        return LlamaConfig(**{f.name: getattr(self, f.name) for f in fields(LlamaConfig)})


def rope_rate(config: LlamaConfig) -> Tensor:
    """Radians a position for each pair of a head's dimensions, scaled as Llama 3 does: long waves are slowed by
    `factor`, short ones kept, those between blended. → rate_{K/2} (float32)."""
    rate = config.rope_theta ** -(torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size)
    if config.rope_factor == 1:
        return rate
    wave = 2 * math.pi / rate
    low, high = config.rope_positions / config.rope_low, config.rope_positions / config.rope_high
    smooth = (config.rope_positions / wave - config.rope_low) / (config.rope_high - config.rope_low)
    blend = (1 - smooth) * rate / config.rope_factor + smooth * rate
    return torch.where(wave > low, rate / config.rope_factor, torch.where(wave < high, rate, blend))


def rotate(x_BHSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """Rotary embedding on halves (k, k + K/2), not on neighbours: x_BHSK → x_BHSK."""
    a, b = x_BHSK.chunk(2, -1)
    return x_BHSK * cos_SK + torch.cat([-b, a], -1) * sin_SK


class RMSNorm(nn.RMSNorm):
    """PyTorch's, in the dtype of its input, so that the fused kernel also serves under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LlamaLayer(nn.Module):
    """x_BSM, (cos_SK, sin_SK), mask, cache → x_BSM"""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.kv_heads or config.heads, config.head_size
        self.attn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.qkv_proj = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_size, bias=False)
        self.out_proj = nn.Linear(self.heads * self.head_size, config.width, bias=False)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.gate_up_proj = nn.Linear(config.width, 2 * config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x_BSM: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None) -> Tensor:
        B, S, _ = x_BSM.shape
        qkv = self.qkv_proj(self.attn_norm(x_BSM)).view(B, S, -1, self.head_size).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.append(k, v)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        mixed_BHSK = attend(q, k, v, mask=mask, causal=mask is None and S > 1)
        x_BSM = x_BSM + self.out_proj(mixed_BHSK.transpose(1, 2).reshape(B, S, -1))
        gate, up = self.gate_up_proj(self.ffn_norm(x_BSM)).chunk(2, -1)
        return x_BSM + self.down_proj(F.silu(gate) * up)


class Llama(nn.Module):
    """The body: x_BSM → hidden_BSM after the final norm. Padding goes to the right, where causality hides it."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)

    def caches(self, capacity: int = 64) -> list[KVCache]:
        """Empty caches, one a layer."""
        return [KVCache(capacity) for _ in self.layers]

    def rope(self, first: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of `count` positions from `first`: → cos_SK, sin_SK in the dtype of `like`."""
        position_S = torch.arange(first, first + count, dtype=torch.float32, device=like.device)
        angle = position_S[:, None] * rope_rate(self.config).to(like.device)
        angle_SK = torch.cat([angle, angle], 1)
        return angle_SK.cos().to(like.dtype), angle_SK.sin().to(like.dtype)

    def forward(self, x_BSM: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        first, S = caches[0].length if caches else 0, x_BSM.shape[1]
        rope, mask = self.rope(first, S, x_BSM), None
        if first and S > 1:  # several new positions after cached ones: each sees the cache and those up to itself
            mask = torch.ones(S, first + S, dtype=torch.bool, device=x_BSM.device).tril(first)
        for i, layer in enumerate(self.layers):
            x_BSM = layer(x_BSM, rope, mask, caches[i] if caches else None)
        return self.norm(x_BSM)

    @torch.no_grad()
    def init_(self, std: float = 0.02) -> Llama:
        """Normal weights; what residual branches add is scaled by 1/√(2L) (Radford et al. 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                branch = name.endswith(("out_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=std * (2 * len(self.layers)) ** -0.5 if branch else std)
        return self
