"""Letters beside vectors: a student that also spells what it hears finds out sooner which sounds make words.

    speller = Speller(texts, config); loss = speller(encoded_BSM, real_BS1, texts_of_the_batch)

A step of the network has room for as many letters as it has steps of 20 ms, so that steps may be longer than letters.
The speller serves training alone: no model folder holds it.

Legend: B clips, S steps of the network, M width, P places for letters, C letters and the blank.
Source: Graves et al. 2006 (CTC); Kim, Hori & Watanabe 2017 (CTC beside another objective).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.speech import SpeechConfig

MOST = 255  # letters that are told apart; rarer ones are passed over


def letters_of(text: str) -> str:
    """What of a text is heard, as far as letters go.

    >>> letters_of("Don't  ask, Éva!")
    'dont ask éva'
    """
    return " ".join("".join(c for c in text.casefold() if c.isalnum() or c.isspace()).split())


class Speller(nn.Module):
    """How surely the steps of utterances spell their texts: encoded_BSM, real_BS1, texts → nats a letter, a mean over
    clips. Texts without letters, or with more than there are places, teach nothing."""

    def __init__(self, texts: Iterable[str], config: SpeechConfig) -> None:
        super().__init__()
        counts = Counter(c for text in texts for c in letters_of(text))
        self.number = {c: i for i, (c, _) in enumerate(counts.most_common(MOST), 1)}  # 0 is the blank
        self.places = config.subsample
        self.proj = nn.Linear(config.width, self.places * (1 + len(self.number)))

    def forward(self, encoded_BSM: Tensor, real_BS1: Tensor | None, texts: Sequence[str]) -> Tensor:
        B, S, _ = encoded_BSM.shape
        score_BPC = self.proj(encoded_BSM).float().view(B, S * self.places, 1 + len(self.number))
        room_B = torch.full((B,), S) if real_BS1 is None else real_BS1.sum((1, 2))
        wanted = [[self.number[c] for c in letters_of(text) if c in self.number] for text in texts]
        length_B = torch.tensor([len(letters) for letters in wanted])
        nats_B = F.ctc_loss(
            score_BPC.log_softmax(2).transpose(0, 1),
            torch.tensor([letter for letters in wanted for letter in letters], device=encoded_BSM.device),
            (room_B * self.places).to(length_B),
            length_B,
            reduction="none",
            zero_infinity=True,
        )
        return (nats_B / length_B.clamp_min(1).to(nats_B)).mean()
