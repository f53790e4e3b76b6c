"""A space's decoder and a concept model that learn together: the decoder learns to write from what is predicted, which
is vaguer than any sentence's own vector, and the concept model to predict what this decoder writes from.

A step is micro-batches of a `sonar` run (sonar.py), then micro-batches of documents as a `sonar-llm` run has them
(sonar_llm.py), whose loss reaches both networks. A part of the predictions is moved towards the sentence's own vector,
so that the decoder does not learn this one writer's habits alone. The encoder learns nothing: documents are embedded
once. The run leaves two models, `model/` and, bound to that space, `writer/` (and `best/`, `best-writer/`).

Legend: N target sentences, D embedding.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data.documents import Batch, Lazy
from ...errors import UserError
from ...nets.kinds import kind_of
from ...nets.sonar import Sonar
from ...runtime import log
from ...weights import model_dir, registry
from ...weights.loaded import Space
from ..build import check_trained, shape_of, trained_parameters
from ..recipe import Settings
from .sonar import CPU, ItemBatch, SonarTask
from .sonar_llm import SonarLLMTask

KIND = "sonar-llm"  # of the concept model
MOVED = 0.25  # of the predictions are moved towards the sentence, by a share uniform in [0, 1]
PASSES = 1 << 20  # of the documents, at most, in one of the items


class Joint(nn.Module):
    """A space and a concept model in it, as one network to train."""

    def __init__(self, space: Sonar, writer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.writer = space.encoder, space.decoder, writer


class WriterTask(SonarLLMTask):
    """The documents' part: a `sonar-llm` run through a decoder that learns too."""

    def _own(self, row_N: np.ndarray, predicted_ND: Tensor) -> Tensor:
        return self.table.embeddings(row_N).to(predicted_ND)

    def _shown(self, predicted_ND: Tensor, own_ND: Tensor | None, generator: torch.Generator) -> Tensor:
        """A part of the predictions is moved towards the sentence's own vector, and the slope that reaches the concept
        model is the smaller by that."""
        assert own_ND is not None
        share_N1, chosen_N1 = torch.rand(2, len(own_ND), 1, generator=generator)
        share_N1 = (share_N1 * (chosen_N1 < MOVED)).to(predicted_ND)
        return predicted_ND + share_N1 * (own_ND - predicted_ND)


