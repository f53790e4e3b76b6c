"""The LCMs against laws that are not theirs: a Gaussian whose denoiser is known, guidance, the normaliser, DDIM."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sonarllm_cli.errors import UserError
from sonarllm_cli.nets.diffusion_lcm import (
    DiffusionLCM,
    DiffusionLCMConfig,
    alpha_bar,
    ddim_step,
    diffused,
    guided,
    spacing,
)
from sonarllm_cli.nets.mse_lcm import MseLCM, MseLCMConfig
from sonarllm_cli.nets.normaliser import Normaliser

SHAPE = {"width": 16, "ffn": 24, "layers": 2, "heads": 2, "head_size": 8, "embedding": 6}
DIFFUSION = SHAPE | {"context_layers": 1}


def seeded(net, std=0.3):
    """Random weights everywhere: what starts at zero would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * std)
    net.normaliser.scale.data.abs_().add_(0.5)
    return net.eval()


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        ("cosine", [0.99937, 0.9667, 0.83554, 0.47805, 0.13327, 0.00023]),
        ("sigmoid", [0.99899, 0.95832, 0.82747, 0.48458, 0.15023, 0.00095]),
        ("quadratic", [0.9999, 0.9896, 0.93272, 0.6667, 0.23946, 0.00054]),
    ],
)
def test_schedules_are_those_of_the_published_code(schedule, want):
    """Figures that were read off Meta's code; the last step is noise alone."""
    alpha_T = alpha_bar(DiffusionLCMConfig(schedule=schedule))
    assert alpha_T[[0, 10, 25, 50, 75, 98]].tolist() == pytest.approx(want, abs=6e-6) and alpha_T[99] == 0


@pytest.mark.parametrize("count", [1, 7, 30, 40, 60, 100])
def test_as_many_steps_are_taken_as_were_asked_for(count):
    steps = spacing(100, count)
    assert len(steps) == len(set(steps)) == count and steps[0] == 99 and steps == sorted(steps, reverse=True)


MEAN, STD = 1.5, 0.7


def best_guess(x, alpha):
    """E[x₀ | x_t] of x₀ ~ N(MEAN, STD²): the denoiser of least squared error, in closed form."""
    gain = math.sqrt(alpha) * STD**2 / (alpha * STD**2 + 1 - alpha)
    return MEAN + gain * (x - math.sqrt(alpha) * MEAN)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_with_the_exact_denoiser_gives_the_gaussian_back(eta):
    alpha_T = alpha_bar(DiffusionLCMConfig(steps=400))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    steps = spacing(400, 400)
    for step, after in zip(steps, [*steps[1:], -1]):
        alpha, before = alpha_T[step].item(), alpha_T[after].item() if after >= 0 else 1.0
        x = ddim_step(x, best_guess(x, alpha), alpha, before, eta, generator)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02) and x.std().item() == pytest.approx(STD, abs=0.02)


def test_ddim_without_noise_is_the_gaussians_own_flow():
    """Its probability flow keeps each sample's quantile: x₀ = MEAN + STD · x_T, to the error of the steps."""
    alpha_T = alpha_bar(DiffusionLCMConfig(steps=2000))
    x = start = torch.tensor([[-2.0], [-0.5], [0.0], [1.0], [2.5]], dtype=torch.float64)
    steps = spacing(2000, 2000)
    for step, after in zip(steps, [*steps[1:], -1]):
        alpha = alpha_T[step].item()
        x = ddim_step(x, best_guess(x, alpha), alpha, alpha_T[after].item() if after >= 0 else 1.0, 0.0, None)
    torch.testing.assert_close(x, MEAN + STD * start, atol=0.01, rtol=0)


def test_the_least_loss_is_the_gaussians_posterior_variance():
    """At the exact denoiser the squared error is σ²(1 − ᾱ)/(ᾱσ² + 1 − ᾱ) at each step; any other guess has more."""
    alpha_T = alpha_bar(DiffusionLCMConfig())
    generator = torch.Generator().manual_seed(1)
    step = torch.tensor([5, 40, 80])
    alpha = alpha_T[step][:, None].expand(3, 100_000)
    x0 = MEAN + STD * torch.randn(alpha.shape, generator=generator, dtype=torch.float64)
    x = diffused(x0[..., None], torch.randn(*alpha.shape, 1, generator=generator, dtype=torch.float64), alpha)[..., 0]
    gain = alpha.sqrt() * STD**2 / (alpha * STD**2 + 1 - alpha)
    guess = MEAN + gain * (x - alpha.sqrt() * MEAN)
    want = STD**2 * (1 - alpha) / (alpha * STD**2 + 1 - alpha)
    torch.testing.assert_close((guess - x0).square().mean(1), want[:, 0], rtol=0.02, atol=0)
    assert ((guess + 0.05 - x0).square().mean(1) > (guess - x0).square().mean(1)).all()


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_of_one_is_none(rescale):
    x, given, free = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(guided(x, given, free, 0.4, 1.0, rescale), given)
    torch.testing.assert_close(guided(x, given, free, 0.4, 0.0, 0.0), free)
    assert guided(x, given, free, 0.0, 3.0, rescale).equal(given)


