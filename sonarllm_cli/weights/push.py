"""Publish a finished model folder on a Hugging Face hub, its model card with it. Nothing else in the package sends.

push("runs/mini/model", "me/my-model", private=True)       # then, anywhere: sonarllm models pull hf:me/my-model
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError
from ..runtime import log
from . import model_dir, registry
from .hub import OURS

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    name_or_path: str, repo: str, *, private: bool = False, say: Callable[[str], None] = log.info, api: Any = None
) -> str:
    """Upload a model by its name or folder to `repo` (org/name), which is made if it is not there; → its address.

    Files are compared with their hashes first. UserError for a damaged model, a name that can't be one, or a token
    that the hub refuses; RunError if the hub can't be reached.
    """
    folder = registry.find(name_or_path)
    config = model_dir.read_config(folder)
    if not _REPO.fullmatch(repo):
        raise UserError(f"{repo!r} can't be a repository's name", "give org/repo")
    model_dir.check_files(folder, config)
    licence = config.get("licence", "")
    say(f"{folder.name} → {repo}: licence {licence or 'not stated; it should be, in the recipe: licence = …'}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in OURS:
            if (folder / name).is_file():
                _link(folder / name, Path(scratch, name))
        card = Path(scratch, "README.md")
        text = card.read_text("utf-8") if card.is_file() else f"# {folder.name}\n"
        card.unlink(missing_ok=True)  # not to write through a link
        card.write_text(front_matter(config) + re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.DOTALL), "utf-8")
        return _upload(Path(scratch), repo, private, api)


def front_matter(config: dict[str, Any]) -> str:
    """What the hub reads of a model card: licence, kind and languages."""
    langs = config.get("langs") or ([config["lang"]] if config.get("lang") else [])
    lines = ["---", f"license: {config.get('licence', '').lower() or 'unknown'}", "library_name: sonarllm-cli"]
    lines += ["tags:", *(f"- {tag}" for tag in dict.fromkeys([config["kind"], "sonar"]))]
    if langs and len(langs) <= 20:
        lines += ["language:", *(f"- {code.split('_')[0]}" for code in langs)]
    return "\n".join([*lines, "---", ""]) + "\n"


def _link(source: Path, target: Path) -> None:
    """The file under another name: a link where it may be one, for weights are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _upload(folder: Path, repo: str, private: bool, api: Any) -> str:
    from huggingface_hub import HfApi, constants, utils

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set", "unset it to push")
    api = api or HfApi()
    try:
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload by sonarllm")
        return str(address)
    except utils.HFValidationError:
        raise UserError(f"{repo!r} can't be a repository's name", "give org/repo") from None
    except utils.LocalTokenNotFoundError:
        raise UserError("no token for the hub", "set HF_TOKEN, or run hf auth login") from None
    except utils.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            cure = "set HF_TOKEN to a token that may write there"
            raise UserError(f"{constants.ENDPOINT} refuses to write {repo} ({status})", cure) from None
        raise RunError(f"can't push {repo}: {_first_line(error)}", "try again") from None
    except Exception as error:  # what its network library of the year raises
        raise RunError(f"can't push to {constants.ENDPOINT}: {_first_line(error)}", "check the network") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
