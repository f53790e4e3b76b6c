"""The command line. Each command is a file of this folder, imported when it is called: `--help` loads no torch.

Text comes in on a file argument or stdin (`-`), data goes out on stdout or `-o`, everything else on stderr.
Exit codes: 0, 1 a run failed, 2 usage or bad input, 130 interrupted; a closed pipe is quiet.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from .. import __version__
from ..errors import UserError, nearest

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
  echo "Questo pacchetto contiene la documentazione." | sonarllm embed --lang it | sonarllm decode --lang en
"""


class Lazy(click.Group):
    """Commands by name; a mistyped one gets the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            guess = nearest(args[0], list(COMMANDS))
            hint = f"did you mean {guess}?" if guess else "see sonarllm --help"
            raise UserError(f"no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Lazy, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sonarllm")
def sonarllm() -> None:
    """Concept-level language models: read and write whole sentences as vectors."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point: runs a command and turns what went wrong into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments or bool(os.environ.get("SONARLLM_DEBUG"))
    try:
        code = sonarllm.main(arguments, prog_name="sonarllm", standalone_mode=False, obj=list(arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        code = _complain(_usage(error), 2, debug)
    except UserError as error:
        code = _complain(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted", 130, debug=False)
    except BrokenPipeError:
        code = 0
    except OSError as error:
        code = _complain(f"{error.filename or 'standard output'}: {error.strerror or error}", 1, debug)
    except MemoryError:
        code = _complain("out of memory; use a smaller --batch-size, or --dtype bfloat16", 1, debug)
    try:
        sys.stdout.flush()
    except OSError:  # a closed pipe, a full disk: give the interpreter's own last flush somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context else message


def _complain(message: str, code: int, debug: bool) -> int:
    """One line on stderr; with --debug the traceback before it."""
    if debug:
        import traceback

        traceback.print_exc()
    print("sonarllm: " + " ".join(message.split()), file=sys.stderr)
    return code
