"""Whatever turns items into vectors of a space: texts by the encoder of a SONAR space or by LASER2, speech by its own.

    encoder = load_encoder("my-laser2", runtime)
    vectors_ND = encoder.embed([Line("A sentence.", "eng_Latn")])

Which class a kind of model is embedded by, its row says (nets/kinds.py). To add an encoder: a class with these members,
its `load` among them, in a file of its own here; and a row.

Legend: N items, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from ..nets import kinds
from ..runtime import Runtime
from ..weights import model_dir, registry
from .embed import Block, Line


class Encoder(Protocol):
    """What embeds texts; `SpeechModel`, which embeds recordings, has the same members but for what it takes.

    `langs` are the languages that it knows; None: it isn't told one. `limit` is the longest item that it takes whole:
    tokens of a text, seconds of speech; None: any.
    """

    @property
    def dim(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def langs(self) -> list[str] | None: ...
    @property
    def limit(self) -> float | None: ...

    def stream(self, items: Iterable[Line], *, batch_size: int | None, on_long: str) -> Iterator[Block]:
        """Any number of items, a chunk at a time."""

    def embed(self, items: Iterable[Line], *, batch_size: int | None = None, on_long: str = "truncate") -> np.ndarray:
        """All at once: → vectors_ND, float32."""


def load_encoder(name: str, runtime: Runtime) -> Encoder:
    """The text encoder of a model: LASER2's own, else that of its space. UserError for one that embeds no texts."""
    encoder: Encoder = find_encoder(name, runtime, ", not a space", "name a sonar model", sound=False)
    return encoder


def find_encoder(name: str, runtime: Runtime, wrong: str, cure: str, *, sound: bool) -> Any:
    """The encoder of a model, of `sound` or texts. UserError in these words for a model that is none."""
    folder = registry.find(name)
    config = model_dir.read_config(folder)
    row = kinds.kind_of(config["kind"])
    if not row.encoder or (row.reads == kinds.SOUND) != sound:
        raise UserError(f"{name} is a {row.name} model{wrong}", f"{cure}: sonarllm models list")
    return kinds.named(__package__, row.encoder).load(name, folder, config, runtime)
