"""What `evaluate` measures: a model and data rows → figures and samples.

Data is what training reads (see learn/corpus.py): documents for `summarize`, pairs for `translate` and `xsim`, either
for `autoencode`. With `seen` texts, figures are on those that are not among them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import UserError
from ..flow.compose import Writing, continuation, summarize
from ..flow.decode import Search, decode_batch
from ..flow.embed import embed_sentences
from ..flow.model import Space, Writer, load_space, load_writer
from ..learn import corpus
from ..learn.losses import sentence_nll
from ..learn.recipe import Data
from ..nets.sonar_llm import ENDING
from ..runtime import Runtime
from ..tokens import EOS, fitting
from . import metrics

Sample = dict[str, Any]
Result = tuple[dict[str, float], list[Sample]]
MOST_WORDS = 30  # of a sentence to auto-encode


@dataclass(frozen=True)
class Wish:
    """How a task is run: where, less which texts, on how many of each language, by which search and draw."""

    runtime: Runtime
    seen: list[str]
    limit: int
    beam: int
    seed: int


def evaluate(
    task: str,
    model: str,
    data: Sequence[str],
    *,
    runtime: Runtime,
    seen: Sequence[str] = (),
    limit: int = 500,
    beam: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Run a task; → figures beside all that is needed to get them again: settings, data hash, seed, versions."""
    if task not in TASKS:
        raise UserError(f"no task {task!r}", f"use one of {', '.join(TASKS)}")
    settings = {"task": task, "model": model, "limit": limit, "beam": beam, "seed": seed, "unseen only": bool(seen)}
    wish = Wish(runtime, list(seen), limit, beam, seed)
    figures, samples = TASKS[task](model, list(data), wish)
    return {
        "figures": {name: round(value, 2) for name, value in figures.items()},
        "settings": settings,
        "data": {Path(name).name: hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16] for name in data},
        "versions": {"sonarllm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "samples": samples,
    }


def autoencode(model: str, data: list[str], run: Wish) -> Result:
    """Embed and decode in the same language: BLEU and exact match, by language, of sentences up to 30 words."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang, texts in sorted(_by_language(data, run.seen).items()):
        texts = _draw([t for t in texts if len(t.split()) <= MOST_WORDS], run.limit, run.seed)
        found = _decoded(embed_sentences(texts, lang, space), lang, space, run.beam)
        figures |= {
            f"{lang} BLEU": metrics.bleu(found, texts),
            f"{lang} exact": metrics.exact(found, texts),
            f"{lang} texts": len(texts),
        }
        samples += [{"lang": lang, "text": a, "found": b} for a, b in list(zip(texts, found))[:5]]
    return figures, samples


def translate(model: str, data: list[str], run: Wish) -> Result:
    """Embed in one language, decode in English: chrF and BLEU by language."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang, pairs in sorted(_pairs(data, run.seen).items()):
        pairs = _draw(pairs, run.limit, run.seed)
        english = [a for a, _ in pairs]
        found = _decoded(embed_sentences([b for _, b in pairs], lang, space), "eng_Latn", space, run.beam)
        figures |= {
            f"{lang} chrF": metrics.chrf(found, english),
            f"{lang} BLEU": metrics.bleu(found, english),
            f"{lang} texts": len(pairs),
        }
        samples += [{"lang": lang, "text": b, "found": f, "wanted": a} for (a, b), f in list(zip(pairs, found))[:5]]
    return figures, samples


def xsim(model: str, data: list[str], run: Wish) -> Result:
    """How often a text's translation is not its nearest neighbour, both ways, by language."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    for lang, pairs in sorted(_pairs(data, run.seen).items()):
        pairs = [p for p in dict.fromkeys(_draw(pairs, run.limit, run.seed))]
        a_ND = embed_sentences([a for a, _ in pairs], "eng_Latn", space)
        b_ND = embed_sentences([b for _, b in pairs], lang, space)
        figures |= {
            f"{lang} → eng error": metrics.xsim(b_ND, a_ND),
            f"eng → {lang} error": metrics.xsim(a_ND, b_ND),
            f"{lang} texts": len(pairs),
        }
    return figures, []


def summaries(model: str, data: list[str], run: Wish) -> Result:
    """Body → title in one sentence: ROUGE-L and METEOR, beside the body's first sentence (Lead-1)."""
    seen = set(run.seen)
    writer: Writer = load_writer(model, run.runtime)
    rows = _draw([(t, b) for t, b in corpus.documents(Data(), data) if t and b and t not in seen], run.limit, run.seed)
    writing = Writing(no_repeat=True, search=Search(beam=run.beam))
    found = [
        summarize("\n\n".join(body), sentences=1, lang=writer.lang, model=writer, writing=writing)[0].text
        for _, body in rows
    ]
    wanted, lead = [t for t, _ in rows], [b[0] for _, b in rows]
    figures: dict[str, float] = {"texts": len(rows)}
    for name, texts in (("model", found), ("Lead-1", lead)):
        figures[f"{name} ROUGE-L"] = metrics.rouge_l(texts, wanted)
        figures[f"{name} {metrics.meteor_name()}"] = metrics.meteor(texts, wanted)
    samples = [{"text": " ".join(b), "found": f, "wanted": t} for (t, b), f in list(zip(rows, found))[:10]]
    return figures, samples


