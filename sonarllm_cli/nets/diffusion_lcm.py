"""The two-tower diffusion LCM: one tower reads the document, the other turns noise into the next embedding.

The denoiser's sentences don't see each other: a sentence attends to what the first tower made of those before it, and
to one zero vector, which is all that is left of them without guidance. Its self-attention has a single key, so it is
the value path alone. All it computes is on normalised embeddings, and x̂₀ is what it predicts, whatever it is taught.

Legend: B documents, S sentences read, N sentences made, C columns that they attend to (the zero vector, then S), D
embedding, M model width, H heads, K head size, L layers, T steps of noise.
Source: LCM team 2024 (arXiv 2412.08821), 2.3.3 to 2.3.6 and its code; Song et al. 2021 (DDIM); Lin et al. 2024 (zero
terminal SNR, rescaled guidance); Ho & Salimans 2022 (guidance). On the Llama body that all kinds share here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .layers import KVCache, attend
from .llama import Llama, LlamaConfig, RMSNorm
from .normaliser import Normaliser
from .sonar_llm import SonarLLMConfig

SCHEDULES = ("cosine", "sigmoid", "quadratic", "linear")
PREDICTIONS = ("x0", "eps", "v")
TIME = 256  # numbers that a step is told by


@dataclass(frozen=True, kw_only=True)
class DiffusionLCMConfig(SonarLLMConfig):
    """Two towers of one width: `context_layers` read, `layers` denoise. The rest is the noise and how it is taken away,
    with the defaults of Meta's code; those from `inference_steps` on are its README's and may be chosen anew later."""

    context_layers: int = 5
    steps: int = 100  # T
    schedule: str = "cosine"
    zero_snr: bool = True  # rescale, so that the last step is noise alone
    prediction: str = "x0"  # what the network puts out
    drop: float = 0.15  # share of sentences that are trained without what came before, for guidance
    inference_steps: int = 40
    guidance: float = 3.0  # 1: none
    guidance_rescale: float = 0.7
    initial_noise: float = 0.6
    eta: float = 0.0  # of DDIM: 0 is deterministic, 1 is DDPM
    clip: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("prediction", self.prediction, PREDICTIONS),
        ):
            if value not in known:
                raise UserError(f"model.{name} {value!r} is unknown", f"use one of {', '.join(known)}")
        if self.prediction == "eps" and self.zero_snr:
            cure = "use model.zero_snr = false, or model.prediction = 'v' or 'x0'"
            raise UserError("noise can't be predicted from noise alone (model.zero_snr)", cure)
        if self.context_layers < 1 or self.steps < 2:
            raise UserError("model.context_layers is at least 1, model.steps at least 2", "leave them out: 5 and 100")
        if not 1 <= self.inference_steps <= self.steps:
            cure = f"use 1 to {self.steps}, the steps it was trained with"
            raise UserError(f"{self.inference_steps} inference steps are impossible", cure)
        if not 0 <= self.drop < 1:
            raise UserError(f"model.drop {self.drop} is not a share", "use 0.15")

    @property
    def context(self) -> LlamaConfig:
        return replace(self.body, layers=self.context_layers)


# ---------------------------------------------------------------------------------------------- the noise


def alpha_bar(config: DiffusionLCMConfig) -> Tensor:
    """Share of the signal's variance that is left at each step: → alpha_T (float64), falling."""
    T = config.steps
    u = torch.arange(T + 1, dtype=torch.float64) / T
    if config.schedule in ("linear", "quadratic"):
        power = 2 if config.schedule == "quadratic" else 1
        beta_T = torch.linspace(1e-4 ** (1 / power), 0.02 ** (1 / power), T, dtype=torch.float64) ** power
    else:
        if config.schedule == "cosine":
            left = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        else:
            left = torch.sigmoid(-1.5 * torch.logit(u.clamp(1e-32, 1 - 1e-16)))
        beta_T = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    alpha_T = (1 - beta_T).cumprod(0)
    if config.zero_snr:
        root_T = alpha_T.sqrt()
        alpha_T = ((root_T - root_T[-1]) * root_T[0] / (root_T[0] - root_T[-1])) ** 2
    return alpha_T


