"""A SONAR space of random weights, of the published shape or a tiny one, and documents of random words to learn from:
what a training step costs hangs on shapes and lengths alone. Nothing is downloaded.

    python recipes/gpu/synthetic.py OUT --size published --device cuda    # → OUT/space, OUT/documents.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import torch

from sonarllm_cli.nets.sonar import Sonar, SonarConfig
from sonarllm_cli.weights import model_dir, registry, tensors

ROOT = Path(__file__).parents[2]
SENTENCES = 31  # of a document; with the ending as many as a recipe reads
SHAPES = {
    "published": SonarConfig(encoder_layers=1, tied=True),  # the encoder only makes the store
    "tiny": SonarConfig(
        width=32, heads=2, ffn=64, encoder_layers=1, decoder_layers=1, vocab_size=12_000, embedding=32, tied=True
    ),
}


def make_space(folder: Path, shape: SonarConfig, device: str) -> None:
    """A model folder with the embedded model's tokenizer, whose ids are the first of the larger table."""
    torch.manual_seed(0)
    with torch.device(device):
        net = Sonar(shape).init_()
    home = registry.find("mini-sonar")
    words, langs = (home / "tokenizer.model").read_bytes(), model_dir.read_config(home)["langs"]
    tensors.save(folder, kind="sonar", model=net.cpu(), weights="bfloat16", tokenizer=words, langs=langs)


def make_documents(path: Path, count: int) -> None:
    """Sentences of a log-normal number of words, 15 in the median, as news have them."""
    rng = random.Random(0)
    words = sorted(set(re.findall("[a-z]+", (ROOT / "examples" / "article.txt").read_text("utf-8"))))
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            lengths = [min(60, max(4, round(rng.lognormvariate(2.7, 0.5)))) for _ in range(SENTENCES)]
            text = " ".join(" ".join(rng.choices(words, k=n)).capitalize() + "." for n in lengths)
            print(json.dumps({"text": text}), file=file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SHAPES, default="published")
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    make_documents(given.out / "documents.jsonl", given.documents)
    make_space(given.out / "space", SHAPES[given.size], given.device)