def test_rescaled_guidance_has_the_deviation_of_the_conditional_noise():
    x, given, free = torch.randn(3, 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    out = guided(x, given, free, 0.3, 3.0, 1.0)
    noise = [(x - math.sqrt(0.3) * x0).std(-1) for x0 in (out, given)]
    torch.testing.assert_close(noise[0], noise[1])


def test_sampling_with_guidance_one_asks_only_once():
    net = seeded(DiffusionLCM(DiffusionLCMConfig(**DIFFUSION, inference_steps=5, guidance=1.0)))
    calls, real = [], net.denoise
    net.denoise = lambda *a: calls.append(a) or real(*a)
    net.sample(net.read(torch.randn(1, 3, 6)), torch.ones(1, 1, 4, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert len(calls) == 5


def test_sentences_denoised_together_are_those_denoised_alone():
    """And none sees a sentence after it: the mask of training is the plain prefix of generation."""
    net = seeded(DiffusionLCM(DiffusionLCMConfig(**DIFFUSION)))
    context_1SD, x_1ND = torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(4))
    step_1N = torch.tensor([[3, 50, 98, 20]])
    mask_NC = torch.ones(4, 5, dtype=torch.bool).tril(1)
    together = net(context_1SD, x_1ND, step_1N, mask_NC[None])
    for n in range(4):
        seen = torch.ones(1, 1, n + 2, dtype=torch.bool)
        alone = net(context_1SD[:, : n + 1], x_1ND[:, n : n + 1], step_1N[:, n : n + 1], seen)
        torch.testing.assert_close(alone[:, 0], together[:, n], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_noise_and_velocity_say_the_same_of_the_signal(prediction):
    """A network that puts out the true ε, or v = √ᾱ·ε − √(1−ᾱ)·x₀, has predicted x₀."""
    config = DiffusionLCMConfig(**DIFFUSION, prediction=prediction, zero_snr=False)
    net = seeded(DiffusionLCM(config))
    x0, noise = torch.randn(2, 1, 3, 6, generator=torch.Generator().manual_seed(5))
    step = torch.tensor([[1, 30, 60]])
    alpha = net.alpha(step).float()[..., None]
    truth = noise if prediction == "eps" else alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
    net.project_out.forward = lambda _: truth
    columns = net.columns(net.read(torch.randn(1, 3, 6)))
    found = net.denoise(diffused(x0, noise, alpha[..., 0]), step, columns, None)
    torch.testing.assert_close(found, x0, atol=1e-4, rtol=1e-4)


def test_a_device_without_float64_gets_none():
    """As MPS, whose part the meta device has here."""

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = [x for x in tree_leaves((args, out)) if isinstance(x, torch.Tensor) and x.is_meta]
            assert torch.float64 not in {x.dtype for x in tensors}, func
            return out

    with torch.device("meta"):
        net = DiffusionLCM(DiffusionLCMConfig(**DIFFUSION))
        x_BND, step_BN = torch.zeros(2, 3, net.config.embedding), torch.zeros(2, 3, dtype=torch.long)
        context_BSD, mask_BNC = torch.zeros(2, 4, net.config.embedding), torch.ones(2, 3, 5, dtype=torch.bool)
    with Seen():
        noised_BND = diffused(x_BND, x_BND, net.alpha(step_BN))
        assert net(context_BSD, noised_BND, step_BN, mask_BNC).dtype == torch.float32


def test_a_denoiser_begins_without_a_say():
    """All gates are zero at the start (adaLN-Zero): what was read makes no difference yet."""
    net = DiffusionLCM(DiffusionLCMConfig(**DIFFUSION)).init_().eval()
    x_1ND, step, mask = torch.randn(1, 2, 6), torch.tensor([[7, 80]]), torch.ones(1, 2, 4, dtype=torch.bool)
    assert net(torch.randn(1, 3, 6), x_1ND, step, mask).equal(net(torch.randn(1, 3, 6), x_1ND, step, mask))


def test_the_normaliser_inverts_and_is_not_moved_by_outliers():
    generator = torch.Generator().manual_seed(6)
    x_ND = torch.randn(20_001, 40, generator=generator) * 3 + 7
    x_ND[:500] *= 1000
    x_ND[:, 5] = 2.0  # a dimension that does not vary
    normaliser = Normaliser(40).fit_(x_ND)
    torch.testing.assert_close(normaliser.invert(normaliser(x_ND)), x_ND, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normaliser.center[:5], torch.full((5,), 7.0), atol=0.3, rtol=0)
    torch.testing.assert_close(normaliser.scale[:5], torch.full((5,), 3.0), atol=0.2, rtol=0)
    assert normaliser.scale[5] == 1 and not any(p.requires_grad for p in normaliser.parameters())


def test_an_mse_lcm_sees_and_makes_normalised_embeddings():
    net = seeded(MseLCM(MseLCMConfig(**SHAPE)))
    context = torch.randn(1, 4, 6)
    inner = net.project_out(net.body(net.project_in(net.normaliser(context))))
    torch.testing.assert_close(net(context), net.normaliser.invert(inner))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "cosin"}, "cosine"),
        ({"prediction": "eps"}, "zero_snr"),
        ({"inference_steps": 101}, "use 1 to 100"),
        ({"drop": 1.0}, "0.15"),
        ({"context_layers": 0}, "context_layers"),
    ],
)
def test_impossible_models_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        DiffusionLCMConfig(**changes)
