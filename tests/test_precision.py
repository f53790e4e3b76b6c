"""The dtype of every product of a training step, counted where PyTorch dispatches it, is as stated here."""

import pytest
import torch
from conftest import on_ranks
from test_loop import changed
from test_train import concept, corpus, joint, sonar, trained, writer  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from sonarllm_cli.learn import loop, muon
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.losses import token_nll
from sonarllm_cli.learn.tasks import sonar_llm

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "scaled_dot_product")
SUMS = ("softmax", "softmax_backward_data", "log_softmax", "logsumexp", "exp", "exp_")
HALF, FULL = "bfloat16", "float32"
# kind, run.dtype → dtypes of products, and of softmax, attention's and the losses'
TABLE = [
    ("sonar", FULL, {FULL}, {FULL}),
    ("sonar", HALF, {HALF}, {FULL}),
    ("sonar-llm", FULL, {FULL}, {FULL}),
    ("sonar-llm", HALF, {HALF}, {FULL}),
    ("token-llm", FULL, {FULL}, {FULL}),
    ("token-llm", HALF, {HALF}, {FULL}),
    ("mse-lcm", HALF, {HALF}, {FULL}),
    ("diffusion-lcm", HALF, {HALF}, {FULL}),
]


class Dtypes(TorchDispatchMode):
    """Of what operations read: products and sums, forward and backward."""

    def __init__(self):
        super().__init__()
        self.products, self.sums, self.names = set(), set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1].lstrip("_")
        read = {
            str(x.dtype).removeprefix("torch.") for x in args if isinstance(x, torch.Tensor) and x.is_floating_point()
        }
        if name.startswith(PRODUCTS):
            self.products |= read
        elif name in SUMS:
            self.sums |= read
        self.names.setdefault(name, set()).update(read)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "dtype", "products", "sums"), TABLE)
def test_products_and_sums_have_the_stated_dtypes(corpus, trained, tmp_path, monkeypatch, kind, dtype, products, sums):  # noqa: F811
    for module in (loop, sonar_llm):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    base = sonar(corpus) if kind == "sonar" else concept(corpus, trained / "sonar/model", kind=kind, **MODELS[kind])
    base = changed(base, loss={"contrast": 0.0})  # whose cosines are float32 products, as a loss is
    trainer = Trainer(changed(base, run={"dtype": dtype}), tmp_path / "r")
    with Dtypes() as seen:
        trainer._learn(trainer._epoch()[0][0], 0)
    assert (seen.products, seen.sums) == (products, sums), {k: v for k, v in seen.names.items() if k in SUMS}
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in trainer.task.model.parameters())


@pytest.mark.parametrize("kind", ["sonar", "joint"])
def test_all_of_a_step_has_them_muons_products_too(corpus, trained, tmp_path, monkeypatch, request, kind):  # noqa: F811
    for module in (loop, sonar_llm, muon):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    base = sonar(corpus, accumulate=2)
    if kind == "joint":
        base = joint(corpus, trained / "sonar/model", request.getfixturevalue("writer"))
    settings = changed(base, loss={"contrast": 0.0}, optim={"name": "muon"}, run={"dtype": HALF})
    trainer = Trainer(settings, tmp_path / "r")
    with Dtypes() as seen:
        trainer.train_step(trainer._epoch()[0], 10)
    assert (seen.products, seen.sums) == ({HALF}, {FULL}) and "baddbmm" in seen.names
    state = {v.dtype for optimizer in trainer.optimizers for kept in optimizer.state.values() for v in kept.values()}
    assert state == {torch.float32} == {p.dtype for p in trainer.task.model.parameters()}


def test_sharded_weights_travel_in_the_dtype_of_the_products_and_gradients_in_float32(
    corpus,  # noqa: F811
    trained,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    for module in (loop, sonar_llm):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    settings = changed(concept(corpus, trained / "sonar/model"), parallel={"shard": "full"}, run={"dtype": HALF})

    def work():
        trainer = Trainer(settings, tmp_path / "r")
        with Dtypes() as seen:
            trainer._learn(trainer._epoch()[0][0], 0, last=True)
        sent = {name: dtypes for name, dtypes in seen.names.items() if name in TRAVEL}
        assert (seen.products, seen.sums) == ({HALF}, {FULL}) and sent == TRAVEL, seen.names
        assert {p.grad.dtype for p in trainer.task.model.parameters()} == {torch.float32}

    on_ranks(2, work)


TRAVEL = {"allgather_base_": {HALF}, "reduce_scatter_base_": {FULL}}  # gloo's; weights, gradients
SHAPE = {"width": 16, "ffn": 32, "layers": 1, "heads": 2, "head_size": 8}
MODELS = {
    "sonar-llm": {},
    "token-llm": {"model": SHAPE},
    "mse-lcm": {"model": SHAPE},
    "diffusion-lcm": {"model": {**SHAPE, "context_layers": 1}},
}


def test_without_a_gradient_the_table_gets_none():
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    with torch.no_grad(), Dtypes() as seen:
        nll = token_nll(hidden, weight, torch.arange(5))[0]
    assert "zeros_like" not in seen.names and any(name.startswith(PRODUCTS) for name in seen.names)
    torch.testing.assert_close(nll, token_nll(hidden, weight, torch.arange(5))[0])