class JointTask:
    """Data, models and loss of a `sonar` run with `run.writer`, for the loop."""

    def __init__(self, settings: Settings, folder: Path, device: torch.device = CPU) -> None:
        self.settings = settings
        self._check()
        self.items = SonarTask(settings, folder, device)
        assert self.items.base is not None
        space = replace(self.items.base, net=self.items.model)
        self.writing = WriterTask(self._writers(space), folder, device, space=space)
        self.model = Joint(self.items.model, self.writing.model)

    def _check(self) -> None:
        """UserError for a recipe that lacks one of the two models, or in which one can't learn; nothing is read yet."""
        run = self.settings.run
        if not run.init:
            raise UserError("run.writer needs a space to start from", 'add run.init, such as "mini-sonar"')
        if not run.writer:
            raise UserError("loss.guess needs a concept model", 'add run.writer, such as "mini"')
        if not self.settings.loss.guess:
            raise UserError("run.writer learns nothing while loss.guess is 0", "add loss.guess, such as 1.0")
        registry.find_space(run.init)
        space, writer = SonarTask.shape(self.settings), shape_of(run.writer, KIND, "run.writer")
        if writer.embedding != space.embedding:
            what = f"run.writer {run.writer} predicts vectors of {writer.embedding} numbers"
            raise UserError(f"{what}, run.init {run.init} has {space.embedding}", f"name a {KIND} model of that space")
        with torch.device("meta"):
            model = Joint(Sonar(space), kind_of(KIND).net(writer))
        check_trained(self.settings, model)
        learning = {name.split(".")[0] for name in trained_parameters(self.settings, model)}
        cure = 'use run.train_only = ["decoder.layers", "decoder.layer_norm", "writer"]'
        if "encoder" in learning:
            raise UserError("the encoder can't learn beside run.writer: documents are embedded once", cure)
        if missing := sorted({"decoder", "writer"} - learning):
            raise UserError(f"of the two that learn together run.train_only leaves out the {missing[0]}", cure)

    def _writers(self, space: Space) -> Settings:
        """The recipe as the concept model's: what it is called and how it is stored are as they were."""
        name = self.settings.run.writer
        folder = registry.find(name)
        config = model_dir.read_config(folder)
        home = config.get("sonar", {})
        if home.get("fingerprint") != space.fingerprint:
            log.info("%s was trained in another space, %s: it learns this one", name, home.get("name"))
        told = config.get("training", {}).get("settings", {})
        return replace(
            self.settings,
            kind=KIND,
            name=told.get("name") or folder.name,
            about=told.get("about", ""),
            sonar=self.settings.run.init,
            model={},
            run=replace(self.settings.run, init=name, writer="", weights=config["weights"]),
        )

    # ------------------------------------------------------------------------------------------ batches

    def epoch(self, number: int) -> tuple[int, Lazy[np.ndarray]]:
        """One pass over the items, and its number."""
        return number, self.items.epoch(number)

    def steps(self, epoch: tuple[int, Lazy[np.ndarray]]) -> Lazy[list[ItemBatch | Batch]]:
        """Of each step the items' micro-batches, then those of `optim.documents` documents. While the items are read
        once, the documents are as often as it takes, each time in another order."""
        number, items = epoch
        steps = self.items.steps(items)
        count = len(self.writing.steps(self.writing.epoch(0)))

        @functools.lru_cache(2)  # an order of all documents is not drawn anew at each step
        def written(passed: int) -> Sequence[list[Batch]]:
            return self.writing.steps(self.writing.epoch(number * PASSES + passed))

        def step(i: int) -> list[ItemBatch | Batch]:
            passed, at = divmod(i, count)
            return [*steps[i], *written(passed)[at]]

        return Lazy(len(steps), step)

    def _of(self, batch: ItemBatch | Batch) -> Any:
        """The task that a micro-batch is of."""
        return self.writing if isinstance(batch, Batch) else self.items

    def describe(self, batch: ItemBatch | Batch) -> str:
        """A micro-batch's texts or documents, for messages."""
        return str(self._of(batch).describe(batch))

    def load(self, batch: ItemBatch | Batch) -> Any:
        """The micro-batch with what its loss reads."""
        return self._of(batch).load(batch)

    # ------------------------------------------------------------------------------------------ the loss

    def loss(self, batch: ItemBatch | Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's loss: the items', and `loss.guess` times the documents' nats a token
        (`guess` in the log)."""
        value, facts = self._of(batch).loss(batch, generator)
        if isinstance(batch, ItemBatch):
            return value, facts
        kept = ("tokens", "sentences", "far")
        return self.settings.loss.guess * value, {"guess": facts["nll"]} | {k: facts[k] for k in kept if k in facts}

    def validate(self) -> dict[str, float]:
        """The concept model's figures on held-out documents, and the space's on held-out items."""
        return self.writing.validate() | self.items.validate()

    def save(self, folder: Path, model: nn.Module, facts: dict[str, Any]) -> None:
        """Both finished model folders: `folder`, the space, and beside it the concept model in it."""
        writing = copy.copy(self.writing)  # it measures the decoder as it is now
        facts_of_writer = facts | {"settings": replace(writing.settings, sonar=str(folder)).as_dict()}
        self.items.save(folder, self.items.model, facts)
        fingerprint = model_dir.read_config(folder)["fingerprint"]
        writing.space = replace(writing.space, name=self.settings.name or folder.name, fingerprint=fingerprint)
        place = folder.with_name("writer" if folder.name == "model" else f"{folder.name}-writer")
        writing.save(place, writing.model, facts_of_writer)
