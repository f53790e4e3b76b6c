"""What a concept model predicts, for the decoder to learn from: a decoder that has only read encoders' vectors takes a
guess at its word.

    guesses = Guesses(settings, folder, space)
    ids, guess_ND = guesses.draw(generator)       # sentences, and what the writer predicted in their place

The writer reads each training document of the recipe once, as it was taught, from clean text. Half of the vectors drawn
are moved a random part of the way to the sentence's own embedding, so that no writer in particular is learned.

Legend: N sentences, D embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..nets.kinds import VECTORS
from ..runtime import by_length, choose, log
from ..weights.loaded import Space, load_writer
from .build import read_documents
from .recipe import Settings

DOCUMENTS = 32  # read at once


class Guesses:
    """A writer's predictions of every target sentence of the training documents, and those sentences."""

    def __init__(self, settings: Settings, folder: Path, space: Space | None) -> None:
        if space is None:
            raise UserError("loss.guess needs a space to start from", "add run.init, the space of run.writer")
        if not settings.run.writer:
            raise UserError("loss.guess needs a concept model", "add run.writer, a model in the space of run.init")
        room = int(settings.loss.guess * settings.optim.batch_tokens)  # padded tokens drawn at once
        writer = load_writer(settings.run.writer, choose("cpu", "float32"), settings.run.init)
        if writer.row.reads != VECTORS or writer.row.noise:
            raise UserError(f"run.writer {writer.name} is a {writer.kind} model", "name a sonar-llm model")
        data = read_documents(settings, folder, space)
        self.table = data.table
        epoch = data.epoch(0)
        vectors, rows = [], []
        with torch.no_grad():
            for group in by_length([len(d.rows) for d in epoch], DOCUMENTS):
                context_BSD, at_B, at_S, row_N = data.context([epoch[i] for i in group])
                vectors.append(writer.net(context_BSD)[at_B, at_S].half())
                rows.append(row_N)
        self.guess_ND, self.row_N = torch.cat(vectors), np.concatenate(rows)
        keep = self.row_N > 1  # ending and marker are a handful of words
        self.guess_ND, self.row_N = self.guess_ND[torch.from_numpy(keep)], self.row_N[keep]
        labels = self.table.labels[self.row_N] + 2
        self.groups = by_length(labels.tolist(), len(labels), room)
        log.info("%d sentences as %s predicts them", len(self.row_N), writer.name)

    def draw(self, generator: torch.Generator) -> tuple[list[list[int]], Tensor]:
        """Sentences of like length, `</s> __lang__ w₁ … w_n </s>` each, and guess_ND in float32."""
        at = self.groups[int(torch.randint(len(self.groups), (), generator=generator))]
        row_N = self.row_N[at]
        guess_ND = self.guess_ND[at].float()
        share_N1, chosen_N1 = torch.rand(2, len(at), 1, generator=generator)
        share_N1 = share_N1 * (chosen_N1 < 0.5)
        guess_ND = guess_ND + share_N1 * (self.table.embeddings(row_N) - guess_ND)
        return self.table.target_ids(row_N), guess_ND
