"""Fetch published models from a Hugging Face hub into the registry. Nothing else in the package downloads anything.

Files go to the Hugging Face cache first (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they
always mean), are checked against the hashes the catalogue has, and are converted to our layout.

    pull("sonar-llm-100m")                 # with its space, if that is not here
    pull("hf:org/repo@v1", say=print)
"""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError, nearest
from ..io.files import atomic_folder
from ..nets import kinds
from ..runtime import log
from . import convert, convert_heads, model_dir, registry
from .fetch import fetch_file

WEIGHTS = ["config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
PICKLED = ["config.json", "pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]
TOKENIZER = "sentencepiece.bpe.model"
OURS = ["config.json", "model.safetensors", "tokenizer.model", "README.md"]
_SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_ETAG = re.compile(r'(W/)?"?[\w+=:-]+(\.[\w+=:-]+)*"?')
Say = Callable[[str], None]


def pull(
    name: str,
    *,
    save_as: str = "",
    sonar: str = "sonar-200",
    dtype: str | None = None,
    say: Say = log.info,
) -> Path:
    """A model of the catalogue by its name, or any repository as `hf:org/repo@revision`; → its folder in the registry.

    A concept model, a speech encoder or a head brings its space with it. `say` is told the licence before weights are
    fetched.
    UserError for an unknown name or a repository that can't be had, RunError if the hub can't be reached.
    """
    if name.startswith("hf:"):
        return _pull_repo(name, save_as, sonar, dtype, say)
    entry = registry.catalogue().get(name)
    if entry is None and name in registry.names():
        folder = registry.find(name)
        home = "comes with the package" if folder.parent == registry.EMBEDDED else "was made or imported here"
        say(f"{name} is here already, it {home}: {folder}")
        return folder
    if entry is None:
        close = nearest(name, list(registry.catalogue()))
        hint = f"did you mean {close}? " if close else ""
        raise UserError(f"the catalogue has no {name!r}", f"{hint}see sonarllm models list, or give hf:org/repo")
    folder = registry.target(save_as or name)
    if folder.exists():
        say(f"{folder.name} is here already: {folder}")
        return folder
    if "sonar" in entry:  # the space that it lives in
        if (registry.models_home() / entry["sonar"]).exists():
            say(f"its space {entry['sonar']} is here already")
        else:
            pull(entry["sonar"], dtype=dtype, say=say)
    return kinds.named(__package__, kinds.KINDS[entry["kind"]].pull)(folder.name, entry, dtype, say)


# ---------------------------------------------------------------------------------------------- the kinds of model


def pull_sonar(name: str, entry: Mapping[str, Any], dtype: str | None, say: Say) -> Path:
    _say_licence(name, entry["licence"], f"{entry['encoder']}, {entry['decoder']}", say)
    words = fetch(entry["tokenizer"], [TOKENIZER]) / TOKENIZER
    encoder, decoder = (_fetch_weights(entry[side], entry.get(f"{side}_file")) for side in ("encoder", "decoder"))
    _check_hashes(entry, (entry["tokenizer"], words), (entry["encoder"], encoder), (entry["decoder"], decoder), say=say)
    return convert.import_sonar(
        name,
        encoder=encoder,
        decoder=decoder,
        tokenizer=words,
        dtype=dtype,
        licence=entry["licence"],
        source=f"{_named(entry['encoder'], encoder)}, {_named(entry['decoder'], decoder)}",
    )


def pull_speech(name: str, entry: Mapping[str, Any], dtype: str | None, say: Say) -> Path:
    """A speech encoder."""
    own = {"lang": entry["lang"], "sonar": entry["sonar"], "dtype": dtype}
    return _pull_addresses(
        entry, say, lambda files, said: convert.import_speech(name, checkpoint=files[0], **own, **said), name
    )


def pull_mutox(name: str, entry: Mapping[str, Any], dtype: str | None, say: Say) -> Path:
    """MuTox."""
    own = {"sonar": entry["sonar"], "dtype": dtype}
    return _pull_addresses(
        entry, say, lambda files, said: convert_heads.import_mutox(name, checkpoint=files[0], **own, **said), name
    )


def pull_laser2(name: str, entry: Mapping[str, Any], dtype: str | None, say: Say) -> Path:
    """LASER2 and its pieces."""
    return _pull_addresses(
        entry,
        say,
        lambda files, said: convert_heads.import_laser2(
            name, checkpoint=files[0], tokenizer=files[1], dtype=dtype, **said
        ),
        name,
    )


def _pull_addresses(
    entry: Mapping[str, Any], say: Say, convert_files: Callable[[list[Path], dict[str, str]], Path], name: str
) -> Path:
    """What is on no hub, by its addresses. Files are not kept once they are converted."""
    _say_licence(name, entry["licence"], entry["url"], say)
    files, hashes = [], []
    for url in (entry["url"], *([entry["tokenizer"]] if "tokenizer" in entry else [])):
        file = fetch_file(url, registry.models_home().parent / "fetched")
        want, have = entry.get("sha256", {}).get(file.name), model_dir.digest(file)
        if want is None:
            say(f"{url}: unverified, the catalogue has no hash of it")
        elif want != have:
            file.unlink()
            cure = "pull again; if it stays so, it was changed there"
            raise UserError(f"{url} is not the file that the catalogue knows", cure)
        files.append(file)
        hashes.append(f"{url} (SHA-256 {have})")
    folder = convert_files(files, {"licence": entry["licence"], "source": ", ".join(hashes)})
    for file in files:
        file.unlink()
    return folder


def pull_concept(name: str, entry: Mapping[str, Any], dtype: str | None, say: Say) -> Path:
    """From the repository that the catalogue names."""
    return _pull_concept(name, entry["repo"], None, entry["sonar"], dtype, entry, say)


def _pull_concept(
    name: str, repo: str, revision: str | None, sonar: str, dtype: str | None, entry: Mapping[str, Any], say: Say
) -> Path:
    registry.find(sonar)  # before anything large is fetched
    licence = entry.get("licence") or _licence(fetch(repo, ["README.md"], revision))
    _say_licence(name, licence, repo, say)
    folder = _fetch_weights(repo, revision=revision)
    _check_hashes(entry, (repo, folder), say=say)
    return convert.import_sonar_llm(
        name, checkpoint=folder, sonar=sonar, dtype=dtype, licence=licence, source=_named(repo, folder)
    )


def pull_blaser(name: str, entry: Mapping[str, Any], dtype: str | None, say: Say) -> Path:
    _say_licence(name, entry["licence"], entry["repo"], say)
    file = _fetch_weights(entry["repo"], entry["file"])
    _check_hashes(entry, (entry["repo"], file), say=say)
    return convert_heads.import_blaser(
        name,
        checkpoint=file,
        sonar=entry["sonar"],
        dtype=dtype,
        licence=entry["licence"],
        source=_named(entry["repo"], file),
    )


def _pull_repo(spec: str, save_as: str, sonar: str, dtype: str | None, say: Say) -> Path:
    found = _SPEC.fullmatch(spec)
    if not found:
        raise UserError(f"{spec!r} names no repository", "give hf:org/repo, or hf:org/repo@revision")
    repo, revision = found["repo"], found["revision"]
    name = save_as or repo.split("/")[1]
    folder = registry.target(name)
    if folder.exists():
        raise UserError(f"there is a model {name!r} already", "choose another name with --as")
    small = fetch(repo, ["config.json", "README.md"], revision)
    if not (small / "config.json").is_file():
        raise UserError(f"{repo} has no config.json", "name a repository that holds a model")
    config = model_dir.read_json(small / "config.json")
    if isinstance(config.get("llama_config"), dict):
        return _pull_concept(name, repo, revision, sonar, dtype, {}, say)
    if not isinstance(config.get("kind"), str):
        known = "a SONAR-LLM or one of this tool's; encoder and decoder of SONAR come together: models pull sonar-200"
        raise UserError(f"{repo} is no model that can be pulled alone", f"it should be {known}")
    _say_licence(name, _licence(small), repo, say)
    return _copy(fetch(repo, OURS, revision), folder, say)


def _copy(snapshot: Path, folder: Path, say: Say) -> Path:
    """A model that is in our layout already: checked against its own hashes, then copied."""
    config = model_dir.read_config(snapshot)
    space = config.get("sonar", {})
    model_dir.hash_of(snapshot, config, OURS[1])
    model_dir.check_files(snapshot, config)
    with registry.claimed_name(folder.name), atomic_folder(folder) as scratch:
        for name in OURS:
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, scratch / name)
    if space and space.get("name") not in registry.names():
        say(f"{folder.name} lives in the space {space.get('name')}, which is not here")
    return folder


# ---------------------------------------------------------------------------------------------- the hub


def _fetch_weights(repo: str, file: str | None = None, revision: str | None = None) -> Path:
    """A repository's weights: the one file named, else safetensors, else what PyTorch pickled."""
    if file:
        path = fetch(repo, [file], revision) / file
        if not path.is_file():
            raise UserError(f"{repo} has no {file}", "it was renamed there; import it by hand: sonarllm models import")
        return path
    for patterns in (WEIGHTS, PICKLED):
        folder = fetch(repo, patterns, revision)
        if any(folder.joinpath(name).is_file() for name in patterns[1:]) or any(folder.glob(patterns[2])):
            return folder
    raise UserError(f"{repo} holds no weights", "it should have model.safetensors or pytorch_model.bin")


def fetch(repo: str, patterns: list[str], revision: str | None = None) -> Path:
    """The files of a repository that match, in the Hugging Face cache; → the folder that holds them.

    UserError if there is no such repository or it may not be read, RunError if the hub can't be reached.
    """
    from huggingface_hub import constants, snapshot_download, utils

    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what matters of it is in our errors
    try:
        with _watched(utils.get_session()):
            return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except UserError:
        raise
    except utils.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repo}"
        raise UserError(f"{repo} is gated", f"accept its terms at {page} and set HF_TOKEN") from None
    except utils.RevisionNotFoundError:
        raise UserError(f"{repo} has no revision {revision!r}", "name a branch, tag or commit of it") from None
    except utils.RepositoryNotFoundError:
        cure = "check the name; for a private one set HF_TOKEN"
        raise UserError(f"no repository {repo} on {constants.ENDPOINT}", cure) from None
    except utils.HFValidationError:
        raise UserError(f"{repo!r} can't be a repository's name", "give org/repo") from None
    except utils.LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            cure = "unset HF_HUB_OFFLINE, or point HF_HOME to a cache that has it"
            raise UserError(f"{repo} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set", cure) from None
        raise RunError(
            f"can't reach {constants.ENDPOINT} to fetch {repo}", "check the network and HF_ENDPOINT"
        ) from None
    except Exception as error:  # what its network library of the year raises
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise RunError(f"no space left to fetch {repo}", "free some, or set HF_HOME to another disk") from None
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunError(f"can't fetch {repo}: {first}", "try again; what is there already is kept") from None


