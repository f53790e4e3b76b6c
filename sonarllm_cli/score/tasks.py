"""What `evaluate` measures: a model and data rows → figures and samples.

Data is what training reads (see learn/corpus.py): documents for `summarize`, pairs for `translate` and `xsim`, either
for `autoencode`; for `search`, notes and queries. With `seen` texts, figures are on those that are not among them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..data import corpus
from ..data.clips import read_clips
from ..data.records import Data
from ..errors import RunError, UserError
from ..flow.compose import AUTO, Writing, Written, continue_sentences, sampling_of, sentences_of, shortened
from ..flow.decode import Search, decode_batch
from ..flow.embed import Line, embed, embed_sentences, embed_stream
from ..flow.embed_speech import embed_recordings, load_speech
from ..flow.predict import predict_all
from ..io.files import read_errors
from ..languages import resolve
from ..learn.losses import sentence_nll, token_nll
from ..nets.sonar_llm import ENDING
from ..nets.token_lm import TokenLM
from ..runtime import Runtime
from ..tokens import EOS, fitting
from ..use import align
from ..use.mine import mine
from ..use.neighbours import nearest, unit
from ..use.sides import Embedded
from ..weights import model_dir, registry
from ..weights.loaded import Space, Writer, load_space, load_writer
from . import metrics
from .alignment import noisy
from .judge import GRADES, Judge

Sample = dict[str, Any]
Result = tuple[dict[str, float], list[Sample]]
Task = Callable[..., Result]  # model, data, wish → figures and samples
MOST_WORDS = 30  # of a sentence to auto-encode
READ = 30  # continuations shown, for somebody to read


@dataclass(frozen=True)
class Wish:
    """How a task is run: where, less which texts, on how many of each language, by which search and draw. `generator`
    is the one source of what is random in writing."""

    runtime: Runtime
    seen: list[str]
    limit: int
    beam: int
    seed: int
    generator: torch.Generator
    tokenizer: str = ""  # of BLEU; each language's own if not given
    sampling: dict[str, Any] = field(default_factory=dict)
    words: tuple[int, int] = (1, MOST_WORDS)  # of the (English) sentences that are auto-encoded or translated
    out: bool = False  # translate out of English, not into it
    most: int = 0  # sentences of a continuation; as many as the text has, if 0
    rules: dict[str, Any] = field(default_factory=dict)  # when to stop, what to read next: fields of a `Writing`

    def fits(self, text: str) -> bool:
        """Whether a text has as many words as are wanted."""
        return self.words[0] <= len(text.split()) <= self.words[1]

    def bleu(self, found: Sequence[str], wanted: Sequence[str], lang: str) -> metrics.Score:
        """Corpus BLEU of texts in a language."""
        return metrics.bleu(found, wanted, self.tokenizer or metrics.tokenizer_of(lang))

    def writing(self, **options: Any) -> Writing:
        """How a text is written in this task."""
        return Writing(search=Search(beam=self.beam), sampling=self.sampling, **self.rules, **options)


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
    seeds: int = 1,
    tokenizer: str = "",
    sampling: dict[str, Any] | None = None,
    rules: dict[str, Any] | None = None,
    words: tuple[int, int] = (1, MOST_WORDS),
    out_of_english: bool = False,
    max_sentences: int = 0,
    run: Task | None = None,
) -> dict[str, Any]:
    """Run a task; → figures beside all that is needed to get them again: settings, data hash, seed, versions.

    With `seeds` the task is run with that many seeds from `seed` on, each another draw of texts and of noise; figures
    are then means, beside their standard deviations. `run` is a task that is not among `TASKS`.
    """
    run = run or TASKS.get(task)
    if run is None:
        raise UserError(f"no task {task!r}", f"use one of {', '.join(TASKS)}")
    if tokenizer and tokenizer not in metrics.TOKENIZERS:
        raise UserError(f"BLEU has no tokenizer {tokenizer!r}", f"use one of {', '.join(metrics.TOKENIZERS)}")
    settings = {"task": task, "model": model, "limit": limit, "beam": beam, "seed": seed, "unseen only": bool(seen)}
    settings |= {"seeds": seeds} if seeds > 1 else {}
    settings |= {"words": words} if words != (1, MOST_WORDS) else {}
    settings |= {"out of English": True} if out_of_english else {}
    settings |= {"max sentences": max_sentences} if max_sentences else {}
    settings |= {"tokenizer": tokenizer} if tokenizer else {}
    settings |= {"sampling": sampling} if sampling else {}
    settings |= {"rules": rules} if rules and Writing(**rules) != Writing() else {}
    hashes = {Path(name).name: _hash(name) for name in data}  # what can't be read is told before anything is loaded
    results: list[Result] = []
    for one in range(seed, seed + seeds):
        own = replace(runtime, seed=one)
        wish = Wish(
            runtime=own,
            seen=list(seen),
            limit=limit,
            beam=beam,
            seed=one,
            generator=own.generator(),
            sampling=sampling or {},
            rules=rules or {},
            words=words,
            out=out_of_english,
            most=max_sentences,
            tokenizer=tokenizer,
        )
        results.append(run(model, list(data), wish))
    names = [name for name in results[0][0] if all(name in figures for figures, _ in results)]
    values = {name: [figures[name] for figures, _ in results] for name in names}
    means = {name: statistics.fmean(v) if seeds > 1 else v[0] for name, v in values.items()}
    out: dict[str, Any] = {"figures": {name: round(value, 2) for name, value in means.items()}}
    if seeds > 1:
        out["deviation"] = {name: round(statistics.stdev(v), 2) for name, v in values.items()}
    signed = {name: v.signature for name, v in results[0][0].items() if isinstance(v, metrics.Score)}
    out |= {"signatures": signed} if signed else {}
    return out | {
        "model": facts_of(model),
        "settings": settings,
        "data": hashes,
        "versions": {"sonarllm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "samples": results[0][1],
    }


def _hash(name: str) -> str:
    """16 digits of the SHA-256 of a file, or of a folder's files and their names; "" for a data set of the hub."""
    if name.startswith("hf:"):
        return ""
    sha, path = hashlib.sha256(), Path(name)
    with read_errors(name):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            sha.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def facts_of(model: str) -> dict[str, Any]:
    """What a result says of its model: name, kind, parameters that were trained, space, and its own run."""
    folder = registry.find(model)
    config = model_dir.read_config(folder)
    training = config.get("training", {})
    settings = training.get("settings", {})
    fixed = 2 * config["model"]["embedding"] if config["kind"].endswith("-lcm") else 0  # the normaliser
    return {
        "name": settings.get("name") or folder.name,
        "kind": config["kind"],
        "parameters": registry.count_parameters(folder) - fixed,
        "space": config.get("sonar", {}).get("fingerprint") or config.get("fingerprint", ""),
        "steps": training.get("steps", 0),
        "seed": settings.get("run", {}).get("seed", 0),
    }


