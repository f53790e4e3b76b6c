"""Published checkpoints as names and tensors, mapped from disk. Nothing is unpickled beyond tensors.

In: a .safetensors, .pt or .bin file, or a folder with model.safetensors or pytorch_model.bin (in one piece or several)
and config.json. Out: a `Source`.

    read_source("sonar_text_encoder.pt").tensors["layer_norm.weight"]
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError
from . import model_dir
from .tensors import damaged

PathName = str | os.PathLike[str]
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PREFIX = re.compile(r"(module\.|_orig_mod\.)*")  # what DistributedDataParallel and torch.compile put before a name


@dataclass(frozen=True)
class Source:
    """A checkpoint: its tensors, mapped from disk, and the config.json beside them."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: dict[str, Any]


def read_source(path: PathName) -> Source:
    """A checkpoint file, or a folder with one and its config.json.

    UserError if it is not there, damaged, or holds more than tensors.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.isdir(path):
        return Source(path, _read_file(path), {})
    config = model_dir.read_json(path / "config.json") if (path / "config.json").is_file() else {}
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return Source(path / name, _read_file(path / name), config)
        if (index := path / f"{name}.index.json").is_file():
            named = model_dir.read_json(index).get("weight_map")
            files = {*named.values()} if isinstance(named, dict) and all(type(f) is str for f in named.values()) else {}
            if not files:
                raise UserError(f"{index} has no weight_map of files", model_dir.AGAIN)
            if any(Path(file).name != file for file in files):
                raise UserError(f"{index} names a file outside its folder", model_dir.AGAIN)
            shards = [_read_file(path / file) for file in sorted(files)]
            return Source(path, {key: value for shard in shards for key, value in shard.items()}, config)
    raise UserError(f"{path} holds no model.safetensors and no pytorch_model.bin", "name the weights' file itself")


def _read_file(path: Path) -> Mapping[str, Tensor]:
    if not os.path.isfile(path):  # which, unlike Path's, never raises
        raise UserError(f"no such file: {path}", "check the path")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _state(_read_pickle(path), path)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(f"{path}: weight {name!r} is no plain tensor", "save it dense, with its values")
    return {_PREFIX.sub("", name, count=1): tensor for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise damaged(path, error, "fetch it again") from None


def _read_pickle(path: Path) -> Any:
    """What `torch.load` allows without running a file's code; mapped where the format has it (not before 2020)."""
    for mmap in (True, False):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols
                with torch.serialization.safe_globals([argparse.Namespace]):  # fairseq's options: a bag of values
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except MemoryError:
            raise
        except Exception as error:  # anything, for a file can hold anything
            if "allocate memory" in str(error):
                raise MemoryError(f"{path}: {error}") from error
            if mmap and "mmap" in str(error):
                continue
            reason = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
            if isinstance(error, pickle.UnpicklingError) and re.search("global|class|function", reason, re.IGNORECASE):
                raise UserError(
                    f"{path} holds more than tensors and could run code when it is read",
                    "get it as .safetensors, or as a .pt of tensors alone",
                ) from None
            raise UserError(
                f"{path} is damaged, cut short or no checkpoint: {reason.splitlines()[0][:200]}", "fetch it again"
            ) from None
    raise AssertionError


def _state(value: Any, path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: the dictionary itself, or what it has under a usual name."""
    while isinstance(value, dict) and (inner := [k for k in _WRAPPERS if isinstance(value.get(k), dict)]):
        value = value[inner[0]]
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path} holds no weights", "name a checkpoint's file")
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: unexpected entry {key!r}", f"weights should be under {', '.join(_WRAPPERS)}")
    return value
