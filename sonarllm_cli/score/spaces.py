"""What a space is worth: tasks that embed, and decode what was embedded.

Legend: N texts, Q queries, K nearest, D embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import corpus
from ..data.clips import read_clips
from ..data.records import Data
from ..errors import UserError
from ..flow.decode import Search, decode_batch
from ..flow.embed import embed, load_speech
from ..flow.embed_speech import embed_recordings
from ..flow.embed_text import Line, embed_sentences, embed_stream, joined_blocks
from ..flow.say import say
from ..io.files import load_json, read_text
from ..languages import resolve
from ..runtime import log
from ..use import align
from ..use.mine import Pair, mine
from ..use.neighbours import nearest_rows, unit
from ..use.sides import Embedded
from ..weights import model_dir, registry
from ..weights.loaded import Space, load_space
from . import metrics
from .alignment import noisy
from .peers import peer_aligner, peer_encoder
from .plan import Plan, Result, Sample, Task, by_language, pairs_by_language, sampled


def autoencoding(model: str, data: list[str], run: Plan) -> Result:
    """Embed and decode in the same language: BLEU and exact match, by language, of sentences of so many words."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang, texts in sorted(by_language(data, run.seen).items()):
        texts = sampled([t for t in texts if run.fits(t)], run.limit, run.seed)
        found = _decoded(embed_sentences(texts, lang, space), lang, space, run.beam)
        figures |= {
            f"{lang} BLEU": run.bleu(found, texts, lang),
            f"{lang} exact": metrics.exact(found, texts),
            f"{lang} texts": len(texts),
        }
        samples += [{"lang": lang, "text": a, "found": b} for a, b in list(zip(texts, found))[:5]]
    return figures, samples


def translation(model: str, data: list[str], run: Plan) -> Result:
    """Translate into English, or out of it, as `translate` does, or by whole sentences' likeliest (`run.whole`):
    chrF and BLEU by language."""
    space = load_space(model, run.runtime)
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang, pairs in sorted(pairs_by_language(data, run.seen).items()):
        pairs = sampled([p for p in pairs if run.fits(p[0])], run.limit, run.seed)
        sides = ("eng_Latn", lang) if run.out else (lang, "eng_Latn")
        given, wanted = zip(*((a, b) if run.out else (b, a) for a, b in pairs))
        if run.whole:
            found = _decoded(embed_sentences(list(given), sides[0], space), sides[1], space, run.beam)
        else:
            found = [said.text for said in say(list(given), *sides, space, Search(beam=run.beam))]
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


def xsim_errors(
    model: str, data: list[str], run: Plan, plus: Sequence[str] = (), types: Mapping[str, str] | None = None
) -> Result:
    """How often a text's translation is not its nearest neighbour, both ways, by language; into English also among the
    altered sentences `plus` (xsim++, Chen et al. 2023), whose errors are told by kind: another text's translation is
    found, or an altered sentence, of what type `types` has."""
    space = load_space(model, run.runtime)
    plus_ND = embed_sentences(plus, "eng_Latn", space) if plus else None
    figures: dict[str, float] = {}
    for lang, pairs in sorted(pairs_by_language(data, run.seen).items()):
        pairs = [p for p in dict.fromkeys(sampled(pairs, run.limit, run.seed))]
        english, other = [a for a, _ in pairs], [b for _, b in pairs]
        a_ND, b_ND = embed_sentences(english, "eng_Latn", space), embed_sentences(other, lang, space)
        figures |= {
            f"{lang} → eng error": metrics.xsim(b_ND, a_ND, sources=other, targets=english),
            f"eng → {lang} error": metrics.xsim(a_ND, b_ND, sources=english, targets=other),
            f"{lang} texts": len(pairs),
        }
        if plus_ND is not None:
            targets = [*english, *plus]
            error, wrong = metrics.xsim_wrong(b_ND, torch.cat([a_ND, plus_ND]), sources=other, targets=targets)
            figures[f"{lang} → eng error ++"] = error
            kinds = Counter(
                (types or {}).get(targets[i], "altered") if i >= len(english) else "misaligned" for i in wrong
            )
            for kind in sorted({"misaligned", *(types or {"": "altered"}).values(), *kinds}):
                figures[f"{lang} → eng ++ {kind}"] = error * kinds[kind] / max(1, len(wrong))
    return figures, []


