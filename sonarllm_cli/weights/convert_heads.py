"""Published heads (BLASER 2.0, MuTox) and LASER2 → model folders of ours, in the registry.

import_blaser("blaser-ref", checkpoint="model.pt", sonar="sonar-200")
import_laser2("laser2", checkpoint="laser2.pt", tokenizer="laser2.spm")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..nets.heads import BlaserConfig, MutoxConfig
from ..nets.laser2 import FIRST_PIECE, Laser2Config
from ..nets.sonar import SonarConfig
from . import model_dir, registry
from .layouts import BLASERS, LASER2S, MUTOXES
from .matching import Found, claiming, lives_in, match, save_import
from .sources import PathName, read_source

READERS = ("laser", "sonar-space")  # whose way of reading a text LASER2 has: punctuation, case, unknown pieces


@claiming
def import_blaser(name: str, *, checkpoint: PathName, **options: Any) -> Path:
    """A published BLASER 2.0 model, ref or qe → the registry's model `name`; `options` as of `import_mutox`."""
    found = match(read_source(checkpoint), BLASERS, "BLASER 2.0 model")
    width, home = _home(options.pop("sonar", ""))
    features = found.size("layers.0.weight", 1)
    known = {6 * width: True, 4 * width: False}
    if features not in known:
        message = (
            f"{checkpoint} reads {features} numbers: no BLASER of vectors of {width} ({' or '.join(map(str, known))})"
        )
        raise UserError(message, "name the space it belongs to with --sonar")
    config = BlaserConfig(embedding=width, hidden=_hidden(found), reference=known[features])
    return save_import(name, "blaser", config, found, f"A {found.layout.name} head", **options, **home)


@claiming
def import_mutox(
    name: str,
    *,
    checkpoint: PathName,
    sonar: str = "",
    dtype: str | None = None,
    licence: str = "",
    source: str = "",
) -> Path:
    """A published MuTox classifier → the registry's model `name`; → its folder. `sonar` is the space whose vectors it
    reads: UserError if that has another width. Without one it takes any vectors of its width."""
    found = match(read_source(checkpoint), MUTOXES, "MuTox classifier")
    width, home = _home(sonar)
    config = MutoxConfig(embedding=found.size("layers.0.weight", 1), hidden=_hidden(found))
    if sonar and config.embedding != width:
        cure = "name the space it belongs to with --sonar"
        raise UserError(f"{checkpoint} reads vectors of {config.embedding} numbers, {sonar} has {width}", cure)
    said: dict[str, Any] = {"dtype": dtype, "licence": licence, "source": source}
    return save_import(name, "mutox", config, found, f"A {found.layout.name} head", **said, **home)


def _home(sonar: str) -> tuple[int, dict[str, Any]]:
    """The width of a space, 1,024 without one, and what a config says of it."""
    if not sonar:
        return BlaserConfig().embedding, {}
    folder, config = registry.find_space(sonar)
    shape = model_dir.net_config(SonarConfig, folder, config)
    return shape.embedding, {"sonar": lives_in(folder, config)}


def _hidden(found: Found) -> tuple[int, ...]:
    return tuple(found.size(f"layers.{i}.weight", 0) for i in range(2))


@claiming
def import_laser2(
    name: str,
    *,
    checkpoint: PathName,
    tokenizer: PathName,
    reads_as: str = READERS[0],
    dtype: str | None = None,
    licence: str = "",
    source: str = "",
) -> Path:
    """A published LASER2 encoder and its sentencepiece model → the registry's model `name`; → its folder."""
    if reads_as not in READERS:
        raise UserError(f"reads-as {reads_as!r} is unknown", f"use {' or '.join(READERS)}")
    found = match(read_source(checkpoint), LASER2S, "LASER2 encoder")
    path = Path(os.path.expanduser(tokenizer))
    if not path.is_file():
        raise UserError(f"no such file: {path}", "name LASER2's sentencepiece model")
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError:
        raise UserError(f"{path} is no sentencepiece model", "name LASER2's: laser2.spm") from None
    shape = Laser2Config(
        vocab_size=found.size("embed_tokens.weight", 0),
        width=found.size("embed_tokens.weight", 1),
        hidden=found.size("lstm.weight_hh_l0", 1),
        layers=sum(name.startswith("lstm.weight_ih") for name in found.parts) // 2,
    )
    if pieces.GetPieceSize() + FIRST_PIECE != shape.vocab_size:
        have = f"{pieces.GetPieceSize():,} pieces, the weights {shape.vocab_size - FIRST_PIECE:,}"
        raise UserError(f"{path} has {have}", "name the tokenizer that was published with the encoder")
    return save_import(
        name,
        "laser2",
        shape,
        found,
        "A LASER2 encoder",
        tokenizer=path.read_bytes(),
        reads_as=reads_as,
        dtype=dtype,
        licence=licence,
        source=source,
    )
