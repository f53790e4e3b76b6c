"""The strict loop of every import: each key of a source is one of our weights, or is left out on purpose.

    found = match(read_source("encoder.pt"), SONAR_ENCODERS, "SONAR text encoder")
    tensor = fill(net, {"encoder.": found})      # reads one weight of `net`

And what all imports share: how weights are stored, the folder's claim, its card, and its space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..nets.kinds import kind_of
from ..runtime import ALIASES
from . import model_dir, registry, tensors
from .layouts import CONTROL_ROWS, Layout
from .sources import Source


@dataclass(frozen=True)
class Found:
    """A source sorted by our names: each weight's parts by their place in it."""

    source: Source
    layout: Layout
    parts: Mapping[str, Mapping[int, Tensor]]

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape, its parts joined along the first axis. UserError if it is missing, or they don't fit."""
        parts = self.whole(name)
        if parts[0].ndim == 0 or any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise UserError(f"{self.source.path}: {name} has parts that don't fit: {shapes}", "fetch it again")
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        if name in self.layout.row:
            return shape[1:]
        return shape[:2] if _is_pointwise(shape) else shape

    def size(self, name: str, axis: int) -> int:
        """One number of a weight's shape."""
        shape = self.shape(name)
        if len(shape) <= axis:
            raise UserError(f"{self.source.path}: {name} is no matrix, but {shape}", "fetch it again")
        return shape[axis]

    def whole(self, name: str) -> list[Tensor]:
        """All parts of a weight, in order; UserError names the key that is missing."""
        parts = self.parts.get(name, {})
        for place, key in self.layout.sources(name).items():
            if place not in parts:
                raise UserError(f"{self.source.path}: no weight {key!r}", "is the file whole? fetch it again")
        return [parts[place] for place in sorted(parts)]

    def tensor(self, name: str) -> Tensor:
        """A weight: its parts joined, control rows in our order."""
        parts = self.whole(name)
        value = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        if not value.sum(dtype=torch.float32).isfinite():  # the sum: no mask as large as the weight
            raise UserError(f"{self.source.path}: {name} holds values that are not finite", "fetch it again")
        if name == "embed.weight" and self.layout.fairseq_rows:
            value = value.clone()
            value[: len(CONTROL_ROWS)] = value[CONTROL_ROWS]
        if (row := self.layout.row.get(name)) is not None:
            return value[row].clone()
        return value[..., 0] if _is_pointwise(value.shape) else value

    def layers(self, before: str = "layers") -> int:
        """How many layers there are."""
        return len({name.split(f"{before}.")[1].split(".")[0] for name in self.parts if name.startswith(f"{before}.")})


def _is_pointwise(shape: Sequence[int]) -> bool:
    """Whether a weight is a convolution of kernel 1, a matrix of ours (a depthwise one has a single input)."""
    return len(shape) == 3 and shape[1] > 1 and shape[2] == 1


def match(source: Source, layouts: Sequence[Layout], what: str) -> Found:
    """The one loop: every key of a source goes to one of our names, or is left out on purpose.

    UserError for a key that the layout does not know, and for a tied weight whose two copies differ.
    """
    tensors = source.tensors
    layout = next((layout for layout in layouts if any(map(layout.mark.fullmatch, tensors))), None)
    if layout is None:
        known = ", ".join(layout.name for layout in layouts)
        raise UserError(f"{source.path} is not a {what} in a known layout", f"known are: {known}")
    found: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        target = layout.target(key)
        if target is None and not tensor.is_floating_point():
            continue  # a counter or an index that is kept beside the weights
        if target is None:
            cure = f"is it a {what} ({layout.name}), whole and unchanged?"
            raise UserError(f"{source.path}: unexpected weight {key!r}", cure)
        name, place = target
        if name == "-":
            continue
        if not tensor.is_floating_point():
            raise UserError(
                f"{source.path}: weight {key!r} is {tensor.dtype}, not floating point", "convert it to float32"
            )
        twin = found.setdefault(name, {}).setdefault(place, tensor)
        same = twin.data_ptr() == tensor.data_ptr() or (twin.dtype == tensor.dtype and torch.equal(twin, tensor))
        if not same:
            raise UserError(f"{source.path}: {key!r} differs from the weight it is tied to", "fetch it again")
    return Found(source, layout, found)


