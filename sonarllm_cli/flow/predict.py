"""Embeddings of a text so far → the embedding of the next sentence. The third arrow of the chain.

Legend: B documents, S sentences, D embedding, M model width, C columns (a zero vector, then the sentences).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..nets.diffusion_lcm import DiffusionLCM, DiffusionLCMConfig
from ..weights.loaded import Writer

CHUNK = 512  # sentences read at once: attention of a chunk to what is before it needs CHUNK × S scores, not S × S
Report = Callable[[str, int, int], None]  # what is being done, how much of it is, how much there is


class Reader:
    """Reads a document, sentence by sentence, and has the next one's embedding ready after each. What was read is kept
    in the key/value cache, so a new sentence costs one position. A long document is read in chunks: memory is linear in
    its sentences, 2 · layers · key/value heads · head size numbers each.

    A diffusion model draws its noise from `generator`; `sampling` are its steps, guidance and so on, if not its own.
    """

    def __init__(
        self,
        writer: Writer,
        generator: torch.Generator | None = None,
        sampling: DiffusionLCMConfig | None = None,
    ) -> None:
        self.writer, self.generator, self.sampling = writer, generator, sampling
        self.caches = writer.net.body.caches()
        self.read_BSM: Tensor | None = None  # what a diffusion model's first tower made of all sentences

    @torch.inference_mode()
    def read(self, embedding_SD: Tensor, report: Report | None = None) -> Tensor:
        """Sentences, in order, after those read before: embedding_SD → next_D."""
        net, done = self.writer.net, 0
        if self.caches[0].k is None:  # a place for every sentence and some to come, rather than doubling
            for cache in self.caches:
                cache.capacity = len(embedding_SD) + 64
        read = []
        for chunk_SD in embedding_SD.split(CHUNK):
            if isinstance(net, DiffusionLCM):
                read.append(net.read(chunk_SD[None], self.caches))
            else:
                next_D = net(chunk_SD[None], self.caches)[0, -1]
            done += len(chunk_SD)
            if report:
                report("reading", done, len(embedding_SD))
        if not isinstance(net, DiffusionLCM):
            return next_D
        new_BSM = torch.cat(read, 1)
        self.read_BSM = new_BSM if self.read_BSM is None else torch.cat([self.read_BSM, new_BSM], 1)
        all_BNC = torch.ones(1, 1, self.read_BSM.shape[1] + 1, dtype=torch.bool, device=new_BSM.device)
        return net.sample(self.read_BSM, all_BNC, self.generator, self.sampling)[0, 0]


@torch.inference_mode()
def predict(writer: Writer, context_SD: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The plain twin of `Reader`: the whole context at once. context_SD → next_D."""
    net = writer.net
    if isinstance(net, DiffusionLCM):
        read_1SM = net.read(context_SD[None])
        all_11C = torch.ones(1, 1, len(context_SD) + 1, dtype=torch.bool, device=read_1SM.device)
        return net.sample(read_1SM, all_11C, generator)[0, 0]
    return net(context_SD[None])[0, -1]


@torch.inference_mode()
def predict_all(
    writer: Writer,
    context_SD: Tensor,
    generator: torch.Generator | None = None,
    sampling: DiffusionLCMConfig | None = None,
) -> Tensor:
    """What follows each beginning of the context, all at once: context_SD → next_SD."""
    net = writer.net
    if isinstance(net, DiffusionLCM):
        S = len(context_SD)
        seen_SC = torch.ones(S, S + 1, dtype=torch.bool, device=context_SD.device).tril(1)
        return net.sample(net.read(context_SD[None]), seen_SC[None], generator, sampling)[0]
    return net(context_SD[None])[0]
