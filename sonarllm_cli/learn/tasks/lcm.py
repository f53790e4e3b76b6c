"""Training the LCMs: the next sentence's embedding by squared error, straight or from noise. No decoder is asked.

Documents, targets, order and stop rules are a SONAR-LLM's (see sonar_llm.py). The loss of a sentence is the sum
over dimensions of the squared difference of normalised embeddings, and a step's the mean over its sentences.

Legend: B documents, S sentences read, N target sentences, C columns attended to, D embedding.
Source: LCM team 2024 (arXiv 2412.08821), 2.3, and its recipes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.documents import Batch, Document, Lazy
from ...nets.diffusion_lcm import diffused
from ...nets.sonar import SonarConfig
from ..ahead import pinned
from ..budget import Cost, body_token_flops
from ..recipe import Settings
from .sonar_llm import CPU, Group, Loaded, SonarLLMTask

FITTED = 100_000  # sentences, evenly spaced over the documents, that the normaliser is fitted to


class LCMTask(SonarLLMTask):
    """An `mse-lcm` run; its normaliser is fitted to the training documents' sentences."""

    def __init__(self, settings: Settings, folder: Path, device: torch.device = CPU) -> None:
        super().__init__(settings, folder, device)
        rows = self.data.train.flat
        self.model.normaliser.fit_(self.table.embeddings(rows[:: max(1, len(rows) // FITTED)]))
        self.normaliser = copy.deepcopy(self.model.normaliser).to(device)  # whole, where the model's is sharded

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """The body, three times: no decoder is asked."""
        assert space is not None
        return 3 * sentences * body_token_flops(model.config, space.embedding, settings.data.max_sentences)

    @classmethod
    def activations(cls, settings: Settings, config: Any, space: SonarConfig | None, half: int) -> float:
        """The body's."""
        return Cost.activations(settings, config, space, half)

    def steps(self, epoch: Sequence[Document]) -> Sequence[list[Batch]]:
        """As for SONAR-LLM, but `step_tokens` counts target sentences: each weighs the same, however long it is."""
        steps = self.data.steps(epoch)

        def by_sentence(i: int) -> list[Batch]:
            step = steps[i]
            total = sum(len(d.rows) - d.scored for batch in step for d in batch.documents)
            return [Batch(batch.documents, total) for batch in step]

        return Lazy(len(steps), by_sentence)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's mean squared error, and what to log of it."""
        loaded = batch.loaded or self._loaded(batch.documents)
        error_N = self._errors(loaded, generator)
        facts = {"tokens": loaded.labels, "sentences": len(error_N), "mse": error_N.mean().item()}
        return error_N.sum() / batch.step_tokens, facts

    def _wanted(self, row_N: np.ndarray) -> Tensor:
        """The target sentences' embeddings: → target_ND, on the CPU."""
        return pinned(self.table.embeddings(row_N), self.device)

    def _errors(self, loaded: Loaded, generator: torch.Generator | None) -> Tensor:
        """Squared error of each target sentence: → error_N."""
        predicted_ND = self._predict(loaded.groups, generator)
        target_ND = loaded.wanted.to(self.device, non_blocking=True)
        return (self.normaliser(predicted_ND) - self.normaliser(target_ND)).square().sum(1)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss on validation texts and on titles after the marker and, for what it predicts at once, what the
        decoder makes of it (nats a token, bits a byte). Noise is the same at every call."""
        out: dict[str, float] = {}
        generator = self._validation_noise()
        for name, summary in (("text", False), ("title", True)):
            documents = self.data.held_out(summary, 16 * self.settings.run.valid_batches)
            keep = []
            for at in range(0, len(documents), 16):
                loaded = self._loaded(documents[at : at + 16])
                error_N = self._errors(loaded, generator).cpu()
                keep.append(error_N[torch.from_numpy(loaded.row_N != 0)] if summary else error_N)
            if keep:
                out[f"valid_{name}_mse"] = torch.cat(keep).mean().item()
        return out | self._decoded()

    def _validation_noise(self) -> torch.Generator | None:
        return None

    def _decoded(self) -> dict[str, float]:
        return super().validate()


class DiffusionTask(LCMTask):
    """A `diffusion-lcm` run: x̂₀ from a step and a noise drawn for each sentence, some without what came before."""

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """6 a parameter and position."""
        return Cost.flops(settings, model, space, tokens, sentences)

    def _start(self, model: Any) -> Any:
        return model

    def _errors(self, loaded: Loaded, generator: torch.Generator | None) -> Tensor:
        each = loaded.wanted.split([len(group.row_N) for group in loaded.groups])
        return torch.cat([self._errors_of_group(*both, generator) for both in zip(loaded.groups, each)])

    def _errors_of_group(self, group: Group, target_ND: Tensor, generator: torch.Generator | None) -> Tensor:
        """Targets are denoised at as many places of each document as the one with the most has."""
        _, at_B, at_S, _ = group
        context_BSD = self._noised(group, generator if self.model.training else None)
        count_B = torch.bincount(at_B, minlength=len(context_BSD))
        place_N = torch.cat([torch.arange(int(n)) for n in count_B])  # targets come document by document
        B, N, S = len(context_BSD), int(count_B.max()), context_BSD.shape[1]
        target_BND = torch.zeros(B, N, context_BSD.shape[2])
        target_BND[at_B, place_N] = target_ND
        last_BN = torch.zeros(B, N, dtype=torch.long)
        last_BN[at_B, place_N] = at_S + 1  # the last column seen: sentence at_S, after the zero vector
        config = self.model.config
        step_BN = torch.randint(config.steps, (B, N), generator=generator)
        noise_BND = torch.randn(target_BND.shape, generator=generator)
        drop_BN = torch.rand((B, N), generator=generator) < config.drop
        mask_BNC = torch.arange(S + 1) <= last_BN.masked_fill(drop_BN, 0)[..., None]
        target_BND, step_BN, noise_BND, mask_BNC = (
            t.to(self.device) for t in (target_BND, step_BN, noise_BND, mask_BNC)
        )
        target_BND = self.normaliser(target_BND)
        x_BND = diffused(target_BND, noise_BND, self.model.alpha(step_BN))
        found_BND = self.model(context_BSD, x_BND, step_BN, mask_BNC)
        return (found_BND - target_BND).square().sum(-1)[at_B, place_N]

    def _validation_noise(self) -> torch.Generator | None:
        return torch.Generator().manual_seed(0)

    def _decoded(self) -> dict[str, float]:
        return {}
