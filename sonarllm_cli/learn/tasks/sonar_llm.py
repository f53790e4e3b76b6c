"""Training SONAR-LLM: the next sentence's tokens by cross-entropy through the frozen SONAR decoder.

A document is its sentences in reading order and the ending; or, as summarisation, its sentences, a marker, its title
and the ending, of which only title and ending are scored. Every sentence is embedded once, before the first step.
The frozen decoder is in eval mode and its weights get no gradient; only activations do.

Legend: B documents, S sentences, N target sentences, T tokens, D embedding, M model width, L labelled tokens.
Source: Dragunov et al. 2025 (arXiv 2508.05305), 3; Llama body as in nets/llama.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...data.documents import Batch, Document
from ...errors import UserError
from ...flow.familiar import reconstruction
from ...languages import resolve
from ...nets.kinds import kind_of
from ...nets.sonar import SonarConfig, SonarDecoder
from ...nets.sonar_llm import ENDING, MARKER
from ...runtime import by_length, choose, multiplies_bfloat16
from ...weights import registry, tensors
from ...weights.loaded import Space, load_space
from ..ahead import pinned
from ..budget import Cost, body_token_flops, cross_flops, decoder_token_flops, layer_activations, logits_bytes
from ..build import read_documents, shape_of, space_config
from ..card import card
from ..losses import MOST_ROOM, Padded, padded_groups, sentences_nll, teaching
from ..recipe import Settings, config_from

CPU = torch.device("cpu")
FAMILIAR = 0.9  # share of validation documents that count as like the training text; the rest is better extracted
FAMILIAR_DOCUMENTS = 1024  # of them looked at
POSITIONS = 512  # padded sentences that the body reads at once


class Group(NamedTuple):
    """Documents of like length, so that little is padding, as `DocumentData.context` gives them."""

    context_BSD: Tensor
    at_B: Tensor
    at_S: Tensor
    row_N: np.ndarray


class Loaded(NamedTuple):
    """What the loss of a micro-batch reads of the table: groups of documents, the rows of all their target sentences,
    what is wanted of those (`_wanted`), and their labels and bytes."""

    groups: list[Group]
    row_N: np.ndarray
    wanted: Any
    labels: int
    bytes: int


class SonarLLMTask(Cost):
    """Data, model and loss of one `sonar-llm` run, for the loop. Other kinds on the same documents are made of it."""

    embeds = True  # whether the kind reads embeddings

    def __init__(
        self, settings: Settings, folder: Path, device: torch.device = CPU, *, space: Space | None = None
    ) -> None:
        """`space` is one whose decoder learns too; without it, that of the recipe is loaded, and frozen."""
        self.settings, self.device = settings, device
        if not settings.sonar:
            raise UserError("the recipe names no space", 'add sonar = "mini-sonar", or a model folder')
        self.space = space or load_space(settings.sonar, choose(str(device), "float32"), trainable=True)
        self.data = read_documents(settings, folder, self.space, embed=self.embeds)
        self.table = self.data.table
        self.std_D = self.table.std() if settings.loss.input_noise and self.embeds else torch.zeros(self.space.dim)
        self.decoder: SonarDecoder | None = self.space.net.decoder if self.embeds else None
        self.frozen = self.decoder if space is None else None
        if space is None:
            del self.space.net.encoder  # its work is done
        if self.frozen is not None and settings.run.dtype == "bfloat16" and multiplies_bfloat16(device):
            self.frozen.to(torch.bfloat16)
        self.config = self._shape(settings, self._given())
        for name, value in self._given().items():
            if getattr(self.config, name) != value:
                raise UserError(
                    f"model.{name} is {getattr(self.config, name)}, {self.space.name} has {value}",
                    f"leave model.{name} out",
                )
        self.model = self._begun(kind_of(settings.kind).net)

    @classmethod
    def shape(cls, settings: Settings) -> Any:
        """The config of the network that the recipe describes."""
        given = kind_of(settings.kind).given
        return cls._shape(settings, {given: getattr(space_config(settings.sonar), given)})

    @staticmethod
    def _shape(settings: Settings, given: dict[str, int]) -> Any:
        begun = asdict(shape_of(settings.run.init, settings.kind)) if settings.run.init else {}
        return config_from(kind_of(settings.kind).config, {**begun, **given, **settings.model})

    def _begun(self, net_class: Any) -> Any:
        """The network before its first step: that of `run.init`, a model of this kind and of the shape that [model]
        gives, if any; or a new one, which predicts the mean embedding whatever it reads."""
        if not (init := self.settings.run.init):
            return self._start(net_class(self.config).init_())
        shape = shape_of(init, self.settings.kind)
        for name, own in asdict(shape).items():
            if (value := getattr(self.config, name)) != own:
                told = self.settings.model.get(name) == value
                cure = f"leave model.{name} out" if told else f"name a model of the space {self.space.name}"
                raise UserError(f"run.init {init} has {name} {own}, the run {value}", cure)
        with torch.device("meta"):
            model = net_class(shape)
        learns = [p.requires_grad for p in model.parameters()]  # a normaliser does not
        tensors.load_weights(model, registry.find(init), CPU, torch.float32)
        for p, does in zip(model.parameters(), learns, strict=True):
            p.requires_grad_(does)
        return model

    def _start(self, model: Any) -> Any:
        model.project_out.bias.data.copy_(self.data.mean())
        return model

    def _given(self) -> dict[str, int]:
        """What the space decides of the network."""
        return {"embedding": self.space.dim}

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """The body, three times, and twice the frozen decoder: it reads the language token too."""
        assert space is not None
        read = tokens + sentences
        body = sentences * body_token_flops(model.config, space.embedding, settings.data.max_sentences)
        through = read * decoder_token_flops(space, read / max(1, sentences)) + sentences * cross_flops(space)
        return 3 * body + 2 * (through + 2 * tokens * space.width * space.vocab_size)

    @classmethod
    def activations(cls, settings: Settings, config: Any, space: SonarConfig | None, half: int) -> float:
        """The body's, and those that the frozen decoder has at once."""
        assert space is not None
        layers = space.decoder_layers * layer_activations(settings, space.width, space.ffn, 2) * half
        own = super().activations(settings, config, space, half)
        return own + min(settings.optim.batch_tokens, MOST_ROOM) * layers + logits_bytes(space.vocab_size)

    # ------------------------------------------------------------------------------------------ batches

    def epoch(self, number: int) -> Sequence[Document]:
        """Every document once, in random order, as a text or as a summarisation."""
        return self.data.epoch(number)

    def steps(self, epoch: Sequence[Document]) -> Sequence[list[Batch]]:
        """Micro-batches of each optimisation step of `optim.documents` documents."""
        return self.data.steps(epoch)

    def describe(self, batch: Batch) -> str:
        """The documents of a micro-batch, for messages."""
        return self.data.describe(batch)

    # ------------------------------------------------------------------------------------------ the loss

    def load(self, batch: Batch) -> Batch:
        """The batch with all that its loss reads of the table."""
        return replace(batch, loaded=self._loaded(batch.documents))

    def _loaded(self, documents: Sequence[Document]) -> Any:
        groups = self._groups(documents)
        row_N = np.concatenate([group.row_N for group in groups])
        labels, size = int(self.table.labels[row_N].sum()), self.table.bytes(row_N)
        return Loaded(groups, row_N, self._wanted(row_N), labels, size)

    def _wanted(self, row_N: np.ndarray) -> Any:
        """What the loss wants of target sentences: their ids."""
        sentences = padded_groups(self.table.target_ids(row_N), self.device)
        return [Padded(*(pinned(tensor, self.device) for tensor in group)) for group in sentences]

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's mean token cross-entropy, and what to log of it."""
        loaded = batch.loaded or self._loaded(batch.documents)
        predicted_ND = self._predict(loaded.groups, generator)
        own_ND = self._own(loaded.row_N, predicted_ND)
        shown_ND = self._shown(predicted_ND, own_ND, generator)
        value, nll_N = self._decode(shown_ND, loaded.wanted, 1 / batch.step_tokens)
        nll = nll_N.sum().item()
        facts = {"tokens": loaded.labels, "sentences": len(loaded.row_N), "nll": nll / loaded.labels}
        if own_ND is not None and (pull := self.settings.loss.pull):
            far = teaching(predicted_ND, own_ND)
            facts["far"] = far.item()
            value = value + pull * loaded.labels / batch.step_tokens * far
        return value, facts | {"bpb": nll / math.log(2) / loaded.bytes}

    def _own(self, row_N: np.ndarray, predicted_ND: Tensor) -> Tensor | None:
        """The target sentences' own vectors, where the loss reads them: → own_ND, like the predictions."""
        return self.table.embeddings(row_N).to(predicted_ND) if self.settings.loss.pull else None

    def _shown(self, predicted_ND: Tensor, own_ND: Tensor | None, generator: torch.Generator) -> Tensor:
        """What the decoder writes from in training: → shown_ND."""
        return predicted_ND

    def _groups(self, documents: Sequence[Document]) -> list[Group]:
        room = None if self.settings.parallel.shard == "full" else POSITIONS  # as many calls in every process
        groups = by_length([len(d.rows) for d in documents], len(documents), room)
        found = (Group(*self.data.context([documents[i] for i in group])) for group in groups)
        return [group._replace(context_BSD=pinned(group.context_BSD, self.device)) for group in found]

    def _predict(self, groups: Sequence[Group], generator: torch.Generator | None = None) -> Tensor:
        """Documents → predicted_ND, the embeddings of all their target sentences."""
        return torch.cat([self.model(self._noised(g, generator))[g.at_B, g.at_S] for g in groups])

    def _noised(self, group: Group, generator: torch.Generator | None) -> Tensor:
        """What is read, with `loss.input_noise` on it, on the device: → context_BSD."""
        context_BSD, noise = group.context_BSD, self.settings.loss.input_noise
        if noise and generator is not None:
            amount = noise * torch.rand(context_BSD.shape[:2], generator=generator)[..., None]
            context_BSD = context_BSD + amount * self.std_D * torch.randn(context_BSD.shape, generator=generator)
        return context_BSD.to(self.device, non_blocking=True)

    def _decode(
        self, predicted_ND: Tensor, sentences: Sequence[Padded], scale: float, *, reference: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Predicted embeddings → scale × Σ nll of the sentences and each one's nll: of words and `</s>` or, for
        `reference`, of what the published scripts score."""
        assert self.decoder is not None
        scale_N = torch.full((len(predicted_ND),), scale, device=self.device)
        return sentences_nll(self.decoder, sentences, predicted_ND, scale_N, reference=reference)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On the validation documents: nats a token, as the published scripts reckon them too, and bits per byte; of
        texts, and of titles after the marker."""
        out: dict[str, float] = {}
        for name, summary in (("text", False), ("title", True)):
            documents = self.data.held_out(summary, 16 * self.settings.run.valid_batches)
            nll = reference = 0.0
            tokens = sentences = size = 0
            for at in range(0, len(documents), 16):
                groups = self._groups(documents[at : at + 16])
                predicted_ND, row_N = self._predict(groups), np.concatenate([group.row_N for group in groups])
                if summary:
                    keep = row_N != 0
                    predicted_ND, row_N = predicted_ND[torch.from_numpy(keep).to(self.device)], row_N[keep]
                wanted = padded_groups(self.table.target_ids(row_N), self.device)
                nll += self._decode(predicted_ND, wanted, 0.0)[1].sum().item()
                reference += self._decode(predicted_ND, wanted, 0.0, reference=True)[1].sum().item()
                sentences += len(row_N)
                tokens += int(self.table.labels[row_N].sum())
                size += self.table.bytes(row_N)
            if tokens:
                out |= {
                    f"valid_{name}_nll": nll / tokens,
                    f"valid_{name}_reference": reference / (tokens + 2 * sentences),
                    f"valid_{name}_bpb": nll / math.log(2) / size,
                }
        return out

    @functools.cached_property
    def familiar(self) -> float:
        """Bits a byte under which the space reconstructs `FAMILIAR` of the validation documents; 0 without any, or for
        a kind that reads no embeddings."""
        if self.decoder is None:
            return 0.0
        bits, dtype = [], next(self.decoder.parameters()).dtype
        for i in range(min(len(self.data.valid), FAMILIAR_DOCUMENTS)):
            rows = self.data.valid.body(i)
            rows = rows[rows > 1]
            embedding_SD = self.table.embeddings(rows).to(self.device, dtype)
            bits.append(reconstruction(self.table.text(rows), embedding_SD, self.settings.data.lang, self.space))
        return float(np.quantile(bits, FAMILIAR)) if bits else 0.0

    def save(self, folder: Path, model: nn.Module, facts: dict[str, Any]) -> None:
        """The finished model folder, which names its space."""
        data = self.settings.data
        tensors.save(
            folder,
            kind=self.settings.kind,
            model=model,
            card=card(self.settings, self.settings.kind, facts),
            licence=self.settings.licence,
            weights=self.settings.run.weights,
            sonar={"name": self.space.name, "fingerprint": self.space.fingerprint},
            ending=ENDING,
            marker=MARKER if data.summaries else "",
            lang=resolve(data.lang, self.space.tokenizer.langs),
            familiar_bpb=round(self.familiar, 3),
            training=facts,
        )
