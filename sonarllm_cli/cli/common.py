"""Options that mean the same in every command, and how results are shown."""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..bounds import MOST
from ..errors import RunError, UserError, printable
from ..io.files import check_file
from . import complete

if TYPE_CHECKING:
    from ..io.audio import Recording
    from ..runtime import Runtime
    from ..weights.loaded import Space

LEAST_MEMORY = 1 << 30  # bytes of address space; under 0.9 GB PyTorch's build for CPUs was seen to abort or hang
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True)
class Whole(click.ParamType):
    """A whole number within bounds, of which --help need not speak; with `auto` also that word, which the command gets
    as None."""

    low: int = 1
    high: int = MOST
    auto: bool = False
    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if self.auto and value == "auto":
            return None
        try:
            number = int(value)
        except ValueError:
            number = self.low - 1
        if not self.low <= number <= self.high:
            self.fail(f"{value} is not {self.low} to {self.high:,}{', or auto' if self.auto else ''}", param, ctx)
        return number


COUNT = Whole()
SEED = Whole(0, (1 << 63) - 1)


def _place(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Where a file is to be written; that it can't be is told before anything is loaded."""
    if value not in (None, "-"):
        check_file(value)
    return value


_file = click.Path(allow_dash=True)  # whether it is there is said with a cure by what reads it
file_argument = click.argument("file", default="-", metavar="[FILE|-]", type=_file)
files_argument = click.argument("files", nargs=-1, metavar="[FILE|DIR|-]…", type=_file)


def language_option(flag: str, help: str, default: str = "auto") -> Callable[[F], F]:
    """An option that takes a language, which shells complete."""
    return click.option(
        flag,
        default=default,
        show_default=bool(default),
        help=help,
        shell_complete=complete.languages,
        callback=lambda _, __, value: _plain_auto(value),
    )


def _plain_auto(value: str) -> str:
    """A language as it was given, "auto" in whatever case."""
    return "auto" if value.strip().casefold() == "auto" else value


text_lang_option = language_option(
    "--lang", "Language of the text: FLORES code, or en, de …; auto: what it looks like."
)
to_lang_option = language_option("--to-lang", "Language of B.")
write_lang_option = functools.partial(
    language_option, help="Language to write: FLORES code, or en, de …", default="eng_Latn"
)
out_lang_option = language_option("--out-lang", "Language to write in; the model's own if not given.", "")
device_option = click.option("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto.", show_default=True)


def model_option(help: str = "A model's name or folder.", default: str = "mini") -> Callable[[F], F]:
    """`-m`, which shells complete."""
    return click.option(
        "-m", "--model", default=default, show_default=bool(default), help=help, shell_complete=complete.models
    )


json_option = click.option("--json", "as_json", is_flag=True, help="JSON Lines.")
output_option = click.option(
    "-o", "--output", metavar="OUT", type=_file, callback=_place, help="Write here instead of stdout."
)


@dataclass(frozen=True)
class Compute:
    """What the compute options said; torch is imported when `runtime` is asked for."""

    model: str
    device: str
    dtype: str
    batch_size: int | None
    seed: int | None
    quiet: bool

    @functools.cached_property
    def runtime(self) -> Runtime:
        from ..runtime import choose, set_up_logging

        set_up_logging(self.quiet)
        return choose(self.device, self.dtype, seed=self.seed)

    @functools.cached_property
    def space(self) -> Space:
        """The space that the model is, or lives in; loaded when it is asked for."""
        from ..weights.loaded import load_space

        return load_space(self.model, self.runtime)

    @property
    def bar(self) -> bool:
        """Whether to show progress: on a terminal only."""
        return not self.quiet and sys.stderr.isatty()


def quiet_options(command: F) -> F:
    """`-q` and `--debug`."""
    command = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="No messages but errors.")(command)


