"""A model folder: `config.json` + `model.safetensors` + `tokenizer.model` (SONAR) + `README.md` (the model card).

What it says of itself, without a tensor: its config, its hashes, its tokenizer. Weights are in tensors.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..tokens import Tokenizer

FORMAT = 1
WRITERS = ("sonar-llm", "token-llm", "mse-lcm", "diffusion-lcm")  # kinds that write texts, in a space of their own
AGAIN = "fetch or import the model again"


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. UserError if there is none, or it is not ours."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model folder: it has no config.json", "see sonarllm models list") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can't read {path}: {error}", AGAIN) from None
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        cure = "import it first: sonarllm models import --help"
        raise UserError(f"{folder} holds a model, but not in this tool's layout", cure)
    if config.get("format", 0) > FORMAT:
        raise UserError(f"{folder} was made by a newer version", "update: pip install -U sonarllm-cli")
    return config


def net_config(cls: type, folder: Path, config: dict[str, Any]) -> Any:
    """The network's config, which `config.json` holds under "model"."""
    try:
        return cls(**config["model"])
    except (TypeError, KeyError) as error:
        kind = config["kind"]
        raise UserError(f"{folder / 'config.json'} does not describe a {kind} model: {error}", AGAIN) from None


def load_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """A space's tokenizer, with the languages that its `config.json` lists."""
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.model", AGAIN)
    return Tokenizer(path, config.get("langs", []))


def of_run(path: Path) -> Path:
    """A run folder's model; any other folder is itself."""
    own = os.path.isfile(path / "config.json")  # which, unlike Path's, never raises
    return path / "model" if not own and os.path.isfile(path / "model" / "config.json") else path


def space_of(folder: Path, config: dict[str, Any]) -> str:
    """Where a concept model's space is: a folder beside its own, the folder whose path its recipe gave, or a name for
    the registry. Whether it is the right one, its fingerprint tells."""
    name = config.get("sonar", {}).get("name", "")
    if not name:
        raise UserError(f"{folder / 'config.json'} names no space", "import the model again, with --sonar NAME")
    given = config.get("training", {}).get("settings", {}).get("sonar", "")
    for place in [folder.parent / name] + [of_run(Path(given))] * ("/" in given):
        if (place / "config.json").is_file() and place.resolve() != folder.resolve():
            return str(place)
    return name


def check_files(folder: Path, config: dict[str, Any]) -> None:
    """Compare the folder's files with the hashes in its `config.json`; UserError names the one that differs."""
    for name, want in config.get("files", {}).items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}", AGAIN)
        if digest(folder / name) != want:
            raise UserError(f"{folder / name} is not what was saved: its hash differs", AGAIN)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    sha = hashlib.sha256()
    while block := file.read(1 << 20):
        sha.update(block)
    return sha.hexdigest()
