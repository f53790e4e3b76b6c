"""A model folder's weights: reading them into a network, and writing the folder.

Weights are float32, float16, bfloat16, or int8 with one float16 scale a row (`NAME` int8, `NAME.scale`). They are read
memory-mapped, tensor by tensor, straight into the model, so that loading holds one copy.

Legend: N rows of a matrix, M its columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import UserError
from ..io.files import atomic_folder
from ..nets.kinds import kind_of
from .model_dir import AGAIN, FORMAT, check_files, digest, hash_of, net_config, read_config
from .model_dir import STORED as STORED_NAMES

CHECK_BYTES = 100 << 20  # weights up to this size are hashed at every load; larger ones by `models verify`
STORED: dict[str, torch.dtype] = {name: getattr(torch, name) for name in STORED_NAMES}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int8: "I8"}  # safetensors' words
N = TypeVar("N", bound=nn.Module)


def load_net(folder: Path, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """The network of a model folder, whose `config.json` is `config`. UserError as of `net_config`, `load_weights`."""
    row = kind_of(config["kind"])
    shape = net_config(row.config, folder, config)
    with torch.device("meta"):
        net = row.net(shape)
    return load_weights(net, folder, device, dtype)


def load_weights(model: N, folder: Path, device: torch.device, dtype: torch.dtype) -> N:
    """Fill a model built on the meta device from `model.safetensors`, each tensor read once, straight into place.

    Every parameter must be there in its shape, and nothing else. UserError for damaged, altered or foreign weights.
    """
    path = folder / "model.safetensors"
    try:
        config = read_config(folder)
        hash_of(folder, config, path.name)  # weights that nothing vouches for are not read
        if path.stat().st_size <= CHECK_BYTES:
            check_files(folder, config)
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            for name, parameter in list(model.named_parameters()):
                tensor = _tensor(file, name, stored)
                if tensor is None or tensor.shape != parameter.shape:
                    found = "no" if tensor is None else f"{tuple(tensor.shape)}"
                    raise UserError(f"{path}: {name} should be {tuple(parameter.shape)}, there is {found}", AGAIN)
                assign(model, name, tensor.to(device=device, dtype=dtype))
    except FileNotFoundError:
        raise UserError(f"{folder} has no model.safetensors", AGAIN) from None
    except (SafetensorError, OSError) as error:
        raise damaged(path, error, AGAIN) from None
    extra = stored - {n for name, _ in model.named_parameters() for n in (name, f"{name}.scale")}
    if extra:
        raise UserError(f"{path} holds {sorted(extra)[0]}, which the model has not", AGAIN)
    return model.eval().requires_grad_(False)


def read_tensor(folder: Path, name: str) -> Tensor:
    """One weight of a model folder, on the CPU."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            tensor = _tensor(file, name, set(file.keys()))
    except (SafetensorError, OSError) as error:
        raise damaged(path, error, AGAIN) from None
    if tensor is None:
        raise UserError(f"{path} has no {name}", AGAIN)
    return tensor


def _tensor(file: Any, name: str, stored: set[str]) -> Tensor | None:
    if name not in stored:
        return None
    tensor = file.get_tensor(name)
    if tensor.dtype not in STORED.values():
        raise SafetensorError(f"{name} is {tensor.dtype}")
    if tensor.dtype != torch.int8:
        return tensor
    scale_N = file.get_tensor(f"{name}.scale")
    if tensor.ndim != 2 or scale_N.shape != tensor.shape[:1]:
        raise SafetensorError(f"{name} is {tuple(tensor.shape)}, its scales are {tuple(scale_N.shape)}")
    return tensor.float() * scale_N.float()[:, None]