def fill(net: nn.Module, parts: Mapping[str, Found]) -> Callable[[str], Tensor]:
    """Check that the sources (each under its prefix) give every weight of `net` in its shape; → what reads one.

    Nothing can be left over: `match` knows every name, and the layers of `net` are those that were counted.
    """
    place: dict[str, tuple[Found, str]] = {}
    for name, parameter in net.named_parameters():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        found, own = parts[prefix], name.removeprefix(prefix)
        shape = found.shape(own)
        if shape != parameter.shape:
            raise UserError(
                f"{found.source.path}: {own} should be {tuple(parameter.shape)}, it is {shape}",
                "is the file whole, and do its config and its weights belong together?",
            )
        place[name] = found, own
    return lambda name: place[name][0].tensor(place[name][1])


def stored_as_asked(dtype: str | None, *sources: Found) -> str:
    """How to store: as asked, else as the sources are, if they agree on a dtype we have."""
    if dtype is None:
        have = {tensor.dtype for found in sources for parts in found.parts.values() for tensor in parts.values()}
        return next((name for name, value in tensors.STORED.items() if have == {value}), "float32")
    dtype = ALIASES.get(dtype, dtype)
    if dtype not in tensors.STORED:
        raise UserError(f"unknown dtype {dtype!r}", f"use one of {', '.join(tensors.STORED)}")
    return dtype


def claiming(work: Callable[..., Path]) -> Callable[..., Path]:
    """An import into a new folder of the registry, which is its own from its beginning to its end."""

    @functools.wraps(work)
    def claimed_work(name: str, **options: Any) -> Path:
        with registry.claimed_name(name):
            return work(name, **options)

    return claimed_work


def save_import(
    name: str,
    kind: str,
    config: Any,
    found: Found,
    about: str,
    *,
    dtype: str | None = None,
    licence: str = "",
    source: str = "",
    **facts: Any,
) -> Path:
    """A network of one source → the registry's model `name`, of a kind and its config; → its folder. `about` is said on
    its card, `facts` stand in its config.json (`tokenizer`: the file's bytes)."""
    folder = registry.target(name)
    with torch.device("meta"):
        net = kind_of(kind).net(config)
    tensors.save(
        folder,
        kind=kind,
        model=net,
        weights=stored_as_asked(dtype, found),
        tensor=fill(net, {"": found}),
        card=import_card(name, about, licence, source or str(found.source.path)),
        licence=licence,
        source=source,
        **facts,
    )
    return folder


def space_config_of(sonar: str) -> dict[str, Any]:
    """The config of a space. UserError for a model of another kind."""
    home = model_dir.read_config(registry.find(sonar))
    if not kind_of(home["kind"]).space:
        raise UserError(f"{sonar} is a {home['kind']} model, not a space", "name a sonar model: sonarllm models list")
    return home


def lives_in(space: Path, home: Mapping[str, Any]) -> dict[str, str]:
    """What a model's config says of its space, which is in the folder `space` and has the config `home`."""
    return {
        "name": space.name if registry.is_known(space) else str(space.resolve()),
        "fingerprint": home.get("fingerprint", ""),
    }


def import_card(name: str, what: str, licence: str, source: str) -> str:
    """The folder's README.md, with the model card's header that hubs read."""
    header = f"---\nlicense: {licence.lower()}\n---\n\n" if licence else ""
    return f"{header}# {name}\n\n{what}, converted by `sonarllm models import` from {source}.\n"
