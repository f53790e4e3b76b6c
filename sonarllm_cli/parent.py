"""A process that ends with the one that started it, however that ended: by SIGKILL too, of which no process is told.

end_with(os.getppid())
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

LAUNCHER = "SONARLLM_LAUNCHER"  # tells those that a process starts its number
TORCHRUN = "TORCHELASTIC_RUN_ID"  # what torchrun tells them
PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int) -> None:
    """End this process at once when `parent`, which started it, is gone; not on Windows, where none is told."""
    if os.name != "posix":
        return
    if not _killed_by_the_system():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


def end_with_launcher() -> None:
    """The same, of a process that `train --nproc`, `embed --nproc` or torchrun started; any other goes on as it is."""
    launcher = os.environ.pop(LAUNCHER, "")  # what this process starts has another parent
    if launcher:
        end_with(int(launcher))
    elif TORCHRUN in os.environ:
        end_with(os.getppid())


def _killed_by_the_system() -> bool:
    """Ask Linux to kill this process, in the midst of whatever it does, when its parent is gone."""
    if sys.platform != "linux":
        return False
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
