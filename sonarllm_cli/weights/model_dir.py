"""A model folder: `config.json` + `model.safetensors` + `tokenizer.model` (SONAR) + `README.md` (the model card).

What it says of itself, without a tensor: its config, its hashes, its tokenizer. Weights are in tensors.py. Others made
the folder: here what it says is checked for type and bounds, and nothing else of the package needs to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import typing
from pathlib import Path
from typing import Any

from ..bounds import most_of
from ..errors import UserError
from ..tokens import Tokenizer

FORMAT = 1
AGAIN = "fetch or import the model again"
STORED = ("float32", "float16", "bfloat16", "int8")  # how weights may be stored
HASHED = ("model.safetensors", "tokenizer.model")  # the files that are trusted only if their hash is right
CONFIG_BYTES = 16 << 20
_SHA256 = re.compile("[0-9a-f]{64}")
# What config.json may say, and its type; other keys are its maker's own. Those of "model" are the network's fields.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("kind", "weights", "fingerprint", "licence", "source", "marker", "ending", "begin", "lang"), (str,)
    ),
    **dict.fromkeys(("model", "files", "sonar", "training"), (dict,)),
    "format": (int,),
    "langs": (list,),
    "familiar_bpb": (int, float),
}


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. UserError if there is none, it is not ours, or a value is of a wrong type."""
    path = folder / "config.json"
    if not os.path.exists(path):
        raise UserError(f"{folder} is not a model folder: it has no config.json", "see sonarllm models list")
    config = read_json(path, AGAIN)
    if not isinstance(config.get("kind"), str):
        cure = "import it first: sonarllm models import --help"
        raise UserError(f"{folder} holds a model, but not in this tool's layout", cure)
    _check_types(path, config)
    if config.get("format", 0) > FORMAT:
        raise UserError(f"{folder} was made by a newer version", "update: pip install -U sonarllm-cli")
    return config


def read_json(path: Path, cure: str = "fetch it again") -> dict[str, Any]:
    """A JSON object from a file. UserError, with `cure`, for anything else."""
    if not os.path.exists(path):
        raise UserError(f"no such file: {path}", "check the path")
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > CONFIG_BYTES:
            raise ValueError(f"it is no file of at most {CONFIG_BYTES >> 20} MiB")
        return parse_object(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can't read {path}: {str(error)[:200]}", cure) from None


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object that any output can hold. ValueError or RecursionError for anything else."""
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if b"\\u" in data:  # an escape may spell half a surrogate pair
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _check_types(path: Path, config: dict[str, Any]) -> None:
    def check(right: bool, key: str) -> None:
        if not right:
            raise UserError(f"{path} has an impossible {key!r}", AGAIN)

    for key, kinds in _TYPES.items():
        check(key not in config or type(config[key]) in kinds, key)
    check(config.get("weights", STORED[0]) in STORED, "weights")
    check(0 <= config.get("familiar_bpb", 0) < math.inf, "familiar_bpb")
    langs = config.get("langs", ["none"])  # a kind without words has none
    check(all(isinstance(lang, str) for lang in langs) and 0 < len({*langs}) == len(langs), "langs")
    check(all(type(value) is str for value in config.get("sonar", {}).values()), "sonar")
    settings = config.get("training", {}).get("settings", {})
    check(isinstance(settings, dict) and type(settings.get("sonar", "")) is str, "training")
    for name, value in config.get("files", {}).items():
        check(Path(name).name == name and isinstance(value, str) and bool(_SHA256.fullmatch(value)), "files")


def net_config(cls: type, folder: Path, config: dict[str, Any]) -> Any:
    """The network's config, which `config.json` holds under "model". UserError for a field that the network has not, or
    a value of another type, out of bounds, or that does not go with the others."""
    path, hints = folder / "config.json", typing.get_type_hints(cls)
    fields = dict(config.get("model", {}))
    for name, value in fields.items():
        want = hints.get(name)
        if want is None:
            raise UserError(f"{path} does not describe a {config['kind']} model: it has no {name!r}", AGAIN)
        values = [value]
        if typing.get_origin(want) is tuple and type(value) is list:  # of any length, of one type
            values, want, fields[name] = value, typing.get_args(want)[0], tuple(value)
        most = most_of(name) if want is int else 1e12
        for one in values:
            if type(one) is not want and not (want is float and type(one) is int):
                raise UserError(f"{path}: model.{name} is {str(one)[:40]!r}, not {want.__name__}", AGAIN)
            if want in (int, float) and not 0 <= one <= most:
                raise UserError(f"{path}: model.{name} is {str(one)[:40]}, not 0 to {most:,}", AGAIN)
    if "model" not in config:
        raise UserError(f"{path} does not describe a {config['kind']} model", AGAIN)
    try:
        return cls(**fields)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", AGAIN) from None


def load_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """A space's tokenizer, with the languages that its `config.json` lists. UserError if it was altered."""
    name = "tokenizer.model"
    if not os.path.isfile(folder / name):
        raise UserError(f"{folder} has no {name}", AGAIN)
    check_hash(folder, config, name)
    return Tokenizer(folder / name, config.get("langs", []))


def of_run(path: Path) -> Path:
    """A run folder's model; any other folder is itself."""
    own = os.path.isfile(path / "config.json")  # which, unlike Path's, never raises
    return path / "model" if not own and os.path.isfile(path / "model" / "config.json") else path


def home_of(folder: Path, config: dict[str, Any]) -> str:
    """Where a concept model's space is: a folder beside its own, the folder whose path its recipe gave, or a name for
    the registry. Whether it is the right one, its fingerprint tells."""
    name = config.get("sonar", {}).get("name", "")
    if not name:
        raise UserError(f"{folder / 'config.json'} names no space", "import the model again, with --sonar NAME")
    given = config.get("training", {}).get("settings", {}).get("sonar", "")
    for place in [folder.parent / name] + [of_run(Path(given))] * ("/" in given):
        if os.path.isfile(place / "config.json") and place.resolve() != folder.resolve():
            return str(place)
    return name


def check_files(folder: Path, config: dict[str, Any]) -> None:
    """Compare the folder's files with the hashes in its `config.json`; UserError names one that differs or has none."""
    for name in dict.fromkeys([*config.get("files", {}), *(n for n in HASHED if os.path.isfile(folder / n))]):
        check_hash(folder, config, name)


def check_hash(folder: Path, config: dict[str, Any], name: str) -> None:
    """Compare one file with its hash in `config.json`; UserError if it differs, has none or is not there."""
    want = hash_of(folder, config, name)
    if not os.path.isfile(folder / name):
        raise UserError(f"{folder} has no {name}", AGAIN)
    if digest(folder / name) != want:
        raise UserError(f"{folder / name} is not what was saved: its hash differs", AGAIN)


def hash_of(folder: Path, config: dict[str, Any], name: str) -> str:
    """The hash that `config.json` gives for a file of the folder; UserError if it gives none."""
    if name not in config.get("files", {}):
        raise UserError(f"{folder / 'config.json'} gives no hash of {name}", AGAIN)
    return config["files"][name]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    sha = hashlib.sha256()
    while block := file.read(1 << 20):
        sha.update(block)
    return sha.hexdigest()
