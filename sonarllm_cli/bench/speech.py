"""How fast a speech encoder hears here: seconds of sound a second, in each dtype, and what features take of it.

Sound is noise in utterances as long as sentences are; what is compared runs in turns (see timing.py). Without a model
the network has the published shape and random weights.

Legend: N utterances, D embedding.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..flow.embed_speech import SpeechModel, encode_utterances, load_speech
from ..io.audio import RATE
from ..nets import fbank
from ..nets.speech import SpeechConfig, SpeechEncoder, speech_flops
from ..runtime import choose
from ..weights.loaded import pack
from .timing import matrix_rate, side_by_side


@dataclass(frozen=True, kw_only=True)
class SpeechWish:
    """What is run: a model, or "" for the published size; in which dtypes; how many utterances."""

    model: str = ""
    layers: int = 0  # of the published size; 0: all
    dtypes: tuple[str, ...] = ("float32",)
    count: int = 16
    rounds: int = 3
    seed: int = 0
    device: str = "cpu"


def bench_speech(wish: SpeechWish) -> dict[str, Any]:
    """`count` utterances embedded one by one and in batches, in each dtype; and their features made."""
    if wish.count < 1 or wish.rounds < 1:
        raise UserError("utterances and rounds are at least 1", "use --texts 16 --rounds 3")
    rng = np.random.default_rng(wish.seed)
    seconds = np.clip(5 * np.exp(0.5 * rng.normal(size=wish.count)), 1, 20)
    waves = [(0.1 * rng.normal(size=int(s * RATE))).astype(np.float32) for s in seconds]
    steps = [fbank.steps(wave) for wave in waves]
    models = {dtype: _model(wish, dtype) for dtype in wish.dtypes}
    first = next(iter(models.values()))
    found: dict[str, Tensor] = {}

    def heard(name: str, model: SpeechModel, size: int | None) -> Callable[[], None]:
        return lambda: found.update({name: encode_utterances(steps, model, size).float().cpu()})

    runs: dict[str, Callable[[], Any]] = {"features": lambda: [fbank.steps(wave) for wave in waves] and None}
    for dtype, model in models.items():
        runs[f"{dtype}, one by one"] = heard(f"{dtype}, one by one", model, 1)
        runs[f"{dtype}, in batches"] = heard(f"{dtype}, in batches", model, None)
    timings = side_by_side(runs, wish.rounds, first.runtime.device)
    cost = sum(speech_flops(first.net.config, len(s)) for s in steps)
    rate, features = matrix_rate(first.runtime.device), timings.pop("features").median
    base_ND = next(iter(found.values()))
    rows = []
    for name, timing in timings.items():
        rows.append(
            {
                "name": name,
                "seconds": timing.median,
                "spread": timing.spread,
                "seconds of sound/s": float(seconds.sum()) / timing.median,
                "GFLOP/s": cost / timing.median / 1e9,
                "of float32 rate": cost / timing.median / rate,
                "of it features": features / (timing.median + features),
                "cosine": torch.cosine_similarity(found[name], base_ND, dim=1).min().item(),
            }
        )
    return {
        "work": "speech",
        "model": first.name,
        "layers": first.net.config.layers,
        "utterances": wish.count,
        "sound s": float(seconds.sum()),
        "threads": torch.get_num_threads(),
        "float32 GFLOP/s": rate / 1e9,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
    }


def _model(wish: SpeechWish, dtype: str) -> SpeechModel:
    runtime = choose(wish.device, dtype, seed=wish.seed)
    if wish.model:
        return load_speech(wish.model, runtime)
    torch.manual_seed(wish.seed)
    shape = SpeechConfig()
    net = SpeechEncoder(replace(shape, layers=wish.layers or shape.layers)).eval().requires_grad_(False)
    net = net.to(runtime.device, runtime.dtype)
    pack(net, runtime)
    return SpeechModel("published size", "", "", "", net, runtime)