def spacing(steps: int, count: int) -> list[int]:
    """`count` of the steps T − 1 … 0, the first and then evenly ("trailing"), exactly as many as asked for."""
    return [round(steps - steps * i / count) - 1 for i in range(count)]


def diffused(x0_ND: Tensor, noise_ND: Tensor, alpha_N: Tensor) -> Tensor:
    """x_t = √ᾱ·x₀ + √(1 − ᾱ)·ε"""
    return alpha_N.sqrt()[..., None] * x0_ND + (1 - alpha_N).sqrt()[..., None] * noise_ND


def guided(x_ND: Tensor, with_ND: Tensor, without_ND: Tensor, alpha: float, weight: float, rescale: float) -> Tensor:
    """Classifier-free guidance from x̂₀ with and without the context, at signal share `alpha`: → x̂₀.

    ε = ε_u + w·(ε_c − ε_u), which says the same of x̂₀; then ε times φ·σ(ε_c)/σ(ε) + (1 − φ). At the step without any
    signal, ε is the input whatever the network says, and the prediction with context is taken as it is.
    """
    if alpha <= 0:
        return with_ND
    x0_ND = without_ND + weight * (with_ND - without_ND)
    if not rescale:
        return x0_ND
    signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
    eps_ND, with_eps_ND = (x_ND - signal * x0_ND) / noise, (x_ND - signal * with_ND) / noise
    factor_N1 = rescale * with_eps_ND.std(-1, keepdim=True) / eps_ND.std(-1, keepdim=True) + (1 - rescale)
    return x0_ND + (1 - factor_N1) * eps_ND * noise / signal


def ddim_step(
    x_ND: Tensor, x0_ND: Tensor, alpha: float, before: float, eta: float, generator: torch.Generator | None
) -> Tensor:
    """One step from signal share `alpha` to `before`, given x̂₀: → x_ND (Song et al. 2021, eq. 12)."""
    eps_ND = (x_ND - math.sqrt(alpha) * x0_ND) / math.sqrt(1 - alpha)
    sigma = eta * math.sqrt((1 - before) / (1 - alpha) * (1 - alpha / before)) if eta else 0.0
    x_ND = math.sqrt(before) * x0_ND + math.sqrt(max(0.0, 1 - before - sigma**2)) * eps_ND
    if sigma:
        x_ND = x_ND + sigma * torch.randn(x_ND.shape, generator=generator, device=x_ND.device)
    return x_ND


# ---------------------------------------------------------------------------------------------- the network


