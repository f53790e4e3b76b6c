"""How well a space encodes a text: its sentences, each scored given its own embedding.

Legend: S sentences, T tokens, D embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import by_length
from ..tokens import EOS
from .model import Space

MOST = 32  # sentences scored of a text, evenly spaced
COST = 1024  # padded tokens scored at once: their logits are COST × V
IGNORED = -100


@torch.inference_mode()
def reconstruction(texts: Sequence[str], embedding_SD: Tensor, lang: str, space: Space) -> float:
    """Nats a token, words and one `</s>`, of sentences given their own embeddings, by teacher forcing.

    Near 0 where the space holds the text word for word; towards a language model's entropy where it does not know
    such text. At most 32 sentences are scored. texts, embedding_SD → nats (inf for none).
    """
    chosen = [i * len(texts) // min(MOST, len(texts)) for i in range(min(MOST, len(texts)))]
    room = space.net.config.max_target_tokens
    ids = [space.tokenizer.target(texts[i], lang)[:room] for i in chosen]
    total, count = 0.0, 0
    for rows in by_length([len(i) for i in ids], len(ids), COST):
        ids_ST = torch.full((len(rows), len(ids[rows[0]])), EOS)
        label_ST = torch.full_like(ids_ST, IGNORED)
        for row, i in enumerate(rows):
            ids_ST[row, : len(ids[i])] = label_ST[row, : len(ids[i])] = torch.tensor(ids[i])
        label_ST[:, :2] = IGNORED  # the prompt
        embedding = embedding_SD[torch.tensor([chosen[i] for i in rows])]
        hidden_STM = space.net.decoder(ids_ST[:, :-1].to(embedding.device), embedding)
        label_N = label_ST[:, 1:].flatten().to(embedding.device)
        logits_NV = space.net.decoder.logits(hidden_STM).flatten(0, 1).float()
        total += F.cross_entropy(logits_NV, label_N, ignore_index=IGNORED, reduction="sum").item()
        count += int((label_N != IGNORED).sum())
    return total / count if count else float("inf")
