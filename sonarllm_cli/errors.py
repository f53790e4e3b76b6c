"""Errors a user can cause: one line that says what is wrong, and the cure.

The command line prints `message; cure` on stderr and exits with `exit_code`: 2 for usage and bad input,
1 for a run that failed.
"""

from __future__ import annotations

# Characters that a terminal obeys instead of showing, but for tab and newline: C0, DEL and C1 (0x9b begins a sequence).
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    r"""`text` as it may be shown on a terminal, whoever wrote it: escape sequences and their like are spelled out.

    >>> printable("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return text.translate(_CONTROLS)


class UserError(Exception):
    """Bad input or usage. `message` says what is wrong, `cure` what to do about it.

    >>> str(UserError("no such file: a.txt", "check the path"))
    'no such file: a.txt; check the path'
    """

    exit_code = 2

    def __init__(self, message: str, cure: str = "") -> None:
        self.message, self.cure = message, cure
        super().__init__(f"{message}; {cure}" if cure else message)


class RunError(UserError):
    """A run that began well and failed: a full disk, a loss that is not finite."""

    exit_code = 1


def nearest(word: str, known: list[str]) -> str:
    """The entry of `known` spelled most like `word`, or '' when none is close."""
    import difflib

    hits = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return hits[0] if hits else ""