class TimeEmbedding(nn.Module):
    """step_N → conditioning_NM: cosines and sines of the step, then two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner_proj, self.output_proj = nn.Linear(TIME, width), nn.Linear(width, width)
        for layer in (self.inner_proj, self.output_proj):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, step_N: Tensor) -> Tensor:
        half = TIME // 2
        rate = torch.exp(-math.log(10_000) / half * torch.arange(half, device=step_N.device, dtype=torch.float32))
        angle = step_N[..., None].float() * rate
        wave = torch.cat([angle.cos(), angle.sin()], -1).to(self.inner_proj.bias.dtype)
        return self.output_proj(F.silu(self.inner_proj(wave)))


class DenoiserLayer(nn.Module):
    """x_BNM, conditioning_BNM, what was read, mask → x_BNM. Each branch is shifted, scaled and gated by
    the step (adaLN-Zero, Peebles & Xie 2023): at the start all gates are 0."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        M, inner = config.width, config.heads * config.head_size
        self.heads = config.heads
        self.value_proj, self.out_proj = nn.Linear(M, inner), nn.Linear(inner, M)  # self-attention to one key
        self.query_proj, self.cross_out_proj = nn.Linear(M, inner), nn.Linear(inner, M)
        self.key_value_proj = nn.Linear(M, 2 * inner)
        self.gate_up_proj, self.down_proj = nn.Linear(M, 2 * config.ffn), nn.Linear(config.ffn, M)
        self.self_norm, self.cross_norm, self.ffn_norm = (RMSNorm(M, eps=config.norm_eps) for _ in range(3))
        self.modulator = nn.Linear(M, 9 * M)
        nn.init.zeros_(self.modulator.weight)
        nn.init.zeros_(self.modulator.bias)

    def columns(self, context_BSM: Tensor) -> Tensor:
        """What sentences attend to: a zero vector, then what was read. context_BSM → key_value_2BHCK"""
        B, S, M = context_BSM.shape
        both = self.key_value_proj(torch.cat([context_BSM.new_zeros(B, 1, M), context_BSM], 1))
        return both.view(B, S + 1, 2, self.heads, -1).permute(2, 0, 3, 1, 4)

    def forward(self, x_BNM: Tensor, step_BNM: Tensor, read: Tensor, mask_BNC: Tensor | None) -> Tensor:
        """`read` is context_BSM, or what `columns` made of it."""
        key_value = self.columns(read) if read.ndim == 3 else read
        branches = (self.self_norm, self._self), (self.cross_norm, None), (self.ffn_norm, self._feed)
        for (norm, branch), part in zip(branches, self.modulator(F.silu(step_BNM)).chunk(3, -1)):
            shift, scale, gate = part.chunk(3, -1)
            h_BNM = norm(x_BNM) * (1 + scale) + shift
            h_BNM = branch(h_BNM) if branch else self._cross(h_BNM, key_value, mask_BNC)
            x_BNM = x_BNM + gate * h_BNM
        return x_BNM

    def _self(self, h_BNM: Tensor) -> Tensor:
        """Attention of a sentence to itself alone."""
        return self.out_proj(self.value_proj(h_BNM))

    def _feed(self, h_BNM: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(h_BNM).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)

    def _cross(self, h_BNM: Tensor, key_value: Tensor, mask_BNC: Tensor | None) -> Tensor:
        B, N, _ = h_BNM.shape
        q = self.query_proj(h_BNM).view(B, N, self.heads, -1).transpose(1, 2)
        mixed = attend(q, key_value[0], key_value[1], mask=None if mask_BNC is None else mask_BNC[:, None])
        return self.cross_out_proj(mixed.transpose(1, 2).reshape(B, N, -1))


