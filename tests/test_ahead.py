"""Steps made ahead by a thread are those made when asked for, at any place of a run."""

import threading

import pytest
import torch
from test_loop import changed
from test_precision import MODELS
from test_train import concept, corpus, sonar, trained  # noqa: F401

from sonarllm_cli.learn import loop
from sonarllm_cli.learn.ahead import Ahead
from sonarllm_cli.learn.loop import Trainer


@pytest.mark.parametrize("count", [0, 1, 3])
def test_items_come_in_order_few_ahead_and_errors_in_their_place(count):
    made = []

    def make(i):
        made.append(i)
        if i == 6:
            raise ValueError("six")
        return i, threading.current_thread() is threading.main_thread()

    coming = Ahead(make, 2, 9, count)
    for i in range(2, 6):
        assert coming.take() == (i, count == 0) and len(made) <= i - 1 + count
    with pytest.raises(ValueError, match="six"):
        coming.take()
    assert coming.take()[0] == 7
    coming.close()
    assert made == sorted(made) and threading.active_count() == 1


@pytest.mark.parametrize("kind", ["sonar", "sonar-llm"])
def test_a_run_with_steps_ahead_ends_in_the_same_weights_also_resumed(corpus, trained, tmp_path, monkeypatch, kind):  # noqa: F811
    settings = sonar(corpus, steps=9, accumulate=2)
    if kind == "sonar-llm":
        settings = concept(corpus, trained / "sonar/model")
        settings = changed(settings, optim={"steps": 9, "documents": 16}, loss={"input_noise": 0.1})

    def weights(run):
        return run.task.model.state_dict()

    whole = Trainer(settings, tmp_path / "whole")
    whole.run()
    monkeypatch.setattr(loop, "steps_ahead", lambda device: 2)
    broken = Trainer(settings, tmp_path / "broken")
    step, seen = broken.train_step, []

    def step_and_stop(batches, total):
        seen.append([batch.loaded is not None for batch in batches])
        broken.asked = broken.step == 3
        return step(batches, total)

    broken.train_step = step_and_stop
    with pytest.raises(loop.RunError, match="stopped at step 4"):
        broken.run()
    assert len(seen) == 4 and all(map(all, seen))
    again = Trainer(settings, tmp_path / "broken", resume=True)
    again.run()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values()))


@pytest.mark.parametrize("kind", ["sonar-llm", "token-llm", "mse-lcm", "diffusion-lcm"])
def test_a_loaded_step_reads_nothing_more_of_the_table(corpus, trained, tmp_path, monkeypatch, kind):  # noqa: F811
    trainer = Trainer(concept(corpus, trained / "sonar/model", kind=kind, **MODELS[kind]), tmp_path / "r")
    batch = trainer._epoch()[0][0]
    want, loaded = trainer._learn(batch, 0), trainer.task.load(batch)
    for name in ("target_ids", "embeddings", "bytes"):
        monkeypatch.setattr(trainer.task.table, name, None)
    assert trainer._learn(loaded, 0) == want
    with pytest.raises(TypeError):
        trainer._learn(batch, 0)
