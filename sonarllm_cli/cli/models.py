"""sonarllm models: what is here, and how it gets here and away."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import printable
from . import complete
from .common import json_option, line
from .export import export
from .groups import NamingGroup

SOUND_KIND = "sonar-speech"
TRAINED = ("steps", "tokens", "minutes")  # what `show` says of a training

name_argument = click.argument("name", shell_complete=complete.models)
dtype_option = click.option(
    "--dtype", help="float32, bfloat16, float16 or int8; else as published.", shell_complete=complete.dtypes
)
licence_option = click.option("--licence", default="", help="To note with the model: CC-BY-NC-4.0 …")
_file_option = functools.partial(click.option, shell_complete=complete.files)
_space_option = functools.partial(click.option, "--sonar", shell_complete=complete.models)
_language_option = functools.partial(click.option, "--lang", shell_complete=complete.languages)
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")


@click.group(cls=NamingGroup)
def models() -> None:
    """List, import, fetch, export, publish and remove models.

    \b
    Example:
      sonarllm models list
    """


@models.command("list")
@click.option("--here", is_flag=True, help="Not the published models that could be fetched.")
@click.option("--all", "each", is_flag=True, help="A row for each published speech encoder, as in --json.")
@json_option
@debug_option
def list_(here: bool, each: bool, as_json: bool) -> None:
    """List models: those in the package, those in the cache, and published ones that can be fetched.

    \b
    Example:
      sonarllm models list
    """
    from ..io.files import open_output
    from ..weights import registry

    rows: list[dict[str, Any]] = [vars(entry) for entry in registry.list_models()]
    if not here:
        rows += registry.not_here()
    if as_json:
        with open_output(None) as out:
            for row in rows:
                print(line(row), file=out)
        return
    speech = [] if each else [r for r in rows if r["kind"] == SOUND_KIND and not r["path"]]
    cells = [
        (r["name"], r["kind"], count(r["parameters"]), size(r["bytes"]), r["weights"], r["licence"] or "-", _where(r))
        for r in rows
        if r not in speech
    ]
    if speech:
        where = f"{len(speech)}, one a language: sonarllm models list --all"
        cells.append(("sonar-speech-…", SOUND_KIND, count(speech[0]["parameters"]), "-", "", "", where))
    show_table(("name", "kind", "parameters", "size", "weights", "licence", "where"), cells)


def _where(row: dict[str, Any]) -> str:
    return "in the package" if row["embedded"] else row["path"] or f"sonarllm models pull {row['name']}"


@models.command()
@click.argument("name", shell_complete=complete.all_models)
@json_option
@debug_option
def show(name: str, as_json: bool) -> None:
    """Show what is known of a model, here or published: sizes, licence, source, hashes, languages. --json has the
    settings and figures of its training too.

    \b
    Example:
      sonarllm models show mini
    """
    from ..io.files import open_output
    from ..weights import registry

    facts = registry.show(name)
    with open_output(None) as out:
        if as_json:
            print(line(facts), file=out)
            return
        config = facts.pop("config")
        training = config.pop("training", {})
        config = {key: value for key, value in config.items() if key not in ("format", "langs")}
        facts |= {key: f"{facts[key]:,}" for key in ("parameters", "bytes")}
        facts["licence"] = facts["licence"] or "not stated"
        if not facts["path"]:  # of what is not here there is no more to say
            facts = {key: facts[key] for key in ("name", "kind", "parameters", "licence")}
            facts["where"] = f"not on this machine; sonarllm models pull {name}"
        facts |= {key: value for key, value in config.items() if key not in facts}
        if told := [f"{training[key]:,} {key}" for key in TRAINED if isinstance(training.get(key), int | float)]:
            facts["training"] = ", ".join(told)
        for key, value in facts.items():
            for subkey, subvalue in value.items() if isinstance(value, dict) else [("", value)]:
                text = " ".join(map(str, subvalue)) if isinstance(subvalue, list) else subvalue
                print(f"{key}{'.' if subkey else ''}{subkey}: {text}", file=out)


@models.command()
@name_argument
@debug_option
def path(name: str) -> None:
    """Print the folder of a model.

    \b
    Example:
      sonarllm models path mini
    """
    from ..weights import registry

    print(registry.find(name))


@models.command()
@name_argument
@debug_option
def verify(name: str) -> None:
    """Compare a model's files with the hashes noted when it was made.

    \b
    Example:
      sonarllm models verify mini
    """
    from ..weights import registry

    for file in registry.verify(name):
        print(f"{file}: good")


@models.command()
@name_argument
@debug_option
def rm(name: str) -> None:
    """Delete a model from the cache directory.

    \b
    Example:
      sonarllm models rm my-sonar
    """
    from ..weights import registry

    print(f"removed {registry.remove(name)}", file=sys.stderr)


@models.command()
@click.argument("name", shell_complete=complete.published_models)
@click.option("--as", "save_as", default="", metavar="NAME", help="Call it this here.")
@click.option(
    "--sonar",
    default="sonar-200",
    show_default=True,
    help="For hf:…: the space a SONAR-LLM lives in.",
    shell_complete=complete.models,
)
@dtype_option
@debug_option
def pull(name: str, save_as: str, sonar: str, dtype: str | None) -> None:
    """Fetch a published model: one of `models list`, or hf:ORG/REPO[@REVISION].

    A SONAR-LLM or a speech encoder brings its space with it. The licence is shown first. HF_HOME, HF_TOKEN,
    HF_ENDPOINT and HF_HUB_OFFLINE are honoured.

    \b
    Example:
      sonarllm models pull sonar-llm-100m
    """
    from ..weights import hub

    print(hub.pull(name, save_as=save_as, sonar=sonar, dtype=dtype, say=lambda text: click.echo(text, err=True)))


@models.command()
@click.argument("model", shell_complete=complete.models)
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make the repository a private one.")
@debug_option
def push(model: str, repo: str, private: bool) -> None:
    """Publish a model here, by its name or folder, as REPO (org/name) on a hub, with its model card.

    HF_TOKEN and HF_ENDPOINT are honoured. Others then have it with: sonarllm models pull hf:REPO

    \b
    Example:
      sonarllm models push runs/mini/model me/my-model --private
    """
    from ..weights.push import push

    print(push(model, repo, private=private, say=lambda text: click.echo(text, err=True)))


models.add_command(export)

# ---------------------------------------------------------------------------------------------- import


@models.group("import", cls=NamingGroup)
def import_() -> None:
    """Convert published checkpoints to a model here.

    \b
    Example:
      sonarllm models import sonar --help
    """


def _importer(command: str, work: str, about: str, example: str, *options: Any) -> None:
    """A command of `import`: `work`, a function of weights/, with these options beside those that all have. It prints
    the folder that is made."""

    def run(name: str, **values: Any) -> None:
        from ..nets.kinds import named

        print(named("sonarllm_cli.weights", work)(name, **values))

    made: Any = run
    for option in reversed((name_argument, *options, dtype_option, licence_option, debug_option)):
        made = option(made)
    shown = f"Import {about}\n\n\b\nExample:\n  sonarllm models import {command} {example}"
    import_.command(command, help=shown)(made)


def _langs(ctx: click.Context, param: click.Parameter, text: str | None) -> list[str] | None:
    from ..io.files import read_text

    if text is None:
        return None
    listed = read_text(text) if Path(text).is_file() else text
    return listed.replace(",", " ").split()


_checkpoint_option = click.option(
    "--checkpoint", required=True, help="The published file.", shell_complete=complete.files
)
_importer(
    "sonar",
    "convert.import_sonar",
    "a SONAR text encoder and decoder as NAME.\n\n"
    "Layouts: fairseq2 and fairseq .pt files, and folders of transformers (M2M100Encoder, "
    "M2M100ForConditionalGeneration). Files that hold more than tensors are refused.",
    "my-sonar \\\n"
    "    --encoder tests/parity/text_encoder.fairseq2.pt \\\n"
    "    --decoder tests/parity/text_decoder.fairseq2.pt \\\n"
    "    --tokenizer tests/parity/sentencepiece.model --heads 4 --max-tokens 64 \\\n"
    "    --langs ace_Arab,deu_Latn,eng_Latn,fra_Latn,ita_Latn,spa_Latn,zul_Latn",
    click.option(
        "--encoder",
        required=True,
        help="Text encoder: fairseq .pt, or a transformers folder.",
        shell_complete=complete.files,
    ),
    click.option(
        "--decoder",
        required=True,
        help="Text decoder: fairseq .pt, or a transformers folder.",
        shell_complete=complete.files,
    ),
    click.option(
        "--tokenizer",
        required=True,
        help="sentencepiece model, or a transformers folder.",
        shell_complete=complete.files,
    ),
    click.option(
        "--langs",
        callback=_langs,
        shell_complete=complete.files,
        help="Languages in vocabulary order, comma-separated, or a file of them; else FLORES-200.",
    ),
    click.option("--heads", type=click.IntRange(1), help="Attention heads; else from config.json, or width / 64."),
    click.option("--max-tokens", type=click.IntRange(1), help="Longest text; else from config.json, or 514 and 512."),
)
_importer(
    "sonar-llm",
    "convert.import_sonar_llm",
    "a SONAR-LLM checkpoint as NAME.",
    "my-sonar-llm --sonar my-sonar \\\n"
    "    --checkpoint tests/parity/sonarllm_reference_checkpoint.pt \\\n"
    "    --config tests/parity/sonarllm_reference_config.json",
    click.option(
        "--checkpoint",
        required=True,
        help="Checkpoint file, or a folder with config.json.",
        shell_complete=complete.files,
    ),
    click.option(
        "--config", help="JSON file with llama_config; else the folder's config.json.", shell_complete=complete.files
    ),
    click.option(
        "--sonar",
        default="sonar-200",
        show_default=True,
        help="The space it was trained in.",
        shell_complete=complete.models,
    ),
    click.option(
        "--lang",
        default="eng_Latn",
        show_default=True,
        help="The language it writes.",
        shell_complete=complete.languages,
    ),
)
_importer(
    "speech",
    "convert.import_speech",
    "a SONAR speech encoder as NAME.",
    "my-ears --lang en \\\n    --checkpoint tests/parity-speech/speech_encoder.fairseq1.pt --pooler-heads 4",
    click.option(
        "--checkpoint",
        required=True,
        help="Speech encoder: a .pt file in fairseq's or fairseq2's layout.",
        shell_complete=complete.files,
    ),
    click.option(
        "--lang",
        required=True,
        help="The language it hears: FLORES code, or en, de …",
        shell_complete=complete.languages,
    ),
    _space_option(default="", metavar="SPACE", help="The space it was taught; without, nothing decodes its vectors."),
    click.option("--heads", type=click.IntRange(1), help="Attention heads, to be checked against the weights'."),
    click.option("--pooler-heads", type=click.IntRange(1), help="The pooler's; as many as the encoder's if not given."),
)
for _head, _about, _file in (
    ("blaser", "BLASER 2.0, ref or qe, as NAME, for sonarllm score.", "blaser_qe.pt"),
    ("mutox", "MuTox as NAME, for sonarllm score.", "mutox.pt"),
):
    _importer(
        _head,
        f"convert_heads.import_{_head}",
        _about,
        f"my-{_head} --sonar my-sonar \\\n    --checkpoint tests/parity-heads/{_file}",
        _checkpoint_option,
        click.option(
            "--sonar",
            default="",
            help="The space whose vectors it reads; else any of its width.",
            shell_complete=complete.models,
        ),
    )
_importer(
    "laser2",
    "convert_heads.import_laser2",
    "LASER2 as NAME, for sonarllm embed.",
    "my-laser2 \\\n    --checkpoint tests/parity-heads/laser2.pt --tokenizer tests/parity/sentencepiece.model",
    _file_option("--checkpoint", required=True, help="laser2.pt."),
    _file_option("--tokenizer", required=True, help="laser2.spm."),
    click.option(
        "--as",
        "reads_as",
        type=click.Choice(["laser", "sonar-space"]),
        default="laser",
        show_default=True,
        help="Normalise punctuation and lower-case texts, as LASER does, or not.",
    ),
)


# ---------------------------------------------------------------------------------------------- showing


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, aligned columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header, box=None, header_style="bold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def count(number: int) -> str:
    """Parameters, as people say them: 1234567 → "1.2 M"."""
    return _human(number, 1000, ("", " k", " M", " B"))


def size(number: int) -> str:
    """Bytes, as people say them: 3064513202 → "2.9 GiB"."""
    return _human(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _human(number: float, step: int, units: Sequence[str]) -> str:
    if not number:
        return "-"
    power = 0
    while number >= step and power < len(units) - 1:
        number, power = number / step, power + 1
    return f"{number:.1f}{units[power]}" if power and number < 10 else f"{number:.0f}{units[power]}"
