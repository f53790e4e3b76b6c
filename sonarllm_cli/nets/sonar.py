"""SONAR in plain PyTorch: a text encoder (ids → one embedding) and a text decoder (embedding → ids).

The published 24-layer model and our own small one are the same classes under another config. The decoder attends to
a single vector, so the softmax over its one key is 1 and cross-attention is `out_proj(v_proj(e))`: the same at every
position and step, computed once a sentence and layer. Query and key weights of published checkpoints are not needed.

Legend: B texts, T tokens, D embedding, M model width, V vocabulary, L layers.
Source: Duquenne et al. 2023 (arXiv 2308.11466); layer order and positions as in sonar-space and fairseq2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .layers import FeedForward, KVCache, Linear, SelfAttention, drawn, product, sinusoid_TM

POOLINGS = ("mean", "max", "last")


@dataclass(frozen=True, kw_only=True)
class SonarConfig:
    """Shape of a SONAR text encoder and decoder. Defaults are the published model's."""

    width: int = 1024
    heads: int = 16
    ffn: int = 8192
    encoder_layers: int = 24
    decoder_layers: int = 24
    vocab_size: int = 256206
    embedding: int = 1024  # D, the vector's width; differs from `width` only in our small models
    max_source_tokens: int = 514
    max_target_tokens: int = 512
    pooling: str = "mean"
    pool_width: int = 0  # features of a token that are pooled, by a layer of their own; 0: its state itself (ours)
    norm_embedding: bool = False  # ours: embeddings have mean 0 and variance 1, so that training can't shrink the space
    tied: bool = False  # one token table for encoder and decoder (ours); published checkpoints carry two
    dropout: float = 0.1

    def __post_init__(self) -> None:
        least = {"width": 4, "max_source_tokens": 3, "max_target_tokens": 4, "pool_width": 0}
        for name in ("heads", "ffn", "encoder_layers", "decoder_layers", "vocab_size", "embedding", *least):
            if getattr(self, name) < least.get(name, 1):
                raise UserError(f"model.{name} is {getattr(self, name)}", f"use {least.get(name, 1)} or more")
        if self.width % (2 * self.heads):
            low = self.width // (2 * self.heads) * 2 * self.heads
            near = f"{low} or {low + 2 * self.heads}" if low else f"{2 * self.heads}"
            raise UserError(f"model.width {self.width} is not divisible by 2 × model.heads {self.heads}", f"use {near}")
        if self.pooling not in POOLINGS:
            raise UserError(f"model.pooling {self.pooling!r} is unknown", f"use one of {', '.join(POOLINGS)}")


