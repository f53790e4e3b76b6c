"""SONAR's speech encoder in plain PyTorch: features of an utterance → one embedding in the space of the texts.

A Conformer (w2v-BERT) reads the utterance, a decoder of one position attends to all of it. The published English
encoder has 3 pooler layers, the others 6. Options make the same class a student of other beginnings: Shaw positions,
a causal convolution and LayerNorm in it are `facebook/w2v-bert-2.0`'s; longer steps, and pooling as the text encoder
of a space of ours has it, make a small one quick to teach.

Legend: B utterances, S steps of 20 ms, F features of a step (160), M width, H heads, K head size, D embedding,
L steps of a block of queries, R distances.
Source: Duquenne et al. 2023 (arXiv 2308.11466); Gulati et al. 2020 (Conformer); Dai et al. 2019 (relative positions);
Shaw et al. 2018; order of layers as in sonar-space and fairseq2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .fbank import FEATURES
from .layers import attend, drawn

POSITIONS, NORMS, POOLINGS = ("relative", "shaw"), ("batch", "layer"), ("attention", "mean", "max")
SCORES = 1 << 24  # numbers that the scores of a block of queries are at most: 64 MiB of float32


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """Shape of a speech encoder. Defaults are those published for every language but English, whose pooler has 3
    layers."""

    width: int = 1024
    heads: int = 16
    ffn: int = 4096
    layers: int = 24
    kernel: int = 31  # steps of the depthwise convolution
    embedding: int = 1024  # D
    max_steps: int = 4096  # 81.92 s
    positions: str = "relative"
    left: int = 64  # steps that Shaw positions tell apart
    right: int = 8
    conv_norm: str = "batch"
    causal: bool = False  # the convolution sees no later step
    subsample: int = 1  # steps of 20 ms that become one, by convolutions before the layers: a power of 2 (ours)
    top_norm: bool = True
    pooling: str = "attention"
    pool_width: int = 0  # mean, max: features of a step that are pooled, by a layer of their own; 0: its state (ours)
    norm_embedding: bool = False  # embeddings have mean 0 and variance 1, as in a space with this option (ours)
    pooler_layers: int = 6
    pooler_heads: int = 16
    pooler_ffn: int = 4096
    dropout: float = 0.1  # in training, after the top and in the pooler

    def __post_init__(self) -> None:
        for name, known in (("positions", POSITIONS), ("conv_norm", NORMS), ("pooling", POOLINGS)):
            if getattr(self, name) not in known:
                raise UserError(f"model.{name} {getattr(self, name)!r} is unknown", f"use one of {', '.join(known)}")
        for name in ("width", "heads", "ffn", "layers", "kernel", "embedding", "max_steps", "pooler_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}", "use a positive number")
        for name in ("heads", "pooler_heads"):
            if self.width % getattr(self, name) or self.width % 2:
                cure = f"use a multiple of {math.lcm(2, self.heads, self.pooler_heads)}"
                raise UserError(f"model.width {self.width} is not even, or not divisible by model.{name}", cure)
        if self.pooling == "attention" and self.pooler_layers < 1:
            raise UserError("attention pooling needs layers", "set model.pooler_layers = 1 or more")
        if self.pool_width < 0 or (self.pool_width and self.pooling == "attention"):
            raise UserError(f"model.pool_width is {self.pool_width}", "use 0, or more with pooling mean or max")
        if self.subsample < 1 or self.subsample & (self.subsample - 1):
            raise UserError(f"model.subsample {self.subsample} is no power of 2", "use 1, 2, 4 or 8")
        if not self.causal and self.kernel % 2 == 0:
            raise UserError(
                f"model.kernel {self.kernel} has no middle", f"use {self.kernel + 1}, or model.causal = true"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}", "use 0 to 1")


def speech_flops(config: SpeechConfig, steps: int) -> float:
    """FLOPs of the matrix products of an utterance, forward, 2 a multiply-add; Transformer-XL's distances included."""
    M = config.width
    far = 2 if config.positions == "relative" else 0
    keys = steps / config.subsample
    layer = M * (4 * config.ffn + 4 * M + 3 * M + far * M) + config.kernel * M + keys * M * (2 + far)
    cross = config.pooler_layers * 2 * M * M if config.pooling == "attention" else M * config.pool_width
    halving = 3 * M * M * (config.subsample - 1)  # a convolution's is of the steps that it leaves
    return 2.0 * steps * (FEATURES * M + (config.layers * layer + cross + halving) / config.subsample)


