"""One optimisation step of ours against the published script's, on the same weights, data, dtype and device.

The published step, rewritten here: all sentences of a micro-batch are padded to the longest; the decoder's
cross-attention has its own normalisation, query, key, value and output products, those of queries and outputs for every
token; logits are made for every position, padding too, and all kept; the frozen decoder is in training mode, so that
its dropout is on. Both score what the published script scores (words, the language token and two `</s>`), a mean over
the tokens of a micro-batch and over micro-batches, so that with dropout off the losses must agree.

Weights and embeddings are random, and so are ids: only the lengths of sentences come from a text. Each step is timed in
a process of its own, whose peak memory is then its peak.

    report = compare(BenchTrain(documents=8))

Legend: B documents, S sentences of a document, N target sentences, T tokens, D embedding, M width, V vocabulary.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import corpus
from ..data.records import Data
from ..errors import RunError, UserError
from ..learn import optim
from ..learn.losses import padded_groups, sentences_nll
from ..learn.recipe import Optim
from ..learn.watch import most_memory, peak_rate
from ..nets.layers import flop_counter, sinusoid_TM
from ..nets.sonar import DecoderLayer, SonarConfig, SonarDecoder
from ..nets.sonar_llm import SonarLLM, SonarLLMConfig
from ..runtime import choose, name_of
from ..tokens import EOS, PAD
from .timing import now

LENGTHS = Path(__file__).parent.parent / "assets" / "lengths.json"
ENDING_TOKENS = 4
MOST_SENTENCES, MOST_TOKENS = 32, 256
LANG = 256_047  # any id will do
SHAPE = {"width": 512, "ffn": 2048, "layers": 8, "heads": 16, "head_size": 32}  # called 100M
LOSSES_AGREE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 2e-2}  # relative difference, at most


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """What is compared. `micro` documents are padded together by the published step."""

    data: str = ""  # documents to take lengths from, by the embedded tokenizer; else a packaged sample's
    documents: int = 8
    micro: int = 8
    decoder_layers: int = 2
    vocab_size: int = 256_206
    steps: int = 3
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Micro:
    """A micro-batch: ids of all sentences of each document, and an embedding of each."""

    ids: list[list[list[int]]]
    embeddings: list[Tensor]  # (S, D) each


# ---------------------------------------------------------------------------------------------- data and models


def lengths(setup: BenchTrain) -> list[list[int]]:
    """Words of the sentences of `setup.documents` documents, the ending's among them, drawn by the seed."""
    if setup.data:
        from ..weights.loaded import load_space

        tokenizer = load_space("mini").tokenizer
        found = corpus.documents(Data(limit=4096), [setup.data])
        known = [[len(i) for i in tokenizer.content(body)] for _, body in found if len(body) > 1]
    else:
        known = json.loads(LENGTHS.read_text("utf-8"))
    if len(known) < setup.documents:
        cure = f"use --documents {len(known)} or less" if known else "name other --data"
        raise UserError(f"{len(known)} documents of two sentences are too few", cure)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(setup.seed))
    chosen = [known[i][: MOST_SENTENCES - 1] for i in order[: setup.documents]]
    return [[min(n, MOST_TOKENS - 3) for n in body] + [ENDING_TOKENS] for body in chosen]


def micro_batches(setup: BenchTrain, vocab_size: int, dim: int) -> list[Micro]:
    """The step's documents, `setup.micro` at a time."""
    generator = torch.Generator().manual_seed(setup.seed)

    def words(count: int) -> list[int]:
        return torch.randint(EOS + 1, vocab_size, (count,), generator=generator).tolist()

    out = []
    known = lengths(setup)
    lang = min(LANG, vocab_size - 1)
    for at in range(0, len(known), setup.micro):
        group = known[at : at + setup.micro]
        ids = [[[EOS, lang, *words(n), EOS] for n in body] for body in group]
        out.append(Micro(ids, [0.02 * torch.randn(len(body), dim, generator=generator) for body in group]))
    return out


def networks(setup: BenchTrain, device: torch.device) -> tuple[SonarLLM, SonarDecoder]:
    """A concept model of the size called 100M and a frozen decoder of the published width and vocabulary."""
    torch.manual_seed(setup.seed)
    space = SonarConfig(decoder_layers=setup.decoder_layers, vocab_size=setup.vocab_size)
    model = SonarLLM(SonarLLMConfig(**SHAPE, embedding=space.embedding))
    model.body.init_()
    return model.to(device), SonarDecoder(space).requires_grad_(False).to(device)


