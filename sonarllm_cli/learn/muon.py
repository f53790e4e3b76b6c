"""Muon: momentum whose direction is made orthogonal, one step for every singular value of a matrix alike.

torch.optim.Muon's arithmetic, but the products of the Newton-Schulz iteration run in a dtype that the device
multiplies fast (torch's run in bfloat16, which costs a hundred times float32 on a CPU without it), matrices of one
shape go through it together, and each process of a run takes its share of them.

What is orthogonal has all directions alike, also those in which a gradient is nothing but rounding. So runs that add up
a step's gradients in another order, on another number of processes, part sooner than with AdamW: after 40 steps of a
tiny model by up to 2e-4 of a weight, where AdamW's part by 4e-7. Added up in float64 they end equal, to the bit.

Legend: N matrices of one shape, R rows, C columns, R ≤ C.
Source: Jordan et al. 2024 (Muon); rates matched to AdamW's as in Liu et al. 2025 (arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor

from ..runtime import multiplies_bfloat16
from .ranks import Ranks

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCHED = 0.2  # RMS of AdamW's updates
TOGETHER = 1 << 20  # numbers that go through the iteration at once


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, at a rate that moves weights as far as AdamW would. Matrices only."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.count = ranks.count if ranks else 1
        self.divide = ranks.divide if ranks else lambda tensors, work: [work(tensor) for tensor in tensors]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, parts = group["lr"], list(_alike([p for p in group["params"] if p.grad is not None]))
            for at in range(0, len(parts), self.count):
                some = parts[at : at + self.count]
                moves = [torch.stack([self._momentum(p, group["momentum"]) for p in part]) for part in some]
                for part, update_NRC in zip(some, self.divide(moves, orthogonal)):
                    for p, update in zip(part, update_NRC):
                        p.mul_(1 - rate * group["weight_decay"])
                        p.add_(update, alpha=-rate * MATCHED * max(p.shape) ** 0.5)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        assert p.grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum_buffer"], momentum)


def _alike(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape, at most `TOGETHER` numbers of them at once."""
    for _, same in groupby(sorted(matrices, key=lambda p: tuple(p.shape)), key=lambda p: tuple(p.shape)):
        found = list(same)
        size = max(1, TOGETHER // found[0].numel())
        yield from (found[i : i + size] for i in range(0, len(found), size))


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
