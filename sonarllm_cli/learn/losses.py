"""Training objectives.

Legend: N labelled tokens, M model width, V vocabulary, D embedding, B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nets.layers import product
from ..nets.sonar import SonarDecoder
from ..runtime import by_length
from ..tokens import EOS

CHUNK = 1024  # labelled tokens whose logits exist at once, fewer for a large vocabulary:
CHUNK_NUMBERS = 1 << 26  # at most so many logits (256 MiB of float32)
ROOM = {"cpu": 1024}  # padded tokens that a decoder reads at once: what their products need on a CPU
MOST_ROOM = 4096  # elsewhere


def chunk_size(vocab_size: int) -> int:
    """Labelled tokens whose logits exist at once."""
    return min(CHUNK, max(64, CHUNK_NUMBERS // vocab_size))


class _ChunkedNLL(torch.autograd.Function):
    """nll_N of `softmax(hidden · weightᵀ)`, whose backward was already computed, chunk by chunk, in forward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NM: Tensor, weight_VM: Tensor, target_N: Tensor, scale_N: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        need_h, need_w = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_NM = torch.empty_like(hidden_NM) if need_h else None
        grad_VM = torch.zeros_like(weight_VM, dtype=torch.float32) if need_w else None
        nll_N = torch.empty(len(target_N), dtype=torch.float32, device=hidden_NM.device)
        for start in range(0, len(target_N), chunk):
            part = slice(start, start + chunk)
            hidden, target = hidden_NM[part], target_N[part]
            p_NV = product(hidden, weight_VM).float()  # logits, and in place what becomes of them
            picked_N, top_N = p_NV.gather(1, target[:, None])[:, 0], p_NV.amax(1)
            total_N = p_NV.sub_(top_N[:, None]).exp_().sum(1)
            nll_N[part] = total_N.log() + (top_N - picked_N)
            if need_h or need_w:
                p_NV.mul_((scale_N[part] / total_N)[:, None])  # dL/dlogits
                p_NV[torch.arange(len(target), device=target.device), target] -= scale_N[part]
                slope = p_NV.to(hidden.dtype)
                if grad_NM is not None:
                    grad_NM[part] = product(slope, weight_VM.T)
                if grad_VM is not None:
                    grad_VM += product(slope.T, hidden.T)
        ctx.grads = grad_NM, grad_VM
        ctx.mark_non_differentiable(nll_N)
        return (nll_N * scale_N).sum(), nll_N

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        grad_NM, grad_VM = ctx.grads
        slope = slopes[0]
        grad_NM = None if grad_NM is None else grad_NM * slope.to(grad_NM.dtype)
        grad_VM = None if grad_VM is None else grad_VM * slope
        return grad_NM, grad_VM, None, None, None


