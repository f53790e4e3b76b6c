"""Bounds that stand beside the fields of a config, and say what to use instead.

lr: Positive = 1e-3
name: Annotated[str, OneOf(("adamw", "muon"))] = "adamw"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from .errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Within:
    """Bounds of a number, or of each number in a list: `low` and `high` are within, `above` and `below` are not. A list
    has `count` of them, or at least `least`."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    count: int = 0
    least: int = 0

    def check(self, key: str, value: Any) -> None:
        """UserError that says what to use instead."""
        values = value if isinstance(value, list) else [value]
        if self.count and len(values) != self.count:
            raise UserError(f"{key} has {len(values)} numbers", f"give it {self.count}")
        if len(values) < self.least:
            raise UserError(f"{key} is empty", f"give it {self.least} or more")
        for one in values:
            if isinstance(one, int | float) and not (self.low <= one <= self.high and self.above < one < self.below):
                raise UserError(f"{key} is {value}", f"use {self}")

    def __str__(self) -> str:
        if self.low > -math.inf and self.high < math.inf:
            return f"{self.low:g} to {self.high:g}"
        ends = {f"{self.low:g} or more": self.low, f"more than {self.above:g}": self.above}
        ends |= {f"{self.high:g} or less": self.high, f"less than {self.below:g}": self.below}
        return " and ".join(words for words, end in ends.items() if math.isfinite(end))


@dataclass(frozen=True)
class OneOf:
    """What a text, or each text of a list, may be."""

    known: tuple[str, ...]

    def check(self, key: str, value: Any) -> None:
        """UserError with the nearest."""
        for one in value if isinstance(value, list) else [value]:
            one_of(key, one, self.known)


Whole = Annotated[int, Within(low=0)]
Count = Annotated[int, Within(low=1)]
Share = Annotated[float, Within(low=0, high=1)]
Weight = Annotated[float, Within(low=0)]
Positive = Annotated[float, Within(above=0)]
MOST = (1 << 31) - 1  # of any whole number
_MOST = {"layers": 1000, "encoder_layers": 1000, "decoder_layers": 1000, "context_layers": 1000}
_MOST |= {"vocab_size": 10_000_000, "max_source_tokens": 100_000, "max_target_tokens": 100_000}


def most_of(name: str) -> int:
    """Of a network's whole number called so: far above any, low enough that nothing is asked for in vain."""
    return _MOST.get(name, 1_000_000)


def one_of(key: str, value: str, known: Sequence[str]) -> None:
    """UserError with the nearest of `known`, for a value that is none of them."""
    if value not in known:
        guess = nearest(value, list(known))
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"{key} {value!r} is unknown", f"{hint}use one of {', '.join(known)}")
