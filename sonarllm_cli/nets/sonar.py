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
from .layers import FeedForward, KVCache, SelfAttention, attend, product, sinusoid_TM

POOLINGS = ("mean", "max", "last", "attention")


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
    slots: int = (
        1  # parts of the vector that the decoder attends to, one learned query of `attention` pooling each (ours)
    )
    whole: int = 0  # numbers before the slots that tell of the whole text, as the published vector does (ours)
    slot_depth: int = 0  # encoder layers under what the slots read; 0: all of them (ours)
    slot_scale: float = 1.0  # of slots beside a whole, so that cosines and distances tell of the whole (ours)
    norm_embedding: bool = False  # ours: embeddings have mean 0 and variance 1, so that training can't shrink the space
    tied: bool = False  # one token table for encoder and decoder (ours); published checkpoints carry two
    dropout: float = 0.1

    def __post_init__(self) -> None:
        least = {"width": 4, "max_source_tokens": 3, "max_target_tokens": 4}
        for name in ("heads", "ffn", "encoder_layers", "decoder_layers", "vocab_size", "embedding", *least):
            if getattr(self, name) < least.get(name, 1):
                raise UserError(f"model.{name} is {getattr(self, name)}", f"use {least.get(name, 1)} or more")
        if self.width % (2 * self.heads):
            low = self.width // (2 * self.heads) * 2 * self.heads
            near = f"{low} or {low + 2 * self.heads}" if low else f"{2 * self.heads}"
            raise UserError(f"model.width {self.width} is not divisible by 2 × model.heads {self.heads}", f"use {near}")
        if self.pooling not in POOLINGS:
            raise UserError(f"model.pooling {self.pooling!r} is unknown", f"use one of {', '.join(POOLINGS)}")
        if self.slots < 1 or self.slotted % self.slots:
            raise UserError(f"model.embedding {self.embedding} has no {self.slots} equal parts", "set model.slots = 1")
        if self.whole and (self.slots == 1 or self.pooling == "attention" or not 0 < self.whole < self.embedding):
            raise UserError(
                f"model.whole {self.whole} does not go with model.embedding {self.embedding}, {self.slots} slots and "
                f"{self.pooling} pooling",
                "leave some numbers to at least 2 slots, and pool the whole by mean, max or last",
            )
        if not self.slot_scale > 0 or (self.slot_scale != 1 and not self.whole):
            raise UserError(
                f"model.slot_scale {self.slot_scale} is of slots beside a whole", "set model.whole, or leave it at 1"
            )
        if not 0 <= self.slot_depth <= self.encoder_layers:
            layers = f"{self.encoder_layers} layers"
            raise UserError(f"model.slot_depth {self.slot_depth} is not among {layers}", "set model.slot_depth = 0")

    @property
    def slotted(self) -> int:
        """Numbers of the vector that are slots, at its end; the first `embedding − slotted` are of the whole text."""
        return self.embedding - self.whole if self.slots > 1 else 0

    @property
    def parts(self) -> list[int]:
        """How many numbers each part of the vector has: what tells of the whole text, if any, then the slots."""
        own = [self.slotted // self.slots] * self.slots if self.slotted else []
        return [n for n in (self.embedding - self.slotted, *own) if n]

    def split(self, embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
        """embedding_BD → what tells of the whole text, whole_BW, and slots_BP (either may have no numbers)."""
        return embedding_BD.tensor_split([self.embedding - self.slotted], 1)  # type: ignore[return-value]


@dataclass(frozen=True)
class Cross:
    """What a decoder layer needs of the vectors, once for all steps and beams of a text: the term that attention to one
    vector adds at every position, and keys and values of the slots."""

    added_BM: Tensor | None
    kv_B2HSK: Tensor | None

    def __len__(self) -> int:
        some = self.kv_B2HSK if self.added_BM is None else self.added_BM
        assert some is not None
        return len(some)

    def select(self, row_R: Tensor) -> Cross:
        """Those of the texts `row_R`."""
        return Cross(*(None if t is None else t[row_R] for t in (self.added_BM, self.kv_B2HSK)))


class Embed(nn.Module):
    """Token embedding × √M + position: ids_BT, first position → x_BTM. Its `weight` is also the output projection."""

    float32 = True  # in training, whatever its products' dtype: a frequent word's gradient is a sum of very many

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.scale, self.width = config.width**0.5, config.width
        self.max_tokens = max(config.max_source_tokens, config.max_target_tokens)
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.width))
        nn.init.normal_(self.weight, std=config.width**-0.5)
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