def speech_understood(model: str, data: list[str], run: Plan) -> Result:
    """Clips against their words, by language: how often the vector of one is not nearest to the other's, and what is
    decoded in the language spoken: BLEU, chrF, word error rate. `model` is a speech encoder; its space decodes."""
    heard = load_speech(model, run.runtime)
    if not heard.space:
        raise UserError(f"{model} was imported without a space", "import it again, with --sonar SPACE")
    folder = registry.find(registry.hearing(model))
    space = load_space(model_dir.home_of(folder, model_dir.read_config(folder)), run.runtime)
    heard.check(space)
    clips = [clip for clip in read_clips(data, lang=heard.lang or "eng_Latn") if clip.text not in set(run.seen)]
    figures: dict[str, float] = {}
    samples: list[Sample] = []
    for lang in sorted({clip.lang for clip in clips}):
        own = sampled([clip for clip in clips if clip.lang == lang], run.limit, run.seed)
        sounds = [clip.recording() for clip in own]
        blocks = list(embed_recordings(sounds, heard, whole=True))
        if failures := [failure for block in blocks for failure in block.failures]:
            done = [one.file for block in blocks for one in block.heard]
            if not done:
                raise failures[0]
            log.warning("left out %d clips that can't be heard, the first: %s", len(failures), failures[0])
            own = [clip for clip, sound in zip(own, sounds) if done and sound.name == done[0] and done.pop(0)]
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


def retrieval(model: str, data: list[str], run: Plan, peer: str = "") -> Result:
    """How often the note that answers a query is the nearest by cosine, and among the five nearest, in per cent: of all
    queries, by their language, and apart by whether the note is in the same. Notes are {"id", "lang", "text"}, queries
    {"lang", "text", "note"}, which is the note's id. Then the same of a `peer` (see peers.py)."""
    encode = peer_encoder(peer) if peer else None
    space = load_space(model, run.runtime)
    rows = [row for _, row in corpus.rows(Data(), data)]
    for row in rows:
        if not all(isinstance(row.get(key), str) for key in ("lang", "text", "note" if "note" in row else "id")):
            fields = ", ".join(list(row)[:8])
            message = f"neither a note nor a query, but a record of {fields or 'nothing'}"
            raise UserError(message, 'give {"id", "lang", "text"} and {"lang", "text", "note"}')
    seen = set(run.seen)
    notes = {row["id"]: row for row in rows if "note" not in row}
    queries = sampled([row for row in rows if "note" in row and row["text"] not in seen], run.limit, run.seed)
    if not notes or not queries:
        raise UserError(
            f"no {'queries' if notes else 'notes'} in the data", 'give --data with {"id", …} and {"note", …}'
        )
    if lost := [row["note"] for row in queries if row["note"] not in notes]:
        raise UserError(f"a query's note {lost[0]!r} is not there", "give --data with all notes")
    figures, samples = _found(notes, queries, lambda part: _embedded(part, space))
    if encode:
        theirs, _ = _found(notes, queries, lambda part: torch.from_numpy(encode([row["text"] for row in part])))
        figures |= {f"{peer}: {name}": value for name, value in theirs.items() if not name.endswith("queries")}
    return figures, samples


def _found(
    notes: dict[str, dict[str, Any]],
    queries: Sequence[dict[str, Any]],
    embedded: Callable[[Sequence[dict[str, Any]]], Tensor],
) -> Result:
    """What `retrieval` says of an encoder: rows → embeddings_ND."""
    names = list(notes)
    note_ND, query_QD = (unit(embedded(part)) for part in (list(notes.values()), queries))
    row_QK = nearest_rows(query_QD, [note_ND], 5)[1].tolist()
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
    return torch.from_numpy(joined_blocks(embed_stream(lines, space), space.dim))


