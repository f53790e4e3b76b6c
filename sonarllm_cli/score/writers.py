"""What a model that writes is worth: tasks that summarise, continue, and score the next sentence.

Legend: S sentences, B texts, T tokens, N labelled tokens, D embedding, M width.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import corpus
from ..data.records import Data
from ..errors import RunError, UserError
from ..flow.compose import Written, continue_sentences, sampling_of
from ..flow.embed_text import embed_sentences
from ..flow.predict import predict_all
from ..flow.read import sentence_texts
from ..flow.summarize import AUTO, shortened
from ..flow.write import PLAIN
from ..learn.losses import sentence_nll, token_nll
from ..nets.kinds import TOKENS
from ..nets.sonar_llm import ENDING
from ..tokens import EOS
from ..weights.loaded import Writer, load_writer
from . import metrics
from .judge import GRADES, Judge
from .plan import Plan, Result, Sample, Task, documents_of, sampled

READ = 30  # continuations shown, for somebody to read


def summaries(model: str, data: list[str], run: Plan) -> Result:
    """Body → title: ROUGE-L and METEOR of as many sentences as the title has, and of as many as the model writes before
    it ends; how much stands in the body word for word; beside the body's first sentence (Lead-1)."""
    seen = set(run.seen)
    writer: Writer = load_writer(model, run.runtime)
    rows = sampled(
        [(t, b) for t, b in corpus.documents(Data(), data) if t and b and t not in seen], run.limit, run.seed
    )
    if not rows:
        raise UserError("no document with a title in the data", 'give JSON Lines such as {"title": "…", "text": "…"}')
    given: list[str] = []
    own: list[list[str]] = []
    for title, body in rows:
        count = max(1, len(sentence_texts(title, writer.lang, writer)))
        article = sentence_texts("\n\n".join(body), writer.lang, writer)
        article_SD = embed_sentences(article, writer.lang, writer.space)
        writing = run.writing(no_repeat=True)
        found = [s.text for s in shortened(article, article_SD, writer, writing, max(count, AUTO), run.generator)]
        given.append(" ".join(found[:count]))  # it writes the same whether it is asked for one more or not
        own.append(found[:AUTO])
    wanted, lead, free = [t for t, _ in rows], [b[0] for _, b in rows], [" ".join(f) for f in own]
    figures: dict[str, float] = {"texts": len(rows)}
    for name, texts in (("model", given), ("own stop", free), ("Lead-1", lead)):
        figures[f"{name} ROUGE-L"] = metrics.rouge_l(texts, wanted)
        figures[f"{name} {metrics.meteor_name()}"] = metrics.meteor(texts, wanted)
    figures["own stop sentences"] = sum(map(len, own)) / len(own)
    figures["own stop repetition-4"] = metrics.repetition(free)
    figures["source overlap-3"] = metrics.overlap(given, [" ".join(b) for _, b in rows])
    samples = [{"text": " ".join(b), "found": f, "wanted": t} for (t, b), f in list(zip(rows, given))[:10]]
    return figures, samples


@torch.inference_mode()
def nextsentence(model: str, data: list[str], run: Plan) -> Result:
    """Cross-entropy of each next sentence's tokens, given the text before it: clean and reference readings in nats a
    token, and bits a byte, the only figure that compares across tokenizers.

    An LCM is not trained for it: what is scored is the space's decoder on the embedding it predicts (diffusion: one
    draw of it). A token LLM scores its own words and `</s>`, and has no reference reading.
    """
    writer = load_writer(model, run.runtime)
    tokens = writer.row.reads == TOKENS
    nll = {"clean": 0.0} if tokens else {"clean": 0.0, "reference": 0.0}
    count = dict.fromkeys(nll, 0)
    size = sentences = 0
    for texts in documents_of(data, run, writer.space):
        for name in nll:
            nll_N = _own_nll(writer, texts) if tokens else _decoder_nll(writer, texts, run, name == "reference")
            nll[name] += nll_N.sum().item()
            count[name] += len(nll_N)
        size += sum(len(t.encode()) for t in texts[1:])
        sentences += len(texts) - 1
    figures = {f"{name} nats a token": nll[name] / count[name] for name in nll}
    return figures | {"bits a byte": nll["clean"] / math.log(2) / size, "sentences": sentences}, []