@torch.inference_mode()
def nextsentence(model: str, data: list[str], run: Wish) -> Result:
    """Cross-entropy of each next sentence's tokens, given the text before it: clean and reference readings in nats a
    token, and bits a byte, the only figure that compares across tokenizers."""
    writer = load_writer(model, run.runtime)
    space, decoder = writer.space, writer.space.net.decoder
    nll = {"clean": 0.0, "reference": 0.0}
    count = {"clean": 0, "reference": 0}
    size = sentences = 0
    for texts in _texts(data, run, space):
        context_SD = embed_sentences(texts, writer.lang, space)
        predicted_SD = writer.net(context_SD[None, :-1])[0]
        ids = [space.tokenizer.target(t, writer.lang) for t in texts[1:]]
        length_B = torch.tensor([len(i) for i in ids], device=predicted_SD.device)
        ids_BT = torch.full((len(ids), int(length_B.max())), EOS, device=predicted_SD.device)
        for row, i in enumerate(ids):
            ids_BT[row, : len(i)] = torch.tensor(i)
        for name in nll:
            one_B = torch.ones(len(ids), device=predicted_SD.device)
            total, nll_N, _ = sentence_nll(
                decoder, ids_BT, length_B, predicted_SD, one_B, reference=name == "reference"
            )
            nll[name] += total.item()
            count[name] += len(nll_N)
        size += sum(len(t.encode()) for t in texts[1:])
        sentences += len(ids)
    figures = {f"{name} nats a token": nll[name] / count[name] for name in nll}
    return figures | {"bits a byte": nll["clean"] / math.log(2) / size, "sentences": sentences}, []


def generated(model: str, data: list[str], run: Wish) -> Result:
    """A text continued from its first two sentences: repetition-4 beside the text's own, and ROUGE-L and METEOR of the
    first sentence written against the true one."""
    writer = load_writer(model, run.runtime)
    rows = [texts for texts in _texts(data, run, writer.space) if len(texts) > 3]
    if not rows:
        raise UserError("no text of three sentences in the data", "give longer documents")
    found, samples = [], []
    for texts in rows:
        length = len(texts) - 3  # after the two given, before the last, which mostly is the ending
        writing = Writing(max_sentences=length, search=Search(beam=run.beam))
        found.append(
            [s.text for s in continuation(" ".join(texts[:2]), lang=writer.lang, model=writer, writing=writing)]
        )
        samples.append({"text": " ".join(texts[:2]), "found": " ".join(found[-1]), "wanted": " ".join(texts[2:-1])})
    first, wanted = [f[0] if f else "" for f in found], [texts[2] for texts in rows]
    return {
        "repetition-4": metrics.repetition([" ".join(f) for f in found]),
        "repetition-4 of the texts": metrics.repetition([" ".join(texts[2:-1]) for texts in rows]),
        "first sentence ROUGE-L": metrics.rouge_l(first, wanted),
        f"first sentence {metrics.meteor_name()}": metrics.meteor(first, wanted),
        "sentences written": sum(map(len, found)) / len(found),
        "texts": len(rows),
    }, samples[:10]


def _texts(data: list[str], run: Wish, space: Space) -> list[list[str]]:
    """Documents as at most 32 sentences, the ending last. As in training, one ends before a sentence over the limit of
    encoder or decoder. UserError where none is left."""
    config = space.net.config
    fit = fitting(space.tokenizer, min(config.max_source_tokens, config.max_target_tokens - 2))
    rows: list[list[str]] = []
    for _, body in corpus.documents(Data(), data):
        short = list(itertools.takewhile(fit, body))
        if short:
            rows.append([*short[:31], *([ENDING] if len(short) == len(body) else [])])
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise UserError("no documents in the data", 'give JSON Lines such as {"text": "…"}')
    return _draw(rows, run.limit, run.seed)


TASKS: dict[str, Callable[..., Result]] = {
    "autoencode": autoencode,
    "translate": translate,
    "xsim": xsim,
    "summarize": summaries,
    "nextsentence": nextsentence,
    "generate": generated,
}


def seen_texts(data: Sequence[str]) -> list[str]:
    """Every sentence and title of training data, to leave out."""
    return [text for texts in _by_language(list(data), []).values() for text in texts]


def _by_language(data: list[str], seen: list[str]) -> dict[str, list[str]]:
    """Distinct sentences of documents and pairs by language, less those seen."""
    known = set(seen)
    out: dict[str, list[str]] = {}
    documents, pairs = _split(data)
    out["eng_Latn"] = corpus.sentences(corpus.documents(Data(), documents))
    for a, b, lang in corpus.translations(Data(), pairs):
        out["eng_Latn"].append(a)
        out.setdefault(lang, []).append(b)
    return {lang: [t for t in dict.fromkeys(texts) if t not in known] for lang, texts in out.items() if texts}


def _pairs(data: list[str], seen: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(English, other) by the other language, neither seen."""
    known = set(seen)
    out: dict[str, list[tuple[str, str]]] = {}
    for a, b, lang in corpus.translations(Data(), _split(data)[1]):
        if a not in known and b not in known:
            out.setdefault(lang, []).append((a, b))
    if not out:
        raise UserError("no parallel text in the data", 'give JSON Lines such as {"lang": "it", "en": "…", "it": "…"}')
    return out


def _split(data: list[str]) -> tuple[list[str], list[str]]:
    """File names → (documents, pairs), told apart by their first row."""
    documents: list[str] = []
    pairs: list[str] = []
    for name in data:
        _, first = next(corpus.rows(Data(limit=1), [name]), ("", {}))
        (pairs if "lang" in first and "en" in first else documents).append(name)
    return documents, pairs


def _draw(items: list[Any], limit: int, seed: int) -> list[Any]:
    return random.Random(seed).sample(items, limit) if limit and len(items) > limit else items


def _decoded(embedding_ND: torch.Tensor, lang: str, space: Space, beam: int) -> list[str]:
    search = Search(beam=beam)
    length_sorted = decode_batch(embedding_ND, lang, space, search)
    return [hypotheses[0].text for hypotheses in length_sorted]
