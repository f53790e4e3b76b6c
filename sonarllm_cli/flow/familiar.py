"""How well a space knows a text: its sentences, each scored given its own embedding, blurred.

Legend: S sentences, T tokens, D embedding, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import by_length
from ..tokens import EOS
from ..weights.loaded import Space, Writer

MOST = 32  # sentences scored of a text, evenly spaced
COST = 1024  # padded tokens scored at once: their logits are COST × V
BLUR = 0.7  # how much of an embedding is noise
IGNORED = -100


def blurred(embedding_SD: Tensor, amount: float = BLUR) -> Tensor:
    """√(1−a²)·z + a·σ·ε, σ the deviation of a vector's numbers, ε always the same: embedding_SD → embedding_SD."""
    noise_SD = torch.randn(embedding_SD.shape, generator=torch.Generator().manual_seed(0)).to(embedding_SD)
    return (1 - amount**2) ** 0.5 * embedding_SD + amount * embedding_SD.std(1, keepdim=True) * noise_SD


@torch.inference_mode()
def reconstruction(texts: Sequence[str], embedding_SD: Tensor, lang: str, space: Space, amount: float = BLUR) -> float:
    """Bits a byte of UTF-8, for words and one `</s>`, of sentences given their own embeddings, blurred, by teacher
    forcing.

    A good space gives any text back from a clear vector. From a blurred one it does where the decoder knows such text
    and fills the gaps: low in the field it was trained on, towards a language model's surprise outside. At most 32
    sentences are scored, none that is longer than the decoder reads. texts, embedding_SD → bits (inf for none).
    """
    embedding_SD = blurred(embedding_SD, amount)
    chosen = [i * len(texts) // min(MOST, len(texts)) for i in range(min(MOST, len(texts)))]
    all_ids = {i: space.tokenizer.target(texts[i], lang) for i in chosen}
    chosen = [i for i in chosen if len(all_ids[i]) <= space.net.config.max_target_tokens]
    ids = [all_ids[i] for i in chosen]
    total = 0.0
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
    size = sum(len(texts[i].encode()) for i in chosen)
    return total / math.log(2) / size if size else float("inf")


def unfamiliar(texts: Sequence[str], embedding_SD: Tensor, lang: str, writer: Writer) -> float:
    """The `reconstruction` of a text that the writer's space knows less of than of its own field, in bits a byte; 0 of
    any other, and of a writer whose field nobody measured."""
    if not writer.familiar:
        return 0.0
    bits = reconstruction(texts, embedding_SD, lang, writer.space)
    return bits if bits > writer.familiar else 0.0
