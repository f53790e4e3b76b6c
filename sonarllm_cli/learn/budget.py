"""What a run will take, before it begins: parameters, tokens and FLOPs a step, memory on each process.

    print(estimate(settings, ranks=8).lines())

Counted on models without memory and by formulae; what hangs on data (how many sentences a document has, how many
tokens a sentence) is taken to be `data.max_sentences` and `SENTENCE_TOKENS`, and said so.

Legend: D embedding, M width, F feed-forward, L layers, V vocabulary, S sentences of a document, T tokens of a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..nets.kinds import VECTORS, kind_of
from ..nets.llama import LlamaConfig
from ..nets.sonar import Sonar, SonarConfig
from .build import build_model, space_config, task_class, trained_parameters
from .losses import chunk_size
from .recipe import Settings

SENTENCE_TOKENS = 30  # words of a sentence and one `</s>`, where there is no data to count
ADAMW, MUON = 8, 4  # bytes of optimizer state a float32 parameter


@dataclass(frozen=True)
class Budget:
    """Numbers of one optimisation step; memory in bytes, on each process."""

    trainable: int
    frozen: int
    tokens: int  # labelled
    flops: float
    ranks: int
    weights: float
    gradients: float
    optimizer: float
    frozen_weights: float
    activations: float
    shape: str  # what was assumed
    unit: str = "target tokens"

    @property
    def memory(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.frozen_weights + self.activations

    def lines(self) -> list[str]:
        def gib(size: float) -> str:
            return f"{size / 2**30:.2f}"

        return [
            f"{self.trainable:,} trainable parameters, {self.frozen:,} frozen",
            f"a step: {self.tokens:,} {self.unit}, {self.flops / 1e12:.4g} TFLOP ({self.shape})",
            f"memory on each of {self.ranks} processes: {gib(self.memory)} GiB (weights {gib(self.weights)}, "
            f"gradients {gib(self.gradients)}, optimizer {gib(self.optimizer)}, frozen {gib(self.frozen_weights)}, "
            f"activations about {gib(self.activations)})",
        ]


def estimate(settings: Settings, ranks: int = 1, gpu: bool = False) -> Budget:
    """The budget of a recipe on `ranks` processes.

    Weights and gradients are float32, 4 bytes a parameter each; AdamW keeps 8, Muon 4 for matrices. With
    `parallel.shard = "full"` a process holds 1/ranks of weights, gradients and optimizer state and, within a step, the
    whole of weights and gradients beside them. A frozen decoder is float32, on a GPU with bfloat16 products bfloat16.
    """
    model = build_model(settings)
    trained = trained_parameters(settings, model)
    count = sum(p.numel() for p in trained.values())
    matrices = sum(p.numel() for name, p in trained.items() if p.ndim == 2 and not name.endswith("embed.weight"))
    state = ADAMW * count - (ADAMW - MUON) * matrices * (settings.optim.name == "muon")
    whole = sum(p.numel() for p in model.parameters())
    held = 1 / ranks if settings.parallel.shard == "full" and ranks > 1 else 1.0
    within = 1.0 if held < 1 else 0.0
    row, task = kind_of(settings.kind), task_class(settings.kind)
    space = space_config(settings.sonar) if row.writer else None
    frozen = whole - count + (_decoder_parameters(space) if space is not None and row.reads == VECTORS else 0)
    half = 2 if settings.run.dtype == "bfloat16" else 4
    tokens, sentences, shape = task.size(settings)
    return Budget(
        trainable=count,
        frozen=frozen,
        tokens=tokens,
        flops=step_flops(settings, model, space, tokens, sentences),
        ranks=ranks,
        weights=4 * count * (held + within),
        gradients=4 * count * (held + within),
        optimizer=state * held,
        frozen_weights=frozen * (half if gpu else 4),
        activations=task.activations(settings, model.config, space, half),
        shape=shape,
        unit=task.unit,
    )


class Cost:
    """What a step of a kind costs: the base of a task. What a kind does not say of itself is as of one that reads
    documents with a Llama body."""

    unit = "target tokens"

    @classmethod
    def beside(cls, settings: Settings) -> Sequence[str]:
        """Names of what learns beside the network that the recipe describes."""
        return ()

    @classmethod
    def size(cls, settings: Settings) -> tuple[int, int, str]:
        """Labelled tokens and sentences of a step, and the assumption in words."""
        sentences = settings.optim.documents * settings.data.max_sentences
        shape = f"at {settings.data.max_sentences} sentences a document, {SENTENCE_TOKENS} tokens a sentence"
        return sentences * SENTENCE_TOKENS, sentences, shape

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """FLOPs of the matrix products of a step, 2 a multiply-add: forward 1, backward 2 through what learns, 1
        through what is frozen (activations alone). Without a formula, 6 a parameter and position."""
        return 6.0 * sentences * sum(p.numel() for p in model.parameters())

    @classmethod
    def activations(cls, settings: Settings, config: Any, space: SonarConfig | None, half: int) -> float:
        """Bytes that one micro-batch keeps for its backward pass, at `half` bytes a number."""
        return settings.optim.batch_tokens / SENTENCE_TOKENS * body_activations(settings, config, half)


def step_flops(settings: Settings, model: nn.Module, space: SonarConfig | None, tokens: int, sentences: int) -> float:
    """FLOPs of a step's matrix products, by the formula of its kind."""
    count: float = task_class(settings.kind).flops(settings, model, space, tokens, sentences)
    return count


# ---------------------------------------------------------------------------------------------- FLOPs


def body_token_flops(config: LlamaConfig, embedding: int, length: int) -> float:
    """Forward FLOPs a position of a Llama body with both projectors, attention to all `length` positions."""
    inner, kv = config.heads * config.head_size, (config.kv_heads or config.heads) * config.head_size
    layer = config.width * (inner + 2 * kv) + inner * config.width + 3 * config.width * config.ffn + 2 * length * inner
    return 2 * (2 * embedding * config.width + config.layers * layer)


def encoder_token_flops(config: SonarConfig, length: float) -> float:
    """Forward FLOPs a token of the encoder, attention to all `length` tokens."""
    return 2 * config.encoder_layers * (4 * config.width**2 + 2 * config.width * config.ffn + 2 * length * config.width)


def decoder_token_flops(config: SonarConfig, length: float) -> float:
    """Forward FLOPs a token of the decoder, without logits and cross-attention, attention to all `length` tokens."""
    return 2 * config.decoder_layers * (4 * config.width**2 + 2 * config.width * config.ffn + 2 * length * config.width)


def cross_flops(config: SonarConfig) -> float:
    """Forward FLOPs a sentence of collapsed cross-attention: values and output projection, every layer."""
    return 2 * config.decoder_layers * (config.embedding * config.width + config.width**2)


# ---------------------------------------------------------------------------------------------- memory


def _decoder_parameters(config: SonarConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Sonar(config).decoder.parameters())


def layer_activations(settings: Settings, width: int, ffn: int, gates: int) -> float:
    """Numbers that a layer keeps of a token for its backward pass: 8 M + 2 F, of a Llama layer's position 8 M + 4 F
    (`gates`), or its input alone with `parallel.recompute`."""
    return width if settings.parallel.recompute else 8 * width + gates * ffn


def body_activations(settings: Settings, config: LlamaConfig, half: int) -> float:
    """Bytes that a Llama body keeps of a position."""
    return config.layers * layer_activations(settings, config.width, config.ffn, 4) * half


def logits_bytes(vocab_size: int) -> int:
    """One chunk of logits."""
    return 4 * chunk_size(vocab_size) * vocab_size
