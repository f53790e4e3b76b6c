"""What a context of up to a million tokens costs: computed for both kinds of model, and measured here.

A document of random words, `per_sentence` tokens each sentence. SONAR-LLM embeds all of it, reads the embeddings and
writes one sentence; the token LLM (the concept model's body with a token table; random weights, since cost does not
depend on them) reads all tokens and writes none. Both read in chunks with a cache. Embedding is timed once for the
longest document, and its time at each shorter one is that of its beginning.

Legend: T tokens, S sentences, D embedding.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..flow.decode import Search, decode_batch
from ..flow.embed_text import encode
from ..flow.predict import CHUNK, Reader, Report
from ..learn.curves import check_picture
from ..nets.kinds import VECTORS
from ..nets.llama import LlamaConfig
from ..nets.sonar import SonarConfig
from ..nets.token_lm import TokenLM, TokenLMConfig
from ..tokens import EOS
from ..weights.loaded import Writer, pack
from . import flops
from .timing import now, peak_memory

PUBLISHED = flops.Shapes(SonarConfig(), LlamaConfig(), 128256)  # the 600M body and Llama 3's vocabulary
BLOCK = 1024  # sentences embedded at once


@dataclass(frozen=True)
class Point:
    """One context length: operations computed; seconds and bytes measured, or extrapolated from the longest one."""

    tokens: int
    sonar_flops: float
    token_flops: float
    sonar_seconds: float
    sonar_bytes: int
    token_seconds: float
    token_bytes: int
    extrapolated: bool  # the token LLM's seconds and bytes


def context_lengths(context: int, first: int = 1024) -> list[int]:
    """1K, 4K, 16K … and `context` itself."""
    found = []
    while first < context:
        found.append(first)
        first *= 4
    return [*found, context]


def bench_context(
    writer: Writer, context: int, per_sentence: int = 60, time_limit: float = 60.0, report: Report | None = None
) -> dict[str, Any]:
    """The table of `Point`s for 1K … `context` tokens, and where SONAR-LLM becomes the cheaper, under each assumption.

    `time_limit`: seconds that the token LLM may take; what would take longer is extrapolated.
    """
    if writer.row.reads != VECTORS or writer.row.noise:
        what = f"{writer.name} is a {writer.kind} model, of which this tells nothing"
        raise UserError(what, "name a sonar-llm model with -m: sonarllm models list")
    most = writer.space.net.config.max_source_tokens - flops.EDGE
    if not 1 <= per_sentence <= most:
        raise UserError(f"{per_sentence} tokens a sentence is not between 1 and {most}", f"use 1 to {most}")
    shapes = flops.Shapes(writer.space.net.config, writer.net.config.body, writer.space.net.config.vocab_size)
    lengths = context_lengths(context)
    sonar = _sonar_llm(writer, lengths, per_sentence, report)
    token = _token_llm(writer, shapes, lengths, time_limit)
    points = []
    for n, (seconds, size), (token_seconds, token_size, guessed) in zip(lengths, sonar, token):
        ours = flops.sonar_llm_flops(shapes, n, per_sentence, flops.PAPER)
        theirs = flops.token_llm_flops(shapes, n, per_sentence, flops.PAPER)
        points.append(Point(n, ours, theirs, seconds, size, token_seconds, token_size, guessed))
    named = {writer.name: shapes, "600M": PUBLISHED}
    return {
        "model": writer.name,
        "tokens per sentence": per_sentence,
        "parameters": {name: flops.body_parameters(s.body) for name, s in named.items()},
        "points": [asdict(p) for p in points],
        "crossover": {
            str(how): {name: flops.crossover(s, per_sentence, how) for name, s in named.items()} for how in flops.SHOWN
        },
    }


def _sonar_llm(writer: Writer, lengths: list[int], per_sentence: int, report: Report | None) -> list[tuple[float, int]]:
    """Seconds and peak bytes at each length."""
    space, generator = writer.space, torch.Generator().manual_seed(0)
    counts = [max(1, round(n / per_sentence)) for n in lengths]
    lang = space.tokenizer.lang_id(writer.lang)
    last = space.tokenizer.vocab_size - len(space.tokenizer.langs) - 4
    found, blocks, done, embedding = [], [], 0, 0.0
    warm = [[lang, *range(EOS + 1, EOS + 1 + per_sentence), EOS]] * 32
    Reader(writer).read(encode(warm, space))
    for count in counts:
        gc.collect()
        with peak_memory(space.runtime.device) as peak:
            start = now(space.runtime.device)
            while done < count:
                many = min(BLOCK, count - done)
                words = torch.randint(EOS + 1, last, (many, per_sentence), generator=generator).tolist()
                blocks.append(encode([[lang, *w, EOS] for w in words], space))
                done += many
                if report:
                    report("embedding", done, counts[-1])
            document_SD = torch.cat(blocks)
            middle = now(space.runtime.device)
            embedding += middle - start
            next_D = Reader(writer).read(document_SD, report if count == counts[-1] else None)
            decode_batch(next_D[None], writer.lang, space, Search(beam=1))
            found.append((embedding + now(space.runtime.device) - middle, document_SD.nbytes + peak()))
        blocks = [document_SD]
    return found


def read_tokens(net: TokenLM, ids_T: Tensor) -> Tensor:
    """A document of tokens, read in chunks with a cache: ids_T → logits_V of the next."""
    caches = net.body.caches(len(ids_T))
    for chunk in ids_T.split(CHUNK):
        hidden_1TM = net(chunk[None], caches)
    return net.logits(hidden_1TM[0, -1])


@torch.inference_mode()
def _token_llm(
    writer: Writer, shapes: flops.Shapes, lengths: list[int], time_limit: float
) -> list[tuple[float, int, bool]]:
    """Seconds, peak bytes, and whether they are extrapolated: seconds by operations, bytes by tokens."""
    runtime = writer.space.runtime
    config = TokenLMConfig(**vars(shapes.body), vocab_size=shapes.vocab_size)
    net = TokenLM(config).init_().to(runtime.device, runtime.dtype).eval().requires_grad_(False)
    pack(net.body, runtime)
    read_tokens(net, torch.zeros(64, dtype=torch.long, device=runtime.device))
    found: list[tuple[float, int, bool]] = []
    measured: tuple[float, int, int] | None = None
    spent = 0.0
    for n in lengths:
        cost = flops.body_flops(shapes.body, n, True)
        if measured:
            seconds = measured[0] * cost / flops.body_flops(shapes.body, measured[2], True)
            if spent + seconds > time_limit:
                found.append((seconds, measured[1] * n // measured[2], True))
                continue
        gc.collect()
        with peak_memory(runtime.device) as peak:
            start = now(runtime.device)
            read_tokens(net, torch.randint(shapes.vocab_size, (n,), device=runtime.device))
            seconds = now(runtime.device) - start
            measured = seconds, peak(), n
        spent += seconds
        found.append((seconds, measured[1], False))
    return found


def plot(result: dict[str, Any], path: str) -> None:
    """Seconds over tokens, both on log scales, measured points filled, extrapolated ones hollow."""
    check_picture(Path(path))
    from matplotlib.figure import Figure

    points = [Point(**p) for p in result["points"]]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    x = [p.tokens for p in points]
    axes.loglog(x, [p.sonar_seconds for p in points], "o-", color="tab:blue", label="SONAR-LLM, measured")
    axes.loglog(x, [p.token_seconds for p in points], "--", color="tab:orange")
    for guessed, fill, name in ((False, "tab:orange", "measured"), (True, "none", "extrapolated")):
        some = [p for p in points if p.extrapolated == guessed]
        xy = [p.tokens for p in some], [p.token_seconds for p in some]
        axes.loglog(*xy, "o", color="tab:orange", markerfacecolor=fill, label=f"token LLM, {name}")
    axes.set(xlabel="tokens of context", ylabel="seconds", title=f"{result['model']}: reading and writing one sentence")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
