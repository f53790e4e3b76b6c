"""sonarllm models export: a space in another library's layout."""

from __future__ import annotations

import click

from . import complete


@click.command()
@click.argument("name", shell_complete=complete.models)
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["transformers", "sentence-transformers", "onnx"]),
    help="The library that shall load it.",
)
@click.option(
    "--lang",
    default="",
    help="What sentence-transformers takes texts for; else English, where there is.",
    shell_complete=complete.languages,
)
@click.option(
    "--dtype",
    help="float32, float16 or bfloat16, else as stored; for onnx float32 or int8.",
    shell_complete=complete.dtypes,
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def export(name: str, folder: str, to: str, lang: str, dtype: str | None) -> None:
    """Write the space of a model as a FOLDER that another library loads, with a README.md that says how.

    transformers: M2M100, encoder/ and decoder/. sentence-transformers: SentenceTransformer(FOLDER), the encoder alone.
    onnx: encoder.onnx and decoder_step.onnx (pip install 'sonarllm-cli[export]').

    \b
    Example:
      sonarllm models export mini mini-st --to sentence-transformers
    """
    if to == "onnx":
        from ..weights.onnx import export_onnx

        print(export_onnx(name, folder, dtype=dtype))
        return
    from ..weights.export import export

    print(export(name, folder, to, dtype=dtype, lang=lang))
