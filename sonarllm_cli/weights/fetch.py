"""A file by its address, whole or not at all; one that broke off goes on where it was. For what is on no hub.

path = fetch("https://…/spenc.eng.pt", folder)
"""

from __future__ import annotations

import errno
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import RunError, UserError

BLOCK = 1 << 20
PATIENCE = 60  # seconds without a byte


def fetch_file(url: str, folder: Path) -> Path:
    """The file at `url` in `folder`, under its own name. What came of it stands in NAME.part until it is whole.

    UserError for an address that has no such file, RunError if it can't be reached or breaks off.
    """
    name = Path(urlsplit(url).path).name
    target, part = folder / name, folder / f"{name}.part"
    if target.exists():
        return target
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{name} is not here, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    folder.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer, open(part, "ab") as file:
            if done and answer.status != 206:  # it sends the whole file again
                file.truncate(0)
                done = 0
            left = answer.headers.get("Content-Length")
            want = done + int(left) if left else 0
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            os.replace(part, target)
            return target
        raise UserError(
            f"{url}: {error.code} {error.reason}", "was it renamed there? see sonarllm models import --help"
        ) from None
    except OSError as error:  # what can't be reached, breaks off or has no room
        if error.errno == errno.ENOSPC:
            raise RunError(f"no space left to fetch {name}", "free some, and pull again: it goes on") from None
        reason = getattr(error, "reason", None) or error.strerror or error
        raise RunError(f"can't fetch {url}: {reason}", "check the network, and pull again: it goes on") from None
    if done < want:
        raise RunError(f"{url} broke off after {done:,} of {want:,} bytes", "pull again: it goes on")
    os.replace(part, target)
    return target