def _decoder_nll(writer: Writer, texts: list[str], run: Plan, reference: bool) -> Tensor:
    """Of every token of the sentences after the first, through the decoder, from the embeddings predicted: → nll_N."""
    space = writer.space
    context_SD = embed_sentences(texts, writer.lang, space)
    sampling = sampling_of(writer, run.writing())
    generator = space.runtime.generator()  # the same draw for both readings
    predicted_SD = predict_all(writer, context_SD[:-1], generator, sampling)
    ids = [space.tokenizer.target(t, writer.lang) for t in texts[1:]]
    length_B = torch.tensor([len(i) for i in ids], device=predicted_SD.device)
    ids_BT = torch.full((len(ids), int(length_B.max())), EOS, device=predicted_SD.device)
    for row, i in enumerate(ids):
        ids_BT[row, : len(i)] = torch.tensor(i)
    one_B = torch.ones(len(ids), device=predicted_SD.device)
    return sentence_nll(space.net.decoder, ids_BT, length_B, predicted_SD, one_B, reference=reference)[1]


def _own_nll(writer: Writer, texts: list[str]) -> Tensor:
    """The same, by a token LLM itself."""
    net, tokenizer = writer.net, writer.space.tokenizer
    words = [[*w, EOS] for w in tokenizer.content(texts)]
    ids = torch.tensor([*tokenizer.prompt(writer.lang), *(i for w in words for i in w)], device=net.output.device)
    hidden_TM = net(ids[None, :-1])[0]
    count = len(ids) - 2 - len(words[0])
    return token_nll(hidden_TM[-count:], net.output, ids[-count:])[1]


def generated(model: str, data: list[str], run: Plan) -> Result:
    """A text continued from its first two sentences, by as many as it has or `run.most`: repetition-4 beside the text's
    own, and ROUGE-L and METEOR of the first sentence written against the true one."""
    writer = load_writer(model, run.runtime)
    rows = [texts for texts in documents_of(data, run, writer.space) if len(texts) > 3]
    if not rows:
        raise UserError("no text of three sentences in the data", "give longer documents")
    found, samples = [], []
    for texts in rows:
        length = run.most or len(texts) - 3  # after the two given, before the last, which mostly is the ending
        found.append(continued(writer, texts[:2], run, length))
        samples.append({"text": " ".join(texts[:2]), "found": joined(found[-1]), "wanted": " ".join(texts[2:-1])})
    first, wanted = [f[0].text if f else "" for f in found], [texts[2] for texts in rows]
    return {
        "repetition-4": metrics.repetition([joined(f) for f in found]),
        "repetition-4 of the texts": metrics.repetition([" ".join(texts[2:-1][: run.most or None]) for texts in rows]),
        "first sentence ROUGE-L": metrics.rouge_l(first, wanted),
        f"first sentence {metrics.meteor_name()}": metrics.meteor(first, wanted),
        "sentences written": sum(map(len, found)) / len(found),
        "texts": len(rows),
    }, samples[:READ]