class DiffusionLCM(nn.Module):
    """context_BSD, x_BND, step_BN, mask_BNC → x̂₀_BND; `sample` makes embeddings from noise."""

    def __init__(self, config: DiffusionLCMConfig) -> None:
        super().__init__()
        self.config = config
        self.normaliser = Normaliser(config.embedding)
        self.project_in = nn.Linear(config.embedding, config.width)
        self.body = Llama(config.context)
        self.noisy_in = nn.Linear(config.embedding, config.width)
        self.embed_time = TimeEmbedding(config.width)
        self.denoiser = nn.ModuleList(DenoiserLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.project_out = nn.Linear(config.width, config.embedding)
        self._alpha_T: Tensor | None = None  # made at first use, so not in the state

    def forward(self, context_BSD: Tensor, x_BND: Tensor, step_BN: Tensor, mask_BNC: Tensor) -> Tensor:
        """Both towers, as in training: a document, noised normalised embeddings, their steps and the columns that each
        attends to → x̂₀_BND."""
        context_BSM = self.read(context_BSD)
        return self.denoise(x_BND, step_BN, [context_BSM] * len(self.denoiser), mask_BNC)

    def alpha(self, step_N: Tensor) -> Tensor:
        """ᾱ of each step, float32: not every device has more."""
        if self._alpha_T is None or self._alpha_T.device != step_N.device:
            self._alpha_T = alpha_bar(self.config).float().to(step_N.device)
        return self._alpha_T[step_N]

    def read(self, embedding_BSD: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        """The first tower: sentences after those in `caches`. embedding_BSD → context_BSM"""
        normal_BSD = self.normaliser(embedding_BSD).to(self.body.norm.weight.dtype)
        return self.body(self.project_in(normal_BSD), caches)

    def remember(self, chunk_BSD: Tensor, caches: list[KVCache] | None, memory: list[Tensor]) -> None:
        """As a SONAR-LLM's: read sentences after those in `caches`; `memory` holds what was made of each."""
        memory.append(self.read(chunk_BSD, caches))

    def next(
        self,
        memory: list[Tensor],
        generator: torch.Generator | None = None,
        sampling: DiffusionLCMConfig | None = None,
    ) -> Tensor:
        """An embedding after all that was read: → next_BD."""
        memory[:] = [torch.cat(memory, 1)]
        B, S, _ = memory[0].shape
        all_B1C = torch.ones(B, 1, S + 1, dtype=torch.bool, device=memory[0].device)
        return self.sample(memory[0], all_B1C, generator, sampling)[:, 0]

    def next_all(
        self,
        context_BSD: Tensor,
        generator: torch.Generator | None = None,
        sampling: DiffusionLCMConfig | None = None,
    ) -> Tensor:
        """An embedding after each beginning of the context: → next_BSD."""
        B, S, _ = context_BSD.shape
        seen_SC = torch.ones(S, S + 1, dtype=torch.bool, device=context_BSD.device).tril(1)
        return self.sample(self.read(context_BSD), seen_SC.expand(B, S, S + 1), generator, sampling)

    def columns(self, context_BSM: Tensor) -> list[Tensor]:
        """What each layer attends to, once for all steps: → L × key_value_2BHCK"""
        return [layer.columns(context_BSM) for layer in self.denoiser]  # type: ignore[operator]

    def denoise(self, x_BND: Tensor, step_BN: Tensor, read_L: list[Tensor], mask_BNC: Tensor | None) -> Tensor:
        """Normalised embeddings with the noise of their steps, and what was read, for each layer → x̂₀_BND, float32."""
        dtype = self.project_out.bias.dtype
        h_BNM, time_BNM = self.noisy_in(x_BND.to(dtype)), self.embed_time(step_BN)
        for layer, read in zip(self.denoiser, read_L):
            h_BNM = layer(h_BNM, time_BNM, read, mask_BNC)
        out_BND = self.project_out(self.norm(h_BNM)).float()
        alpha_BN1 = self.alpha(step_BN)[..., None]
        if self.config.prediction == "eps":
            return (x_BND.float() - (1 - alpha_BN1).sqrt() * out_BND) / alpha_BN1.sqrt()
        if self.config.prediction == "v":
            return alpha_BN1.sqrt() * x_BND.float() - (1 - alpha_BN1).sqrt() * out_BND
        return out_BND

    def sample(
        self,
        context_BSM: Tensor,
        mask_BNC: Tensor,
        generator: torch.Generator | None = None,
        config: DiffusionLCMConfig | None = None,
    ) -> Tensor:
        """Noise → embeddings after what was read, by DDIM with guidance. `config` may sample otherwise than the
        model's own. context_BSM, mask_BNC (columns that a sentence attends to, the zero vector among them) → x_BND"""
        config = config or self.config
        columns_L = self.columns(context_BSM)
        alone_BNC = torch.zeros_like(mask_BNC)
        alone_BNC[..., 0] = True
        shape = (*mask_BNC.shape[:2], config.embedding)
        x_BND = torch.randn(shape, generator=generator, device=context_BSM.device) * config.initial_noise
        x_BND = x_BND.clamp(-config.clip, config.clip)
        alpha_T = alpha_bar(config)
        steps = spacing(config.steps, config.inference_steps)
        for step, after in zip(steps, [*steps[1:], -1]):
            alpha = alpha_T[step].item()
            step_BN = torch.full(shape[:2], step, device=x_BND.device)
            x0_BND = self.denoise(x_BND, step_BN, columns_L, mask_BNC)
            if config.guidance != 1 and alpha > 0:
                without_BND = self.denoise(x_BND, step_BN, columns_L, alone_BNC)
                x0_BND = guided(x_BND, x0_BND, without_BND, alpha, config.guidance, config.guidance_rescale)
            before = alpha_T[after].item() if after >= 0 else 1.0
            x_BND = ddim_step(x_BND, x0_BND, alpha, before, config.eta, generator).clamp(-config.clip, config.clip)
        return self.normaliser.invert(x_BND).to(context_BSM.dtype)

    @torch.no_grad()
    def init_(self) -> DiffusionLCM:
        """The first tower as a body of Llama; matrices of the denoiser by the same normal, gates and steps aside."""
        self.body.init_()
        for name, parameter in self.denoiser.named_parameters():
            if parameter.ndim == 2 and "modulator" not in name:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        return self
