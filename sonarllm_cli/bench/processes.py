"""How much of a training step several processes spend waiting for each other's gradients.

The step of `bench train` (see bench/step.py), its documents shared out, in three ways by turns: gradients that stay
where they are, gradients added up after the backward pass in messages of 64 MiB (the plain way), and gradients added up
while it computes, as `train` does. A process waits from its last gradient to the end of the sum.

    report = measure_processes(BenchTrain(documents=8), 2)
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import UserError
from ..learn.ranks import Ranks, last_of_step
from ..nets.sonar import SonarDecoder
from ..nets.sonar_llm import SonarLLM
from ..parent import LAUNCHER
from ..runtime import choose
from .step import BenchTrain, Micro, failure, micro_batches, networks, our_loss
from .timing import now

WAYS = ("apart", "after", "during")
MESSAGE = 1 << 24  # numbers: 64 MiB


class Objective(nn.Module):
    """The step's loss, as a module of the network that learns."""

    def __init__(self, model: SonarLLM, decoder: SonarDecoder) -> None:
        super().__init__()
        self.model, self.unused = model, nn.Parameter(torch.zeros(()))  # see learn/loop.py
        self.loss = lambda step: our_loss(model, decoder, step)

    def forward(self, step: Sequence[Micro]) -> Tensor:
        return self.loss(step)


def sum_after(parameters: Sequence[nn.Parameter]) -> None:
    """The plain twin of DDP: add up the gradients of all processes, once all are there."""
    for grads in _messages([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([g.numel() for g in grads])):
            grad.copy_(part.view_as(grad))


def _messages(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    held: list[Tensor] = []
    for grad in grads:
        if held and sum(g.numel() for g in held) + grad.numel() > MESSAGE:
            yield held
            held = []
        held.append(grad)
    if held:
        yield held


def time_steps(setup: BenchTrain) -> dict[str, Any]:
    """This process' part of the measurement: of each way the median seconds of a step and those spent waiting."""
    torch.set_num_threads(setup.threads)
    ranks = Ranks(setup.device)
    model, decoder = networks(setup, choose(str(ranks.device), "float32").device)
    step = micro_batches(setup, decoder.config.vocab_size, decoder.config.embedding)[ranks.rank :: ranks.count]
    objective, last = ranks.replicated(Objective(model, decoder)), [0.0]
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.register_post_accumulate_grad_hook(lambda _: last.__setitem__(0, time.perf_counter()))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    waited: dict[str, list[float]] = {way: [] for way in WAYS}
    for round in range(setup.steps + 1):  # the first is not counted
        for way in WAYS:
            model.zero_grad(set_to_none=True)
            ranks.wait()
            began = now(ranks.device)
            with last_of_step(objective, model, way == "during"):
                objective(step).backward()
            if way == "after":
                last[0] = now(ranks.device)
                sum_after(parameters)
            end = now(ranks.device)
            if round:
                seconds[way].append(end - began)
                waited[way].append(end - last[0] if way != "apart" else 0.0)
    sentences = sum(sum(len(body) - 1 for micro in part for body in micro.ids) for part in ranks.gather(step))
    found = {way: (statistics.median(seconds[way]), statistics.median(waited[way])) for way in WAYS}
    everyone = ranks.gather(found)
    ranks.leave()
    slowest = {way: max(one[way][0] for one in everyone) for way in WAYS}
    shares = {way: statistics.mean(one[way][1] / one[way][0] for one in everyone) for way in WAYS}
    numbers = sum(p.numel() for p in parameters)
    return {
        "gradient_bytes": 4 * numbers,
        "sentences": sentences,
        "ways": {way: {"seconds": slowest[way], "waiting": shares[way]} for way in WAYS},
    }


def measure_processes(setup: BenchTrain, count: int) -> dict[str, Any]:
    """`time_steps` in `count` processes of this machine. RunError where one fails."""
    if setup.documents < count * setup.micro:
        raise UserError(
            f"{setup.documents} documents in micro-batches of {setup.micro} are too few for {count} processes",
            f"use --documents {count * setup.micro}",
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", f"from {__name__} import _worker; _worker()", json.dumps(asdict(setup))]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), LAUNCHER: str(os.getpid())}
    shared = {**os.environ, "WORLD_SIZE": str(count), **place}
    processes = [
        subprocess.Popen(
            words,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    told = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, told):
        if process.returncode:
            raise failure("a process", process.returncode, error)
    return {"setup": asdict(setup), "processes": count, **json.loads(told[0][0].splitlines()[-1])}


def _worker() -> None:
    """One process: settings on the command line, facts on stdout."""
    print(json.dumps(time_steps(BenchTrain(**json.loads(sys.argv[1])))))
