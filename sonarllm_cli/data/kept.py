"""Arrays that take long to make, kept in a file for the next start and for the other processes of a run.

    arrays = kept(folder / "words", key, lambda: {"flat": …, "sizes": …})      # made once

The key tells all that they were made from; a file of another key, or a damaged one, is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..io.files import atomic_file
from ..runtime import log

Arrays = dict[str, np.ndarray]


def kept(path: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in `path`, if it is whole and of this key; else those that `make` gives, which are left there."""
    arrays = _read(path, key)
    if arrays is None:
        arrays = make()
        facts = {"key": key, "digest": _digest(arrays)}
        with atomic_file(path) as scratch:
            save_file(arrays, scratch, metadata=facts)
    return arrays


def _read(path: Path, key: str) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if facts.get("digest") == _digest(arrays):
            return arrays
    except (SafetensorError, OSError):
        pass
    log.warning("%s is damaged: made again", path)
    return None


def _digest(arrays: Arrays) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def packed(rows: Sequence[Sequence[str]]) -> Arrays:
    """Rows of strings as arrays."""
    data = [text.encode("utf-8", "surrogatepass") for row in rows for text in row]
    return {
        "bytes": np.frombuffer(b"".join(data), np.uint8),
        "sizes": np.array([len(text) for text in data], np.int32),
        "row": np.array([len(row) for row in rows], np.int32),
    }


def unpacked(arrays: Arrays) -> list[list[str]]:
    """What `packed` was given."""
    data, at, texts = arrays["bytes"].tobytes(), 0, []
    for size in arrays["sizes"].tolist():
        texts.append(data[at : at + size].decode("utf-8", "surrogatepass"))
        at += size
    ends = np.cumsum(arrays["row"]).tolist()
    return [texts[end - size : end] for end, size in zip(ends, arrays["row"].tolist())]
