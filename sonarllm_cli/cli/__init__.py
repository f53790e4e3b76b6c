"""The command line. Each command is a file of this folder, imported when it is called: `--help` loads no torch.

Text comes in on a file argument or stdin (`-`), data goes out on stdout or `-o`, everything else on stderr.
Exit codes: 0, 1 a run failed or some of several files could not be read, 2 usage or bad input, 130 interrupted,
143 terminated; a closed pipe is quiet.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

import click

from .. import __version__
from ..errors import UserError, printable
from .groups import NamingGroup

COMMANDS = {
    "segment": "Split text into sentences",
    "embed": "Turn sentences into embeddings",
    "decode": "Turn embeddings into sentences, in any language the model has",
    "generate": "Continue a text, sentence by sentence",
    "summarize": "Summarise a text",
    "search": "Find the sentences nearest to a query",
    "align": "Align the sentences of two documents",
    "mine": "Find pairs that say the same in two sets",
    "translate": "Translate a document, layout kept",
    "score": "Score rows: cosine, BLASER, MuTox",
    "train": "Train a model from a recipe",
    "evaluate": "Score a model on data",
    "bench": "Measure what a context costs and how fast the chain is here",
    "models": "List, import, fetch and remove models",
    "completion": "Print the completion script of a shell",
}
EXAMPLES = """\b
Examples:
  sonarllm summarize article.txt
  sonarllm segment article.txt | sonarllm embed -o article.npy
  echo "Non ho tempo oggi." | sonarllm embed | sonarllm decode --lang en
"""


class LazyGroup(NamingGroup):
    """Commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # who read has read enough; click would call it a failure
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sonarllm")
def sonarllm() -> None:
    """Concept-level language models: read and write whole sentences as vectors."""


STOPPING = 2.0  # seconds in which no second signal is heard: what is half-written is being put away
# What libraries say when there is no memory left, under exceptions of many names.
_NO_MEMORY = re.compile(
    r"allocate memory|out of memory|start new thread|failed to map segment|bad_alloc", re.IGNORECASE
)


class Stopped(BaseException):
    """A signal asks the process to end. No KeyboardInterrupt, which click would answer with a line of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: list[str] | None = None) -> None:
    """The entry point: runs a command and turns what went wrong into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments or bool(os.environ.get("SONARLLM_DEBUG"))
    _plug()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # help and messages; data is UTF-8 everywhere (files.open_output)
    with _signals():
        code = _run(arguments, debug)
        try:
            sys.stdout.flush()
        except OSError:  # a closed pipe, a full disk
            _silence(sys.stdout)
    sys.exit(code if isinstance(code, int) else 0)


def _silence(stream: TextIO) -> None:
    """Give the interpreter's own last flush somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _plug() -> None:
    """Standard streams that were closed get the null device, so that no file that is opened gets their number. What is
    written to standard output then is an error, what is written to standard error is not."""
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # which takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a command as an exception does, so that nothing is left half-written."""
    heard: list[float] = []

    def stop(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not heard or now - heard[-1] > STOPPING:
            heard.append(now)
            raise Stopped(number)

    old = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # not ignored, as by nohup
                old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        if not heard:  # else the process is ending, and may be asked to again
            for number, handler in old.items():
                signal.signal(number, handler)


def _run(arguments: list[str], debug: bool) -> object:
    """Run a command; → its exit code, once what went wrong is said."""
    code: object
    if "_SONARLLM_COMPLETE" in os.environ:
        importlib.import_module(f"{__name__}.completion")  # which has the shells' own ways
    try:
        code = sonarllm.main(arguments, prog_name="sonarllm", standalone_mode=False, obj=list(arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = 2
    except click.ClickException as error:
        code = _complain(_usage(error), 2, debug)
    except UserError as error:
        code = _complain(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted", 130, debug=False)
    except Stopped as end:
        word = "interrupted" if end.number == signal.SIGINT else "terminated"
        code = _complain(word, 128 + end.number, debug=False)
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            code = _complain("out of memory; use a smaller --batch-size, or --dtype bfloat16", 1, debug)
        elif isinstance(error, OSError):
            code = _complain(f"{error.filename or 'standard output'}: {error.strerror or error}", 1, debug)
        else:
            raise
    return code


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context else message


def _complain(message: str, code: int, debug: bool) -> int:
    """One line on stderr; with --debug the traceback before it."""
    if debug:
        import traceback

        traceback.print_exc()
    try:
        print("sonarllm: " + printable(" ".join(message.split())), file=sys.stderr, flush=True)
    except OSError:  # a closed pipe, a full disk
        _silence(sys.stderr)
    return code
