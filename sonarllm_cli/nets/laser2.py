"""LASER2's encoder: a bidirectional LSTM over a text's pieces, and the maximum of its states over time.

Legend: B texts, T tokens, M width of the tokens, D embedding (both directions).
Source: Heffernan et al. 2022 (arXiv 2205.12654); Artetxe & Schwenk 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UserError

PAD, EOS, UNK = 1, 2, 3
FIRST_PIECE = 4  # sentencepiece's piece p is p + 4; its first three are control pieces


@dataclass(frozen=True, kw_only=True)
class Laser2Config:
    """Shape of a LASER2 encoder. Defaults are the published one's."""

    vocab_size: int = 50_004
    width: int = 320
    hidden: int = 512
    layers: int = 5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}, not above 0", "import it again")

    @property
    def embedding(self) -> int:
        return 2 * self.hidden


class Laser2(nn.Module):
    """ids_BT (padded by `PAD`), length_B → embedding_BD."""

    def __init__(self, config: Laser2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width, padding_idx=PAD)
        self.lstm = nn.LSTM(config.width, config.hidden, config.layers, bidirectional=True, batch_first=True)

    def forward(self, ids_BT: Tensor, length_B: Tensor) -> Tensor:
        x_BTM = self.embed_tokens(ids_BT)
        packed = nn.utils.rnn.pack_padded_sequence(x_BTM, length_B.cpu(), batch_first=True, enforce_sorted=False)
        state_BTD, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, padding_value=-torch.inf, total_length=ids_BT.shape[1]
        )
        return state_BTD.amax(1)