def aligned(noise: float, peer: str = "") -> Task:
    """A task that aligns two documents made of pairs, of which one in 1 / `noise` is changed (see alignment.py):
    precision, recall and F1 of pairs, strict, in per cent, by language; then those of a `peer` (see peers.py) on the
    same vectors."""

    def run(model: str, data: list[str], plan: Plan) -> Result:
        ways = {"": align.align} | ({f"{peer}: ": peer_aligner(peer)} if peer else {})
        space = load_space(model, plan.runtime)
        figures: dict[str, float] = {}
        for lang, pairs in sorted(pairs_by_language(data, plan.seen).items()):
            pairs = list(dict.fromkeys(pairs))[: plan.limit or None]
            a, b, true = noisy(pairs, noise, plan.seed)
            documents = [
                align.document(side, lambda texts, own=own: embed(texts, lang=own, model=space))  # type: ignore[misc]
                for side, own in ((a, "eng_Latn"), (b, lang))
            ]
            for who, way in ways.items():
                scores = align.strict_f1(way(*documents), true)
                figures |= {f"{who}{lang} {name}": score for name, score in zip(("precision", "recall", "F1"), scores)}
            figures[f"{lang} sentences"] = len(b)
        return figures, []

    return run


def mined(strangers: int, threshold: float | None, peer: str = "") -> Task:
    """A task that mines pairs hidden among `strangers` times as many texts that have no counterpart, by language (as
    BUCC, Zweigenbaum et al. 2017): precision, recall and F1 at the threshold that makes F1 best, and at `threshold`;
    then those of a `peer` (see peers.py) on the same texts."""

    def run(model: str, data: list[str], plan: Plan) -> Result:
        encode = peer_encoder(peer) if peer else None
        space = load_space(model, plan.runtime)
        figures: dict[str, float] = {}
        for lang, pairs in sorted(pairs_by_language(data, plan.seen).items()):
            pairs = sampled(list(dict.fromkeys(pairs)), plan.limit, plan.seed)
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
            found = {"": mine(*sides)}
            if encode:
                found[f"{peer}: "] = mine(*(Embedded(own, peer, side, encode(side)) for own, side in texts.items()))
            for who, mined_pairs in found.items():
                own_figures = _mining_figures(mined_pairs, known, threshold)
                figures |= {f"{who}{lang} {name}": value for name, value in own_figures.items()}
            figures[f"{lang} pairs"] = known
        return figures, []

    return run


def _mining_figures(found: Sequence[Pair], known: int, threshold: float | None) -> dict[str, float]:
    """Of pairs mined, best first, of which those of the same row below `known` are right."""
    right = [pair.a == pair.b < known for pair in found]
    figures = dict(metrics.best_f1([pair.score for pair in found], right, known))
    if threshold is not None:
        count = sum(pair.score >= threshold for pair in found)
        given = metrics.f1(sum(right[:count]), count, known)
        figures |= {f"{name} at {threshold:g}": value for name, value in given.items()}
    return figures


def _decoded(embedding_ND: torch.Tensor, lang: str, space: Space, beam: int) -> list[str]:
    search = Search(beam=beam)
    length_sorted = decode_batch(embedding_ND, lang, space, search)
    return [hypotheses[0].text for hypotheses in length_sorted]


def altered_types(path: str) -> dict[str, str]:
    """The types of xsim++'s altered sentences, of a JSON object: sentence → its type, or {"errtype": type}, where
    several are a list. UserError for another file."""
    cure = 'write {"SENTENCE": {"errtype": "TYPE"}}'
    try:
        table = load_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {str(error)[:80]}", cure) from None
    if not isinstance(table, dict):
        raise UserError(f"{path} holds no JSON object", cure)
    found: dict[str, str] = {}
    for sentence, said in table.items():
        said = said.get("errtype") if isinstance(said, dict) else said
        names: list[Any] = said if isinstance(said, list) else [said]
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {sentence[:60]!r} has no type", cure)
        found[sentence.strip()] = ", ".join(names)
    return found
