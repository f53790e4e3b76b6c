"""Both kinds train on a handful of sentences, resume to the same weights, and give models that run."""

import json
import lzma
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sonarllm_cli.data.store import embed_documents
from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.flow.compose import Writing
from sonarllm_cli.flow.decode import Search
from sonarllm_cli.flow.embed import embed
from sonarllm_cli.flow.summarize import summarize
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.recipe import build, to_toml
from sonarllm_cli.nets.sonar_llm import ENDING
from sonarllm_cli.weights.loaded import load_space, load_writer

WORDS = ["disk", "file", "image", "music", "network", "player", "printer", "reader", "server", "tool"]
ENGLISH = [f"{a} {b} for the {c}" for a in WORDS for b in WORDS[:4] for c in WORDS[5:8]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with lzma.open(folder / "docs.jsonl.xz", "wt") as file:
        for i in range(0, 120, 3):
            print(
                json.dumps({"title": ENGLISH[i], "paragraphs": [[ENGLISH[i + 1] + ". It is fine."], ["Go on."]]}),
                file=file,
            )
    with lzma.open(folder / "pairs.jsonl.xz", "wt") as file:
        for text in ENGLISH[:60]:
            print(json.dumps({"lang": "it", "en": text, "it": text.replace("for the", "per il")}), file=file)
    return folder


def sonar(corpus, **optim):
    return build(
        {
            "kind": "sonar",
            "name": "tiny",
            "model": {"width": 16, "heads": 2, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1, "embedding": 24}
            | {"tied": True, "dropout": 0.0, "max_source_tokens": 64, "max_target_tokens": 64},
            "data": {"root": str(corpus), "documents": ["docs.jsonl.xz"], "pairs": ["pairs.jsonl.xz"], "max_tokens": 64}
            | {"valid_documents": ["docs.jsonl.xz"], "valid_pairs": []},
            "vocabulary": {"pieces": 290, "langs": ["eng_Latn", "ita_Latn"]},
            "optim": {"steps": 12, "batch_tokens": 400, "warmup": 2, "lr": 3e-3} | optim,
            "loss": {"noise_share": 0.2, "mix_share": 0.2, "mixup_share": 0.2, "contrast": 0.1},
        }
    )


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Trainer(sonar(corpus), folder / "sonar").run()
    return folder


def test_the_loss_falls_and_the_model_runs(trained):
    lines = [json.loads(line) for line in (trained / "sonar/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 12 and "valid_ae_eng" not in lines[-1]  # all of it was seen in training
    space = load_space(str(trained / "sonar/model"))
    assert embed(["disk tool for the player"], model=space).shape == (1, 24)


def test_more_steps_lower_the_loss(corpus, tmp_path):
    Trainer(sonar(corpus, steps=60, name="muon"), tmp_path / "r").run()
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    losses = [line["nll"] for line in lines if "nll" in line]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_run_ends_in_the_same_weights(corpus, tmp_path, name):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    Trainer(sonar(corpus, name=name), whole).run()
    trainer = Trainer(sonar(corpus, name=name), broken)
    step = trainer.train_step

    def step_and_ask_to_stop(batches, total):
        trainer.asked = trainer.step == 6
        return step(batches, total)

    trainer.train_step = step_and_ask_to_stop
    with pytest.raises(RunError, match="stopped at step 7 of 12"):
        trainer.run()
    with pytest.raises(UserError, match="--resume"):
        Trainer(sonar(corpus, name=name), broken)
    Trainer(sonar(corpus, name=name), broken, resume=True).run()
    a, b = (load_file(folder / "model/model.safetensors") for folder in (whole, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(corpus, tmp_path):
    trainer = Trainer(sonar(corpus), tmp_path / "r")
    before = {k: v.clone() for k, v in trainer.task.model.state_dict().items()}
    trainer.task.loss = lambda batch, generator: (torch.tensor(float("nan"), requires_grad=True), {"tokens": 1})
    with pytest.raises(RunError, match=r"loss of step 0 is not finite \(texts"):
        trainer.run()
    assert all(torch.equal(v, before[k]) for k, v in trainer.task.model.state_dict().items())


def test_weights_that_are_not_finite_are_never_written(corpus, tmp_path):
    trainer = Trainer(sonar(corpus, steps=1), tmp_path / "r")
    step = trainer.train_step

    def diverging(*args):
        facts = step(*args)
        next(trainer.task.model.parameters()).data.fill_(float("inf"))
        return facts

    trainer.train_step = diverging
    with pytest.raises(RunError, match=r"weights after step 1 are not finite; none were written; lower optim.lr"):
        trainer.run()
    assert not (tmp_path / "r/model").exists()


def test_micro_batches_share_a_steps_loss_by_their_tokens(corpus, tmp_path):
    settings = build(sonar(corpus, accumulate=3).as_dict() | {"loss": {"mse": 0.0, "mt_share": 0.0, "dae_share": 0.0}})
    task = Trainer(settings, tmp_path / "r").task
    total = nll = tokens = 0.0
    for batch in next(iter(task.steps(task.epoch(0)))):
        loss, facts = task.loss(batch, torch.Generator())
        total, nll, tokens = total + loss.item(), nll + facts["nll"] * facts["tokens"], tokens + facts["tokens"]
    assert total == pytest.approx(nll / tokens, rel=1e-5)


def concept(corpus, sonar, **changes):
    return build(
        {
            "kind": "sonar-llm",
            "name": "tiny-llm",
            "sonar": str(sonar),
            "model": {"width": 16, "ffn": 32, "layers": 1, "heads": 2, "head_size": 8},
            "data": {"root": str(corpus), "documents": ["docs.jsonl.xz"], "valid_documents": ["docs.jsonl.xz"]}
            | {"max_tokens": 64},
            "optim": {"steps": 6, "batch_tokens": 300, "documents": 8, "warmup": 2},
        }
        | changes
    )


def test_a_concept_model_trains_through_the_frozen_decoder_and_writes(corpus, trained, tmp_path):
    before = load_file(trained / "sonar/model/model.safetensors")
    figures = Trainer(concept(corpus, trained / "sonar/model"), tmp_path / "r").run()
    assert figures["valid_title_nll"] < 8
    assert all(torch.equal(v, before[k]) for k, v in load_file(trained / "sonar/model/model.safetensors").items())
    writer = load_writer(str(tmp_path / "r/model"), space=str(trained / "sonar/model"))
    found = summarize("disk tool. It is fine.", sentences=2, model=writer, writing=Writing(search=Search(max_tokens=9)))
    assert len(found) == 2


def joint(corpus, base, writer, **optim):
    settings = sonar(corpus, **{"documents": 8, "batch_tokens": 200, "lr": 1e-2} | optim).as_dict()
    only = ["decoder.layers", "decoder.layer_norm", "writer"]
    settings["run"] |= {"init": str(base), "writer": str(writer), "train_only": only}
    settings["loss"] |= {"guess": 1.0, "input_noise": 0.3}
    settings["data"] |= {"summaries": 0.5}
    return build(settings)


@pytest.fixture(scope="module")
def writer(corpus, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer")
    Trainer(concept(corpus, trained / "sonar/model"), folder).run()
    return folder / "model"


def test_a_decoder_and_a_concept_model_learn_together(corpus, trained, writer, tmp_path):
    base = trained / "sonar/model"
    figures = Trainer(joint(corpus, base, writer, steps=40), tmp_path / "r").run()
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    guess = [line["guess"] for line in lines if "guess" in line]
    assert guess[-1] < guess[0] - 0.2
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path / "r/model"))
    kept = [k for k, v in before.items() if torch.equal(after[k], v)]
    assert all((k in kept) == (not k.startswith("decoder.layer")) for k in before)
    found = load_writer(str(tmp_path / "r/writer"))  # and the space that it names beside it
    assert found.marker and found.familiar > 0 and found.space.fingerprint != load_space(str(base)).fingerprint
    task = Trainer(
        concept(corpus, tmp_path / "r/model", run={"init": str(tmp_path / "r/writer")}), tmp_path / "look"
    ).task
    assert task.validate()["valid_text_nll"] == pytest.approx(figures["valid_text_nll"], abs=5e-3)  # kept in float16


def test_the_loss_of_documents_reaches_both_networks_and_that_of_items_one(corpus, trained, writer, tmp_path):
    trainer = Trainer(joint(corpus, trained / "sonar/model", writer), tmp_path / "r")
    items, documents = trainer._epoch()[0][0], trainer._epoch()[0][-1]
    for batch, reached in ((items, {"decoder"}), (documents, {"decoder", "writer"})):
        trainer._forget()
        trainer.task.loss(batch, torch.Generator().manual_seed(0))[0].backward()
        learning = trainer.task.model.named_parameters()
        assert {name.split(".")[0] for name, p in learning if p.grad is not None and p.grad.any()} == reached


def test_a_joint_run_ends_in_the_same_weights_resumed_or_in_two_processes(corpus, trained, writer, tmp_path):
    settings = joint(corpus, trained / "sonar/model", writer, steps=6, lr=1e-3)
    (tmp_path / "r.toml").write_text(to_toml(settings.as_dict()))
    Trainer(settings, tmp_path / "whole").run()
    trainer = Trainer(settings, tmp_path / "broken")
    step = trainer.train_step

    def step_and_ask_to_stop(batches, total):
        trainer.asked = trainer.step == 2
        return step(batches, total)

    trainer.train_step = step_and_ask_to_stop
    with pytest.raises(RunError, match="stopped at step 3 of 6"):
        trainer.run()
    Trainer(settings, tmp_path / "broken", resume=True).run()
    command = [sys.executable, "-m", "sonarllm_cli", "train", str(tmp_path / "r.toml"), "--nproc", "2"]
    subprocess.run([*command, "-o", str(tmp_path / "two")], check=True)
    for part in ("model", "writer"):
        whole, broken, two = (
            load_file(tmp_path / run / part / "model.safetensors") for run in ("whole", "broken", "two")
        )
        assert all(torch.equal(v, broken[k]) for k, v in whole.items())
        for k, v in whole.items():
            torch.testing.assert_close(two[k], v, atol=1e-4, rtol=1e-3)


def test_a_concept_model_of_another_space_learns_along(corpus, trained, writer, tmp_path, caplog):
    Trainer(sonar(corpus, steps=2), tmp_path / "other").run()
    with caplog.at_level("INFO"):
        Trainer(joint(corpus, tmp_path / "other/model", writer), tmp_path / "r")
    assert "was trained in another space" in caplog.text


def test_a_space_that_starts_from_a_concept_models_own_says_so(corpus, trained, writer, tmp_path, caplog):
    for init, said in ((trained / "sonar/model", False), (writer, True)):
        settings = sonar(corpus, steps=1).as_dict()
        settings["run"] |= {"init": str(init)}
        caplog.clear()
        with caplog.at_level("INFO"):
            Trainer(build(settings), tmp_path / "r")
        assert ("the run starts from the one it lives in" in caplog.text) == said


@pytest.mark.parametrize(
    ("section", "key", "value", "cure"),
    [
        ("run", "init", "", "add run.init"),
        ("run", "writer", "", "add run.writer"),
        ("loss", "guess", 0.0, "add loss.guess"),
        ("run", "train_only", ["decoder", "writer", "encoder.layers"], "embedded once"),
        ("run", "train_only", ["writer"], "leaves out the decoder"),
        ("run", "train_only", ["decoder.layers"], "leaves out the writer"),
        ("run", "writer", "sonar", "is a sonar model"),
        ("run", "writer", "wide", "predicts vectors of 32 numbers"),
        ("run", "writer", "nowhere", "unknown model 'nowhere'"),
        ("run", "init", "nowhere", "unknown model 'nowhere'"),
    ],
)
def test_a_joint_run_needs_a_space_and_a_concept_model(corpus, trained, writer, tmp_path, section, key, value, cure):
    base = trained / "sonar/model"
    settings = joint(corpus, base, writer).as_dict()
    if value == "wide":
        value = shutil.copytree(writer, tmp_path / "wide")
        config = json.loads((value / "config.json").read_text())
        config["model"]["embedding"] = 32
        (value / "config.json").write_text(json.dumps(config))
    settings[section] |= {key: str(base if value == "sonar" else value) if key == "writer" else value}
    with pytest.raises(UserError, match=cure):
        Trainer(build(settings), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_every_prefix_of_what_learns_matches_something(corpus, tmp_path):
    settings = sonar(corpus).as_dict()
    settings["run"]["train_only"] = ["decoder.", "encodr."]
    with pytest.raises(UserError, match=r"'encodr.' matches .* encoder\? their names begin with decoder, encoder"):
        Trainer(build(settings), tmp_path / "r")


def test_what_two_models_need_is_refused_of_another_kind(corpus, trained, tmp_path):
    settings = concept(corpus, trained / "sonar/model").as_dict()
    settings["loss"]["guess"] = 1.0
    with pytest.raises(UserError, match=r"loss.guess is for a space, not for a sonar-llm model; leave loss.guess out"):
        Trainer(build(settings), tmp_path / "r")


def test_a_pull_adds_how_far_what_is_predicted_is_from_the_sentence(corpus, trained, tmp_path):
    def of_first_batch(pull):
        settings = concept(corpus, trained / "sonar/model").as_dict()
        settings["loss"]["pull"] = pull
        trainer = Trainer(build(settings), tmp_path / str(pull))
        [batch] = trainer._epoch()[0]
        return trainer.task.loss(batch, torch.Generator().manual_seed(0))

    (plain, facts), (pulled, more) = of_first_batch(0.0), of_first_batch(0.5)
    assert "far" not in facts and more["nll"] == facts["nll"]
    torch.testing.assert_close(pulled, plain + 0.5 * more["far"])


def test_micro_batches_do_not_change_the_gradient(corpus, trained, tmp_path):
    grads = []
    for tokens in (300, 64):
        settings = concept(corpus, trained / "sonar/model", optim={"batch_tokens": tokens, "documents": 8})
        trainer = Trainer(settings.__class__(**{**vars(settings), "data": settings.data}), tmp_path / str(tokens))
        batches = trainer._epoch()[0]
        for batch in batches:
            trainer.task.loss(batch, torch.Generator().manual_seed(0))[0].backward()
        grads.append((len(batches), trainer.task.model.project_in.weight.grad))
    assert grads[0][0] < grads[1][0]
    torch.testing.assert_close(grads[0][1], grads[1][1], atol=1e-6, rtol=1e-4)


def test_a_concept_model_begins_at_the_mean_embedding_or_at_another_model(corpus, trained, tmp_path):
    task = Trainer(concept(corpus, trained / "sonar/model"), tmp_path / "r").task
    rows = np.concatenate([task.data.train.body(i) for i in range(len(task.data.train))])
    torch.testing.assert_close(task.model.project_out.bias, task.table.embeddings_ND[rows[rows > 1]].mean(0))
    Trainer(concept(corpus, trained / "sonar/model"), tmp_path / "r").run()
    begun = Trainer(concept(corpus, trained / "sonar/model", run={"init": str(tmp_path / "r/model")}), tmp_path / "b")
    stored = load_file(tmp_path / "r/model/model.safetensors")
    assert all(torch.equal(p, stored[name].float()) for name, p in begun.task.model.named_parameters())
    other = "has width 16, the run 32; leave model.width out"
    for init, cure in ((trained / "sonar/model", "sonar model"), (tmp_path / "r/model", other)):
        other = {"width": 32} if init.parent.name == "r" else {}
        settings = concept(corpus, trained / "sonar/model", run={"init": str(init)}).as_dict()
        settings["model"] |= other
        with pytest.raises(UserError, match=cure):
            Trainer(build(settings), tmp_path / "c")


def test_a_normaliser_is_fitted_and_not_trained_also_where_a_run_starts_from_another(corpus, trained, tmp_path):
    settings = concept(corpus, trained / "sonar/model", kind="mse-lcm")
    Trainer(settings, tmp_path / "r").run()
    begun = Trainer(build(settings.as_dict() | {"run": {"init": str(tmp_path / "r/model")}}), tmp_path / "b")
    fitted = {name: p.clone() for name, p in begun.task.model.normaliser.named_parameters()}
    begun.run()
    assert all(torch.equal(p, fitted[name]) for name, p in begun.task.model.normaliser.named_parameters())


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_where_there_are_no_bfloat16_products_a_run_has_float32_ones(corpus, tmp_path, monkeypatch, has, dtype):
    from sonarllm_cli.learn import loop

    settings = sonar(corpus).as_dict()
    settings["run"] |= {"dtype": "bfloat16"}
    monkeypatch.setattr(loop, "multiplies_bfloat16", lambda device: has)
    trainer = Trainer(build(settings), tmp_path / "r")
    layer = trainer.task.model.decoder.layers[0].ffn.inner_proj
    assert trainer._in_dtype(lambda: layer.weight.dtype) == dtype
    trainer.train_step(trainer._epoch()[0], 1)
    assert layer.weight.dtype == torch.float32 and layer.weight.is_leaf


def test_a_concept_model_refuses_another_space(corpus, trained, tmp_path):
    Trainer(concept(corpus, trained / "sonar/model"), tmp_path / "r").run()
    Trainer(sonar(corpus, steps=2), tmp_path / "other").run()
    with pytest.raises(UserError, match="was trained in the space"):
        load_writer(str(tmp_path / "r/model"), space=str(tmp_path / "other/model"))


def test_a_run_embeds_its_sentences_once_and_again_for_another_encoder(corpus, trained, tmp_path, monkeypatch):
    from sonarllm_cli.data import documents

    def embedded(space):
        calls = []
        real = documents.encode
        monkeypatch.setattr(documents, "encode", lambda *a: calls.append(a) or real(*a))
        trainer = Trainer(concept(corpus, space), tmp_path / "r")
        monkeypatch.setattr(documents, "encode", real)
        return len(calls), trainer.task.table.embeddings_ND

    Trainer(sonar(corpus, steps=1), tmp_path / "other").run()
    first, again, other = (embedded(s / "model") for s in (trained / "sonar", trained / "sonar", tmp_path / "other"))
    assert (first[0], again[0], other[0]) == (1, 0, 1)
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], other[1])


@pytest.mark.parametrize("damage", ["flipped", "not a number", "cut"])
def test_damaged_embeddings_are_made_again(corpus, trained, tmp_path, caplog, damage):
    settings = concept(corpus, trained / "sonar/model")
    want = Trainer(settings, tmp_path / "r").task.table.embeddings_ND
    path = tmp_path / "r/embeddings.safetensors"
    data = path.read_bytes()
    end = {"flipped": bytes([data[-1] ^ 1]), "not a number": b"\xff\xff\xff\x7f", "cut": b""}[damage]
    path.write_bytes(data[: -max(1, len(end))] + end)
    for told in (True, False):  # and kept, whole
        caplog.clear()
        found = Trainer(settings, tmp_path / "r").task.table.embeddings_ND
        assert torch.equal(found, want) and ("is damaged: made again" in caplog.text) == told


def test_too_few_documents_are_warned_of_at_the_start(corpus, trained, tmp_path, caplog, monkeypatch):
    for few in (40, 41):
        monkeypatch.setattr("sonarllm_cli.data.documents.FEW", few)
        Trainer(concept(corpus, trained / "sonar/model"), tmp_path / str(few))
        assert ("40 documents are too few to learn from" in caplog.text) == (few == 41)


def test_a_document_of_which_one_sentence_is_left_is_left_out(trained, tmp_path):
    texts = ["It is fine. " + "It goes on and on " * 40, "It is fine.", "It is fine. It is good."]
    (tmp_path / "docs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    space = load_space(str(trained / "sonar/model"))
    embed_documents([str(tmp_path / "docs.jsonl")], tmp_path / "store", space, on_long="truncate")
    for source in ({"documents": ["docs.jsonl"]}, {"store": "store"}):
        data = {"root": str(tmp_path), "min_sentences": 1, "max_tokens": 64} | source
        found = Trainer(concept("", trained / "sonar/model", data=data), tmp_path / next(iter(source))).task.data
        rows = [document.rows.tolist() for document in found.epoch(0)]
        assert sorted(map(len, rows)) == [2, 3] and min(map(min, rows)) >= 0


def test_a_long_document_goes_on_as_the_next(trained, tmp_path):
    (tmp_path / "docs.jsonl").write_text(json.dumps({"text": " ".join(f"It is {w}." for w in WORDS[:8])}))
    data = {"root": str(tmp_path), "documents": "docs.jsonl", "max_sentences": 4, "split": True, "max_tokens": 64}
    found = Trainer(concept("", trained / "sonar/model", data=data), tmp_path / "r").task.data
    texts = [found.table.text(found.train.body(i)) for i in range(3)]
    assert [[text[6:-1] for text in part] for part in texts[:2]] == [WORDS[:3], WORDS[3:6]]
    assert texts[2] == [f"It is {WORDS[6]}.", f"It is {WORDS[7]}.", ENDING]


def test_two_processes_end_where_one_does(corpus, trained, tmp_path):
    settings = concept(corpus, trained / "sonar/model", optim={"steps": 5, "batch_tokens": 64, "documents": 8})
    (tmp_path / "r.toml").write_text(to_toml(settings.as_dict()))
    for count in (1, 2):
        command = [sys.executable, "-m", "sonarllm_cli", "train", "r.toml", "-o", f"run{count}", "--threads", "1"]
        done = subprocess.run([*command, "--nproc", str(count)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    lines = [(tmp_path / f"run{count}/metrics.jsonl").read_text().splitlines() for count in (1, 2)]
    assert len(lines[0]) == len(lines[1])
    one, two = (load_file(tmp_path / f"run{count}/model/model.safetensors") for count in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-2)  # stored as float16