# ---------------------------------------------------------------------------------------------- the two losses


def our_loss(model: SonarLLM, decoder: SonarDecoder, step: Sequence[Micro]) -> Tensor:
    """As `learn` computes it, over all documents of the step at once, sentences of like length together; through the
    decoder in the dtype that its weights have, whatever the body's products are cast to."""
    device = decoder.embed.weight.device
    predicted, ids, scale = [], [], []
    for micro in step:
        predicted.append(_predicted(model, micro.embeddings, device))
        targets = [sentence for body in micro.ids for sentence in body[1:]]
        ids += targets
        scale += [1 / len(step) / sum(len(t) for t in targets)] * len(targets)  # lang, words, two `</s>`
    scale_N = torch.tensor(scale, device=device)
    with torch.autocast(device.type, enabled=False):
        return sentences_nll(
            decoder.eval(), padded_groups(ids, scale_N.device), torch.cat(predicted), scale_N, reference=True
        )[0]


def published_loss(model: SonarLLM, decoder: PublishedDecoder, micro: Micro) -> Tensor:
    """Of one micro-batch: every sentence padded to the longest of all, logits at every position."""
    device = decoder.embed.weight.device
    predicted_ND = _predicted(model, micro.embeddings, device)
    ids = [sentence for body in micro.ids for sentence in body[1:]]
    longest = max(map(len, ids))
    ids_NT = torch.full((len(ids), longest), PAD)
    label_NT = torch.full((len(ids), longest), PAD)
    for n, sentence in enumerate(ids):
        ids_NT[n, : len(sentence)] = torch.tensor(sentence)
        label_NT[n, : len(sentence)] = torch.tensor([*sentence[1:], EOS])
    real_NT = (ids_NT != PAD).to(device)
    logits_NTV = decoder(ids_NT.to(device), real_NT, predicted_ND)
    return F.cross_entropy(logits_NTV.flatten(0, 1).float(), label_NT.to(device).flatten(), ignore_index=PAD)


def _predicted(model: SonarLLM, embeddings: Sequence[Tensor], device: torch.device) -> Tensor:
    """Documents right-padded to the longest → the predictions of every sentence but the first: predicted_ND."""
    context_BSD = nn.utils.rnn.pad_sequence([e[:-1] for e in embeddings], batch_first=True).to(device)
    predicted_BSD = model(context_BSD)
    return torch.cat([predicted_BSD[b, : len(e) - 1] for b, e in enumerate(embeddings)])


class PublishedDecoder(nn.Module):
    """The decoder's weights, computed as fairseq2's layers do: attention of every token to a memory of length one."""

    def __init__(self, decoder: SonarDecoder) -> None:
        super().__init__()
        self.embed, self.layer_norm, self.dropout = decoder.embed, decoder.layer_norm, decoder.config.dropout
        self.layers = nn.ModuleList(PublishedLayer(layer, decoder.config) for layer in decoder.layers)  # type: ignore[arg-type]

    def forward(self, ids_NT: Tensor, real_NT: Tensor, memory_ND: Tensor) -> Tensor:
        T, weight = ids_NT.shape[1], self.embed.weight
        x_NTM = F.embedding(ids_NT, weight) * self.embed.scale + sinusoid_TM(T, weight.shape[1]).to(weight)
        x_NTM = F.dropout(x_NTM, self.dropout, self.training)
        causal_TT = torch.ones(T, T, dtype=torch.bool, device=ids_NT.device).tril()
        mask_N1TT = causal_TT & real_NT[:, None, None]
        for layer in self.layers:
            x_NTM = layer(x_NTM, mask_N1TT, memory_ND[:, None])
        return F.linear(self.layer_norm(x_NTM), weight)


