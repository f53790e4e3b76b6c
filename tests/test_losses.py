"""Objectives and schedules against their formulas."""

import math
import weakref

import pytest
import torch
from test_nets import tiny

from sonarllm_cli.learn import losses, optim
from sonarllm_cli.learn.losses import (
    alignment,
    contrast,
    noised,
    padded,
    plain_token_nll,
    sentence_nll,
    sentences_nll,
    teaching,
    token_nll,
)
from sonarllm_cli.learn.muon import Muon
from sonarllm_cli.learn.recipe import Optim
from sonarllm_cli.learn.tasks.sonar import amounts, garble
from sonarllm_cli.nets.sonar import Sonar, SonarConfig


def test_chunked_loss_and_both_gradients_equal_the_plain_ones():
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    target = torch.randint(9, (11,))
    (3 * plain_token_nll(hidden, weight, target)).backward()
    want = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    loss, nll = token_nll(hidden, weight, target, chunk=4)
    (3 * loss).backward()
    torch.testing.assert_close((hidden.grad, weight.grad), want)
    torch.testing.assert_close(nll.mean(), plain_token_nll(hidden, weight, target))


def test_the_loss_of_a_hopeless_token_is_finite_and_exact():
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [500.0]])
    assert token_nll(hidden, weight, torch.tensor([0]))[0].item() == 500


def test_a_frozen_projection_gets_no_gradient():
    hidden = torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(5, 4)
    token_nll(hidden, weight, torch.tensor([0, 1, 2]))[0].backward()
    assert hidden.grad is not None and weight.grad is None


def test_noise_of_amount_zero_is_none_and_of_one_forgets_the_vector():
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    torch.testing.assert_close(noised(z, torch.zeros(4000, 1)), z)
    torch.testing.assert_close(noised(z, torch.ones(4000, 1)), z.mean(0).expand(4000, 3))
    half = noised(z, torch.full((4000, 1), 0.5**0.5), torch.Generator().manual_seed(1))
    slope = torch.cov(torch.stack([half[:, 0], z[:, 0]]))
    assert slope[0, 1] / slope[0, 0] == pytest.approx(1, abs=0.03)  # what is known of z, given it, is itself
    assert half.var().item() == pytest.approx(2, abs=0.1)


def test_noise_is_drawn_for_a_share_of_the_texts():
    amount_B1 = amounts(4000, 0.5, torch.Generator().manual_seed(0))
    assert (amount_B1 > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert amount_B1[amount_B1 > 0].mean().item() == pytest.approx(0.5, abs=0.03)


def test_a_teacher_draws_the_first_numbers_to_its_own_and_leaves_the_others_free():
    z_BD = torch.tensor([[3.0, 4.0, 0.0], [0.0, 2.0, 2.0], [3.0, 4.0, 5.0]])
    teacher_BK = torch.tensor([[6.0, 8.0], [1.0, 0.0], [0.6, 0.8]])
    each = [teaching(z_BD[i : i + 1], teacher_BK[i : i + 1]).item() for i in range(3)]
    assert each == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert teaching(z_BD, teacher_BK).item() == pytest.approx(sum(each) / 3)


@pytest.mark.parametrize("shapes", [[(6, 10), (10, 6)], [(6, 10)] * 3])
def test_muon_is_torchs_but_for_the_dtype_of_its_products(shapes):
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    steps = (
        Muon(ours, lr=0.1, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        for step in steps:
            step.step()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=4e-3, rtol=0)  # torch's are of bfloat16; three steps move a weight by 0.1


def test_alignment_is_the_mean_squared_difference():
    assert alignment(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5


@pytest.mark.parametrize(
    ("schedule", "step", "want"),
    [
        ("cosine", 0, 0.1),
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.5),
        ("cosine", 100, 0.0),
        ("wsd", 50, 1.0),
        ("wsd", 80, 1.0),
        ("wsd", 90, 0.5),
        ("constant", 99, 1.0),
    ],
)
def test_schedules_at_their_corners(schedule, step, want):
    settings = Optim(lr=1.0, schedule=schedule, warmup=10, decay=0.2)
    assert optim.learning_rate(step, 100, settings) == pytest.approx(want, abs=1e-9)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(3, 2), "inner": torch.nn.Linear(2, 2)})
    muon, adamw = optim.optimizers(model, Optim(name="muon"))
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(2, 2)]
    assert {tuple(p.shape) for g in adamw.param_groups for p in g["params"]} == {(3, 2), (2,)}


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2, bias=False), torch.nn.LayerNorm(2)])
def test_muon_moves_a_network_of_matrices_or_of_norms_alone(model):
    (optimizer,) = optim.optimizers(model, Optim(name="muon"))
    model(torch.randn(3, 2)).square().sum().backward()
    before = [p.clone() for p in model.parameters()]
    optimizer.step()
    assert not any(torch.equal(p, q) for p, q in zip(before, model.parameters()))


