"""How fast a speech encoder hears here: seconds of sound a second, in each dtype, and what features take of it.

From samples to embeddings, of noise in utterances as long as sentences are; what is compared runs in turns (timing.py).
Without a model the network has the published shape and random weights. A peer gets the same weights and samples.

Legend: N utterances, D embedding.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..flow.embed import load_speech
from ..flow.embed_speech import SpeechModel, encode_utterances
from ..io.audio import RATE
from ..nets import fbank
from ..nets.speech import speech_flops
from ..runtime import choose
from ..weights.loaded import pack
from .peers import Peer, Weights, random_speech, sounds
from .timing import matrix_rate, side_by_side


@dataclass(frozen=True, kw_only=True)
class SpeechWish:
    """What is run: a model, or "" for the published size; in which dtypes; how many utterances; beside which library,
    run by which Python."""

    model: str = ""
    layers: int = 0  # of the published size; 0: all
    dtypes: tuple[str, ...] = ("float32",)
    count: int = 16
    rounds: int = 3
    seed: int = 0
    device: str = "cpu"
    peer: str = ""
    peer_python: str = ""


def bench_speech(wish: SpeechWish) -> dict[str, Any]:
    """`count` utterances embedded one by one and in batches, in each dtype, and by the peer one by one, by 3 (its own
    default) and at once; and their features made."""
    peer = None
    if wish.peer:
        weights = Weights(model=wish.model, seed=wish.seed, layers=wish.layers)
        peer = Peer(wish.peer, "speech", weights, wish.peer_python, torch.get_num_threads())
    waves = sounds(wish.count, wish.seed)
    seconds = sum(len(wave) for wave in waves) / RATE
    models = {dtype: _model(wish, dtype) for dtype in wish.dtypes}
    first = next(iter(models.values()))
    found: dict[str, Tensor] = {}

    def heard(name: str, model: SpeechModel, size: int | None) -> Callable[[], None]:
        def run() -> None:
            model.runtime.use()
            found[name] = encode_utterances([fbank.steps(wave) for wave in waves], model, size).float().cpu()

        return run

    def theirs(name: str, peer: Peer, size: int) -> Callable[[], float]:
        def run() -> float:
            taken, found[name] = peer.hear(wish.count, wish.seed, size)
            return taken

        return run

    runs: dict[str, Callable[[], Any]] = {"features": lambda: [fbank.steps(wave) for wave in waves] and None}
    for dtype, model in models.items():
        for name, size in ((f"{dtype}, one by one", 1), (f"{dtype}, in batches", None)):
            runs[name] = heard(name, model, size)
    if peer:
        for size in dict.fromkeys((1, min(3, wish.count), wish.count)):
            name = f"{wish.peer}, {size} at once"
            runs[name] = theirs(name, peer.wait(), size)
    timings = side_by_side(runs, wish.rounds, first.runtime.device)
    if peer:
        peer.close()
    cost = sum(speech_flops(first.net.config, len(wave) // fbank.STEP) for wave in waves)
    rate, features = matrix_rate(first.runtime.device), timings.pop("features").median
    base_ND = next(iter(found.values()))
    rows = []
    for name, timing in timings.items():
        row = {
            "name": name,
            "seconds": timing.median,
            "spread": timing.spread,
            "seconds of sound/s": seconds / timing.median,
            "GFLOP/s": cost / timing.median / 1e9,
            "of float32 rate": cost / timing.median / rate,
            "cosine": torch.cosine_similarity(found[name], base_ND, dim=1).min().item(),
        }
        rows.append(row if name.startswith(f"{wish.peer},") else row | {"of it features": features / timing.median})
    return {
        "work": "speech",
        "model": first.name,
        "layers": first.net.config.layers,
        "utterances": wish.count,
        "sound s": seconds,
        "threads": torch.get_num_threads(),
        "float32 GFLOP/s": rate / 1e9,
        "versions": {"torch": torch.__version__, "python": platform.python_version()}
        | ({wish.peer: peer.versions} if peer else {}),
        "rows": rows,
    }


def _model(wish: SpeechWish, dtype: str) -> SpeechModel:
    runtime = choose(wish.device, dtype, seed=wish.seed)
    if wish.model:
        return load_speech(wish.model, runtime)
    net = random_speech(wish.layers, wish.seed).to(runtime.device, runtime.dtype)
    pack(net, runtime)
    return SpeechModel("published size", "", "", "", net, runtime)