def token_nll(
    hidden_NM: Tensor, weight_VM: Tensor, target_N: Tensor, scale_N: Tensor | None = None, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """Token cross-entropy through a tied output projection, without N × V logits: at most `chunk` × V exist at once.

    hidden_NM, weight_VM, target_N, scale_N → Σ scale · nll (differentiable, float32), nll_N (float32, nats, detached).
    The softmax is taken in float32; products run in the dtype of `hidden_NM`. `scale_N` defaults to 1/N: the mean.
    Gradients of both factors are computed in the forward pass, so the logits are made once, not twice.
    """
    if scale_N is None:
        scale_N = torch.full((len(target_N),), 1 / max(1, len(target_N)), device=hidden_NM.device)
    chunk = chunk or chunk_size(len(weight_VM))
    if not torch.is_grad_enabled():  # autograd asks forward for gradients all the same
        hidden_NM, weight_VM = hidden_NM.detach(), weight_VM.detach()
    return _ChunkedNLL.apply(hidden_NM, weight_VM.to(hidden_NM.dtype), target_N, scale_N, chunk)


def plain_token_nll(hidden_NM: Tensor, weight_VM: Tensor, target_N: Tensor) -> Tensor:
    """The plain twin of `token_nll`: all logits at once. → mean nll (float32)."""
    return F.cross_entropy((hidden_NM @ weight_VM.T).float(), target_N)


def sentence_nll(
    decoder: SonarDecoder,
    ids_BT: Tensor,
    length_B: Tensor,
    embedding_BD: Tensor,
    scale_B: Tensor,
    *,
    reference: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Token cross-entropy of whole sentences decoded from embeddings, by teacher forcing.

    Scored are the words and one `</s>`; with `reference`, as in the published scripts, also the language token before
    and a second `</s>` after them, all but free where the decoder was trained on them.
    ids_BT (`</s> __lang__ w₁ … w_n </s>`, then padding), length_B (n + 3), embedding_BD, scale_B →
    Σ scale · nll (differentiable), nll_N, row_N (the text of each labelled token).
    """
    if reference:
        ids_BT = torch.cat([ids_BT, torch.full_like(ids_BT[:, :1], EOS)], 1)
        ids_BT = ids_BT.scatter(1, length_B[:, None], EOS)
    first, end_B = (0, length_B) if reference else (1, length_B - 1)
    hidden_BTM = decoder(ids_BT[:, :-1], embedding_BD)
    place_T = torch.arange(ids_BT.shape[1] - 1, device=ids_BT.device)
    label_BT = (place_T >= first) & (place_T < end_B[:, None])
    row_N = torch.arange(len(ids_BT), device=ids_BT.device)[:, None].expand_as(label_BT)[label_BT]
    total, nll_N = token_nll(hidden_BTM[label_BT], decoder.embed.weight, ids_BT[:, 1:][label_BT], scale_B[row_N])
    return total, nll_N, row_N


class Padded(NamedTuple):
    """Sentences of like length, `</s> __lang__ w₁ … w_n </s>` each, padded, and which of all sentences they are."""

    ids_BT: Tensor
    length_B: Tensor
    at_B: Tensor


def padded(ids: Sequence[Sequence[int]], device: torch.device) -> list[Padded]:
    """Any number of sentences, those of like length together, so that little is padding, in groups for `device`; they
    are made on the CPU."""
    out = []
    for group in by_length([len(i) for i in ids], len(ids), ROOM.get(device.type, MOST_ROOM)):
        rows = [torch.tensor(ids[i]) for i in group]
        ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=EOS)
        out.append(Padded(ids_BT, torch.tensor([len(row) for row in rows]), torch.tensor(group)))
    return out


def sentences_nll(
    decoder: SonarDecoder,
    sentences: Sequence[Padded],
    embedding_ND: Tensor,
    scale_N: Tensor,
    *,
    reference: bool = False,
) -> tuple[Tensor, Tensor]:
    """`sentence_nll` of N sentences in groups: embedding_ND, scale_N → Σ scale · nll (differentiable), nll_N (each
    sentence's sum). Through a frozen decoder the gradient is taken group by group: no more than one group's activations
    exist at once."""
    device = embedding_ND.device
    total = embedding_ND.new_zeros((), dtype=torch.float32)
    out_N = torch.zeros(len(embedding_ND), device=device)
    frozen = not any(p.requires_grad for p in decoder.parameters())
    at_once = frozen and torch.is_grad_enabled() and embedding_ND.requires_grad
    for group in sentences:
        ids_BT, length_B, at_B = (t.to(device, non_blocking=True) for t in group)
        embedding_BD = embedding_ND[at_B]
        read_BD = embedding_BD.detach().requires_grad_() if at_once else embedding_BD
        value, nll_L, row_L = sentence_nll(decoder, ids_BT, length_B, read_BD, scale_N[at_B], reference=reference)
        if at_once:
            value.backward()
            assert read_BD.grad is not None
            through = (embedding_BD * read_BD.grad).sum(dtype=torch.float32)
            value = value.detach() + (through - through.detach())  # that value, and this slope
        total = total + value
        out_N.index_add_(0, at_B[row_L], nll_L)
    return total, out_N


def alignment(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """SONAR's L_MSE: squared distance of translations' embeddings, a mean over dimensions. a_BD, b_BD → scalar."""
    return (a_BD.float() - b_BD.float()).square().mean()


def contrast(a_BD: Tensor, b_BD: Tensor, a_B: Tensor, b_B: Tensor, temperature: float = 0.05) -> Tensor:
    """Translation ranking: how surely a text's translation is told from the other texts of the batch by its cosine,
    both ways, in nats. Which texts they are say a_B and b_B: a pair that shares one with another is not told from it.

    a_BD, b_BD, a_B, b_B → scalar. Source: Guo et al. 2018; van den Oord et al. 2018 (InfoNCE).
    """
    a_BD, b_BD = F.normalize(a_BD.float(), dim=1), F.normalize(b_BD.float(), dim=1)
    own_B = torch.arange(len(a_BD), device=a_BD.device)
    other_BB = own_B[:, None] != own_B
    shared_BB = other_BB & ((a_B[:, None] == a_B) | (b_B[:, None] == b_B))
    score_BB = (a_BD @ b_BD.T / temperature).masked_fill(shared_BB, -torch.inf)
    return (F.cross_entropy(score_BB, own_B) + F.cross_entropy(score_BB.T, own_B)) / 2


def teaching(z_BD: Tensor, teacher_BK: Tensor) -> Tensor:
    """1 − cosine of the first K of embeddings' D numbers with a teacher's K principal ones; the others are free to tell
    apart what the teacher does not. z_BD, teacher_BK → scalar. Source: Reimers & Gurevych 2020 (distillation across
    languages), by cosine."""
    z_BK = z_BD[:, : teacher_BK.shape[1]].float()
    return (1 - F.cosine_similarity(z_BK, teacher_BK.float(), dim=1)).mean()


def noised(z_BD: Tensor, amount_BD: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """What is best guessed of a vector that is known through noise: z' = μ + (1−a²)·(z−μ) + a·√(1−a²)·σ·ε, from the
    vector itself (a 0) to the mean (a 1). It is the posterior mean of z given √(1−a²)·(z−μ) + a·σ·ε, which is what a
    model that predicts vectors puts out; a decoder that was taught by it writes texts from what is not certain.

    Mean and deviation are the batch's, per dimension, without gradient. z_BD, amount_BD (or amount_B1) → z_BD.
    """
    with torch.no_grad():
        z = z_BD.float()
        mean_D, std_D = z.mean(0), z.std(0) if len(z) > 1 else torch.zeros_like(z[0])
        drawn_BD = torch.randn(z.shape, generator=generator, device=generator.device if generator else z.device)
        noise_BD = drawn_BD.to(z.device) * std_D
    a = amount_BD.to(z.dtype)
    known = 1 - a * a
    return (mean_D + known * (z_BD - mean_D) + a * known.sqrt() * noise_BD).to(z_BD.dtype)
