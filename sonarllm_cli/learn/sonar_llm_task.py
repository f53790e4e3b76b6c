"""Training SONAR-LLM: the next sentence's tokens by cross-entropy through the frozen SONAR decoder.

A document is its sentences in reading order and the ending; or, as summarisation, its sentences, a marker, its title
and the ending, of which only title and ending are scored. Every sentence is embedded once, before the first step.
The frozen decoder is in eval mode and its weights get no gradient; only activations do.

Legend: B documents, S sentences, N target sentences, T tokens, D embedding, M model width, L labelled tokens.
Source: Dragunov et al. 2025 (arXiv 2508.05305), 3; Llama body as in nets/llama.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from ..files import atomic_file
from ..flow.embed import encode
from ..flow.model import Space, load_space
from ..nets.sonar_llm import ENDING, MARKER, SonarLLM, SonarLLMConfig
from ..runtime import by_length, choose, log
from ..tokens import EOS
from ..weights import tensors
from . import corpus
from .card import card
from .losses import sentence_nll
from .recipe import Data, Settings, config_from

ROOM = 4096  # padded tokens that the frozen decoder reads at once
POSITIONS = 512  # padded sentences that the body reads at once


@dataclass(frozen=True)
class Document:
    """Rows of the sentence table, in order; sentences from `scored` on are targets (never the first)."""

    rows: np.ndarray
    scored: int


@dataclass(frozen=True)
class Batch:
    """Documents of one micro-batch, and the labelled tokens of the whole step, by which the loss is divided."""

    documents: list[Document]
    step_tokens: int


class Sentences:
    """A table of distinct sentences: target ids, UTF-8 bytes, and one embedding a row."""

    def __init__(self, texts: list[str], task: SonarLLMTask, data: Data) -> None:
        tokenizer = task.space.tokenizer
        words = tokenizer.content(texts)
        self.row = {text: i for i, text in enumerate(texts)}
        self.ids = [[*tokenizer.prompt(data.lang), *w, EOS] for w in words]
        self.bytes = np.array([len(t.encode()) for t in texts])
        self.labels = np.array([len(w) + 1 for w in words])
        self.embeddings_ND = torch.empty(0)

    def embed(self, space: Space, path: Path) -> None:
        """Embed every row, or take the embeddings from `path`, where a run of the same texts and encoder left them."""
        key = hashlib.sha256(str(self.ids).encode())
        for _, parameter in space.net.encoder.named_parameters():
            key.update(parameter.detach().contiguous().view(torch.uint8).numpy().data)
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == key.hexdigest():
                    self.embeddings_ND = file.get_tensor("embeddings")
                    return
        log.info("embedding %d sentences", len(self.ids))
        chunks = [encode([i[1:] for i in self.ids[at : at + 4096]], space) for at in range(0, len(self.ids), 4096)]
        self.embeddings_ND = torch.cat(chunks)
        with atomic_file(path) as scratch:
            save_file({"embeddings": self.embeddings_ND}, scratch, metadata={"key": key.hexdigest()})


class SonarLLMTask:
    """Data, model and loss of one `sonar-llm` run, for the loop."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        if not settings.sonar:
            raise UserError("the recipe names no space", 'add sonar = "mini-sonar", or a model folder')
        self.space = load_space(settings.sonar, choose())
        data = settings.data
        train = corpus.documents(data, data.documents)
        valid = corpus.documents(data, data.valid_documents)
        texts = [ENDING, MARKER, *corpus.sentences([*train, *valid])]
        room = min(data.max_tokens, self.space.net.config.max_target_tokens) - 3
        lengths = [len(w) for w in self.space.tokenizer.content(texts)]
        self.table = Sentences([t for t, n in zip(texts, lengths) if 0 < n <= room], self, data)
        self.train = self._documents(train)
        self.valid = self._documents(valid)
        if not self.train:
            raise UserError("no document has two sentences", "check data.root, data.documents, data.max_tokens")
        log.info("%d documents, %d distinct sentences", len(self.train), len(self.table.ids))
        self.table.embed(self.space, folder / "embeddings.safetensors")
        known_ND = self.table.embeddings_ND[2:]
        self.std_D = known_ND.std(0)
        self.config: SonarLLMConfig = config_from(SonarLLMConfig, {"embedding": self.space.dim, **settings.model})
        if self.config.embedding != self.space.dim:
            raise UserError(
                f"model.embedding is {self.config.embedding}, {self.space.name} has width {self.space.dim}",
                "leave model.embedding out",
            )
        self.model = SonarLLM(self.config)
        self.model.body.init_()

    def _documents(self, documents: list[tuple[str, list[str]]]) -> list[tuple[int, np.ndarray]]:
        """(row of the title or −1, rows of the body). A document ends before a sentence that is too long."""
        data, out = self.settings.data, []
        cut = short = 0
        for title, body in documents:
            rows = [self.table.row.get(s, -1) for s in body[: data.max_sentences - 1]]
            whole = -1 not in rows and len(body) < data.max_sentences
            cut += not whole
            rows = rows[: rows.index(-1)] if -1 in rows else rows
            if len(rows) < 1 or (len(rows) < data.min_sentences and title not in self.table.row):
                short += 1
                continue
            out.append((self.table.row.get(title, -1), np.array(rows if not whole else [*rows, 0])))
        if cut or short:
            log.info("%d documents cut (too long, or a sentence is), %d left out (too short)", cut, short)
        return out

    # ------------------------------------------------------------------------------------------ batches

    def epoch(self, number: int) -> list[Document]:
        """Every document once, in random order, as a text or as a summarisation."""
        rng = np.random.default_rng([self.settings.run.seed, number])
        as_summary = rng.random(len(self.train)) < self.settings.data.summaries
        return [self._document(self.train[i], bool(as_summary[i])) for i in rng.permutation(len(self.train))]

    def _document(self, entry: tuple[int, np.ndarray], summary: bool) -> Document:
        title, rows = entry
        if title < 0 or not (summary or len(rows) > 1):
            summary = False
        if not summary and len(rows) > 1:
            return Document(rows, 1)
        body = rows[:-1] if rows[-1] == 0 else rows
        return Document(np.array([*body, 1, title, 0]), len(body) + 1)

    def steps(self, epoch: list[Document]) -> Iterator[list[Batch]]:
        """Optimisation steps of `optim.documents` documents, in micro-batches of about `optim.batch_tokens` labels."""
        size, most = self.settings.optim.documents, self.settings.optim.batch_tokens
        for at in range(0, len(epoch), size):
            step = epoch[at : at + size]
            labels = [int(self.table.labels[d.rows[d.scored :]].sum()) for d in step]
            groups: list[list[Document]] = [[]]
            held = 0
            for document, count in zip(step, labels):
                if groups[-1] and held + count > most:
                    groups.append([])
                    held = 0
                groups[-1].append(document)
                held += count
            yield [Batch(group, sum(labels)) for group in groups]

    # ------------------------------------------------------------------------------------------ the loss

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's mean token cross-entropy, and what to log of it."""
        predicted_ND, row_N = self._predict(batch.documents, generator)
        total, nll_N = self._decode(predicted_ND, row_N, 1 / batch.step_tokens)
        nll, labels = nll_N.sum().item(), int(self.table.labels[row_N].sum())
        return total, {
            "tokens": labels,
            "nll": nll / labels,
            "bpb": nll / math.log(2) / int(self.table.bytes[row_N].sum()),
        }

    def _predict(
        self, documents: list[Document], generator: torch.Generator | None = None
    ) -> tuple[Tensor, np.ndarray]:
        """Documents → the predicted embeddings of all their target sentences and those sentences' rows. Documents of
        like length go through the body together, so that little is padding."""
        parts, rows = [], []
        for group in by_length([len(d.rows) for d in documents], len(documents), POSITIONS):
            predicted_ND, row_N = self._predict_group([documents[i] for i in group], generator)
            parts.append(predicted_ND)
            rows.append(row_N)
        return torch.cat(parts), np.concatenate(rows)

    def _predict_group(self, documents: list[Document], generator: torch.Generator | None) -> tuple[Tensor, np.ndarray]:
        S = max(len(d.rows) for d in documents) - 1
        rows_BS = np.zeros((len(documents), S), np.int64)
        target: list[tuple[int, int]] = []
        for b, d in enumerate(documents):
            rows_BS[b, : len(d.rows) - 1] = d.rows[:-1]
            target += [(b, s - 1) for s in range(d.scored, len(d.rows)) if d.rows[s] != 1]
        context_BSD = self.table.embeddings_ND[torch.from_numpy(rows_BS)].float()
        noise = self.settings.loss.input_noise
        if noise and generator is not None:
            amount = noise * torch.rand(context_BSD.shape[:2], generator=generator)[..., None]
            context_BSD = context_BSD + amount * self.std_D * torch.randn(context_BSD.shape, generator=generator)
        predicted_BSD = self.model(context_BSD)
        at_B, at_S = (torch.tensor(x) for x in zip(*target))
        return predicted_BSD[at_B, at_S], np.array([documents[b].rows[s + 1] for b, s in target])

    def _decode(self, predicted_ND: Tensor, row_N: np.ndarray, scale: float) -> tuple[Tensor, Tensor]:
        """Predicted embeddings → scale × Σ nll of the sentences in `row_N` and each one's nll (words and `</s>`)."""
        decoder = self.space.net.decoder
        ids = [self.table.ids[r] for r in row_N]
        total = predicted_ND.new_zeros((), dtype=torch.float32)
        nll_N = torch.zeros(len(ids))
        for group in by_length([len(i) for i in ids], len(ids), ROOM):
            length_B = torch.tensor([len(ids[i]) for i in group])
            ids_BT = torch.full((len(group), int(length_B.max())), EOS)
            for b, i in enumerate(group):
                ids_BT[b, : len(ids[i])] = torch.tensor(ids[i])
            scale_B = torch.full((len(group),), scale)
            value, nll_L, row_L = sentence_nll(decoder, ids_BT, length_B, predicted_ND[torch.tensor(group)], scale_B)
            total = total + value
            nll_N.index_add_(0, torch.tensor(group)[row_L], nll_L)
        return total, nll_N

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On the validation documents: nats a token and bits per byte of texts, and of titles after the marker."""
        out: dict[str, float] = {}
        for name, summary in (("text", False), ("title", True)):
            documents = [self._document(entry, summary) for entry in self.valid]
            documents = [d for d in documents if (d.rows[-2] != 1 and 1 in d.rows) == summary]
            documents = documents[: 16 * self.settings.run.valid_batches]
            nll = tokens = size = 0.0
            for at in range(0, len(documents), 16):
                predicted_ND, row_N = self._predict(documents[at : at + 16])
                if summary:
                    keep = row_N != 0
                    predicted_ND, row_N = predicted_ND[torch.from_numpy(keep)], row_N[keep]
                _, nll_N = self._decode(predicted_ND, row_N, 0.0)
                nll += nll_N.sum().item()
                tokens += int(self.table.labels[row_N].sum())
                size += int(self.table.bytes[row_N].sum())
            if tokens:
                out |= {f"valid_{name}_nll": nll / tokens, f"valid_{name}_bpb": nll / math.log(2) / size}
        return out

    @torch.no_grad()
    def familiar(self, share: float = 0.95) -> float:
        """Nats a token under which the space reconstructs that share of the validation documents; 0 without any."""
        nats = []
        for _, rows in self.valid:
            rows = rows[rows > 1]
            _, nll_N = self._decode(self.table.embeddings_ND[torch.from_numpy(rows)], rows, 0.0)
            nats.append(nll_N.sum().item() / int(self.table.labels[rows].sum()))
        return float(np.quantile(nats, share)) if nats else 0.0

    def save(self, folder: Path, model: nn.Module, facts: dict[str, Any]) -> None:
        """The finished model folder, which names its space."""
        data = self.settings.data
        tensors.save(
            folder,
            kind="sonar-llm",
            model=model,
            card=card(self.settings, "sonar-llm", facts),
            licence=self.settings.licence,
            weights=self.settings.run.weights,
            sonar={"name": self.space.name, "fingerprint": self.space.fingerprint},
            ending=ENDING,
            marker=MARKER if data.summaries else "",
            lang=data.lang,
            familiar=round(self.familiar(), 3),
            training=facts,
        )
