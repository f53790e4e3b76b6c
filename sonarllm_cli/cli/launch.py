"""Several processes of a command on this machine, told of each other as torchrun does (RANK, WORLD_SIZE, …)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..errors import RunError
from ..parent import LAUNCHER


def is_first() -> bool:
    """Whether this process is the one that speaks; alone, it is."""
    return os.environ.get("RANK", "0") == "0"


def launch(count: int, arguments: Sequence[str]) -> None:
    """`sonarllm ARGUMENTS` in `count` processes; RunError with the first bad exit code, once the others have ended.

    SIGTERM and Ctrl-C reach all of them, and they end as they see fit. If this process is killed, so are they.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHER: os.getpid()}
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, **place}
    processes = []
    for rank in range(count):
        told = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        command = [sys.executable, "-m", "sonarllm_cli", *arguments]
        processes.append(subprocess.Popen(command, env={**os.environ, **told}))

    def pass_on(number: int, _: Any) -> None:
        for process in processes:
            if process.poll() is None and number != signal.SIGINT:  # Ctrl-C reached them too
                process.send_signal(number)

    old = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = _first_failure(processes)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if code:
        raise RunError(f"a process ended with {code}", "see its message above")


def _first_failure(processes: Sequence[subprocess.Popen[bytes]], patience: float = 60.0) -> int:
    """Wait for all. Once one has failed the others have `patience` seconds to notice."""
    code, end = 0, None
    while any(process.poll() is None for process in processes):
        code = code or next((p.returncode for p in processes if p.returncode), 0)
        if code and end is None:
            end = time.monotonic() + patience
        if end and time.monotonic() > end:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    return code or next((p.returncode for p in processes if p.returncode), 0)
