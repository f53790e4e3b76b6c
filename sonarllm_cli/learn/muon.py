"""Muon: momentum whose direction is made orthogonal, one step for every singular value of a matrix alike.

torch.optim.Muon's arithmetic, with two differences: the products of the Newton-Schulz iteration run in a dtype that the
device multiplies fast (torch's run in bfloat16, which costs a hundred times float32 on a CPU without it), and matrices
of one shape go through it together.

Legend: N matrices of one shape, R rows, C columns, R ≤ C.
Source: Jordan et al. 2024 (Muon); rates matched to AdamW's as in Liu et al. 2025 (arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor

from ..runtime import multiplies_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCHED = 0.2  # RMS of AdamW's updates
TOGETHER = 1 << 22  # numbers that go through the iteration at once


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, at a rate that moves weights as far as AdamW would. Matrices only."""

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            moved = sorted((p for p in group["params"] if p.grad is not None), key=lambda p: tuple(p.shape))
            for shape, same in groupby(moved, key=lambda p: tuple(p.shape)):
                matrices = list(same)
                most = max(1, TOGETHER // matrices[0].numel())
                for at in range(0, len(matrices), most):
                    part = matrices[at : at + most]
                    update_NRC = orthogonal(torch.stack([self._momentum(p, momentum) for p in part]))
                    for p, update in zip(part, update_NRC):
                        p.mul_(1 - rate * group["weight_decay"])
                        p.add_(update, alpha=-rate * MATCHED * max(shape) ** 0.5)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        assert p.grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum_buffer"], momentum)


def orthogonal(x_NRC: Tensor) -> Tensor:
    """The nearest (half-)orthogonal matrices, roughly: singular values come out between 0.7 and 1.2. x_NRC → x_NRC."""
    a, b, c = COEFFICIENTS
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    x = x_NRC.to(torch.bfloat16 if multiplies_bfloat16(x_NRC.device) else torch.float32)
    x = x.transpose(1, 2) if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram_NRR = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c), x, beta=a)
    return (x.transpose(1, 2) if tall else x).to(x_NRC.dtype)