class Embed(nn.Module):
    """Token embedding × √M + position: ids_BT, first position → x_BTM. Where it `projects`, its `weight` is the output
    projection too."""

    float32 = True  # in training, whatever its products' dtype: a frequent word's gradient is a sum of very many

    def __init__(self, config: SonarConfig, projects: bool = False) -> None:
        super().__init__()
        self.projects = projects
        self.scale, self.width = config.width**0.5, config.width
        self.max_tokens = max(config.max_source_tokens, config.max_target_tokens)
        self.weight = drawn(config.vocab_size, config.width, std=config.width**-0.5)
        self._table: Tensor | None = None  # positions; made at first use, so not in the state

    def forward(self, ids_BT: Tensor, first: int = 0) -> Tensor:
        end = first + ids_BT.shape[1]
        return self.words(ids_BT) * self.scale + self.positions(end, self.weight)[first:end]

    def words(self, ids: Tensor) -> Tensor:
        """The token table's rows."""
        return F.embedding(ids, self.weight)

    def positions(self, count: int, like: Tensor) -> Tensor:
        """Positions of at least `count` tokens, where and as `like` is: → positions_TM."""
        table = self._table
        if table is None or table.device != like.device or table.dtype != like.dtype:
            table = self._table = sinusoid_TM(max(count, self.max_tokens), self.width).to(like)
        return table

    def project(self, hidden_M: Tensor) -> Tensor:
        """hidden_…M → logits_…V. The table is the output projection too."""
        return product(hidden_M, self.weight)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward: x_BTM, mask_B11T → x_BTM."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.self_attn = SelfAttention(config.width, config.heads)
        self.ffn_layer_norm = nn.LayerNorm(config.width)
        self.ffn = FeedForward(config.width, config.ffn)
        self.dropout = config.dropout

    def forward(self, x_BTM: Tensor, mask_B11T: Tensor | None) -> Tensor:
        drop = self.dropout if self.training else 0.0
        x_BTM = x_BTM + _drop(self.self_attn(self.self_attn_layer_norm(x_BTM), mask=mask_B11T), drop)
        return x_BTM + _drop(self.ffn(self.ffn_layer_norm(x_BTM)), drop)

    def ragged(self, x_NM: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """`forward` without padding or dropout; see `SelfAttention.ragged`."""
        x_NM = x_NM + self.self_attn.ragged(self.self_attn_layer_norm(x_NM), runs)
        return x_NM + self.ffn(self.ffn_layer_norm(x_NM))


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention, feed-forward: x_BTM, added_BM → x_BTM."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.self_attn = SelfAttention(config.width, config.heads)
        self.cross_v_proj = Linear(config.embedding, config.width)
        self.cross_out_proj = Linear(config.width, config.width)
        self.ffn_layer_norm = nn.LayerNorm(config.width)
        self.ffn = FeedForward(config.width, config.ffn)
        self.dropout = config.dropout

    def cross(self, embedding_BD: Tensor) -> Tensor:
        """What attention to one vector adds at every position: embedding_BD → added_BM."""
        return self.cross_out_proj(self.cross_v_proj(embedding_BD))

    def forward(self, x_BTM: Tensor, added_BM: Tensor, cache: KVCache | None = None) -> Tensor:
        drop = self.dropout if self.training else 0.0
        x_BTM = x_BTM + _drop(self.self_attn(self.self_attn_layer_norm(x_BTM), causal=True, cache=cache), drop)
        x_BTM = x_BTM + _drop(added_BM[:, None], drop)
        return x_BTM + _drop(self.ffn(self.ffn_layer_norm(x_BTM)), drop)


class SonarEncoder(nn.Module):
    """ids_BT, lengths_B → embedding_BD. Padding (at the right) may hold any id: it is masked by `lengths_B`."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.width)
        pooled = config.pool_width or config.width
        self.pool_proj = Linear(config.width, pooled) if config.pool_width else None
        self.out_proj = nn.Identity() if config.embedding == pooled else Linear(pooled, config.embedding)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        T = ids_BT.shape[1]
        real_BT = torch.arange(T, device=ids_BT.device) < lengths_B[:, None]
        mask_B11T = None if bool(real_BT.all()) else real_BT[:, None, None]
        x_BTM = self.embed(ids_BT).to(self.layer_norm.weight.dtype)
        x_BTM = _drop(x_BTM, self.config.dropout if self.training else 0.0)
        for layer in self.layers:
            x_BTM = layer(x_BTM, mask_B11T)
        return self.project(self.pool(x_BTM, real_BT))

    def ragged(self, ids_N: Tensor, lengths: Sequence[int]) -> Tensor:
        """Texts end to end, without padding: products are over all tokens of the batch, and texts of one length that
        stand together share their attention. For inference.

        ids_N, length of each text → embedding_BD. Its plain twin is `forward`.
        """
        runs = [(len(list(same)), T) for T, same in groupby(lengths)]
        table_TM = self.embed.positions(max(lengths), self.layer_norm.weight)
        place_N = torch.cat([torch.arange(T).repeat(count) for count, T in runs]).to(ids_N.device)
        x_NM = self.embed.words(ids_N) * self.embed.scale + table_TM[place_N]
        for layer in self.layers:
            x_NM = layer.ragged(x_NM, runs)  # type: ignore[operator]
        pooled = []
        for (count, T), x in zip(runs, x_NM.split([count * T for count, T in runs])):
            real_BT = torch.ones(count, T, dtype=torch.bool, device=ids_N.device)
            pooled.append(self.pool(x.view(count, T, -1), real_BT))
        return self.project(torch.cat(pooled))

    def project(self, pooled_BM: Tensor) -> Tensor:
        """What pooling gave, in the space: pooled_BM → embedding_BD."""
        embedding_BD = self.out_proj(pooled_BM)
        return F.layer_norm(embedding_BD, embedding_BD.shape[-1:]) if self.config.norm_embedding else embedding_BD

    def pool(self, x_BTM: Tensor, real_BT: Tensor) -> Tensor:
        """All tokens of a text, its language token and `</s>` included, to one vector, by mean, max or the last token:
        states after the last layer x_BTM, real_BT → pooled_BM."""
        x_BTM = self.layer_norm(x_BTM)
        if self.pool_proj is not None:
            x_BTM = F.relu(self.pool_proj(x_BTM))
        if self.config.pooling == "last":
            return x_BTM[torch.arange(len(x_BTM), device=x_BTM.device), real_BT.sum(1) - 1]
        if self.config.pooling == "max":
            return x_BTM.masked_fill(~real_BT[..., None], -torch.inf).amax(1)
        total_BM = (x_BTM * real_BT[..., None]).sum(1, dtype=torch.float32)
        return (total_BM / (real_BT.sum(1, keepdim=True) + 1e-7)).to(x_BTM.dtype)


class SonarDecoder(nn.Module):
    """Next-token states for target ids given one vector a text; logits are `hidden · embedᵀ` (tied, no bias).

    ids_BT, embedding_BD → hidden_BTM, after the final norm.
    """

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config, projects=True)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, ids_BT: Tensor, embedding_BD: Tensor) -> Tensor:
        return self.step(ids_BT, self.cross(embedding_BD), None)

    def cross(self, embedding_BD: Tensor) -> list[Tensor]:
        """What the vector adds in each layer, once for all steps and beams of a text: embedding_BD → L × added_BM."""
        embedding_BD = embedding_BD.to(self.layer_norm.weight.dtype)
        return [layer.cross(embedding_BD) for layer in self.layers]  # type: ignore[operator]

    def step(self, ids_BT: Tensor, added_L: list[Tensor], caches: list[KVCache] | None) -> Tensor:
        """New tokens after those in `caches`: ids_BT, L × added_BM → hidden_BTM. Only one token at a time once
        the caches hold some."""
        first = caches[0].length if caches else 0
        x_BTM = self.embed(ids_BT, first).to(self.layer_norm.weight.dtype)
        x_BTM = _drop(x_BTM, self.config.dropout if self.training else 0.0)
        for i, layer in enumerate(self.layers):
            x_BTM = layer(x_BTM, added_L[i], caches[i] if caches else None)
        return self.layer_norm(x_BTM)

    def logits(self, hidden_M: Tensor) -> Tensor:
        """hidden_…M → logits_…V, in the weights' dtype."""
        return self.embed.project(hidden_M)


class Sonar(nn.Module):
    """Encoder and decoder of one embedding space, with one token table when `config.tied`."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SonarEncoder(config)
        self.decoder = SonarDecoder(config)
        if config.tied:
            self.encoder.embed = self.decoder.embed

    @torch.no_grad()
    def init_(self) -> Sonar:
        """Scale down what each residual branch adds at the start, by 1/√(2L) (Radford et al. 2019, GPT-2), and let
        the vector through cross-attention at full strength: it is all the decoder is told."""
        for name, parameter in self.named_parameters():
            depth = len(self.encoder.layers if name.startswith("encoder") else self.decoder.layers)
            if name.endswith(("self_attn.out_proj.weight", "ffn.output_proj.weight")):
                parameter.mul_((2 * depth) ** -0.5)
            elif name.endswith(("self_attn.out_proj.bias", "ffn.output_proj.bias")):
                parameter.zero_()
            elif ".cross_" in name and parameter.ndim == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        return self


def _drop(x: Tensor, p: float) -> Tensor:
    return F.dropout(x, p) if p else x
