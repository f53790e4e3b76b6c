"""Embeddings of a text so far → the embedding of the next sentence. The third arrow of the chain.

Legend: S sentences, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import Writer


class Reader:
    """Reads a document, sentence by sentence, and has the next one's embedding ready after each. What was read is kept
    in the key/value cache, so a new sentence costs one position."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.caches = writer.net.body.caches()

    @torch.inference_mode()
    def read(self, embedding_SD: Tensor) -> Tensor:
        """Sentences, in order, after those read before: embedding_SD → next_D."""
        return self.writer.net(embedding_SD[None], self.caches)[0, -1]


@torch.inference_mode()
def predict(writer: Writer, context_SD: Tensor) -> Tensor:
    """The plain twin of `Reader`: the whole context at once. context_SD → next_D."""
    return writer.net(context_SD[None])[0, -1]