def autoencode(model: str, data: list[str], run: Wish) -> Result:
    """Embed and decode in the same language: BLEU and exact match, by language, of sentences of so many words."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang, texts in sorted(_by_language(data, run.seen).items()):
        texts = _draw([t for t in texts if run.fits(t)], run.limit, run.seed)
        found = _decoded(embed_sentences(texts, lang, space), lang, space, run.beam)
        figures |= {
            f"{lang} BLEU": run.bleu(found, texts, lang),
            f"{lang} exact": metrics.exact(found, texts),
            f"{lang} texts": len(texts),
        }
        samples += [{"lang": lang, "text": a, "found": b} for a, b in list(zip(texts, found))[:5]]
    return figures, samples


def translate(model: str, data: list[str], run: Wish) -> Result:
    """Embed in one language, decode in English, or the other way: chrF and BLEU by language."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang, pairs in sorted(_pairs(data, run.seen).items()):
        pairs = _draw([p for p in pairs if run.fits(p[0])], run.limit, run.seed)
        sides = ("eng_Latn", lang) if run.out else (lang, "eng_Latn")
        given, wanted = zip(*((a, b) if run.out else (b, a) for a, b in pairs))
        found = _decoded(embed_sentences(list(given), sides[0], space), sides[1], space, run.beam)
        name = " → ".join(sides) if run.out else lang
        figures |= {
            f"{name} chrF": metrics.chrf(found, list(wanted)),
            f"{name} BLEU": run.bleu(found, list(wanted), sides[1]),
            f"{name} texts": len(pairs),
        }
        samples += [
            {"lang": sides[0], "text": g, "found": f, "wanted": w} for g, f, w in list(zip(given, found, wanted))[:5]
        ]
    return figures, samples


