"""The scale on which the concept models of Meta read and predict embeddings: each dimension less its median, over a
robust deviation.

Legend: N vectors, D embedding.
Source: LCM team 2024 (arXiv 2412.08821), 2.4.1; `gaussian_robust` of its code, with real quartiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

QUARTILES = 1.3489795003921634  # Φ⁻¹(¾) − Φ⁻¹(¼): a normal's interquartile range in deviations


class Normaliser(nn.Module):
    """x → (x − center) / scale, in float32, and back by `invert`. Fitted, never trained; saved with the model."""

    float32 = True  # what training leaves as it is, whatever its products' dtype

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(dim), requires_grad=False)

    def forward(self, x_D: Tensor) -> Tensor:
        return (x_D.float() - self.center.float()) / self.scale.float()

    def invert(self, x_D: Tensor) -> Tensor:
        """Normalised x_…D → x_…D, float32."""
        return x_D.float() * self.scale.float() + self.center.float()

    @torch.no_grad()
    def fit_(self, x_ND: Tensor) -> Normaliser:
        """Median and interquartile range of each dimension; one that does not vary keeps scale 1. x_ND → self."""
        share = torch.tensor([0.25, 0.5, 0.75])
        for at in range(0, x_ND.shape[1], 32):  # torch.quantile takes at most 16 M numbers at once
            part = slice(at, at + 32)
            low, middle, high = x_ND[:, part].float().cpu().quantile(share, dim=0)
            spread = (high - low) / QUARTILES
            self.center[part] = middle
            self.scale[part] = torch.where(spread > 0, spread, torch.ones_like(spread))
        return self
