"""The published step's rewrite computes what ours does, the long way round."""

import json

import pytest
import torch
from conftest import on_ranks

from sonarllm_cli.bench import processes
from sonarllm_cli.bench import step as bench_train
from sonarllm_cli.bench.step import BenchTrain, PublishedDecoder, compare, micro_batches, our_loss
from sonarllm_cli.errors import UserError
from sonarllm_cli.learn.ranks import Ranks, last_of_step
from sonarllm_cli.nets.sonar import SonarConfig, SonarDecoder
from sonarllm_cli.nets.sonar_llm import SonarLLM, SonarLLMConfig

SETUP = BenchTrain(documents=5, micro=2, steps=1, threads=1)
SMALL = SonarConfig(width=16, heads=2, ffn=32, decoder_layers=2, vocab_size=60, embedding=24)


@pytest.fixture
def models():
    torch.manual_seed(0)
    space = SMALL
    model = SonarLLM(SonarLLMConfig(width=16, ffn=32, layers=1, heads=2, head_size=8, embedding=24))
    return model, SonarDecoder(space).requires_grad_(False), micro_batches(SETUP, 60, 24)


def published(model, decoder, step):
    return sum(bench_train.published_loss(model, decoder, micro) for micro in step) / len(step)


@pytest.mark.parametrize(
    ("code", "told", "words"),
    [
        (1, "warned\nRuntimeError: not enough memory: 9 bytes\n", "9 bytes; use fewer --documents"),
        (-9, "warned\n", "killed by signal 9; use fewer --documents"),
        (1, "ModuleNotFoundError: No module named 'x'\n", "named 'x'; mend that"),
    ],
)
def test_a_step_that_fails_is_said_to_lack_memory_only_where_it_does(code, told, words):
    assert words in str(bench_train.failure("the step", code, told))


def test_both_steps_have_the_same_loss_and_gradient_without_dropout(models):
    model, decoder, step = models
    losses, grads = [], []
    for loss in (our_loss(model, decoder, step), published(model, PublishedDecoder(decoder).eval(), step)):
        loss.backward()
        losses.append(loss.item())
        grads.append(model.project_in.weight.grad.clone())
        model.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def test_the_published_step_has_its_dropout_on(models):
    model, decoder, step = models
    train = PublishedDecoder(decoder).train()
    assert abs(published(model, train, step) - published(model, train.eval(), step)) > 1e-4


def test_lengths_come_from_the_sample_or_from_a_text(tmp_path):
    assert [n for body in bench_train.lengths(SETUP) for n in body if not 0 < n < 254] == []
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "A music player. It is small."}) + "\n")
    setup = BenchTrain(data=str(tmp_path / "d.jsonl"), documents=1)
    assert len(bench_train.lengths(setup)[0]) == 3
    with pytest.raises(UserError, match="--documents 1"):
        bench_train.lengths(BenchTrain(data=setup.data, documents=2))


def test_sides_that_disagree_are_an_error(monkeypatch):
    facts = {"sentences_s": 1.0, "peak_bytes": 4, "loss": 2.0}
    done = iter([facts, {**facts, "loss": 2.1}])
    run = lambda *_, **__: type("Done", (), {"returncode": 0, "stdout": json.dumps(next(done))})  # noqa: E731
    monkeypatch.setattr(bench_train.subprocess, "run", run)
    with pytest.raises(UserError, match="losses differ"):
        compare(SETUP)


def test_two_processes_say_how_long_they_wait(monkeypatch):
    monkeypatch.setattr(bench_train, "SHAPE", {"width": 16, "ffn": 32, "layers": 1, "heads": 2, "head_size": 8})
    monkeypatch.setattr(bench_train, "SonarConfig", lambda **_: SMALL)
    found = []

    def work():
        found.append(processes.time_steps(BenchTrain(documents=4, micro=1, steps=2, threads=1)))
        assert list(found[0]["ways"]) == ["apart", "after", "during"]
        assert found[0]["ways"]["apart"]["waiting"] == 0 < found[0]["ways"]["after"]["waiting"] < 1

    on_ranks(2, work)


@pytest.mark.parametrize("way", ["after", "during"])
def test_gradients_of_processes_add_up_in_either_way(models, way):
    model, decoder, step = models
    our_loss(model, decoder, step[:1]).backward()
    our_loss(model, decoder, step[1:2]).backward()
    want = model.project_in.weight.grad.clone()
    model.zero_grad()

    def work():
        own = Ranks("cpu")
        objective = own.replicated(processes.Objective(model, decoder))
        with last_of_step(objective, model, way == "during"):
            (objective(step[own.rank : own.rank + 1]) * (2 if way == "during" else 1)).backward()
        if way == "after":
            processes.sum_after(list(model.parameters()))
        torch.testing.assert_close(model.project_in.weight.grad, want)

    on_ranks(2, work)


def test_documents_must_do_for_the_processes():
    with pytest.raises(UserError, match="use --documents 8"):
        processes.measure_processes(BenchTrain(documents=4, micro=4), 2)
