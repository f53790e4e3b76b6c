"""Linear layers for inference on a CPU: weights in oneDNN's own layout, float32, bfloat16 or int8.

pack_(net) replaces a network's linear layers in place; what it computes stays the same, gradients are gone. Weights are
laid out once, layer by layer, so that memory holds one copy. In int8, weights have a scale a row and activations a
scale a token (Yao et al. 2022, ZeroQuant): a text's result does not depend on the texts beside it.

Why: PyTorch's own float32 product reaches three quarters of this one's rate for many tokens, and a third of it for
the five of a beam search, which are bound by reading the weights.

Legend: N tokens, I inputs, O outputs, M model width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .layers import FeedForward
from .sonar import Embed

TILE = 256  # tokens through an int8 layer at once: what lies between its products stays in the cache


def pack_(net: nn.Module, *, int8: bool = False) -> nn.Module:
    """Replace each linear layer, feed-forward and token table of `net` by its packed twin. The network must be on a CPU
    for which `available` holds."""
    shared: dict[int, nn.Module] = {}

    def twin(module: nn.Module) -> nn.Module | None:
        if isinstance(module, FeedForward):
            return PackedFeedForward(module, int8)
        if isinstance(module, nn.Linear):
            return Int8Linear(module) if int8 else PackedLinear(module)
        if isinstance(module, Embed) and int8:
            return Int8Embed(module, projects=module.projects)
        return None

    def walk(module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            if id(child) not in shared:
                made = twin(child)
                shared[id(child)] = made or child
                if made is None:
                    walk(child)
            setattr(module, name, shared[id(child)])

    kept = list(net.modules())  # ids stay unique for as long as the modules live
    walk(net)
    del kept
    return net


_EMPTY = nn.Parameter(torch.empty(0), requires_grad=False)


def _frozen(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


class PackedLinear(nn.Module):
    """`nn.Linear`, or with `relu` a ReLU after it, in one product: x_…I → y_…O."""

    def __init__(self, linear: nn.Linear, relu: bool = False) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = _frozen(linear.bias)
        self.after = "relu" if relu else "none"
        linear.weight = _EMPTY

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("packed layers have no gradient: load with trainable=True")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.after, [], "")


class PackedFeedForward(nn.Module):
    """`FeedForward`; in int8 a tile of tokens at a time."""

    def __init__(self, feed_forward: FeedForward, int8: bool) -> None:
        super().__init__()
        self.inner_proj: nn.Module
        self.output_proj: nn.Module
        if int8:
            self.inner_proj = Int8Linear(feed_forward.inner_proj, relu=True)
            self.output_proj = Int8Linear(feed_forward.output_proj, positive=True)
        else:
            self.inner_proj = PackedLinear(feed_forward.inner_proj, relu=True)
            self.output_proj = PackedLinear(feed_forward.output_proj)
        self.tile = TILE if int8 else 0

    def forward(self, x_BTM: Tensor) -> Tensor:
        x_NM = x_BTM.flatten(0, -2)
        if not self.tile or len(x_NM) <= self.tile:
            return self.output_proj(self.inner_proj(x_BTM))
        out = [self.output_proj(self.inner_proj(tile)) for tile in x_NM.split(self.tile)]
        return torch.cat(out).view(*x_BTM.shape[:-1], -1)


class Int8Linear(nn.Module):
    """`nn.Linear` over int8 weights and activations, exact in int32 between: x_…I → y_…O.

    `relu`: a ReLU follows. `positive`: no input is below 0, so its scale spends all 8 bits above it.
    """

    def __init__(self, linear: nn.Linear, relu: bool = False, positive: bool = False) -> None:
        super().__init__()
        self.shape = linear.weight.shape
        self.q_OI, self.scale_O = int8_rows(linear.weight.detach())
        self.bias, self.relu, self.zero = _frozen(linear.bias), relu, 0 if positive else 128
        linear.weight = _EMPTY
        self.none_O = torch.zeros(len(self.q_OI), dtype=torch.int32)
        self.packed: Tensor | None = None
        if exact_int8():
            self.packed = torch.ops.onednn.qlinear_prepack(self.q_OI, None)
            self.q_OI = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("packed layers have no gradient: load with trainable=True")
        x_NI = x.flatten(0, -2)
        tiles = [self._tile(tile_NI) for tile_NI in x_NI.split(TILE)]
        return (tiles[0] if len(tiles) == 1 else torch.cat(tiles)).view(*x.shape[:-1], -1)

    def _tile(self, x_NI: Tensor) -> Tensor:
        q_NI, scale_N1 = int8_tokens(x_NI, self.zero)
        y_NO = self._product(q_NI)
        y_NO = y_NO.mul_(scale_N1) if self.bias is None else torch.addcmul(self.bias, y_NO, scale_N1, out=y_NO)
        return y_NO.relu_() if self.relu else y_NO

    def _product(self, q_NI: Tensor) -> Tensor:
        """(q − zero) · weightᵀ, each column in its scale: q_NI (uint8) → y_NO (float32)."""
        if self.packed is None:  # the plain twin
            return (q_NI.float() - self.zero) @ (self.q_OI.float() * self.scale_O[:, None]).T
        return _qlinear(q_NI, self.zero, self.packed, self.scale_O, self.none_O)


class Int8Embed(nn.Module):
    """`Embed` with a table of int8 rows, and a packed copy of it where it is also the output projection."""

    def __init__(self, embed: Embed, projects: bool) -> None:
        super().__init__()
        self.scale, self.positions = embed.scale, embed.positions
        self.q_VM, self.scale_V = int8_rows(embed.weight.detach())
        self.projection: Int8Linear | None = None
        if projects:
            linear = nn.Linear(1, 1, bias=False, device="meta")
            linear.weight = embed.weight
            self.projection = Int8Linear(linear)
        embed.weight = _EMPTY

    @property
    def weight(self) -> Tensor:
        """The table in float32."""
        return self.q_VM.float() * self.scale_V[:, None]

    def words(self, ids: Tensor) -> Tensor:
        return self.q_VM[ids].float() * self.scale_V[ids, None]

    def forward(self, ids_BT: Tensor, first: int = 0) -> Tensor:
        end = first + ids_BT.shape[1]
        return self.words(ids_BT) * self.scale + self.positions(end, self.scale_V)[first:end]

    def project(self, hidden_M: Tensor) -> Tensor:
        assert self.projection is not None
        return self.projection(hidden_M)


def int8_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix → int8 rows and their float32 scales, each row's largest entry at ±127: weight_OI → q_OI, scale_O."""
    scale_O = weight_OI.abs().amax(1).float().div_(127).clamp_min_(1e-12)
    return (weight_OI / scale_O[:, None]).round_().to(torch.int8), scale_O


