"""Training on a GPU: a CPU's loss and gradient, killed runs, one process under torchrun, FSDP2, compiled layers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from test_train import concept, corpus, sonar, trained  # noqa: F401

from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.ranks import Ranks, shard
from sonarllm_cli.learn.recipe import build, to_toml


def changed(settings, **sections):
    """The settings with keys of some sections changed."""
    table = settings.as_dict()
    for section, keys in sections.items():
        table[section] |= keys
    return build(table)


@pytest.fixture
def recipe(corpus, trained, device):  # noqa: F811
    """Settings of a kind on the device: kind, sections → Settings."""

    def make(kind="sonar-llm", **sections):
        space = {"dropout": 0.0} if kind == "sonar" else {}
        settings = sonar(corpus) if kind == "sonar" else concept(corpus, trained / "sonar/model", kind=kind)
        run = {"device": device, "weights": "float32", **sections.pop("run", {})}
        return changed(settings, run=run, model=space | sections.pop("model", {}), **sections)

    return make


def first_step(settings, folder, prepare=lambda trainer: None):
    """The first micro-batch's loss and gradients, on the CPU."""
    trainer = Trainer(settings, folder)
    prepare(trainer)
    trainer.task.model.train()
    loss, _ = trainer._learn(trainer._epoch()[0][0], 0, last=True)
    grads = [p.grad for p in trainer.task.model.parameters() if p.grad is not None]
    whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
    return loss, torch.cat([g.detach().float().cpu().flatten() for g in whole])


def agree(one, two, loss=1e-3, cosine=0.999):
    assert one[0] == pytest.approx(two[0], rel=loss)
    assert torch.cosine_similarity(one[1], two[1], dim=0) >= cosine


@pytest.mark.parametrize("kind", ["sonar", "sonar-llm", "token-llm"])
def test_a_step_is_a_cpus(recipe, tmp_path, kind):
    found = [first_step(recipe(kind, run={"device": place}), tmp_path / str(i)) for i, place in enumerate(places())]
    agree(*found)


def places():
    return ("cpu", os.environ.get("SONARLLM_TEST_DEVICE", "cuda"))


@pytest.mark.parametrize("kind", ["sonar", "sonar-llm"])
def test_a_step_in_bfloat16_is_near_one_in_float32(recipe, tmp_path, kind):
    found = [first_step(recipe(kind, run={"dtype": dtype}), tmp_path / dtype) for dtype in ("float32", "bfloat16")]
    agree(*found, loss=2e-2, cosine=0.99)


def test_compiled_layers_learn_as_plain_ones(recipe, tmp_path):
    found = [first_step(recipe(run={"compile": on}), tmp_path / str(on)) for on in (False, True)]
    agree(*found)


def train(folder, *words, launcher=("-m", "sonarllm_cli")):
    command = [sys.executable, *launcher, "train", "r.toml", "--threads", "1", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def lines(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_killed_run_goes_on_and_ends_as_a_whole_one(recipe, tmp_path):
    """Within what the order of a sum rounds on a GPU; a test of its own holds a CPU to the bit."""
    settings = recipe(optim={"steps": 30}, run={"save_every": 3, "log_every": 1, "valid_every": 1000})
    Trainer(settings, tmp_path / "whole").run()
    (tmp_path / "r.toml").write_text(to_toml(settings.as_dict()))
    process = train(tmp_path, "-o", "broken")
    while process.poll() is None and not list((tmp_path / "broken").glob("checkpoint-*")):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stdout.read()
    trainer = Trainer(settings, tmp_path / "broken", resume=True)
    assert 3 <= trainer.step < 30
    trainer.run()
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(tmp_path / "broken"), atol=2e-3, rtol=0)


def test_one_process_under_torchrun_ends_where_a_plain_one_does(recipe, tmp_path):
    settings = recipe(optim={"steps": 4})
    Trainer(settings, tmp_path / "plain").run()
    (tmp_path / "r.toml").write_text(to_toml(settings.as_dict()))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "sonarllm_cli")
    process = train(tmp_path, "-o", "torchrun", launcher=launcher)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    torch.testing.assert_close(weights(tmp_path / "plain"), weights(tmp_path / "torchrun"), atol=1e-3, rtol=0)


@pytest.fixture
def group(device, monkeypatch):
    """A group of this process alone, over NCCL on a GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.set_device(torch.device(device).index or 0)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", init_method=address, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_group_adds_up_and_tells(group, device):
    value = torch.arange(5.0, device=device)
    dist.all_reduce(value)
    dist.broadcast(value, src=0)
    found = [None]
    dist.all_gather_object(found, {"step": 3})
    assert value.tolist() == [0, 1, 2, 3, 4] and found == [{"step": 3}]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sharded_step_is_a_plain_one(recipe, group, tmp_path, dtype):
    """FSDP2 over one process: what it gathers and sends is real, and there is nothing else to change the numbers."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    settings = recipe(run={"dtype": dtype})

    def sharded(trainer):
        shard(trainer.task.model, trainer.ranks, names[dtype])
        trainer.sharded = True

    found = [first_step(settings, tmp_path / name, p) for name, p in (("plain", lambda t: None), ("sharded", sharded))]
    agree(*found, **({} if dtype == "float32" else {"loss": 2e-2, "cosine": 0.99}))


def test_a_process_has_the_gpu_it_is_given(device):
    assert Ranks(device).device == torch.device(device if ":" in device or device == "cpu" else f"{device}:0")


def test_memory_and_rate_are_told(recipe, tmp_path):
    Trainer(recipe(run={"log_every": 2}), tmp_path / "r").run()
    last = [line for line in lines(tmp_path / "r") if "peak_share" in line][-1]
    assert last["memory_gib"] > 0 and 0 <= last["peak_share"] < 1.5 and last["tokens_s"] > 0  # of a card, hardly any