def xsim(model: str, data: list[str], run: Wish, plus: Sequence[str] = ()) -> Result:
    """How often a text's translation is not its nearest neighbour, both ways, by language; into English also among the
    altered sentences `plus` (xsim++, Chen et al. 2023)."""
    space = load_space(model, run.runtime)
    plus_ND = embed_sentences(plus, "eng_Latn", space) if plus else None
    figures: dict[str, float] = {}
    for lang, pairs in sorted(_pairs(data, run.seen).items()):
        pairs = [p for p in dict.fromkeys(_draw(pairs, run.limit, run.seed))]
        english, other = [a for a, _ in pairs], [b for _, b in pairs]
        a_ND, b_ND = embed_sentences(english, "eng_Latn", space), embed_sentences(other, lang, space)
        figures |= {
            f"{lang} → eng error": metrics.xsim(b_ND, a_ND, sources=other, targets=english),
            f"eng → {lang} error": metrics.xsim(a_ND, b_ND, sources=english, targets=other),
            f"{lang} texts": len(pairs),
        }
        if plus_ND is not None:
            figures[f"{lang} → eng error ++"] = metrics.xsim(
                b_ND, torch.cat([a_ND, plus_ND]), sources=other, targets=[*english, *plus]
            )
    return figures, []


def speech(model: str, data: list[str], run: Wish) -> Result:
    """Clips against their words, by language: how often the vector of one is not nearest to the other's, and what is
    decoded in the language spoken: BLEU, chrF, word error rate. `model` is a speech encoder; its space decodes."""
    heard = load_speech(model, run.runtime)
    if not heard.space:
        raise UserError(f"{model} was imported without a space", "import it again, with --sonar SPACE")
    folder = registry.find(model)
    space = load_space(model_dir.space_of(folder, model_dir.read_config(folder)), run.runtime)
    heard.check(space)
    clips = [clip for clip in read_clips(data, lang=heard.lang or "eng_Latn") if clip.text not in set(run.seen)]
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang in sorted({clip.lang for clip in clips}):
        own = _draw([clip for clip in clips if clip.lang == lang], run.limit, run.seed)
        blocks = list(embed_recordings([clip.recording() for clip in own], heard, whole=True))
        if failures := [failure for block in blocks for failure in block.failures]:
            raise failures[0]
        speech_ND = torch.cat([torch.from_numpy(block.embeddings_ND) for block in blocks])
        texts = [clip.text for clip in own]
        text_ND = embed_sentences(texts, lang, space).float().cpu()
        found = _decoded(speech_ND, lang, space, run.beam)
        once = [i for i, text in enumerate(texts) if texts.index(text) == i]  # a sentence said twice has two right ones
        figures |= {
            f"{lang} speech → text error": metrics.xsim(speech_ND[once], text_ND[once]),
            f"{lang} text → speech error": metrics.xsim(text_ND[once], speech_ND[once]),
            f"{lang} BLEU": metrics.bleu(found, texts),
            f"{lang} chrF": metrics.chrf(found, texts),
            f"{lang} word error rate": metrics.word_errors(found, texts),
            f"{lang} clips": len(own),
        }
        samples += [{"lang": lang, "text": a, "found": b} for a, b in list(zip(texts, found))[:5]]
    return figures, samples