def int8_tokens(x_NI: Tensor, zero: int) -> tuple[Tensor, Tensor]:
    """Activations → uint8 and a scale a token: x ≈ (q − zero) · scale, `zero` 128, or 0 where none is negative.

    x_NI → q_NI, scale_N1 (float32).
    """
    if zero:
        scale_N1 = torch.linalg.vector_norm(x_NI, torch.inf, dim=1, keepdim=True).float().div_(127)
    else:
        scale_N1 = x_NI.amax(1, keepdim=True).float().div_(255)
    scale_N1.clamp_min_(1e-12)
    return x_NI.float().mul(scale_N1.reciprocal()).add_(zero + 0.5).to(torch.uint8), scale_N1


@functools.cache
def exact_int8() -> bool:
    """Whether oneDNN's int8 product is here and exact: old processors saturate 255 · 127 + 255 · 127 in 16 bits."""
    try:
        q_NI, w_OI = torch.full((2, 64), 255, dtype=torch.uint8), torch.full((16, 64), 127, dtype=torch.int8)
        y_NO = _qlinear(
            q_NI, 0, torch.ops.onednn.qlinear_prepack(w_OI, None), torch.ones(16), torch.zeros(16, dtype=torch.int32)
        )
    except (AttributeError, RuntimeError):
        return False
    return bool((y_NO == 255 * 127 * 64).all())


def _qlinear(q_NI: Tensor, zero: int, packed: Any, scale_O: Tensor, none_O: Tensor) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(
        q_NI, 1.0, zero, packed, scale_O, none_O, None, 1.0, 0, torch.float32, "none", [], ""
    )