def nlg(model: str, data: list[str], run: Plan) -> Result:
    """The paper's table of continuations, from two sentences ("short") and from half a text ("long").

    By its rules: the first sentence written against the true one, by sentence BLEU (nltk, method 4), ROUGE-L and
    METEOR; where nothing was written, at which its script fails, the score is 0. "clean": all that is written, to as
    many sentences as the text goes on for, against all the rest, words apart from punctuation, by corpus BLEU. "full":
    the same of just as many sentences, each ending that comes sooner passed over.
    """
    writer = load_writer(model, run.runtime)
    bodies = [_body(texts) for texts in documents_of(data, run, writer.space, least=3)]
    figures: dict[str, float] = {"texts": len(bodies)}
    samples: list[Sample] = []
    for name in ("short", "long"):
        cut = [2 if name == "short" else max(2, len(body) // 2) for body in bodies]
        long = [
            continued(writer, body[:at], run, len(body) - at, len(body) - at, **PLAIN) for body, at in zip(bodies, cut)
        ]
        found = [list(itertools.takewhile(lambda s: not s.ended, written)) for written in long]
        sources = [" ".join(body[:at]) for body, at in zip(bodies, cut)]
        first, true_first = [f[0].text if f else "" for f in found], [body[at] for body, at in zip(bodies, cut)]
        whole, rest = [joined(f) for f in found], [" ".join(body[at:]) for body, at in zip(bodies, cut)]
        clean, clean_rest = metrics.words_apart(whole), metrics.words_apart(rest)
        full = [joined(written) for written in long]
        figures |= {
            f"{name} BLEU": metrics.sentence_bleu(first, true_first),
            f"{name} ROUGE-L": metrics.rouge_l(first, true_first),
            f"{name} {metrics.meteor_name()}": metrics.meteor(first, true_first),
            f"{name} clean BLEU": run.bleu(whole, rest, writer.lang),
            f"{name} clean ROUGE-L": metrics.rouge_l(clean, clean_rest),
            f"{name} clean {metrics.meteor_name()}": metrics.meteor(clean, clean_rest),
            f"{name} full BLEU": run.bleu(full, rest, writer.lang),
            f"{name} full ROUGE-L": metrics.rouge_l(metrics.words_apart(full), clean_rest),
            f"{name} full {metrics.meteor_name()}": metrics.meteor(metrics.words_apart(full), clean_rest),
            f"{name} sentences written": sum(map(len, found)) / len(found),
            f"{name} repetition-4": metrics.repetition(whole),
            f"{name} source overlap-3": metrics.overlap(whole, sources),
        }
        samples += [{"text": a, "found": b, "wanted": c} for a, b, c in list(zip(sources, whole, rest))[:10]]
    return figures, samples


def judged(judge: Judge) -> Task:
    """A task whose figures are a language model's grades, 1 to 10, of continuations from two sentences."""

    def run(model: str, data: list[str], plan: Plan) -> Result:
        writer = load_writer(model, plan.runtime)
        rows = [_body(texts) for texts in documents_of(data, plan, writer.space, least=3)]
        samples: list[Sample] = []
        for body in rows:
            beginning = " ".join(body[:2])
            written = joined(continued(writer, body[:2], plan, len(body) - 2))
            samples.append({"text": beginning, "found": written, "wanted": " ".join(body[2:])})
            samples[-1]["grades"] = judge.grade(beginning, written)
        graded = [s["grades"] for s in samples if s["grades"]]
        if not graded:
            raise RunError(f"{judge.model} graded none of {len(rows)} texts", "try another --judge-model")
        figures = {name: statistics.fmean(g[name] for g in graded) for name in GRADES}
        return figures | {"graded": len(graded), "texts": len(rows)}, samples

    return run


def _body(texts: list[str]) -> list[str]:
    return texts[:-1] if texts[-1] == ENDING else texts


def continued(
    writer: Writer, beginning: Sequence[str], run: Plan, most: int, least: int = 0, **options: Any
) -> list[Written]:
    """The sentences written after a beginning, at most and at least so many; `options` are a `Writing`'s."""
    writing = run.writing(max_sentences=most, min_sentences=least, **options)
    return list(continue_sentences(beginning, writer, writing, lang=writer.lang, generator=run.generator))


def joined(written: Iterable[Written]) -> str:
    """Sentences as one text."""
    return " ".join(s.text for s in written)
