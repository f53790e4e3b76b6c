"""Learning-rate schedules as pure functions of the step, and the optimizers."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from .muon import Muon
from .ranks import Ranks
from .recipe import Optim


def learning_rate(step: int, total: int, optim: Optim) -> float:
    """Learning rate of optimisation step `step` (0-based) of `total`: linear warm-up, then

    - cosine: half a cosine from `lr` to `final × lr` (Loshchilov & Hutter 2017);
    - wsd: `lr`, then linear to `final × lr` over the last `decay` share (Hu et al. 2024, MiniCPM);
    - constant.
    """
    warm = min(optim.warmup, total)
    if step < warm:
        return optim.lr * (step + 1) / warm
    floor = optim.final
    if optim.schedule == "cosine":
        done = (step - warm) / max(1, total - warm)
        return optim.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
    if optim.schedule == "wsd":
        left = (total - step) / max(1.0, total * optim.decay)
        return optim.lr * (floor + (1 - floor) * min(1.0, left))
    return optim.lr


def optimizers(model: nn.Module, optim: Optim, ranks: Ranks | None = None) -> list[torch.optim.Optimizer]:
    """AdamW on all that is trainable or, by name `muon`, Muon (Jordan et al. 2024) on the matrices of the layers and
    AdamW on embeddings, norms and biases. Both take the schedule's rate: Muon's update is scaled to AdamW's RMS
    (Liu et al. 2025). Weight decay is for matrices only. Processes share
    Muon's work where `ranks` are given."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decay = [p for name, p in named if p.ndim >= 2 and not name.endswith("embed.weight")]
    rest = [p for name, p in named if p.ndim < 2 or name.endswith("embed.weight")]
    adamw = functools.partial(
        torch.optim.AdamW, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), eps=optim.eps, fused=True
    )
    if optim.name == "muon":
        square = [p for p in decay if p.ndim == 2]
        other = [p for p in decay if p.ndim != 2] + rest
        muon = functools.partial(Muon, lr=optim.lr, weight_decay=optim.weight_decay, ranks=ranks)
        both = ((muon, square), (functools.partial(adamw, weight_decay=0.0), other))
        return [make(parameters) for make, parameters in both if parameters]
    groups = [{"params": decay, "weight_decay": optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [adamw(groups)]
