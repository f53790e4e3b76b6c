"""What a run will take, before it begins: parameters, tokens and FLOPs a step, memory on each process.

    print(estimate(settings, ranks=8).lines())

Counted on models without memory and by formulae; what hangs on data (how many sentences a document has, how many
tokens a sentence) is taken to be `data.max_sentences` and `SENTENCE_TOKENS`, and said so.

Legend: D embedding, M width, F feed-forward, L layers, V vocabulary, S sentences of a document, T tokens of a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..nets.llama import LlamaConfig
from ..nets.sonar import Sonar, SonarConfig
from ..nets.speech import SpeechConfig, speech_flops
from ..nets.token_lm import TokenLMConfig
from ..weights.model_dir import SPEECH
from .build import build_model, space_config, trained_parameters
from .losses import chunk_size
from .recipe import Settings

SENTENCE_TOKENS = 30  # words of a sentence and one `</s>`, where there is no data to count
UTTERANCE_STEPS = 250  # steps of 20 ms of an utterance, likewise
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
    space = space_config(settings.sonar) if settings.kind not in ("sonar", SPEECH) else None
    through = space is not None and settings.kind != "token-llm"
    frozen = whole - count + (_decoder_parameters(space) if space is not None and through else 0)
    half = 2 if settings.run.dtype == "bfloat16" else 4
    tokens, sentences, shape = _step(settings)
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
        activations=_activations(settings, model, space, half),
        shape=shape,
        unit="steps of 20 ms" if settings.kind == SPEECH else "target tokens",
    )


def _step(settings: Settings) -> tuple[int, int, str]:
    """Labelled tokens and sentences of a step, and the assumption in words."""
    if settings.kind == "sonar":
        tokens = settings.optim.accumulate * settings.optim.batch_tokens
        return tokens, tokens // SENTENCE_TOKENS, f"at {SENTENCE_TOKENS} tokens a sentence, nothing padded"
    if settings.kind == SPEECH:
        steps = int(settings.optim.accumulate * settings.speech.batch_seconds * 50)
        return steps, steps // UTTERANCE_STEPS, f"at {UTTERANCE_STEPS / 50:g} s an utterance, nothing padded"
    sentences = settings.optim.documents * settings.data.max_sentences
    shape = f"at {settings.data.max_sentences} sentences a document, {SENTENCE_TOKENS} tokens a sentence"
    return sentences * SENTENCE_TOKENS, sentences, shape


# ---------------------------------------------------------------------------------------------- FLOPs


def step_flops(settings: Settings, model: nn.Module, space: SonarConfig | None, tokens: int, sentences: int) -> float:
    """FLOPs of the matrix products of a step, 2 a multiply-add: forward 1, backward 2 through what learns, 1 through
    what is frozen (activations alone). Kinds without a formula of their own: 6 a parameter and position."""
    read = tokens + sentences  # the language token too, or `</s> __lang__` without the words' last label
    length = read / max(1, sentences)
    config = getattr(model, "config", None)
    if isinstance(config, SonarConfig):
        through = read * (encoder_flops(config, length) + decoder_flops(config, length))
        return 3 * (through + sentences * cross_flops(config) + 2 * tokens * config.width * config.vocab_size)
    if isinstance(config, SpeechConfig):
        return 3 * sentences * speech_flops(config, tokens // max(1, sentences))
    if isinstance(config, LlamaConfig) and space is not None and settings.kind == "sonar-llm":
        body = sentences * body_flops(config, space.embedding, settings.data.max_sentences)
        through = read * decoder_flops(space, length) + sentences * cross_flops(space)
        return 3 * body + 2 * (through + 2 * tokens * space.width * space.vocab_size)
    if settings.kind == "mse-lcm" and isinstance(config, LlamaConfig) and space is not None:
        return 3 * sentences * body_flops(config, space.embedding, settings.data.max_sentences)
    if isinstance(config, TokenLMConfig):
        body = body_flops(config, 0, settings.data.max_sentences * SENTENCE_TOKENS)
        return 3 * tokens * (body + 2 * config.width * config.vocab_size)
    return 6.0 * sentences * sum(p.numel() for p in model.parameters())


def body_flops(config: LlamaConfig, embedding: int, length: int) -> float:
    """Forward FLOPs a position of a Llama body with both projectors, attention to all `length` positions."""
    inner, kv = config.heads * config.head_size, (config.kv_heads or config.heads) * config.head_size
    layer = config.width * (inner + 2 * kv) + inner * config.width + 3 * config.width * config.ffn + 2 * length * inner
    return 2 * (2 * embedding * config.width + config.layers * layer)


def encoder_flops(config: SonarConfig, length: float) -> float:
    """Forward FLOPs a token of the encoder, attention to all `length` tokens."""
    return 2 * config.encoder_layers * (4 * config.width**2 + 2 * config.width * config.ffn + 2 * length * config.width)


def decoder_flops(config: SonarConfig, length: float) -> float:
    """Forward FLOPs a token of the decoder, without logits and cross-attention, attention to all `length` tokens."""
    return 2 * config.decoder_layers * (4 * config.width**2 + 2 * config.width * config.ffn + 2 * length * config.width)


def cross_flops(config: SonarConfig) -> float:
    """Forward FLOPs a sentence of collapsed cross-attention: values and output projection, every layer."""
    return 2 * config.decoder_layers * (config.embedding * config.width + config.width**2)


# ---------------------------------------------------------------------------------------------- memory


def _decoder_parameters(config: SonarConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Sonar(config).decoder.parameters())


def _activations(settings: Settings, model: nn.Module, space: SonarConfig | None, half: int) -> float:
    """Bytes that one micro-batch keeps for its backward pass: a layer keeps 8 M + 2 F numbers a token (a Llama layer
    8 M + 4 F a position), or its input alone with `parallel.recompute`; and one chunk of logits."""

    def stack(layers: int, width: int, ffn: int, gates: int) -> float:
        return layers * (width if settings.parallel.recompute else 8 * width + gates * ffn) * half

    tokens, config = settings.optim.batch_tokens, getattr(model, "config", None)
    if isinstance(config, SonarConfig):
        logits = 4 * chunk_size(config.vocab_size) * config.vocab_size
        both = stack(config.encoder_layers + config.decoder_layers, config.width, config.ffn, 2)
        return tokens * both + logits
    if isinstance(config, SpeechConfig):  # a layer keeps 24 M + 4 F numbers a step, beside its scores
        steps = settings.speech.batch_seconds * 50
        scores = 0 if settings.parallel.recompute else 3 * config.heads * UTTERANCE_STEPS
        layer = config.width if settings.parallel.recompute else 24 * config.width + 4 * config.ffn
        return steps * config.layers * (layer + scores) * half
    kept = 0.0
    if isinstance(config, LlamaConfig):
        positions = tokens if isinstance(config, TokenLMConfig) else tokens / SENTENCE_TOKENS
        kept = positions * stack(config.layers, config.width, config.ffn, 4)
    if isinstance(config, TokenLMConfig):
        kept += 4 * chunk_size(config.vocab_size) * config.vocab_size
    if space is not None and settings.kind == "sonar-llm":
        logits = 4 * chunk_size(space.vocab_size) * space.vocab_size
        kept += tokens * stack(space.decoder_layers, space.width, space.ffn, 2) + logits
    return kept