def test_garbling_keeps_control_tokens_and_other_texts():
    ids = torch.arange(10, 50).repeat(2, 1)
    out = garble(ids, torch.tensor([40, 40]), torch.tensor([True, False]), torch.Generator().manual_seed(0))
    assert out[1].equal(ids[1]) and out[0, 0] == ids[0, 0] and out[0, -1] == ids[0, -1]
    assert 0 < (out[0] != ids[0]).sum() < 20
    assert math.isclose((out[0] == 1).sum().item(), 4, abs_tol=4)


@pytest.mark.parametrize("reference", [False, True])
def test_a_sentence_is_scored_from_its_first_word_to_one_end(reference):
    """Against the logits of each sentence alone, spelled out; the reference scores the language and a second end."""
    torch.manual_seed(0)
    shape = {
        "width": 8,
        "heads": 2,
        "ffn": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "vocab_size": 20,
        "embedding": 6,
    }
    decoder = Sonar(SonarConfig(**shape)).eval().decoder
    sentences, e_BD = [[3, 9, 5, 6, 3], [3, 9, 7, 8, 4, 3]], torch.randn(2, 6)
    ids_BT = torch.tensor([[*sentences[0], 3], sentences[1]])
    length_B, scale_B = torch.tensor([5, 6]), torch.tensor([1.0, 10.0])
    total, nll_N, row_N = sentence_nll(decoder, ids_BT, length_B, e_BD, scale_B, reference=reference)
    want = []
    for ids, e_D in zip(sentences, e_BD):
        given, labels = (ids, [*ids[1:], 3]) if reference else (ids[:-1], [None, *ids[2:]])
        log_p = decoder.logits(decoder(torch.tensor([given]), e_D[None]))[0].log_softmax(-1)
        want.append([-log_p[t, label].item() for t, label in enumerate(labels) if label is not None])
    assert row_N.tolist() == [0] * len(want[0]) + [1] * len(want[1])
    assert [len(w) for w in want] == ([5, 6] if reference else [3, 4])
    assert nll_N.tolist() == pytest.approx(want[0] + want[1], abs=1e-5)
    assert total.item() == pytest.approx(sum(want[0]) + 10 * sum(want[1]), rel=1e-5)


def test_through_a_frozen_decoder_the_gradient_is_the_same_and_no_activations_are_kept(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(losses, "ROOM", {"cpu": 16})
    decoder = tiny().decoder
    ids, e_ND, scale_N = [[3, 9, *range(10, 10 + n), 3] for n in (2, 5, 9)], torch.randn(3, 16), torch.rand(3)

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            kept.add(self)

    def found(frozen):
        decoder.requires_grad_(not frozen)
        read_ND = e_ND.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            total, nll_N = sentences_nll(decoder, padded(ids, e_ND.device), 2 * read_ND, scale_N)
        count = len(kept)
        (3 * total).backward()
        return count, (total.detach(), nll_N, read_ND.grad)

    kept = weakref.WeakSet()
    (many, want), (few, got) = found(frozen=False), found(frozen=True)
    torch.testing.assert_close(got, want)
    assert few < many / 4


def test_contrast_ranks_the_translation_and_spares_those_of_the_same_text():
    a_BD, b_BD = torch.eye(3, 4), torch.eye(3, 4).roll(1, 1)  # all cosines 0, but a₁ with b₀ and a₂ with b₁: 1
    rows, e = [math.log(3), math.log(2 + math.e), math.log(2 + math.e)], math.log(2 + math.e)
    columns = [e, e, math.log(3)]
    want = (sum(rows) + sum(columns)) / 6
    own_B = torch.arange(3)
    assert contrast(a_BD, b_BD, own_B, own_B, temperature=1.0).item() == pytest.approx(want)
    same_B = torch.zeros(2)
    assert contrast(a_BD[[0, 1]], b_BD[[0, 1]], same_B, own_B[:2]).item() == 0  # two translations of one text


def test_contrast_sees_that_all_texts_have_become_one_vector():
    one_BD = torch.ones(4, 3)
    assert contrast(one_BD, one_BD, torch.arange(4), torch.arange(4)).item() == pytest.approx(math.log(4))