class SwishFeedForward(nn.Module):
    """Two linear layers with a SiLU between: x_BSM → x_BSM."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner_proj = nn.Linear(width, inner)
        self.output_proj = nn.Linear(inner, width)

    def forward(self, x_BSM: Tensor) -> Tensor:
        return self.output_proj(F.silu(self.inner_proj(x_BSM), inplace=not torch.is_grad_enabled()))


def distances_RM(steps: int, width: int) -> Tensor:
    """Sinusoids of the distances query − key from steps − 1 down to 1 − steps: sine and cosine in turns. → table_RM"""
    rate = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(steps - 1, -steps, -1, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1).float()


class ConformerAttention(nn.Module):
    """Self-attention that knows how far a key is, by Transformer-XL's or Shaw's way, a block of queries at a time:
    no table of S × S × M, and scores of a long utterance never exist at once.

    x_BSM, table_RM, mask_B11S (True where there is sound) → x_BSM
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        M, self.heads, self.left, self.right = config.width, config.heads, config.left, config.right
        self.qkv_proj = nn.Linear(M, 3 * M)
        self.out_proj = nn.Linear(M, M)
        self.shaw = config.positions == "shaw"
        if self.shaw:
            self.distance = drawn(self.left + self.right + 1, M // self.heads, std=0.02)
        else:
            self.distance_proj = nn.Linear(M, M, bias=False)
            self.key_bias = nn.Parameter(torch.zeros(self.heads, M // self.heads))  # u
            self.distance_bias = nn.Parameter(torch.zeros(self.heads, M // self.heads))  # v

    def forward(self, x_BSM: Tensor, table_RM: Tensor | None, mask_B11S: Tensor | None) -> Tensor:
        B, S, M = x_BSM.shape
        q, k, v = self.qkv_proj(x_BSM).view(B, S, 3, self.heads, M // self.heads).permute(2, 0, 3, 1, 4)
        r_HKR = None
        if table_RM is not None:
            r_HKR = self.distance_proj(table_RM).view(len(table_RM), self.heads, -1).permute(1, 2, 0)
        block = max(1, SCORES // (B * self.heads * 2 * S))
        parts = []
        for first in range(0, S, block):
            q_BHLK = q[:, :, first : first + block]
            if r_HKR is None:
                far_BHLS = self._shaw(q_BHLK, first, S)
            else:
                far_BHLS = self._relative(q_BHLK, r_HKR, first, S)
                q_BHLK = q_BHLK + self.key_bias[:, None]
            far_BHLS = far_BHLS * q.shape[-1] ** -0.5
            if mask_B11S is not None:
                far_BHLS = far_BHLS.masked_fill(~mask_B11S, -torch.inf)
            parts.append(attend(q_BHLK, k, v, mask=far_BHLS))
        mixed_BHSK = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return self.out_proj(mixed_BHSK.transpose(1, 2).reshape(B, S, M))

    def _relative(self, q_BHLK: Tensor, r_HKR: Tensor, first: int, S: int) -> Tensor:
        """(q_i + v) · r_{i−j} of the queries from `first` on: of each row of products with the distances that the block
        needs, S neighbours, a place earlier for each later query. → far_BHLS"""
        L = q_BHLK.shape[2]
        product = (q_BHLK + self.distance_bias[:, None]) @ r_HKR[..., S - first - L : 2 * S - 1 - first]
        return product.flatten(2)[..., L - 1 :].unfold(2, S, max(1, S + L - 2))

    def _shaw(self, q_BHLK: Tensor, first: int, S: int) -> Tensor:
        """q_i · d_{j−i}, distances beyond `left` and `right` being alike: → far_BHLS"""
        B, H, L, _ = q_BHLK.shape
        at_L, at_S = (torch.arange(n, device=q_BHLK.device) for n in (L, S))
        place_LS = (at_S - at_L[:, None] - first).clamp(-self.left, self.right) + self.left
        return (q_BHLK @ self.distance.T).gather(3, place_LS.expand(B, H, L, S))


class StepNorm(nn.Module):
    """BatchNorm over steps that hold sound. Its statistics are weights that no gradient reaches: they stay as they are,
    or with `learns`, in training, are the batch's, and move a tenth towards them. x_BSM, real_BS1 → x_BSM"""

    float32 = True  # in training, whatever its products' dtype

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.running_mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.running_var = nn.Parameter(torch.ones(width), requires_grad=False)
        self.learns = False

    def forward(self, x_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        mean_M, var_M = self.running_mean.detach().float(), self.running_var.detach().float()
        if self.learns and self.training:
            x_NM = x_BSM.float()[real_BS1[..., 0]] if real_BS1 is not None else x_BSM.float().flatten(0, 1)
            var_M, mean_M = torch.var_mean(x_NM, 0, correction=0)
            with torch.no_grad():
                more = len(x_NM) / max(1, len(x_NM) - 1)
                self.running_mean.lerp_(mean_M.detach().to(self.running_mean), 0.1)
                self.running_var.lerp_((more * var_M.detach()).to(self.running_var), 0.1)
        scale_M = self.weight.float() * (var_M + 1e-5).rsqrt()
        shift_M = self.bias.float() - mean_M * scale_M
        return x_BSM * scale_M.to(x_BSM.dtype) + shift_M.to(x_BSM.dtype)


class Convolution(nn.Module):
    """Pointwise, gate, depthwise, norm, SiLU, pointwise: x_BSM, real_BS1 → x_BSM."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        M = config.width
        self.pointwise1 = nn.Linear(M, 2 * M, bias=False)
        self.depthwise = nn.Conv1d(M, M, config.kernel, groups=M, bias=False)
        self.norm: nn.Module = StepNorm(M) if config.conv_norm == "batch" else nn.LayerNorm(M)
        self.pointwise2 = nn.Linear(M, M, bias=False)
        self.room = (config.kernel - 1, 0) if config.causal else (config.kernel // 2, config.kernel // 2)

    def forward(self, x_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        if real_BS1 is not None:
            x_BSM = x_BSM * real_BS1
        x_BSM = F.glu(self.pointwise1(x_BSM))
        x_BSM = self.depthwise(F.pad(x_BSM.transpose(1, 2), self.room)).transpose(1, 2)
        x_BSM = self.norm(x_BSM, real_BS1) if isinstance(self.norm, StepNorm) else self.norm(x_BSM)
        return self.pointwise2(F.silu(x_BSM))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, the other half, norm: x_BSM → x_BSM."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        M = config.width
        self.ffn1_norm, self.ffn1 = nn.LayerNorm(M), SwishFeedForward(M, config.ffn)
        self.attn_norm, self.attn = nn.LayerNorm(M), ConformerAttention(config)
        self.conv_norm, self.conv = nn.LayerNorm(M), Convolution(config)
        self.ffn2_norm, self.ffn2 = nn.LayerNorm(M), SwishFeedForward(M, config.ffn)
        self.norm = nn.LayerNorm(M)

    def forward(
        self, x_BSM: Tensor, table_RM: Tensor | None, mask_B11S: Tensor | None, real_BS1: Tensor | None
    ) -> Tensor:
        for x_BSM in self.stages(x_BSM, table_RM, mask_B11S, real_BS1):  # noqa: B007, B020
            pass
        return self.norm(x_BSM)

    def stages(
        self, x_BSM: Tensor, table_RM: Tensor | None, mask_B11S: Tensor | None, real_BS1: Tensor | None
    ) -> Iterator[Tensor]:
        """What flows between the parts, after each of the four."""
        x_BSM = x_BSM + 0.5 * self.ffn1(self.ffn1_norm(x_BSM))
        yield x_BSM
        x_BSM = x_BSM + self.attn(self.attn_norm(x_BSM), table_RM, mask_B11S)
        yield x_BSM
        x_BSM = x_BSM + self.conv(self.conv_norm(x_BSM), real_BS1)
        yield x_BSM
        yield x_BSM + 0.5 * self.ffn2(self.ffn2_norm(x_BSM))


class PoolerLayer(nn.Module):
    """Post-norm self-attention, cross-attention to the utterance and feed-forward of one position. With one key the
    softmax of self-attention is 1: its value path is all there is. q_BM, encoded_BSM, real_BS1 → q_BM"""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        M, self.heads, self.dropout = config.width, config.pooler_heads, config.dropout
        self.self_v_proj, self.self_out_proj, self.self_norm = nn.Linear(M, M), nn.Linear(M, M), nn.LayerNorm(M)
        self.q_proj, self.kv_proj, self.out_proj = nn.Linear(M, M), nn.Linear(M, 2 * M), nn.Linear(M, M)
        self.cross_norm = nn.LayerNorm(M)
        self.inner_proj, self.output_proj = nn.Linear(M, config.pooler_ffn), nn.Linear(config.pooler_ffn, M)
        self.ffn_norm = nn.LayerNorm(M)

    def forward(self, q_BM: Tensor, encoded_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        *_, q_BM = self.stages(q_BM, encoded_BSM, real_BS1)
        return q_BM

    def stages(self, q_BM: Tensor, encoded_BSM: Tensor, real_BS1: Tensor | None) -> Iterator[Tensor]:
        """The position after each of the three norms."""
        q_BM = self.self_norm(q_BM + self._drop(self.self_out_proj(self.self_v_proj(q_BM))))
        yield q_BM
        q_BM = self.cross_norm(q_BM + self._drop(self._cross(q_BM, encoded_BSM, real_BS1)))
        yield q_BM
        yield self.ffn_norm(q_BM + self._drop(self.output_proj(F.relu(self.inner_proj(q_BM)))))

    def _cross(self, q_BM: Tensor, encoded_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        B, S, M = encoded_BSM.shape
        q_BHK = self.q_proj(q_BM).view(len(q_BM), self.heads, -1)
        k, v = self.kv_proj(encoded_BSM).view(B, S, 2, self.heads, -1).unbind(2)
        score_BSH = (k * q_BHK[:, None]).sum(-1).float() * q_BHK.shape[-1] ** -0.5
        if real_BS1 is not None:
            score_BSH = score_BSH.masked_fill(~real_BS1, -torch.inf)
        share_BSH = self._drop(score_BSH.softmax(1)).to(v.dtype)
        return self.out_proj((share_BSH[..., None] * v).sum(1).reshape(B, M))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Pooler(nn.Module):
    """What an utterance says, in one vector: encoded_BSM, real_BS1 → pooled_BM. `query` stands for the embedding of the
    one token that the published pooler reads."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.query = drawn(config.width, std=config.width**-0.5)
        self.layers = nn.ModuleList(PoolerLayer(config) for _ in range(config.pooler_layers))
        self.dropout = config.dropout

    def start(self, count: int) -> Tensor:
        """√M · query + the sinusoid of position 0, which is 0 for the sines and 1 for the cosines: → q_BM"""
        M = len(self.query)
        position_M = (torch.arange(M, device=self.query.device) >= M // 2).to(self.query.dtype)
        return (self.query * M**0.5 + position_M).expand(count, M)

    def forward(self, encoded_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        drops = self.training and self.dropout > 0
        q_BM = self.start(len(encoded_BSM) if drops else 1)  # up to its cross-attention the same for all
        q_BM = F.dropout(q_BM, self.dropout) if drops else q_BM
        for layer in self.layers:
            q_BM = layer(q_BM, encoded_BSM, real_BS1)
        return q_BM


class Halving(nn.Module):
    """Two steps become one that has seen its neighbours: x_BSM, real_BS1 → x_BSM, real_BS1. Source: the convolutional
    subsampling of speech encoders (Dong et al. 2018; Wang et al. 2020), in time alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, x_BSM: Tensor, real_BS1: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if real_BS1 is not None:
            x_BSM, real_BS1 = x_BSM * real_BS1, real_BS1[:, ::2]
        return F.silu(self.conv(x_BSM.transpose(1, 2))).transpose(1, 2), real_BS1


class SpeechEncoder(nn.Module):
    """step_BSF, length_B (steps that hold sound; padding stands at the right and may hold anything) → embedding_BD."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.config = config
        self.front_norm = nn.LayerNorm(FEATURES)
        self.front_proj = nn.Linear(FEATURES, config.width)
        self.halvings = nn.ModuleList(Halving(config.width) for _ in range(config.subsample.bit_length() - 1))
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))
        self.top_norm = nn.LayerNorm(config.width) if config.top_norm else nn.Identity()
        self.pooler = Pooler(config) if config.pooling == "attention" else None
        pooled = config.pool_width or config.width
        self.pool_proj = nn.Linear(config.width, pooled) if config.pool_width else None
        self.proj: nn.Module = nn.Linear(pooled, config.embedding, bias=False)
        if config.pool_width == config.embedding:
            self.proj = nn.Identity()

    def forward(self, step_BSF: Tensor, length_B: Tensor) -> Tensor:
        return self.embed(*self.encode(step_BSF, self.real(step_BSF, length_B)))

    def embed(self, encoded_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        """What `encode` gave → embedding_BD."""
        embedding_BD = self.proj(self.pool(encoded_BSM, real_BS1))
        return F.layer_norm(embedding_BD, embedding_BD.shape[-1:]) if self.config.norm_embedding else embedding_BD

    def real(self, step_BSF: Tensor, length_B: Tensor) -> Tensor | None:
        """Which steps hold sound; None where all do: → real_BS1"""
        real_BS = torch.arange(step_BSF.shape[1], device=step_BSF.device) < length_B[:, None]
        return None if bool(real_BS.all()) else real_BS[..., None]

    def encode(self, step_BSF: Tensor, real_BS1: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """step_BSF, real_BS1 → encoded_BSM, real_BS1: what is pooled, and which of it holds sound."""
        x_BSM = self.front(step_BSF, real_BS1)
        for halving in self.halvings:
            x_BSM, real_BS1 = halving(x_BSM, real_BS1)
        table_RM, mask_B11S = self.context(x_BSM, real_BS1)
        for layer in self.layers:
            x_BSM = layer(x_BSM, table_RM, mask_B11S, real_BS1)
        x_BSM = self.top_norm(x_BSM)
        drops = self.training and self.config.dropout > 0
        return F.dropout(x_BSM, self.config.dropout) if drops else x_BSM, real_BS1

    def front(self, step_BSF: Tensor, real_BS1: Tensor | None) -> Tensor:
        """Features → x_BSM; what stands in the padding is forgotten here, were it NaN."""
        if real_BS1 is not None:
            step_BSF = step_BSF.masked_fill(~real_BS1, 0.0)
        weight = self.front_norm.weight
        return self.front_proj(self.front_norm(step_BSF.to(weight.device, weight.dtype)))

    def context(self, x_BSM: Tensor, real_BS1: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What all layers need beside x_BSM: table_RM of distances, if they are Transformer-XL's, and mask_B11S."""
        table_RM = None
        if self.config.positions == "relative":
            table_RM = distances_RM(x_BSM.shape[1], self.config.width).to(x_BSM)
        return table_RM, None if real_BS1 is None else real_BS1.transpose(1, 2)[:, None]

    def pool(self, encoded_BSM: Tensor, real_BS1: Tensor | None) -> Tensor:
        """encoded_BSM, real_BS1 → pooled_BM."""
        if self.pooler is not None:
            return self.pooler(encoded_BSM, real_BS1)
        if self.pool_proj is not None:
            encoded_BSM = F.relu(self.pool_proj(encoded_BSM))
        if real_BS1 is None:
            real_BS1 = torch.ones(*encoded_BSM.shape[:2], 1, dtype=torch.bool, device=encoded_BSM.device)
        if self.config.pooling == "max":
            return encoded_BSM.masked_fill(~real_BS1, -torch.inf).amax(1)
        total_BM = (encoded_BSM * real_BS1).sum(1, dtype=torch.float32) / real_BS1.sum(1)
        return total_BM.to(encoded_BSM.dtype)
