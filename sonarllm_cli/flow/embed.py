"""Texts, speech → embeddings: the second arrow of the chain, by whatever encoder a space has.

    vectors_ND = embed(["A sentence.", "Another one."])
    vectors_ND = load_encoder("my-laser2", runtime).embed([Line("A sentence.", "eng_Latn")])

Texts are embedded by the encoder of a SONAR space (embed_text.py) or by LASER2 (laser.py), speech by its own
(embed_speech.py).

Which class a kind of model is embedded by, its row says (nets/kinds.py). To add an encoder: a class with these members,
its `load` among them, in a file of its own here; and a row.

Legend: N items, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from ..io.files import TextLine
from ..nets import kinds
from ..runtime import Runtime, choose
from ..weights import model_dir, registry
from ..weights.loaded import DEFAULT, Space
from .embed_speech import SpeechModel, recordings_of
from .embed_text import Block, Line, SpaceEncoder
from .language import AUTO, lines_told


def embed(
    texts: str | Sequence[str] = (),
    *,
    lang: str = AUTO,
    model: str | Space = DEFAULT,
    runtime: Runtime | None = None,
    batch_size: int | None = None,
    on_long: str = "truncate",
    audio: Any = None,
    rate: int = 0,
    whole: bool = False,
) -> np.ndarray:
    """Embeddings of `texts` (one text gives one row): → embeddings_ND, float32, D that of the model's space. `lang` is
    their language, "auto" what the first of them look like, and each where these are in several.

    >>> embed(["A sentence.", "Another one."]).ndim
    2

    Or of `audio`, files or arrays with their `rate` in Hz, by a speech encoder `model`: a row an utterance, or with
    `whole` a row each.

    Raises UserError for an unknown language or, with `on_long="error"`, a text over the encoder's limit. With
    `on_long="split"` such a text becomes several rows.
    """
    if audio is not None:
        if isinstance(model, Space):
            raise UserError(f"{model.name} has no ears", "give the name of a speech encoder")
        return load_speech(model, runtime).embed(recordings_of(audio, rate), whole=whole, batch_size=batch_size)
    encoder = SpaceEncoder(model) if isinstance(model, Space) else load_encoder(model, runtime or choose())
    texts = [texts] if isinstance(texts, str) else texts
    rows = (TextLine(i + 1, text) for i, text in enumerate(texts))
    lines = [Line(row.text, own, f"text {row.number}") for row, own in lines_told(rows, lang, encoder.langs)]
    return encoder.embed(lines, batch_size=batch_size, on_long=on_long)


class Encoder(Protocol):
    """What embeds texts. `SpeechModel`, which embeds recordings, has the same members, but takes these, and streams by
    `embed_recordings`.

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


def load_speech(name: str, runtime: Runtime | None = None) -> SpeechModel:
    """A speech encoder by name or folder, or the one that comes with a space, packed for inference. UserError where
    there is none."""
    name = registry.hearing(name)
    encoder: SpeechModel = find_encoder(
        name, runtime or choose(), ": it can't hear", "name a speech encoder", sound=True
    )
    return encoder


def find_encoder(name: str, runtime: Runtime, wrong: str, cure: str, *, sound: bool) -> Any:
    """The encoder of a model, of `sound` or texts. UserError in these words for a model that is none."""
    folder = registry.find(name)
    config = model_dir.read_config(folder)
    row = kinds.kind_of(config["kind"])
    if not row.encoder or (row.reads == kinds.SOUND) != sound:
        raise UserError(f"{name} is a {row.name} model{wrong}", f"{cure}: sonarllm models list")
    return kinds.named(__package__, row.encoder).load(name, folder, config, runtime)
