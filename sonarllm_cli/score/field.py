"""`evaluate familiar`: whether a space tells text of its field from other text, as `summarize` asks it to.

    sonarllm evaluate familiar --data valid.jsonl --foreign examples/foreign.jsonl

A text's first sentences are scored by `flow.familiar`, in bits a byte: low in the field, high outside.

Legend: S sentences, D embedding.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import islice

from ..data import corpus
from ..data.records import Data
from ..errors import UserError
from ..flow.embed_text import embed_sentences, fits
from ..flow.familiar import reconstruction
from ..flow.segment import segment_stream
from ..weights import model_dir, registry
from ..weights.loaded import load_space
from .plan import Plan, Result, Sample, sampled

SENTENCES = 8  # looked at of a text, so that long and short ones are judged on as much
LANG = "eng_Latn"  # that all are read as

Text = tuple[str, str]  # its kind ("" in the field) and itself


def fields(model: str, data: list[str], run: Plan, foreign: Sequence[str]) -> Result:
    """AUC of the bits a byte, all and by kind; medians; and, where the model says up to how many bits a text is of its
    field, how much of the field and of each kind is: all in per cent but the medians. `data` holds the files of
    `foreign`, too."""
    space = load_space(model, run.runtime)
    seen = set(run.seen)
    known = [text for text in _texts([name for name in data if name not in foreign]) if text[1] not in seen]
    strange = list(_texts(foreign, "foreign"))
    if not known or not strange:
        raise UserError(
            f"no text {'of the field' if strange else 'foreign to it'} to score",
            "give --data and --foreign files with texts",
        )
    bits: dict[str, list[float]] = {}
    samples: list[Sample] = []
    for kind, text in [*sampled(known, run.limit, run.seed), *strange]:
        found = [s.flat for s in islice(segment_stream([text], lang=LANG, fits=fits(space)), SENTENCES)]
        own = reconstruction(found, embed_sentences(found, LANG, space), LANG, space) if found else float("inf")
        bits.setdefault(kind, []).append(own)
        samples.append({"kind": kind, "text": " ".join(found), "bits a byte": round(own, 3)})
    field = bits.pop("")
    limit = model_dir.read_config(registry.find(model)).get("familiar_bpb", 0)
    figures: dict[str, float] = {"AUC": auc(field, [b for own in bits.values() for b in own])}
    figures |= {f"AUC, {kind}": auc(field, own) for kind, own in bits.items()}
    for kind, many in {"the field": field, **bits}.items():
        figures[f"{kind}: bits a byte"] = statistics.median(many)
        if limit:
            figures[f"{kind}: taken for the field"] = 100 * sum(b <= limit for b in many) / len(many)
        figures[f"{kind}: texts"] = len(many)
    return figures, samples


def auc(low: Sequence[float], high: Sequence[float]) -> float:
    """How often one of `high` is over one of `low`, ties half, in per cent (Mann & Whitney 1947)."""
    wins = sum((b > a) + 0.5 * (a == b) for a in low for b in high)
    return 100 * wins / (len(low) * len(high))


def _texts(names: Sequence[str], kind: str = "") -> Iterator[Text]:
    for place, record in corpus.rows(Data(), names):
        text = "\n\n".join(corpus.blocks(record, place))
        if text.strip():
            own = record.get("kind")
            yield (own if isinstance(own, str) and own else kind) if kind else "", text
