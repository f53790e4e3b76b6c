"""Two spaces with one encoder → a space whose decoder's weights are the mean of theirs.

    python recipes/mini/average.py runs/both/model runs/space/model 0.4 OUT

A decoder that learned to write from what is predicted forgets some of what it wrote from sentences' own vectors; a
share of the weights that it began from brings that back, at little loss of what it learned (WiSE-FT: Wortsman et al.
2022, eq. 1). OUT is a space of its own, with a new fingerprint: train a concept model through it a little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sonarllm_cli.errors import UserError
from sonarllm_cli.runtime import choose
from sonarllm_cli.weights import tensors
from sonarllm_cli.weights.loaded import load_space


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuned", type=Path)
    parser.add_argument("begun", type=Path)
    parser.add_argument("share", type=float, help="of the second's weights, 0 to 1")
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="float16", help="how OUT is stored: float32, float16, bfloat16, int8")
    args = parser.parse_args(words)
    try:
        average(args.tuned, args.begun, args.share, args.out, args.weights)
    except UserError as error:
        parser.error(str(error))


def average(tuned_folder: Path, begun_folder: Path, share: float, out: Path, weights: str) -> None:
    """Write the mean, `share` of it the second's; UserError where the encoders differ."""
    tuned, begun = (load_space(str(f), choose("cpu", "float32"), trainable=True) for f in (tuned_folder, begun_folder))
    other = dict(begun.net.named_parameters())
    for name, weight in tuned.net.named_parameters():
        if name not in other or (name.startswith("encoder.") and not weight.equal(other[name])):
            raise UserError(f"{tuned_folder} and {begun_folder} differ in {name}", "name two that share an encoder")
        weight.data.lerp_(other[name].data, share)
    config = json.loads((tuned_folder / "config.json").read_text("utf-8"))
    tensors.save(
        out,
        kind="sonar",
        model=tuned.net,
        card=(tuned_folder / "README.md").read_text("utf-8"),
        weights=weights,
        tokenizer=tuned.tokenizer.model_bytes,
        **{key: config[key] for key in ("licence", "langs", "training")},
    )


if __name__ == "__main__":
    main()
