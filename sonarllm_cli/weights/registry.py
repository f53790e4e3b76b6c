"""Names → model folders: those in the cache directory, those that come with the package, and any folder by its path.

folder = find("mini")                # or a path: find("runs/my-model")
for entry in list_models(): print(entry.name, entry.parameters)
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..io.files import locked
from ..languages import NAMES
from ..nets.kinds import SOUND, kind_of
from ..tokens import Tokenizer
from . import model_dir

EMBEDDED = Path(__file__).parent.parent / "assets" / "mini"  # one folder a model
DAMAGED = "damaged"  # what `models list` calls the kind of a folder that can't be read
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that is there: what `models list` shows. `parameters` leaves int8 scales out."""

    name: str
    kind: str  # "sonar", "sonar-llm", …, or `DAMAGED`
    parameters: int
    weights: str  # how they are stored: "float32", …
    bytes: int
    licence: str
    embedded: bool
    path: str


# ---------------------------------------------------------------------------------------------- finding


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a model: by its name in the registry, an embedded model's name, or the path of a folder, its own or
    that of the run that made it.

    UserError for one that is nowhere, with the nearest name, or how to fetch it if the catalogue knows it.
    """
    name = os.fspath(name_or_path)
    if "\0" in name or not name:
        raise UserError(f"{name!r} is not a model's name", "see sonarllm models list")
    for folder in _folders(name):
        if os.path.isfile(folder / "config.json"):  # which, unlike Path's, never raises
            return folder
    if os.path.isfile(Path(os.path.expanduser(name), "settings.toml")):
        raise UserError(f"the run in {name} has no model yet", f"end it: sonarllm train --resume {shlex.quote(name)}")
    for folder in _folders(name):
        if os.path.isdir(folder):
            model_dir.read_config(folder)  # says what is wrong with it
    if name in catalogue():
        raise UserError(f"{name} is not on this machine", f"fetch it: sonarllm models pull {name}")
    if os.sep in name or "/" in name:
        raise UserError(f"no such model folder: {name}", "check the path, or name a model: sonarllm models list")
    close = nearest(name, names() + list(catalogue()))
    hint = f"did you mean {close}? " if close else ""
    raise UserError(f"unknown model {name!r}", f"{hint}see sonarllm models list")


def _folders(name: str) -> list[Path]:
    """Where `name` may be, the likeliest first: a bare name is the registry's before it is a folder here."""
    path = model_dir.of_run(Path(os.path.expanduser(name)))
    return [models_home() / name, EMBEDDED / name, path] if _NAME.fullmatch(name) else [path]


def models_home() -> Path:
    """The folder that holds the registry's models, one folder each: under `SONARLLM_HOME`, else the user's cache."""
    import platformdirs

    return Path(os.environ.get("SONARLLM_HOME") or platformdirs.user_cache_dir("sonarllm")) / "models"