def compute_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-m`, `--device`, `--dtype`, `-b`, `--seed`, `-q`, `--debug`; the command gets them as one `compute`."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        check_room()
        load_torch()
        own = {name: values.pop(name) for name in ("model", "device", "dtype", "batch_size", "seed", "quiet")}
        return command(compute=Compute(**own), **values)

    for option in (
        click.option("--seed", type=SEED, help="Seed of what is random."),
        click.option(
            "-b",
            "--batch-size",
            type=Whole(auto=True),
            default="auto",
            metavar="N|auto",
            help="Texts at once.",
            show_default=True,
        ),
        click.option(
            "--dtype",
            default="auto",
            help="float32, bfloat16, float16, tf32 (GPU), int8 (CPU) or auto.",
            show_default=True,
            shell_complete=complete.dtypes,
        ),
        device_option,
        model_option(),
    ):
        wrapped = option(wrapped)
    return quiet_options(wrapped)


def check_room() -> None:
    """RunError where `ulimit -v` leaves less than PyTorch takes: its libraries then abort as they load, in words of
    their own, or never end."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
        message = f"out of memory: ulimit -v allows {limit >> 20:,} MiB, and PyTorch alone takes about as much"
        raise RunError(message, f"allow {LEAST_MEMORY >> 20:,} MiB or more: ulimit -v {LEAST_MEMORY >> 10}")


def load_torch() -> None:
    """PyTorch, loaded with the garbage collector at rest: nothing that it makes is garbage, and looking through all of
    it, again and again as it grows and as the process ends, takes a fifth of a short command's time."""
    if "torch" in sys.modules:
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--beam`, `--temperature`, `--top-p`, `--max-tokens`, `--length-penalty`, `--no-repeat-ngram`,
    `--repetition-penalty`; the command gets those that have a value as a dict `search`, fields of a `Search`."""
    names = ("beam", "temperature", "top_p", "max_tokens", "length_penalty", "no_repeat_ngram", "repetition_penalty")

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        given = {name: values.pop(name) for name in names}
        return command(search={name: value for name, value in given.items() if value is not None}, **values)

    for option in (
        click.option(
            "--repetition-penalty",
            type=float,
            help="Of tokens written; 1 is none. By default 1.1 of what a concept model predicts, else 1.",
        ),
        click.option(
            "--no-repeat-ngram",
            type=Whole(0),
            metavar="N",
            help="No N tokens twice in what is written; 0: they may. By default 4 of what a concept model predicts.",
        ),
        click.option(
            "--length-penalty",
            type=float,
            help="Below 1 shorter sentences are chosen. By default 0.7 where a concept model continues a text, else 1.",
        ),
        click.option(
            "--max-tokens", type=COUNT, default=256, show_default=True, help="Of a sentence, prompt and </s> included."
        ),
        click.option("--top-p", type=float, help="Sample among the likeliest tokens of this mass."),
        click.option("--temperature", type=float, help="Sample at this temperature."),
        click.option("--beam", default=5, show_default=True, help="Beams of the search; 1 is greedy."),
    ):
        wrapped = option(wrapped)
    return wrapped


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--stop`, `--stop-threshold`, `--feedback`; the command gets them as a dict `rules`, fields of a `Writing`."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        return command(rules={name: values.pop(name) for name in ("stop", "stop_threshold", "feedback")}, **values)

    for option in (
        click.option(
            "--feedback",
            type=click.Choice(["reembed", "latent"]),
            default="reembed",
            show_default=True,
            help="Read next: the decoded sentence embedded again, or the predicted vector.",
        ),
        click.option(
            "--stop",
            type=click.Choice(["predicted", "reembedded"]),
            default="reembedded",
            show_default=True,
            help="Judge the predicted vector alone, or the decoded sentence embedded again too.",
        ),
        click.option(
            "--stop-threshold", default=0.98, show_default=True, help="Cosine with the ending that ends the text."
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


speech_option = click.option(
    "--speech",
    default="",
    metavar="MODEL",
    shell_complete=complete.models,
    help="The encoder of the language spoken in recordings; by default that which comes with the space.",
)


def texts_or_recordings(
    files: Sequence[str], speech: str = "", folders: Collection[str] = ()
) -> tuple[Failures, Iterator[tuple[str, str | Recording]]]:
    """What tells the failures, and each file's name with its text, or the file as a recording; of `folders` only files
    of these endings. Of several files one that can't be read is told. UserError for a `speech` encoder that has nothing
    to hear."""
    from ..io.audio import check_speech
    from ..io.texts import INPUT_ENDINGS, expand, read_inputs

    endings = folders or INPUT_ENDINGS
    names = expand(files, endings)
    check_speech(speech, names)
    failures = Failures(len(names) > 1)
    return failures, read_inputs(files, failures.tell if failures.several else None, endings)


no_repeat_option = click.option("--no-repeat", is_flag=True, help="Write no sentence twice.")


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--guidance` and `--diffusion-steps`, of diffusion models; the command gets those given as a dict `sampling`."""

    @functools.wraps(command)
    def wrapped(guidance: float | None, diffusion_steps: int | None, **values: Any) -> Any:
        given = {"guidance": guidance, "inference_steps": diffusion_steps}
        return command(sampling={k: v for k, v in given.items() if v is not None}, **values)

    for option in (
        click.option("--diffusion-steps", type=COUNT, metavar="N", help="diffusion-lcm: steps out of noise."),
        click.option("--guidance", type=float, help="diffusion-lcm: weight of the text; 1 is no guidance."),
    ):
        wrapped = option(wrapped)
    return wrapped


def begun(items: Iterator[T]) -> Iterator[T]:
    """`items`, the first of which is asked for now: its faults are told before a model is loaded."""
    return chain([next(items)], items)


class Failures:
    """What of several things can't be done is told and the rest done: the command's exit code is 1, or 2 where nothing
    was done. One thing alone ends the command at once.

    with Failures(len(files) > 1) as failures:
        for file in files:
            with failures.told(): work(file)
    """

    def __init__(self, several: bool) -> None:
        self.several, self.count = several, 0
        self.done = False  # any of them

    def __enter__(self) -> Failures:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.count and kind is None:
            if not self.done:
                raise UserError("nothing could be done", "what stood in the way is named above")
            raise RunError(f"{self.count} could not be done", "they are named above; the others are done")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Work on one of them."""
        try:
            yield
            self.done = True
        except RunError:  # a full disk, which the others would meet too
            raise
        except UserError as error:
            if not self.several:
                raise
            self.tell(error)

    def tell(self, error: UserError) -> None:
        """Say what went wrong, and go on."""
        click.echo(f"sonarllm: {printable(str(error))}", err=True)
        self.count += 1


def line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)


@contextmanager
def reporting(show: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A `report(what, done, total)` that draws a bar with the time left on stderr; None where none is shown."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)
            if what == "reading" and done == total:  # what is written next goes to the same terminal
                bar.stop()

        yield report


def progress(items: Iterable[T], label: str, show: bool, size: Callable[[T], int], total: int | None) -> Iterator[T]:
    """`items`, with a bar on stderr that moves by `size` of each."""
    if not show:
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))