class CrossAttention(nn.Module):
    """Attention of every position to the `slots` parts of the vector: x_BTM, kv_B2HSK, number of the first → x_BTM.

    Heads begin by looking at the slot of the position's number, the first sharply, each further one four times as
    wide, the last of several at all: a penalty on the squared distance, that training may change. Source: Press et al.
    2022 (ALiBi), whose slopes are linear and fixed.
    """

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.kv_proj = nn.Linear(config.width, 2 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.focus = nn.Parameter(4 * 0.25 ** torch.arange(config.heads))
        if config.heads > 1:
            nn.init.zeros_(self.focus.data[-1:])

    def keys(self, memory_BSM: Tensor) -> Tensor:
        """Keys and values of a text's slots, once for all its steps and beams: memory_BSM → kv_B2HSK."""
        B, S, M = memory_BSM.shape
        return self.kv_proj(memory_BSM).view(B, S, 2, self.heads, M // self.heads).permute(0, 2, 3, 1, 4)

    def forward(self, x_BTM: Tensor, kv_B2HSK: Tensor, first: int = 0) -> Tensor:
        B, T, M = x_BTM.shape
        q_BHTK = self.q_proj(x_BTM).view(B, T, self.heads, M // self.heads).transpose(1, 2)
        at_T, slot_S = (torch.arange(n, device=x_BTM.device) for n in (T, kv_B2HSK.shape[3]))
        far_TS = (at_T[:, None] + first - slot_S).square()
        near_HTS = -self.focus[:, None, None] * far_TS
        mixed_BHTK = attend(q_BHTK, kv_B2HSK[:, 0], kv_B2HSK[:, 1], mask=near_HTS.to(q_BHTK.dtype))
        return self.out_proj(mixed_BHTK.transpose(1, 2).reshape(B, T, M))


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention, feed-forward: x_BTM, cross → x_BTM."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.self_attn = SelfAttention(config.width, config.heads)
        self.slotted, self.whole = config.slotted, config.embedding - config.slotted
        if self.whole:
            self.cross_v_proj = nn.Linear(self.whole, config.width)
            self.cross_out_proj = nn.Linear(config.width, config.width)
        if self.slotted:
            self.cross_attn_layer_norm = nn.LayerNorm(config.width)
            self.cross_attn = CrossAttention(config)
        self.ffn_layer_norm = nn.LayerNorm(config.width)
        self.ffn = FeedForward(config.width, config.ffn)
        self.dropout = config.dropout

    def cross(self, whole_BW: Tensor, memory_BSM: Tensor | None) -> Cross:
        """What the layer needs of the vector's two parts."""
        return Cross(
            self.cross_out_proj(self.cross_v_proj(whole_BW)) if self.whole else None,
            self.cross_attn.keys(memory_BSM) if memory_BSM is not None else None,
        )

    def forward(self, x_BTM: Tensor, cross: Cross, cache: KVCache | None = None) -> Tensor:
        drop = self.dropout if self.training else 0.0
        first = cache.length if cache else 0
        x_BTM = x_BTM + _drop(self.self_attn(self.self_attn_layer_norm(x_BTM), causal=True, cache=cache), drop)
        if cross.added_BM is not None:
            x_BTM = x_BTM + _drop(cross.added_BM[:, None], drop)
        if cross.kv_B2HSK is not None:
            x_BTM = x_BTM + _drop(self.cross_attn(self.cross_attn_layer_norm(x_BTM), cross.kv_B2HSK, first), drop)
        return x_BTM + _drop(self.ffn(self.ffn_layer_norm(x_BTM)), drop)


class AttentionPool(nn.Module):
    """A learned query a slot attends to all tokens and writes its part of the vector: x_BTM, real_BT → slots_BP.

    Keys and values are the same for all slots. Several slots begin in reading order: slot s looks at token
    s·max(1, (T−1)/(S−1)) of a text of T tokens, by a penalty on the squared distance that training may soften.
    Source: Lee et al. 2019, Set Transformer (pooling by multi-head attention); the start in reading order is ours.
    """

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        key = config.width // config.heads
        self.query = nn.Parameter(torch.randn(config.slots, key) * key**-0.5)
        self.k_proj = nn.Linear(config.width, key)
        self.v_proj = nn.Linear(config.width, (config.slotted or config.embedding) // config.slots)
        self.focus = nn.Parameter(4 * torch.ones(config.slots)) if config.slots > 1 else None

    def forward(self, x_BTM: Tensor, real_BT: Tensor) -> Tensor:
        score_BST = (self.k_proj(x_BTM) @ self.query.T.to(x_BTM.dtype)).transpose(1, 2).float()
        if self.focus is not None:
            S = len(self.focus)
            stride_B = ((real_BT.sum(1) - 1) / (S - 1)).clamp(min=1)[:, None, None]
            at_T, slot_S1 = (torch.arange(n, device=x_BTM.device) for n in (x_BTM.shape[1], S))
            score_BST = score_BST - self.focus[:, None] * (at_T / stride_B - slot_S1[:, None]).square()
        share_BST = score_BST.masked_fill(~real_BT[:, None], -torch.inf).softmax(-1)
        value_BTP = self.v_proj(x_BTM)
        return (share_BST.to(value_BTP.dtype) @ value_BTP).flatten(1)


class SonarEncoder(nn.Module):
    """ids_BT, lengths_B → embedding_BD. Padding (at the right) may hold any id: it is masked by `lengths_B`."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.width)
        self.slot_norm = nn.LayerNorm(config.width) if config.slot_depth else None
        self.pool_attn = AttentionPool(config) if config.pooling == "attention" or config.whole else None
        whole, pooled = config.whole or config.embedding, config.pool_width or config.width
        self.pool_proj = nn.Linear(config.width, pooled) if config.pool_width else None
        same = whole == pooled or config.pooling == "attention"
        self.out_proj = nn.Identity() if same else nn.Linear(pooled, whole)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        T = ids_BT.shape[1]
        real_BT = torch.arange(T, device=ids_BT.device) < lengths_B[:, None]
        mask_B11T = None if bool(real_BT.all()) else real_BT[:, None, None]
        x_BTM = self.embed(ids_BT).to(self.layer_norm.weight.dtype)
        x_BTM = _drop(x_BTM, self.config.dropout if self.training else 0.0)
        early_BTM = x_BTM
        for i, layer in enumerate(self.layers, 1):
            x_BTM = layer(x_BTM, mask_B11T)
            early_BTM = x_BTM if i == self.config.slot_depth else early_BTM
        return self.project(self.pool(x_BTM, early_BTM, real_BT))

    def ragged(self, ids_N: Tensor, lengths: Sequence[int]) -> Tensor:
        """Texts end to end, without padding: products are over all tokens of the batch, and texts of one length that
        stand together share their attention. For inference.

        ids_N, length of each text → embedding_BD. Its plain twin is `forward`.
        """
        runs = [(len(list(same)), T) for T, same in groupby(lengths)]
        table_TM = self.embed.positions(max(lengths), self.layer_norm.weight)
        place_N = torch.cat([torch.arange(T).repeat(count) for count, T in runs]).to(ids_N.device)
        x_NM = self.embed.words(ids_N) * self.embed.scale + table_TM[place_N]
        early_NM = x_NM
        for i, layer in enumerate(self.layers, 1):
            x_NM = layer.ragged(x_NM, runs)  # type: ignore[operator]
            early_NM = x_NM if i == self.config.slot_depth else early_NM
        pooled, sizes = [], [count * T for count, T in runs]
        for (count, T), x, early in zip(runs, x_NM.split(sizes), early_NM.split(sizes)):
            real_BT = torch.ones(count, T, dtype=torch.bool, device=ids_N.device)
            pooled.append(self.pool(x.view(count, T, -1), early.view(count, T, -1), real_BT))
        return self.project(torch.cat(pooled))

    def project(self, pooled: Tensor) -> Tensor:
        """What pooling gave, in the space, where both parts are normalised apart: → embedding_BD."""
        if self.config.whole:
            pooled_BM, slots_BP = pooled.tensor_split([self.config.pool_width or self.config.width], 1)
            parts = [self.out_proj(pooled_BM), slots_BP]
        else:
            parts = [self.out_proj(pooled)]
        if self.config.norm_embedding:
            parts = [F.layer_norm(part, part.shape[-1:]) for part in parts]
        return torch.cat([*parts[:1], *(part * self.config.slot_scale for part in parts[1:])], 1)

    def pool(self, x_BTM: Tensor, early_BTM: Tensor, real_BT: Tensor) -> Tensor:
        """All tokens of a text, its language token and `</s>` included, to one vector: states after the last layer, and
        after the one that the slots read → pooled_BM, slots_BP where attention pools, or one after the other."""
        x_BTM = self.layer_norm(x_BTM)
        if self.pool_attn is None:
            return self.pool_whole(x_BTM, real_BT)
        slots_BP = self.pool_attn(self.slot_norm(early_BTM) if self.slot_norm else x_BTM, real_BT)
        return torch.cat([self.pool_whole(x_BTM, real_BT), slots_BP], 1) if self.config.whole else slots_BP

    def pool_whole(self, x_BTM: Tensor, real_BT: Tensor) -> Tensor:
        """x_BTM, real_BT → pooled_BM, by mean, max or the last token."""
        if self.pool_proj is not None:
            x_BTM = F.relu(self.pool_proj(x_BTM))
        if self.config.pooling == "last":
            return x_BTM[torch.arange(len(x_BTM), device=x_BTM.device), real_BT.sum(1) - 1]
        if self.config.pooling == "max":
            return x_BTM.masked_fill(~real_BT[..., None], -torch.inf).amax(1)
        total_BM = (x_BTM * real_BT[..., None]).sum(1, dtype=torch.float32)
        return (total_BM / (real_BT.sum(1, keepdim=True) + 1e-7)).to(x_BTM.dtype)


class SlotProjection(nn.Module):
    """Each slot's part of the vector, and which slot it is, in the decoder's width: slots_BP → memory_BSM."""

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.scale = config.slot_scale
        self.proj = nn.Linear(config.slotted // config.slots, config.width, bias=False)
        self.place = nn.Parameter(sinusoid_TM(config.slots, config.width))  # as positions are told to begin with

    def forward(self, slots_BP: Tensor) -> Tensor:
        return self.proj(slots_BP.reshape(len(slots_BP), len(self.place), -1) / self.scale) + self.place


class SonarDecoder(nn.Module):
    """Next-token states for target ids given one vector a text; logits are `hidden · embedᵀ` (tied, no bias).

    ids_BT, embedding_BD → hidden_BTM, after the final norm.
    """

    def __init__(self, config: SonarConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.slots = SlotProjection(config) if config.slots > 1 else None
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, ids_BT: Tensor, embedding_BD: Tensor) -> Tensor:
        return self.step(ids_BT, self.cross(embedding_BD), None)

    def cross(self, embedding_BD: Tensor) -> list[Cross]:
        """What each layer needs of the vector, once for all steps and beams of a text: embedding_BD → L × cross."""
        whole_BW, slots_BP = self.config.split(embedding_BD.to(self.layer_norm.weight.dtype))
        memory_BSM = None if self.slots is None else self.slots(slots_BP)
        return [layer.cross(whole_BW, memory_BSM) for layer in self.layers]  # type: ignore[operator]

    def step(self, ids_BT: Tensor, cross_L: list[Cross], caches: list[KVCache] | None) -> Tensor:
        """New tokens after those in `caches`: ids_BT, L × cross → hidden_BTM. Only one token at a time once
        the caches hold some."""
        first = caches[0].length if caches else 0
        x_BTM = self.embed(ids_BT, first).to(self.layer_norm.weight.dtype)
        x_BTM = _drop(x_BTM, self.config.dropout if self.training else 0.0)
        for i, layer in enumerate(self.layers):
            x_BTM = layer(x_BTM, cross_L[i], caches[i] if caches else None)
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
            elif (".cross_" in name or ".slots.proj" in name) and parameter.ndim == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        for layer in self.decoder.layers:
            if isinstance(layer, DecoderLayer) and layer.slotted:  # a position looks at the slot of its own number
                layer.cross_attn.kv_proj.weight[: self.config.width] = layer.cross_attn.q_proj.weight
        return self

    @torch.no_grad()
    def graft_(self) -> Sonar:
        """Slots, new beside what a trained model knows, begin as the words' codes: the encoder projects a token's state
        on a random subspace, and the decoder's last layer adds what stands there, in the token table's own scale, at
        the position of the slot's number; its other layers pass over the slots until training says otherwise."""
        M, K, P = self.config.width, self.config.width // self.config.heads, self.config.parts[-1]
        n = min(P, K)
        pool, slots = self.encoder.pool_attn, self.decoder.slots
        read = [layer.cross_attn for layer in self.decoder.layers if isinstance(layer, DecoderLayer) and layer.slotted]
        assert pool is not None and slots is not None
        code_PM = nn.init.orthogonal_(torch.empty(P, M))
        pool.query.zero_()  # by place alone
        pool.v_proj.weight.copy_(code_PM)
        pool.v_proj.bias.zero_()
        slots.proj.weight.copy_(code_PM.T)
        for attention in read:
            attention.out_proj.weight.zero_()
            attention.out_proj.bias.zero_()
        last = read[-1]
        last.q_proj.weight[:K] = 0
        last.q_proj.bias[:K] = 0
        last.kv_proj.weight[M : M + n] = code_PM[:n]
        last.kv_proj.bias[M : M + n] = -code_PM[:n] @ slots.place.mean(0)
        last.out_proj.weight[:, :n] = code_PM[:n].T * M**0.5 / 2
        return self


def _drop(x: Tensor, p: float) -> Tensor:
    return F.dropout(x, p) if p else x
