"""Embeddings of a text so far → the embedding of the next sentence. The third arrow of the chain.

Legend: S sentences, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..weights.loaded import Writer

CHUNK = 512  # sentences read at once: attention of a chunk to what is before it needs CHUNK × S scores, not S × S
Report = Callable[[str, int, int], None]  # what is being done, how much of it is, how much there is


class Reader:
    """Reads a document, sentence by sentence, and has the next one's embedding ready after each. What was read is kept
    in the key/value cache, so a new sentence costs one position. A long document is read in chunks: memory is linear in
    its sentences, 2 · layers · key/value heads · head size numbers each.

    A diffusion model draws its noise from `generator`; `sampling` are its steps, guidance and so on, if not its own.
    """

    def __init__(self, writer: Writer, generator: torch.Generator | None = None, sampling: Any = None) -> None:
        self.writer, self.generator, self.sampling = writer, generator, sampling
        self.caches = writer.net.body.caches()
        self.memory: list[Tensor] = []  # what the network keeps of all sentences, beside its caches

    @torch.inference_mode()
    def read(self, embedding_SD: Tensor, report: Report | None = None) -> Tensor:
        """Sentences, in order, after those read before: embedding_SD → next_D."""
        net, done = self.writer.net, 0
        if self.caches[0].k is None:  # a place for every sentence and some to come, rather than doubling
            for cache in self.caches:
                cache.capacity = len(embedding_SD) + 64
        for chunk_SD in embedding_SD.split(CHUNK):
            net.remember(chunk_SD[None], self.caches, self.memory)
            done += len(chunk_SD)
            if report:
                report("reading", done, len(embedding_SD))
        return net.next(self.memory, self.generator, self.sampling)[0]


@torch.inference_mode()
def predict(writer: Writer, context_SD: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The plain twin of `Reader`: the whole context at once. context_SD → next_D."""
    memory: list[Tensor] = []
    writer.net.remember(context_SD[None], None, memory)
    return writer.net.next(memory, generator)[0]


@torch.inference_mode()
def predict_all(
    writer: Writer, context_SD: Tensor, generator: torch.Generator | None = None, sampling: Any = None
) -> Tensor:
    """What follows each beginning of the context, all at once: context_SD → next_SD."""
    return writer.net.next_all(context_SD[None], generator, sampling)[0]
