"""Parts that SONAR's encoder and decoder are built of: positions, self-attention, feed-forward, key/value cache.

Legend: B texts, T tokens (new ones), C cached and new tokens, M model width, H heads, K head size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..runtime import multiplies_bfloat16

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def sinusoid_TM(count: int, width: int, first: int = 2) -> Tensor:
    """Sine/cosine positions as fairseq2 has them: all sines, then all cosines, divisor half − 1.

    `first` is the step of token 0; published SONAR starts at 2, one after its legacy padding index.
    count, width → positions_TM (float32). Source: fairseq2 `SinusoidalPositionEncoder`, Vaswani et al. 2017, 3.5.
    """
    half = width // 2
    rate_M = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / (half - 1)))
    angle_TM = torch.arange(first, first + count, dtype=torch.float32)[:, None] * rate_M
    return torch.cat([angle_TM.sin(), angle_TM.cos()], dim=1)


def drawn(*shape: int, std: float) -> nn.Parameter:
    """A parameter drawn from N(0, std²). One without memory (on the meta device) is not drawn: PyTorch would import its
    compiler for that, which takes a second."""
    parameter = nn.Parameter(torch.empty(shape))
    return parameter if parameter.is_meta else nn.init.normal_(parameter, std=std)  # type: ignore[return-value]


class KVCache:
    """Keys and values of one layer, written in place into a buffer that doubles when it is full.

    `append(k_BHTK, v_BHTK)` → views over all `length` tokens so far, (B, H, C, K) each.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.capacity, self.length = capacity, 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def append(self, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k_BHTK.shape[2]
        if self.k is None or self.v is None or end > self.k.shape[2]:
            while self.capacity < end:
                self.capacity *= 2
            B, H, _, K = k_BHTK.shape
            k, v = k_BHTK.new_empty(B, H, self.capacity, K), v_BHTK.new_empty(B, H, self.capacity, K)
            if self.k is not None and self.v is not None:
                k[:, :, : self.length] = self.k[:, :, : self.length]
                v[:, :, : self.length] = self.v[:, :, : self.length]
            self.k, self.v = k, v
        self.k[:, :, self.length : end] = k_BHTK
        self.v[:, :, self.length : end] = v_BHTK
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def copy(self, rows: int = 1) -> KVCache:
        """A cache of its own that holds the same; one row's, `rows` times."""
        out = KVCache(self.capacity)
        if self.k is not None and self.v is not None:
            used = slice(0, self.length)
            out.append(self.k[:, :, used].repeat(rows, 1, 1, 1), self.v[:, :, used].repeat(rows, 1, 1, 1))
        return out

    def select(self, rows: Tensor, moved: Tensor | None = None) -> None:
        """Keep the batch rows `rows` (int64; repeats allowed), in that order. What stays in place is not copied; what
        does not is `moved`, where a caller asked (`moves`) once for several caches: a GPU is waited for to know it."""
        if self.k is not None and self.v is not None:
            used = slice(0, self.length)
            if len(rows) == self.k.shape[0]:
                moved = moves(rows) if moved is None else moved
                if len(moved):
                    self.k[moved, :, used] = self.k[rows[moved], :, used]
                    self.v[moved, :, used] = self.v[rows[moved], :, used]
                return
            k, v = self.k[:, :, used].index_select(0, rows), self.v[:, :, used].index_select(0, rows)
            if len(rows) > self.k.shape[0]:
                shape = (len(rows), k.shape[1], self.capacity, k.shape[3])
                self.k, self.v = k.new_empty(shape), v.new_empty(shape)
            self.k, self.v = self.k[: len(rows)], self.v[: len(rows)]
            self.k[:, :, used], self.v[:, :, used] = k, v


def moves(rows: Tensor) -> Tensor:
    """The places whose row is another's: rows_R → place_N."""
    return (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention: q_BHTK, k_BHCK, v_BHCK, mask (True where attended, or what to add to scores) → mixed_BHTK.

    PyTorch's fused kernel, but for short bfloat16 training batches on a CPU, where its backward is three to four
    times slower than plain products.
    """
    if q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= 128:
        return plain_attend(q, k, v, mask=mask, causal=causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def plain_attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """The plain twin of `attend`."""
    score_BHTC = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        T, C = score_BHTC.shape[-2:]
        mask = torch.ones(T, C, dtype=torch.bool, device=q.device).tril(C - T)
    if mask is not None:
        added = mask.dtype != torch.bool
        score_BHTC = score_BHTC + mask if added else score_BHTC.masked_fill(~mask, -torch.inf)
    return score_BHTC.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


@functools.cache
def onednn_serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's products serve: on a CPU, in float32, or bfloat16 where the processor has it."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    ops = torch.ops.mkldnn
    if not (hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16(device))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias on the weight as it lies, by oneDNN where it serves, which is faster, gradients too: twice as
    fast as PyTorch's own with AVX-512. A tied table needs no second copy. Compilers, exporters see PyTorch's own.

    x_…I, weight_OI, bias_O → y_…O. Its plain twin is `F.linear`.
    """
    if torch.compiler.is_compiling() or not onednn_serves(x.device, x.dtype):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Product.apply(x, weight, bias)
    return _by_onednn(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not x.numel():  # oneDNN sums nothing to no zeros
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """`product` with its gradients, which are such products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return _by_onednn(x, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        slope_NO = slope.flatten(0, -2)
        return (
            _by_onednn(slope, weight_OI.T) if need_x else None,
            _by_onednn(slope_NO.T, x.flatten(0, -2).T) if need_weight else None,
            slope_NO.sum(0) if need_bias else None,
        )


class Linear(nn.Linear):
    """PyTorch's, by `product`: x_…I → y_…O. One without memory is not drawn, as in `drawn`."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def flop_counter() -> FlopCounterMode:
    """A counter of operations that knows oneDNN's products too: with flop_counter() as c: …; c.get_total_flops()"""
    from torch.utils.flop_counter import FlopCounterMode

    def operations(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    known = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return FlopCounterMode(display=False, custom_mapping={known: operations} if known else {})


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; query, key and value come of one product.

    x_BTM, mask_B11C (True where attended) or causal, cache → x_BTM
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)

    def forward(
        self, x_BTM: Tensor, *, mask: Tensor | None = None, causal: bool = False, cache: KVCache | None = None
    ) -> Tensor:
        B, T, M = x_BTM.shape
        q, k, v = self.qkv_proj(x_BTM).view(B, T, 3, self.heads, M // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            causal = causal and cache.length == 0
            k, v = cache.append(k, v)
        mixed_BHTK = attend(q, k, v, mask=mask, causal=causal and T > 1)
        return self.out_proj(mixed_BHTK.transpose(1, 2).reshape(B, T, M))

    def ragged(self, x_NM: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
        """Texts of several lengths end to end, without padding. `runs`: how many neighbours have how many tokens each.

        x_NM → x_NM. Its plain twin is `forward` with a mask.
        """
        mixed_NM = torch.empty_like(x_NM)
        start, M = 0, x_NM.shape[1]
        qkv_N = self.qkv_proj(x_NM)
        for count, T in runs:
            end = start + count * T
            q, k, v = qkv_N[start:end].view(count, T, 3, self.heads, M // self.heads).permute(2, 0, 3, 1, 4)
            mixed_NM[start:end].view(count, T, self.heads, -1).copy_(attend(q, k, v).transpose(1, 2))
            start = end
        return self.out_proj(mixed_NM)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between: x_BTM → x_BTM."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner_proj = Linear(width, inner)
        self.output_proj = Linear(inner, width)

    def forward(self, x_BTM: Tensor) -> Tensor:
        return self.output_proj(F.relu(self.inner_proj(x_BTM)))