def find_space(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder and `config.json` of a space, by its own name or that of a concept model that lives in it."""
    folder = find(name)
    config = model_dir.read_config(folder)
    if kind_of(config["kind"]).writer:
        name = model_dir.home_of(folder, config)
        folder = find(name)
        config = model_dir.read_config(folder)
    if not kind_of(config["kind"]).space:
        raise UserError(f"{name} is a {config['kind']} model, not a space", "name a sonar model: sonarllm models list")
    return folder, config


def hearing(name: str) -> str:
    """What hears for a model: of a space, or of a concept model, the speech encoder that comes with it; itself if it is
    one, or if there is none."""
    row = kind_of(model_dir.read_config(find(name))["kind"])
    home = find_space(name)[1].get("fingerprint", "") if row.space or row.writer else ""
    return speech_of(home) or name


def speech_of(fingerprint: str) -> str:
    """The speech encoder of a space that comes with the package, by name; "" if none does."""
    for folder in _models_in(EMBEDDED) if fingerprint else []:
        config = model_dir.read_config(folder)
        if kind_of(config["kind"]).reads == SOUND and config.get("sonar", {}).get("fingerprint") == fingerprint:
            return folder.name
    return ""


def space_named(fingerprint: str) -> str:
    """A space as people know it: the name of a model here that makes it, else its fingerprint."""
    for folder in (*_models_in(EMBEDDED), *_models_in(models_home())) if fingerprint else []:
        with contextlib.suppress(UserError):
            if model_dir.read_config(folder).get("fingerprint") == fingerprint:
                return folder.name
    return fingerprint or "(unnamed)"


def languages_of(name: str) -> list[str]:
    """The languages of a space, of a concept model's, or of another model with texts; none where that is not known."""
    try:
        folder = find(name)
        config = model_dir.read_config(folder)
        return config.get("langs") or find_space(name)[1].get("langs", [])
    except UserError:
        return []


def space_tokenizer(name: str) -> tuple[Tokenizer, int]:
    """The tokenizer of a space, or of a concept model's, and the tokens its encoder takes; no weights are read."""
    folder, config = find_space(name)
    limit = config.get("model", {}).get("max_source_tokens")
    if type(limit) is not int or limit < 3:
        raise UserError(f"{folder / 'config.json'} does not say how long a text may be", model_dir.AGAIN)
    return model_dir.load_tokenizer(folder, config), limit


def names() -> list[str]:
    """Every model on this machine: embedded ones, then those of the registry, by name."""
    return [folder.name for folder in (*_models_in(EMBEDDED), *_models_in(models_home()))]


def _models_in(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())
    except OSError:  # not there yet
        return []


def is_known(folder: Path) -> bool:
    """Whether a folder is the registry's or the package's, so that its name alone finds it."""
    return folder.parent in (EMBEDDED, models_home())


def target(name: str) -> Path:
    """Where a new model called `name` goes; its parent is made. UserError for a name that can't be one."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise UserError(
            f"{name!r} can't be a model's name", "use letters, digits, '-', '_' and '.', not starting with '.'"
        )
    if (EMBEDDED / name).is_dir():
        raise UserError(f"{name} is the name of a model that comes with the package", "choose another name")
    try:
        models_home().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {models_home()}: {error.strerror}", "set SONARLLM_HOME") from None
    return models_home() / name


@contextmanager
def claimed_name(name: str) -> Iterator[Path]:
    """`target(name)`, this process' alone while it makes the model; UserError if it is there, or another makes it."""
    folder = target(name)
    lock, busy = folder.with_name(f".{name}.lock"), f"another process is importing {name}"
    with locked(lock, busy, "wait for its end, or choose another name"):
        if folder.exists():
            cure = f"remove it (sonarllm models rm {shlex.quote(name)}) or choose another name"
            raise UserError(f"there is a model {name!r} already", cure)
        yield folder


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Published models that `pull` knows: name → its table in catalog.toml."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table = tomllib.loads(Path(__file__).with_name("catalog.toml").read_text("utf-8"))
    for group in table.pop("speech"):
        for row in group["langs"]:
            code, lang = row.split("=") if "=" in row else (row.split("_")[0], row)
            table[f"sonar-speech-{code}"] = {
                "kind": "sonar-speech",
                "about": f"SONAR speech encoder, {NAMES[lang]}",
                "licence": group["licence"],
                "parameters": group["parameters"],
                "url": group["url"].format(code=code),
                "lang": lang,
                "sonar": "sonar-200",
            }
    return table


# ---------------------------------------------------------------------------------------------- looking, removing


def list_models() -> list[Entry]:
    """All models on this machine. A damaged one is listed as such."""
    return [_entry(folder) for folder in (*_models_in(EMBEDDED), *_models_in(models_home()))]


def not_here() -> list[dict[str, Any]]:
    """Models of the catalogue that are not on this machine, with an `Entry`'s keys; what is not known yet is empty."""
    blank = {"weights": "", "bytes": 0, "embedded": False, "path": ""}
    here = names()
    return [
        {key: {"name": name, **known, **blank}[key] for key in Entry.__dataclass_fields__}
        for name, known in catalogue().items()
        if name not in here
    ]


def _entry(folder: Path) -> Entry:
    try:
        config, parameters = model_dir.read_config(folder), count_parameters(folder)
    except UserError:
        config, parameters = {"kind": DAMAGED}, 0
    return Entry(
        name=folder.name,
        kind=config["kind"],
        parameters=parameters,
        weights=config.get("weights", ""),
        bytes=_size(folder),
        licence=config.get("licence", ""),
        embedded=folder.parent == EMBEDDED,
        path=str(folder),
    )


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a link to nowhere, or gone by now
                total += os.stat(os.path.join(path, name)).st_size
    return total


def show(name: str) -> dict[str, Any]:
    """All there is to say of one model: its `Entry`, the languages of its space, and its `config.json`; of one that is
    not here, and is known to the catalogue, what that says."""
    if name in catalogue() and not any(map(os.path.isdir, _folders(name))):
        known = next(row for row in not_here() if row["name"] == name)
        return {**known, "config": {k: v for k, v in catalogue()[name].items() if k not in known}}
    folder = find(name)
    config = model_dir.read_config(folder)
    return {**vars(_entry(folder)), "languages": languages_of(name), "config": config}


def count_parameters(folder: Path) -> int:
    """Weights in `model.safetensors`, by its header alone; int8 scales are no parameters."""
    tensors = read_header(folder / "model.safetensors")
    scales = {f"{name}.scale" for name, entry in tensors.items() if entry["dtype"] == "I8"}
    return sum(prod(entry["shape"]) for name, entry in tensors.items() if name not in scales)


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: tensor name → dtype, shape, offsets. UserError if it is not one."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > min(path.stat().st_size, 100 << 20):
                raise ValueError("its header is longer than the file")
            header = model_dir.parse_object(file.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if not _is_entry(entry, path.stat().st_size):
                raise ValueError(f"its header is wrong about {name[:100]!r}")
        return header
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}", model_dir.AGAIN) from None
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise UserError(f"{path} is damaged or cut short: {str(error)[:200]}", model_dir.AGAIN) from None


def _is_entry(entry: Any, size: int) -> bool:
    """Whether that can be a tensor of a file of `size` bytes: it has a dtype, and a shape of so many numbers."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= size for n in shape):
        return False
    return len(shape) <= 8 and prod(shape) <= size


def verify(name: str) -> list[str]:
    """Compare a model's files with the hashes noted when it was made; → the files that were checked.

    UserError names the first that differs, or that is missing.
    """
    folder = find(name)
    config = model_dir.read_config(folder)
    model_dir.hash_of(folder, config, "model.safetensors")
    model_dir.check_files(folder, config)
    return sorted(config["files"])


def remove(name: str) -> Path:
    """Delete a model from the registry: never an embedded one, nor a space that another model lives in."""
    folder = models_home() / name
    if not _NAME.fullmatch(name) or not folder.is_dir():
        if _NAME.fullmatch(name) and (EMBEDDED / name).is_dir():
            raise UserError(f"{name} comes with the package and can't be removed", "uninstall the package instead")
        close = nearest(name, [p.name for p in _models_in(models_home())])
        cure = f"did you mean {close}?" if close else "see sonarllm models list"
        raise UserError(f"no model {name!r} in {models_home()}", cure)
    for other in _models_in(models_home()):
        try:
            lives_in = model_dir.read_config(other).get("sonar", {}).get("name")
        except UserError:
            continue
        if lives_in == name and other.name != name:
            cure = f"remove it first: sonarllm models rm {shlex.quote(other.name)}"
            raise UserError(f"{other.name} lives in the space {name}", cure)
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)
    return folder
