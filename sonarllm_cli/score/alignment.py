"""Documents to align whose true alignment is known: pairs of sentences in a row, with neighbours of one side joined,
sentences split, left out and exchanged.

a, b, true = noisy([("One.", "Eins."), ("Two.", "Zwei.")], noise=0.1, seed=0)
"""

from __future__ import annotations

import random
from collections.abc import Sequence

FATES = ("join", "split", "drop", "swap")


def noisy(
    pairs: Sequence[tuple[str, str]], noise: float, seed: int = 0
) -> tuple[list[str], list[str], list[tuple[range, range]]]:
    """Pairs → the sentences of two documents, and which of them belong together. One in 1 / `noise` pairs is changed,
    by each kind as often: joined with the next on one side, split at a space about its middle, left out on one side, or
    exchanged with the next on the second side (then both pairs are true, though no alignment in order has both)."""
    draw = random.Random(seed)
    sides: tuple[list[str], list[str]] = ([], [])
    true: list[tuple[range, range]] = []

    def put(a: Sequence[str], b: Sequence[str]) -> None:
        rows = [range(len(side), len(side) + len(new)) for side, new in zip(sides, (a, b))]
        true.append((rows[0], rows[1]))
        sides[0].extend(a)
        sides[1].extend(b)

    i = 0
    while i < len(pairs):
        fate = draw.choice(FATES) if draw.random() < noise else ""
        which, pair = draw.randrange(2), pairs[i]
        words = pair[which].split()
        if fate == "split" and len(words) > 3:
            middle = len(words) // 2
            halves = [" ".join(words[:middle]), " ".join(words[middle:])]
            put(halves, [pair[1]]) if which == 0 else put([pair[0]], halves)
        elif fate == "drop":
            put([pair[0]], []) if which else put([], [pair[1]])
        elif fate in ("join", "swap") and i + 1 < len(pairs):
            (a, b), (next_a, next_b) = pair, pairs[i + 1]
            i += 1
            if fate == "join":
                put([a, next_a], [f"{b} {next_b}"]) if which else put([f"{a} {next_a}"], [b, next_b])
            else:
                at = len(sides[0]), len(sides[1])
                true += [(range(at[0] + k, at[0] + k + 1), range(at[1] + 1 - k, at[1] + 2 - k)) for k in (0, 1)]
                sides[0].extend([a, next_a])
                sides[1].extend([next_b, b])
        else:
            put([pair[0]], [pair[1]])
        i += 1
    return sides[0], sides[1], true