def search(model: str, data: list[str], run: Wish) -> Result:
    """How often the note that answers a query is the nearest by cosine, and among the five nearest, in per cent: of all
    queries, by their language, and apart by whether the note is in the same. Notes are {"id", "lang", "text"}, queries
    {"lang", "text", "note"}, which is the note's id."""
    space = load_space(model, run.runtime)
    rows = [row for _, row in corpus.rows(Data(), data)]
    for row in rows:
        if not all(isinstance(row.get(key), str) for key in ("lang", "text", "note" if "note" in row else "id")):
            raise UserError(f"not a note or a query: {row}", 'give {"id", "lang", "text"} and {"lang", "text", "note"}')
    seen = set(run.seen)
    notes = {row["id"]: row for row in rows if "note" not in row}
    queries = _draw([row for row in rows if "note" in row and row["text"] not in seen], run.limit, run.seed)
    if not notes or not queries:
        raise UserError(f"{len(notes)} notes and {len(queries)} queries in the data", "give --data for both")
    if lost := [row["note"] for row in queries if row["note"] not in notes]:
        raise UserError(f"a query's note {lost[0]!r} is not there", "give --data with all notes")
    names = list(notes)
    note_ND, query_QD = (unit(_embedded(part, space)) for part in (list(notes.values()), queries))
    row_QK = nearest(query_QD, [note_ND], 5)[1].tolist()
    place: dict[str, list[int]] = {}  # of the answer among the five; 5: it is not there
    samples: list[Sample] = []
    for query, row in zip(queries, row_QK):
        found = [names[i] for i in row]
        at = found.index(query["note"]) if query["note"] in found else 5
        kin = "the same language" if query["lang"] == notes[query["note"]]["lang"] else "another language"
        for group in ("all", query["lang"], kin):
            place.setdefault(group, []).append(at)
        if at:
            samples.append({"text": query["text"], "found": notes[found[0]]["text"]})
            samples[-1]["wanted"] = notes[query["note"]]["text"]
    figures: dict[str, float] = {}
    for group, places in sorted(place.items(), key=lambda item: item[0] != "all"):
        figures |= {
            f"{group} top-1": 100 * sum(i < 1 for i in places) / len(places),
            f"{group} top-5": 100 * sum(i < 5 for i in places) / len(places),
            f"{group} queries": len(places),
        }
    return figures, samples


def _embedded(rows: Sequence[dict[str, Any]], space: Space) -> Tensor:
    """The texts of rows in their own languages: → embeddings_ND."""
    lines = [Line(row["text"], resolve(row["lang"], space.tokenizer.langs)) for row in rows]
    return torch.cat([torch.from_numpy(block.embeddings_ND) for block in embed_stream(lines, space)])


def aligned(noise: float) -> Task:
    """A task that aligns two documents made of pairs, of which one in 1 / `noise` is changed (see alignment.py):
    precision, recall and F1 of pairs, strict, in per cent, by language."""

    def run(model: str, data: list[str], wish: Wish) -> Result:
        space = load_space(model, wish.runtime)
        figures: dict[str, float] = {}
        for lang, pairs in sorted(_pairs(data, wish.seen).items()):
            pairs = list(dict.fromkeys(pairs))[: wish.limit or None]
            a, b, true = noisy(pairs, noise, wish.seed)
            documents = [
                align.document(side, lambda texts, own=own: embed(texts, lang=own, model=space))  # type: ignore[misc]
                for side, own in ((a, "eng_Latn"), (b, lang))
            ]
            scores = align.f1(align.align(*documents), true)
            figures |= {f"{lang} {name}": score for name, score in zip(("precision", "recall", "F1"), scores)}
            figures[f"{lang} sentences"] = len(b)
        return figures, []

    return run


