"""What a context costs in floating-point operations, from the models' shapes: SONAR-LLM against a token LLM.

A multiply and an add are two operations. Counted are the matrix products and attention; norms, softmax, positions and
token lookups are not (under 1 %). Attention of a query to c positions costs 4 · heads · head size · c a layer.

Assumptions that change the answer, and so are arguments (`Assumptions`): is a document only read and one sentence
written, or all of it generated; does causal attention skip what it masks; is there a key/value cache.

Legend: T tokens of the document, S sentences, t tokens a sentence, M width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..nets.llama import LlamaConfig
from ..nets.sonar import SonarConfig

EDGE = 2  # tokens a sentence has beside its words: language and </s>, in the encoder as in the decoder


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is counted. `writes`: "one" sentence after reading, or "all" of the document is generated."""

    writes: str = "one"
    causal: bool = True  # masked scores are not computed
    cached: bool = True  # else each step reads all that is before it again
    beam: int = 1

    def __str__(self) -> str:
        what = "read, write one sentence" if self.writes == "one" else "generate all"
        cache = "" if self.writes == "one" else ", cache" if self.cached else ", no cache"
        beam = f", beam {self.beam}" if self.beam > 1 else ""
        return f"{what}{cache}, {'causal' if self.causal else 'full'} attention{beam}"


PAPER = Assumptions()  # under these the paper's crossover appears
SHOWN = (
    PAPER,
    Assumptions(beam=5),
    Assumptions(causal=False),
    Assumptions(writes="all"),
    Assumptions(writes="all", causal=False),
    Assumptions(writes="all", beam=5),
    Assumptions(writes="all", cached=False),
)


@dataclass(frozen=True)
class Shapes:
    """The models compared: the token LLM has the concept model's body, a token table of `vocab_size` and the same table
    as output projection."""

    space: SonarConfig
    body: LlamaConfig
    vocab_size: int


def body_parameters(body: LlamaConfig) -> int:
    """Weights of a Llama body's products."""
    inner, shared = body.heads * body.head_size, (body.kv_heads or body.heads) * body.head_size
    return body.layers * body.width * (2 * inner + 2 * shared + 3 * body.ffn)


def body_flops(body: LlamaConfig, positions: float, causal: bool) -> float:
    """One pass over `positions`, all at once or one by one with a cache."""
    seen = (positions + 1) / 2 if causal else positions
    attention = 4 * body.layers * body.heads * body.head_size * seen
    return positions * (2 * body_parameters(body) + attention)


def encoder_parameters(space: SonarConfig) -> int:
    """Weights of the encoder's products."""
    return space.encoder_layers * (4 * space.width**2 + 2 * space.width * space.ffn)


def decoder_parameters(space: SonarConfig) -> int:
    """Weights that each step of decoding reads: the layers' products and the output projection."""
    layer = 4 * space.width**2 + 2 * space.width * space.ffn
    return space.decoder_layers * layer + space.vocab_size * space.width


def encoder_flops(space: SonarConfig, tokens: float) -> float:
    """One sentence embedded."""
    length, M = tokens + EDGE, space.width
    layer = 2 * (4 * M * M + 2 * M * space.ffn) + 4 * M * length
    return length * space.encoder_layers * layer


def decoder_flops(space: SonarConfig, tokens: float, beam: int = 1) -> float:
    """One sentence decoded, with a cache; cross-attention to the one vector is collapsed."""
    steps, M = tokens + EDGE, space.width
    layer = 2 * (4 * M * M + 2 * M * space.ffn) + 4 * M * (steps + 1) / 2
    return beam * steps * (space.decoder_layers * layer + 2 * M * space.vocab_size)


def sonar_llm_flops(shapes: Shapes, tokens: float, per_sentence: float, how: Assumptions) -> float:
    """A document of `tokens`: embedded, read and one sentence written, or all of it generated."""
    space, body = shapes.space, shapes.body
    S = tokens / per_sentence
    project = 4 * space.embedding * body.width
    embedded = S * encoder_flops(space, per_sentence)
    decoded = (1 if how.writes == "one" else S) * decoder_flops(space, per_sentence, how.beam)
    return embedded + decoded + S * project + _steps(body, S, how)


def token_llm_flops(shapes: Shapes, tokens: float, per_sentence: float, how: Assumptions) -> float:
    """The same document by the token LLM: read and one sentence of tokens written, or all of it generated."""
    head = 2 * shapes.body.width * shapes.vocab_size
    if how.writes == "one":
        written = per_sentence * how.beam
        end = 4 * shapes.body.layers * shapes.body.heads * shapes.body.head_size * tokens
        return body_flops(shapes.body, tokens, how.causal) + written * (2 * body_parameters(shapes.body) + end + head)
    beams = how.beam * (_steps(shapes.body, tokens, how) + tokens * head)
    return beams


def _steps(body: LlamaConfig, positions: float, how: Assumptions) -> float:
    """The body over a document: once, or, generating without a cache, once a position over all before it."""
    if how.writes == "one" or how.cached:
        return body_flops(body, positions, how.causal)
    linear, square = body_flops(body, 1, False), 4 * body.layers * body.heads * body.head_size
    linear -= square  # Σ n and Σ n² over n = 1 … positions
    squares = positions * (positions + 1) * (2 * positions + 1) / 6
    return linear * positions * (positions + 1) / 2 + square * squares * (0.5 if how.causal else 1)


def crossover(shapes: Shapes, per_sentence: float, how: Assumptions, most: float = 1 << 24) -> float | None:
    """The number of tokens from which SONAR-LLM costs less: 0 where it always does, None if not up to `most`."""

    def dearer(tokens: float) -> bool:
        return sonar_llm_flops(shapes, tokens, per_sentence, how) > token_llm_flops(shapes, tokens, per_sentence, how)

    if dearer(most):
        return None
    return _last(dearer, per_sentence, most)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    if not holds(low):
        return 0
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high