def damaged(path: Path, error: Exception, cure: str) -> Exception:
    """What to raise where a file of weights can't be read: a UserError, unless memory is what it lacks."""
    if "allocate memory" in str(error):  # Rust's, too, has no number
        return MemoryError(f"{path}: {error}")
    return UserError(f"{path} is damaged or cut short: {error}", cure)


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in place of the parameter `name` (a module that two owners share changes for both)."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix → int8 rows and their float16 scales, each row's largest entry at ±127: weight_NM → int8_NM, scale_N."""
    scale_N = (weight.abs().amax(1) / 127).clamp_min(1e-7).half()
    return (weight / scale_N.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale_N


def stored_as(name: str, shape: tuple[int, ...], weights: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """What a parameter becomes on disk as `weights` ("float32", "float16", "bfloat16", "int8"): name → dtype, shape.
    In int8 only matrices are; the rest is float16. A normaliser and running statistics always are float32."""
    if name.startswith("normaliser.") or ".running_" in name:
        return {name: (torch.float32, shape)}
    if weights == "int8" and len(shape) == 2:
        return {name: (torch.int8, shape), f"{name}.scale": (torch.float16, shape[:1])}
    return {name: (torch.float16 if weights == "int8" else STORED[weights], shape)}


def write_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], weights: str, tensor: Callable[[str], Tensor]
) -> None:
    """A safetensors file of the parameters in `shapes`, whose values `tensor(name)` gives, one at a time."""
    parts = {part: spec for name, shape in shapes.items() for part, spec in stored_as(name, shape, weights).items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part, (dtype, shape) in sorted(parts.items(), key=lambda item: (-item[1][0].itemsize, item[0])):  # aligned
        start, end = end, end + prod(shape) * dtype.itemsize
        header[part] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            value = tensor(name).detach()
            if value.shape != shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, not {shape}")
            stored = stored_as(name, shape, weights)
            values = quantised(value.float().cpu()) if len(stored) == 2 else (value,)
            for (part, (dtype, _)), data in zip(stored.items(), values, strict=True):
                file.seek(8 + len(text) + header[part]["data_offsets"][0])
                data = data.to("cpu", dtype, copy=True)  # numpy would pin the storage of a sharded model's parameter
                file.write(data.contiguous().flatten().view(torch.uint8).numpy().data)


def save(
    folder: Path,
    *,
    kind: str,
    model: nn.Module,
    weights: str = "float32",
    tokenizer: bytes | None = None,
    card: str = "",
    tensor: Callable[[str], Tensor] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write a model folder, whole or not at all. `facts` go into `config.json` as they are. → that config.

    `tensor(name)` gives the values of a model that has none yet (built on the meta device), one at a time.
    The `fingerprint` of a model that makes a space is its name (`_Identity`), whatever `weights` it is stored as; one
    that is stored anew keeps its own if `facts` have it.
    """
    with atomic_folder(folder, marker="config.json") as scratch:
        own = dict(model.named_parameters())  # each once, however many modules share it
        shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
        identity, names = _Identity(tensor or own.__getitem__), kind_of(kind).names_space
        write_weights(scratch / "model.safetensors", shapes, weights, identity.tensor if names else identity.of)
        made = ["model.safetensors"]
        if tokenizer is not None:
            (scratch / "tokenizer.model").write_bytes(tokenizer)
            made.append("tokenizer.model")
        files = {name: digest(scratch / name) for name in made}
        config = {
            "format": FORMAT,
            "kind": kind,
            "model": dataclasses.asdict(model.config),  # type: ignore[call-overload]
            "weights": weights,
            "files": files,
            **({"fingerprint": identity.name(model.config, files, facts)} if names else {}),
            **facts,
        }
        (scratch / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (scratch / "README.md").write_text(card or f"# {Path(folder).name}\n", "utf-8")
    return config


class _Identity:
    """A space's name: the hash of its weights' values as they were first made, of what in its config changes an answer,
    and of its tokenizer. How they are stored does not change it, nor do fields that are at their defaults, so that a
    field that is added later does not rename the spaces before it."""

    NOT = ("dropout", "max_source_tokens", "max_target_tokens")  # of the config: training, and how long a text may be

    def __init__(self, of: Callable[[str], Tensor]) -> None:
        self.of, self.hashes = of, dict[str, str]()

    def tensor(self, name: str) -> Tensor:
        """The values of a weight, noted on the way."""
        value = self.of(name)
        data = value.detach().to("cpu", torch.float32).contiguous().flatten().view(torch.uint8).numpy().data
        self.hashes[name] = hashlib.sha256(data).hexdigest()
        return value

    def name(self, config: Any, files: Mapping[str, str], said: Mapping[str, Any]) -> str:
        """16 hexadecimal digits. Of what else is said of the model, its languages and how it reads texts count."""
        fields = [f for f in dataclasses.fields(config) if f.name not in self.NOT]
        shape = {f.name: getattr(config, f.name) for f in fields if getattr(config, f.name) != f.default}
        facts = [self.hashes, shape, files.get("tokenizer.model", ""), said.get("langs", [])]
        facts += [said["reads_as"]] if "reads_as" in said else []
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