@contextmanager
def _watched(session: Any) -> Iterator[None]:
    """Each answer is looked at before huggingface_hub uses it."""
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "response": [*hooks.get("response", []), _look]}
    try:
        yield
    finally:
        session.event_hooks = hooks


def _look(response: Any) -> None:
    """UserError for an answer whose commit or etag is none: huggingface_hub makes folders and files of those names."""
    commits, etags = [response.headers.get("X-Repo-Commit")], map(response.headers.get, ("ETag", "X-Linked-Etag"))
    if "/api/" in response.request.url.path:
        try:
            said = json.loads(response.read())
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            commits.append(said.get("sha"))
    for said, form in [*((c, _COMMIT) for c in commits), *((e, _ETAG) for e in etags)]:
        if said is not None and not (isinstance(said, str) and form.fullmatch(said)):
            message = f"{response.request.url.host} answers {str(said)[:80]!r} where a commit or a file's hash is due"
            raise UserError(message, "check HF_ENDPOINT: is it a hub?")


def _check_hashes(entry: Mapping[str, Any], *fetched: tuple[str, Path], say: Say) -> None:
    """Compare what was fetched with the catalogue's hashes ("repo/file" → SHA-256), and say what it has none for."""
    known = entry.get("sha256", {})
    for repo, place in fetched:
        files = (
            [place] if place.is_file() else sorted(p for p in place.iterdir() if p.suffix in (".safetensors", ".bin"))
        )
        for file in files:
            want = known.get(f"{repo}/{file.name}")
            if want is None:
                say(f"{repo}/{file.name}: unverified, the catalogue has no hash of it")
            elif model_dir.digest(file) != want:
                cure = f"delete {file} and pull again; if it stays so, it was changed there"
                raise UserError(f"{repo}/{file.name} is not the file that the catalogue knows", cure)


def _licence(snapshot: Path) -> str:
    """The licence that a repository's model card names, or ""."""
    card = snapshot / "README.md"
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    header = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return found[1] if found else ""


def _say_licence(name: str, licence: str, origin: str, say: Say) -> None:
    say(f"{name}: licence {licence or 'not stated; ask its authors before you use it'} ({origin})")


def _named(repo: str, place: Path) -> str:
    """`org/repo@commit`: the cache keeps each commit in a folder of its name."""
    return f"{repo}@{(place.parent if place.is_file() else place).name}"