class PublishedLayer(nn.Module):
    """One layer with real cross-attention. Queries and keys, which do not matter to one key, are random."""

    def __init__(self, layer: DecoderLayer, config: SonarConfig) -> None:
        super().__init__()
        self.layer, self.heads, self.dropout = layer, config.heads, config.dropout
        self.cross_norm = nn.LayerNorm(config.width)
        self.cross_q_proj = nn.Linear(config.width, config.width)
        self.cross_k_proj = nn.Linear(config.embedding, config.width)
        self.requires_grad_(False)

    def forward(self, x_NTM: Tensor, mask_N1TT: Tensor, memory_N1D: Tensor) -> Tensor:
        own, drop = self.layer, self.dropout if self.training else 0.0
        q, k, v = _linear(own.self_attn.qkv_proj, own.self_attn_layer_norm(x_NTM)).chunk(3, -1)
        mixed_NTM = self._attend(q, k, v, mask_N1TT, drop)
        x_NTM = x_NTM + F.dropout(_linear(own.self_attn.out_proj, mixed_NTM), drop)
        q = self.cross_q_proj(self.cross_norm(x_NTM))
        mixed_NTM = self._attend(q, self.cross_k_proj(memory_N1D), _linear(own.cross_v_proj, memory_N1D), None, drop)
        x_NTM = x_NTM + F.dropout(_linear(own.cross_out_proj, mixed_NTM), drop)
        inner = F.relu(_linear(own.ffn.inner_proj, own.ffn_layer_norm(x_NTM)))
        return x_NTM + F.dropout(_linear(own.ffn.output_proj, F.dropout(inner, drop)), drop)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: float) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, drop).transpose(1, 2).flatten(2)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """By PyTorch's own product, as the published step has it."""
    return F.linear(x, layer.weight, layer.bias)


# ---------------------------------------------------------------------------------------------- measuring


def measure(setup: BenchTrain, which: str) -> dict[str, Any]:
    """Steps of one of the two in this process: seconds of each, peak bytes, the loss with dropout off."""
    runtime = choose(setup.device, setup.dtype, setup.threads)
    model, decoder = networks(setup, runtime.device)
    device = decoder.embed.weight.device
    step = micro_batches(setup, decoder.config.vocab_size, decoder.config.embedding)
    published = PublishedDecoder(decoder).to(device)
    if which == "ours":
        decoder.to(runtime.dtype)  # frozen, it is kept in the dtype of its products
    optimizers = optim.optimizers(model, Optim())

    def backward() -> float:
        with torch.autocast(device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
            if which == "ours":
                loss = our_loss(model, decoder, step)
                loss.backward()
                return loss.item()
            value = 0.0
            for micro in step:
                loss = published_loss(model, published, micro) / len(step)
                loss.backward()
                value += loss.item()
            return value

    published.eval()
    with flop_counter() as counter:
        loss = backward()
    published.train(which == "published")
    seconds = []
    for _ in range(setup.steps):
        optimizers[0].zero_grad(set_to_none=True)
        began = now(device)
        backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers[0].step()
        seconds.append(now(device) - began)
    facts: dict[str, Any] = {"seconds": sorted(seconds)[len(seconds) // 2], "loss": loss}
    facts["device"], facts["peak_bytes"] = name_of(device), most_memory(device)
    facts["sentences"] = sum(len(body) - 1 for micro in step for body in micro.ids)
    facts["sentences_s"] = facts["sentences"] / facts["seconds"]
    facts["flops"] = counter.get_total_flops()
    facts["peak_share"] = facts["flops"] / facts["seconds"] / peak_rate(device, runtime.dtype)
    return facts


def failure(what: str, code: int, told: str) -> RunError:
    """That a process ended with this exit code, after it told this on stderr."""
    killed = f"killed by signal {-code}" if code < 0 else ""
    reason = killed or (told.strip().splitlines() or [f"exit code {code}"])[-1]
    memory = code == -9 or "memory" in reason.lower()  # 9: what a machine without memory sends
    return RunError(
        f"{what} failed: {reason}",
        "use fewer --documents or a smaller --micro-batch" if memory else "mend that, or report it",
    )


def compare(setup: BenchTrain) -> dict[str, Any]:
    """Both, each in a process of its own. RunError where the losses don't agree."""
    out: dict[str, Any] = {"setup": asdict(setup)}
    for which in ("published", "ours"):
        code = f"from {__name__} import _worker; _worker()"
        words = [sys.executable, "-c", code, json.dumps(asdict(setup)), which]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise failure(f"the {which} step", done.returncode, done.stderr)
        out[which] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = out["ours"], out["published"]
    out["speed_up"] = ours["sentences_s"] / theirs["sentences_s"]
    out["memory_share"] = ours["peak_bytes"] / theirs["peak_bytes"]
    out["loss_difference"] = abs(ours["loss"] - theirs["loss"]) / theirs["loss"]
    if out["loss_difference"] > LOSSES_AGREE[setup.dtype]:
        raise RunError(f"the losses differ: {theirs['loss']:.6f} and {ours['loss']:.6f}", "report this")
    return out


def _worker() -> None:
    """The other process: settings and side on the command line, facts on stdout."""
    print(json.dumps(measure(BenchTrain(**json.loads(sys.argv[1])), sys.argv[2])))