def mined(strangers: int, threshold: float | None) -> Task:
    """A task that mines pairs hidden among `strangers` times as many texts that have no counterpart, by language (as
    BUCC, Zweigenbaum et al. 2017): precision, recall and F1 at the threshold that makes F1 best, and at `threshold`."""

    def run(model: str, data: list[str], wish: Wish) -> Result:
        space = load_space(model, wish.runtime)
        figures: dict[str, float] = {}
        for lang, pairs in sorted(_pairs(data, wish.seen).items()):
            pairs = _draw(list(dict.fromkeys(pairs)), wish.limit, wish.seed)
            known = len(pairs) // (1 + strangers)
            if not known:
                raise UserError(f"{len(pairs)} pairs in {lang} are too few", "give more, or fewer --strangers")
            texts = {"eng_Latn": [a for a, _ in pairs[:known]], lang: [b for _, b in pairs[:known]]}
            for i, (a, b) in enumerate(pairs[known:]):
                texts["eng_Latn" if i % 2 else lang].append(a if i % 2 else b)
            sides = [
                Embedded(own, space.fingerprint, side, embed(side, lang=own, model=space))
                for own, side in texts.items()
            ]
            found = mine(*sides)
            right = [pair.a == pair.b < known for pair in found]
            best = metrics.best_f1([pair.score for pair in found], right, known)
            figures |= {f"{lang} {name}": value for name, value in best.items()}
            if threshold is not None:
                count = sum(pair.score >= threshold for pair in found)
                given = metrics.f1(sum(right[:count]), count, known)
                figures |= {f"{lang} {name} at {threshold:g}": value for name, value in given.items()}
            figures[f"{lang} pairs"] = known
        return figures, []

    return run


def summaries(model: str, data: list[str], run: Wish) -> Result:
    """Body → title: ROUGE-L and METEOR of as many sentences as the title has, and of as many as the model writes before
    it ends; how much stands in the body word for word; beside the body's first sentence (Lead-1)."""
    seen = set(run.seen)
    writer: Writer = load_writer(model, run.runtime)
    rows = _draw([(t, b) for t, b in corpus.documents(Data(), data) if t and b and t not in seen], run.limit, run.seed)
    if not rows:
        raise UserError("no document with a title in the data", 'give JSON Lines such as {"title": "…", "text": "…"}')
    given: list[str] = []
    own: list[list[str]] = []
    for title, body in rows:
        count = max(1, len(sentences_of(title, writer.lang, writer)))
        article = sentences_of("\n\n".join(body), writer.lang, writer)
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
def nextsentence(model: str, data: list[str], run: Wish) -> Result:
    """Cross-entropy of each next sentence's tokens, given the text before it: clean and reference readings in nats a
    token, and bits a byte, the only figure that compares across tokenizers.

    An LCM is not trained for it: what is scored is the space's decoder on the embedding it predicts (diffusion: one
    draw of it). A token LLM scores its own words and `</s>`, and has no reference reading.
    """
    writer = load_writer(model, run.runtime)
    tokens = isinstance(writer.net, TokenLM)
    nll = {"clean": 0.0} if tokens else {"clean": 0.0, "reference": 0.0}
    count = dict.fromkeys(nll, 0)
    size = sentences = 0
    for texts in _texts(data, run, writer.space):
        for name in nll:
            nll_N = _own_nll(writer, texts) if tokens else _decoder_nll(writer, texts, run, name == "reference")
            nll[name] += nll_N.sum().item()
            count[name] += len(nll_N)
        size += sum(len(t.encode()) for t in texts[1:])
        sentences += len(texts) - 1
    figures = {f"{name} nats a token": nll[name] / count[name] for name in nll}
    return figures | {"bits a byte": nll["clean"] / math.log(2) / size, "sentences": sentences}, []


