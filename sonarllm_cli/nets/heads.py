"""Small networks from embeddings of a space to a number: BLASER 2.0 (how good is a translation) and MuTox (is a text
toxic).

Legend: B rows, D embedding.
Source: Chen et al. 2023 (BLASER, arXiv 2212.08486; 2.0 with SONAR); Costa-jussà et al. 2024 (MuTox, arXiv 2401.05060).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class BlaserConfig:
    """Shape of a BLASER 2.0 model. Defaults are the published `ref` model's; `qe` has no `reference`."""

    embedding: int = 1024
    hidden: tuple[int, ...] = (3072, 1536)
    reference: bool = True

    def __post_init__(self) -> None:
        _check_sizes(self.embedding, self.hidden)

    @property
    def features(self) -> int:
        """Numbers that the first layer reads."""
        return self.embedding * (6 if self.reference else 4)


@dataclass(frozen=True, kw_only=True)
class MutoxConfig:
    """Shape of a MuTox classifier. Defaults are the published one's."""

    embedding: int = 1024
    hidden: tuple[int, ...] = (512, 128)

    def __post_init__(self) -> None:
        _check_sizes(self.embedding, self.hidden)


def _check_sizes(embedding: int, hidden: tuple[int, ...]) -> None:
    if embedding < 1 or not hidden or min(hidden) < 1:
        raise UserError(f"a head's widths are {embedding} and {list(hidden)}, not all above 0", "use positive numbers")


def _linear(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, (*widths[1:], 1)))


class Blaser(nn.Module):
    """How much a translation keeps of its source, about 1 to 5 and unbounded: source_BD, translation_BD, and of a model
    that was taught with one reference_BD → score_B."""

    def __init__(self, config: BlaserConfig) -> None:
        super().__init__()
        self.config = config
        self.takes = ("a source", "a translation", "a reference")[: 2 + config.reference]
        self.layers = _linear(config.features, *config.hidden)

    def forward(self, source_BD: Tensor, translation_BD: Tensor, reference_BD: Tensor | None = None) -> Tensor:
        src, mt = F.normalize(source_BD, dim=1), F.normalize(translation_BD, dim=1)
        if reference_BD is None:
            parts = [src, mt, src * mt, (mt - src).abs()]
        else:
            ref = F.normalize(reference_BD, dim=1)
            parts = [ref, mt, src * mt, ref * mt, (mt - src).abs(), (mt - ref).abs()]
        x_BF = torch.cat(parts, 1)
        for layer in self.layers[:-1]:
            x_BF = torch.tanh(layer(x_BF))
        return self.layers[-1](x_BF)[:, 0]


class Mutox(nn.Module):
    """How toxic a text is, as a logit: embedding_BD → logit_B."""

    def __init__(self, config: MutoxConfig) -> None:
        super().__init__()
        self.config = config
        self.takes = ("a text",)
        self.layers = _linear(config.embedding, *config.hidden)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        x_BF = embedding_BD
        for layer in self.layers[:-1]:
            x_BF = torch.relu(layer(x_BF))
        return self.layers[-1](x_BF)[:, 0]