def _decoder_nll(writer: Writer, texts: list[str], run: Wish, reference: bool) -> Tensor:
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
    assert isinstance(net, TokenLM)
    words = [[*w, EOS] for w in tokenizer.content(texts)]
    ids = torch.tensor([*tokenizer.prompt(writer.lang), *(i for w in words for i in w)], device=net.output.device)
    hidden_TM = net(ids[None, :-1])[0]
    count = len(ids) - 2 - len(words[0])
    return token_nll(hidden_TM[-count:], net.output, ids[-count:])[1]


def generated(model: str, data: list[str], run: Wish) -> Result:
    """A text continued from its first two sentences, by as many as it has or `run.most`: repetition-4 beside the text's
    own, and ROUGE-L and METEOR of the first sentence written against the true one."""
    writer = load_writer(model, run.runtime)
    rows = [texts for texts in _texts(data, run, writer.space) if len(texts) > 3]
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


def nlg(model: str, data: list[str], run: Wish) -> Result:
    """The paper's table of continuations, from two sentences ("short") and from half a text ("long").

    By its rules: the first sentence written against the true one, by sentence BLEU (nltk, method 4), ROUGE-L and
    METEOR; where nothing was written, at which its script fails, the score is 0. "clean": all that is written, to as
    many sentences as the text goes on for, against all the rest, words apart from punctuation, by corpus BLEU. "full":
    the same of just as many sentences, each ending that comes sooner passed over.
    """
    writer = load_writer(model, run.runtime)
    bodies = [_body(texts) for texts in _texts(data, run, writer.space, least=3)]
    figures: dict[str, float] = {"texts": len(bodies)}
    samples: list[Sample] = []
    for name in ("short", "long"):
        cut = [2 if name == "short" else max(2, len(body) // 2) for body in bodies]
        long = [continued(writer, body[:at], run, len(body) - at, len(body) - at) for body, at in zip(bodies, cut)]
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

    def run(model: str, data: list[str], wish: Wish) -> Result:
        writer = load_writer(model, wish.runtime)
        rows = [_body(texts) for texts in _texts(data, wish, writer.space, least=3)]
        samples: list[Sample] = []
        for body in rows:
            beginning = " ".join(body[:2])
            written = joined(continued(writer, body[:2], wish, len(body) - 2))
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


def continued(writer: Writer, beginning: Sequence[str], run: Wish, most: int, least: int = 0) -> list[Written]:
    """The sentences written after a beginning, at most and at least so many."""
    writing = run.writing(max_sentences=most, min_sentences=least)
    return list(continue_sentences(beginning, writer, writing, lang=writer.lang, generator=run.generator))


def joined(written: Iterable[Written]) -> str:
    """Sentences as one text."""
    return " ".join(s.text for s in written)


def _texts(data: list[str], run: Wish, space: Space, least: int = 1) -> list[list[str]]:
    """Documents of `least` sentences or more, as at most 32, the ending last. As in training, one ends before a
    sentence over the limit of encoder or decoder. UserError where none is left."""
    config = space.net.config
    fit = fitting(space.tokenizer, min(config.max_source_tokens, config.max_target_tokens - 2))
    rows: list[list[str]] = []
    for _, body in corpus.documents(Data(), data):
        short = list(itertools.takewhile(fit, body))
        if len(short) >= least:
            rows.append([*short[:31], *([ENDING] if len(short) == len(body) else [])])
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        what = f"documents of {least} sentences" if least > 1 else "documents"
        raise UserError(f"no {what} in the data", 'give JSON Lines such as {"text": "…"}')
    return _draw(rows, run.limit, run.seed)


TASKS: dict[str, Task] = {
    "autoencode": autoencode,
    "translate": translate,
    "xsim": xsim,
    "speech": speech,
    "search": search,
    "summarize": summaries,
    "nextsentence": nextsentence,
    "generate": generated,
    "nlg": nlg,
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
