"""Training SONAR itself: L = L_MT + 0.1·L_MSE + 0.01·L_DAE (Duquenne et al. 2023, 3.2), from parallel and plain text.

Each sentence of a batch is encoded once and decoded once. What it is decoded *from* is drawn for it: its own
embedding (auto-encoding), its translation's (L_MT), a random point between both (interpolation), each perhaps mixed
with another text's (mixup, Zhang et al. 2018) or noised.

Legend: B texts, W of them that are written, T tokens, D embedding, M model width, V vocabulary, N labelled tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data import corpus, prepared
from ...data.documents import Lazy
from ...errors import UserError
from ...nets.kinds import kind_of
from ...nets.sonar import Sonar, SonarConfig
from ...runtime import choose, log
from ...tokens import TAGS, UNK, Tokenizer
from ...weights import model_dir, registry, tensors
from ...weights.loaded import load_space
from ..ahead import pinned
from ..budget import (
    SENTENCE_TOKENS,
    Cost,
    cross_flops,
    decoder_token_flops,
    encoder_token_flops,
    layer_activations,
    logits_bytes,
)
from ..build import space_config
from ..card import card
from ..losses import alignment, contrast, noised, sentence_nll, teaching
from ..recipe import Loss, Settings, config_from

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ItemBatch:
    """Items of one micro-batch, and its share of the step's labelled tokens, by which its loss is weighted."""

    items: np.ndarray
    share: float
    loaded: tuple[Tensor, Tensor, Tensor] | None = None  # ids_BT, length_B, partner_B


@dataclass(frozen=True)
class Draw:
    """What each text of a batch is decoded from, as drawn: its own vector, its translation's, a point between both;
    mixed with a stranger's or noised."""

    translate_B: Tensor
    denoise_B: Tensor
    blend_B: Tensor  # share of the translation's vector
    amount_B1: Tensor | None  # of noise
    mixed_B1: Tensor | None  # share of the stranger's
    stranger_B: Tensor

    @classmethod
    def of(cls, weights: Loss, partner_B: Tensor, generator: torch.Generator) -> Draw:
        """Drawn by the recipe's shares; `partner_B` is where each text's translation stands, its own place for none."""
        B = len(partner_B)
        draw_B = torch.rand(B, generator=generator)
        paired_B = partner_B != torch.arange(B)
        denoise_B = torch.rand(B, generator=generator) < weights.dae_share
        translate_B = paired_B & (draw_B < weights.mt_share)
        between_B = torch.rand(B, generator=generator) * (paired_B & (draw_B > 1 - weights.mix_share))
        noise, mixup = weights.noise_share, weights.mixup_share
        return cls(
            translate_B=translate_B,
            denoise_B=denoise_B,
            blend_B=torch.where(translate_B, 1.0, between_B),
            amount_B1=amounts(B, noise, generator) if noise else None,
            mixed_B1=amounts(B, mixup, generator) / 2 if mixup else None,
            stranger_B=torch.randperm(B, generator=generator) if mixup else partner_B,
        )

    def to(self, device: torch.device) -> Draw:
        moved: dict[str, Any] = {k: None if v is None else v.to(device) for k, v in vars(self).items()}
        return Draw(**moved)

    @property
    def plain_B(self) -> Tensor:
        """Which texts are decoded from their own vector as it is."""
        spoilt_B = (self.blend_B != 0) | self.denoise_B
        for change in (self.amount_B1, self.mixed_B1):
            spoilt_B = spoilt_B if change is None else spoilt_B | (change != 0).any(1)
        return ~spoilt_B

    def vectors(self, z_BD: Tensor, partner_B: Tensor, generator: torch.Generator) -> Tensor:
        """What to decode from: embedding_BD → embedding_BD."""
        from_BD = z_BD + self.blend_B[:, None].to(z_BD.dtype) * (z_BD[partner_B] - z_BD)
        if self.mixed_B1 is not None:
            from_BD = from_BD + self.mixed_B1.to(z_BD.dtype) * (z_BD[self.stranger_B] - from_BD)
        return from_BD if self.amount_B1 is None else noised(from_BD, self.amount_B1, generator)


class SonarTask(Cost):
    """Data, model and loss of one `sonar` run, for the loop."""

    def __init__(self, settings: Settings, folder: Path, device: torch.device = CPU) -> None:
        self.settings, self.device = settings, device
        data = settings.data
        self.base = (
            load_space(settings.run.init, choose(str(device), "float32"), trainable=True) if settings.run.init else None
        )
        if self.base and not kind_of(model_dir.read_config(registry.find(settings.run.init))["kind"]).space:
            log.info("run.init %s is no space: the run starts from the one it lives in", settings.run.init)
        if data.prepared:
            self._read_prepared()
        else:
            self._read_text(folder)
        self.model = self._begun()
        log.info("%d sentences and pairs in %s", len(self.train.left), ", ".join(self.tokenizer.langs))

    @classmethod
    def shape(cls, settings: Settings) -> SonarConfig:
        """The config of the networks that the recipe describes."""
        vocabulary, init = settings.vocabulary, settings.run.init
        ids = 1 + vocabulary.pieces + len(vocabulary.langs) + len(TAGS)
        base = asdict(space_config(init)) if init else {"vocab_size": ids}
        config: SonarConfig = config_from(SonarConfig, {**base, **settings.model})
        return config

    @classmethod
    def size(cls, settings: Settings) -> tuple[int, int, str]:
        """As many tokens as fit."""
        tokens = settings.optim.accumulate * settings.optim.batch_tokens
        return tokens, tokens // SENTENCE_TOKENS, f"at {SENTENCE_TOKENS} tokens a sentence, nothing padded"

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """Encoder and decoder, three times."""
        config, read = model.config, tokens + sentences  # the language token too
        length = read / max(1, sentences)
        through = read * (encoder_token_flops(config, length) + decoder_token_flops(config, length))
        return 3 * (through + sentences * cross_flops(config) + 2 * tokens * config.width * config.vocab_size)

    @classmethod
    def activations(cls, settings: Settings, config: Any, space: SonarConfig | None, half: int) -> float:
        """Both networks', of every token."""
        layers = config.encoder_layers + config.decoder_layers
        both = layers * layer_activations(settings, config.width, config.ffn, 2) * half
        return settings.optim.batch_tokens * both + logits_bytes(config.vocab_size)

    def _read_prepared(self) -> None:
        """Tokenizer and items of `data.prepared`."""
        data = self.settings.data
        source = prepared.read(Path(data.root, data.prepared))
        self.tokenizer = source.vocabulary
        if self.base and self.base.tokenizer.model_bytes != self.tokenizer.model_bytes:
            cure = "name the space that it was prepared by, or leave run.init out"
            raise UserError(f"run.init {self.base.name} has another vocabulary than data.prepared", cure)
        if self.settings.loss.teacher and not len(source.teacher):
            log.info("data.prepared has no teacher: loss.teacher is left out")
        self.train = corpus.of_prepared(source, data.max_tokens, held=False)
        held = corpus.of_prepared(source, data.max_tokens, held=True)
        self.valid = held if len(held.left) else None

    def _read_text(self, folder: Path) -> None:
        """Documents and pairs of the recipe, segmented, and a tokenizer."""
        data = self.settings.data
        mono = corpus.sentences(corpus.documents(data, data.documents, folder / "documents.segmented"))
        pairs = corpus.translations(data, data.pairs, folder / "pairs.segmented")
        self.tokenizer = self._tokenizer(mono, pairs, folder)
        self.train = corpus.tokenise(mono, pairs, self.tokenizer, data, folder / "train.tokens")
        self.valid = None
        if data.valid_documents or data.valid_pairs:
            seen = {*mono, *(s for a, b, _ in pairs for s in (a, b))}
            mono = corpus.sentences(corpus.documents(data, data.valid_documents, folder / "valid_documents.segmented"))
            pairs = corpus.translations(data, data.valid_pairs, folder / "valid_pairs.segmented")
            fresh = [s for s in mono if s not in seen]
            unseen = [p for p in pairs if p[0] not in seen and p[1] not in seen]
            if fresh or unseen:
                self.valid = corpus.tokenise(fresh, unseen, self.tokenizer, data, folder / "valid.tokens")
            else:
                log.info("no validation: every validation text is in the training text")

    def _begun(self) -> Sonar:
        """The network before its first step: that of `run.init`, in another shape where the recipe's [model] gives it
        one, or a new one."""
        if self.base is None:
            fields = {"vocab_size": self.tokenizer.vocab_size, **self.settings.model}
            return Sonar(config_from(SonarConfig, fields)).init_()
        config = config_from(SonarConfig, {**asdict(self.base.net.config), **self.settings.model})
        if config == self.base.net.config:
            return self.base.net.requires_grad_(True)
        model, known = Sonar(config).init_(), self.base.net.state_dict()
        own = model.state_dict()
        kept = {name: value for name, value in known.items() if name in own and value.shape == own[name].shape}
        model.load_state_dict(kept, strict=False)
        log.info("%d of %d tensors are %s's, the others begin new", len(kept), len(own), self.base.name)
        return model

    def _tokenizer(self, mono: list[str], pairs: list[tuple[str, str, str]], folder: Path) -> Tokenizer:
        """That of the model the run starts from, else one trained on its text, kept in the run folder."""
        if self.base:
            return self.base.tokenizer
        vocabulary, path = self.settings.vocabulary, folder / "tokenizer.model"
        if not path.exists():
            texts = [*mono, *(side for a, b, _ in pairs for side in (a, b))]
            texts = corpus.sample_text(texts, vocabulary.sentences, self.settings.run.seed)
            path.write_bytes(corpus.train_tokenizer(texts, vocabulary.pieces))
        return Tokenizer(path, vocabulary.langs)

    # ------------------------------------------------------------------------------------------ batches

    def epoch(self, number: int) -> Lazy[np.ndarray]:
        """The micro-batches of one pass: items of like length, in random order, a function of seed and pass."""
        rng = np.random.default_rng([self.settings.run.seed, number])
        return batches(self.train, self.settings.optim.batch_tokens, rng)

    def steps(self, epoch: Lazy[np.ndarray]) -> Lazy[list[ItemBatch]]:
        """Optimisation steps of `optim.accumulate` micro-batches; a remainder of the pass is left out."""
        size, labels_N = min(self.settings.optim.accumulate, len(epoch)), self.train.labels()

        def step(i: int) -> list[ItemBatch]:
            parts = epoch[i * size : (i + 1) * size]
            labels = [int(labels_N[items].sum()) for items in parts]
            return [ItemBatch(items, count / sum(labels)) for items, count in zip(parts, labels)]

        return Lazy(len(epoch) // size, step)

    def describe(self, batch: ItemBatch) -> str:
        """A micro-batch's first texts, for messages."""
        named = [
            f"{self.tokenizer.text(map(int, self.train.ids(int(self.train.left[i]))))[:40]!r}" for i in batch.items
        ]
        return f"texts {', '.join(named[:8])}" + (f" and {len(named) - 8} more" if len(named) > 8 else "")

    # ------------------------------------------------------------------------------------------ the loss

    def load(self, batch: ItemBatch) -> ItemBatch:
        """The batch with its ids."""
        ids_BT, length_B, partner_B = (
            pinned(torch.from_numpy(x), self.device) for x in corpus.targets(self.train, batch.items)
        )
        return replace(batch, loaded=(ids_BT, length_B, partner_B))

    def loss(self, batch: ItemBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's loss, and what to log of it. What is random is drawn on the CPU."""
        weights = self.settings.loss
        loaded = batch.loaded or self.load(batch).loaded
        assert loaded is not None
        ids, length_B, partner_B = loaded
        draw = Draw.of(weights, partner_B, generator)
        source = garble(ids[:, 1:], length_B - 1, draw.denoise_B, generator)
        weight_B = torch.where(draw.translate_B, weights.mt, torch.where(draw.denoise_B, weights.dae, weights.ae))
        kept_W = torch.from_numpy(np.flatnonzero(self.train.written[self.train.texts(batch.items)]))
        scale_B = batch.share * weight_B / (length_B[kept_W] - 2).sum()
        ids, source, length_B, partner_B, scale_B, kept_W = (
            t.to(self.device, non_blocking=True) for t in (ids, source, length_B, partner_B, scale_B, kept_W)
        )
        draw = draw.to(self.device)
        z_BD = self.model.encoder(source, length_B - 1)
        from_BD = draw.vectors(z_BD, partner_B, generator)
        value, nll_N, row_N = sentence_nll(
            self.model.decoder, ids[kept_W], length_B[kept_W], from_BD[kept_W], scale_B[kept_W]
        )
        row_N = kept_W[row_N]
        facts = {"nll": nll_N.mean().item(), "tokens": len(nll_N), "sentences": len(kept_W)}
        facts["spread"] = z_BD.detach().float().std(0).mean().item()
        plain_N, translate_N = draw.plain_B[row_N], draw.translate_B[row_N]
        if plain_N.any():
            facts["ae"] = nll_N[plain_N].mean().item()
        if translate_N.any():
            facts["mt"] = nll_N[translate_N].mean().item()
        first_B = partner_B > torch.arange(len(ids), device=self.device)
        text_B = ids.unique(dim=0, return_inverse=True)[1]  # the same number for the same text
        (a_BD, b_BD), (a_B, b_B) = ((x[first_B], x[partner_B][first_B]) for x in (z_BD, text_B))
        for name, weight, law in (
            ("mse", weights.mse, lambda: alignment(a_BD, b_BD)),
            ("contrast", weights.contrast, lambda: contrast(a_BD, b_BD, a_B, b_B)),
        ):
            if weight and first_B.any():
                apart = law()
                facts[name] = apart.item()
                value = value + batch.share * weight * apart
        if weights.teacher and self.train.prepared is not None:
            vectors, taught = self._taught(batch, z_BD, generator)
            if len(taught):
                far = teaching(vectors, taught)
                facts["teacher"] = far.item()
                value = value + batch.share * weights.teacher * far
        return value, facts

    def _taught(self, batch: ItemBatch, z_BD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Embeddings of the sentences that the teacher knows, of the batch's and of `loss.listened` more, and the
        teacher's. → vectors_ND, teacher_NK"""
        source = self.train.prepared
        assert source is not None
        row_B = source.taught[self.train.texts(batch.items)]
        at_B = np.flatnonzero(row_B >= 0)
        vectors, row_N = z_BD[torch.from_numpy(at_B).to(self.device)], row_B[at_B]
        if count := min(self.settings.loss.listened, len(source.listening)):
            more = corpus.alike(source.listening, count, generator)
            ids_BT, length = (torch.from_numpy(x).to(self.device) for x in corpus.padded(self.train, more))
            vectors = torch.cat([vectors, self.model.encoder(ids_BT[:, 1:], length - 1)])
            row_N = np.concatenate([row_N, source.taught[more]])
        return vectors, torch.from_numpy(source.teacher_vectors(row_N)).to(self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Nats a token on unseen text, clean vectors: auto-encoding by language, and translation."""
        if self.valid is None:
            return {}
        rng = np.random.default_rng(0)
        total: dict[str, list[float]] = {}
        chosen = batches(self.valid, self.settings.optim.batch_tokens, rng)[: self.settings.run.valid_batches]
        for items in chosen:
            ids_BT, length, partner = corpus.targets(self.valid, items)
            ids, length_B, partner_B = (torch.from_numpy(x).to(self.device) for x in (ids_BT, length, partner))
            z_BD = self.model.encoder(ids[:, 1:], length_B - 1)
            paired_B = partner_B != torch.arange(len(ids), device=self.device)
            scale_B = torch.ones(len(ids), device=self.device)
            for name, from_BD in (("ae", z_BD), ("mt", z_BD[partner_B])):
                _, nll_N, row_N = sentence_nll(self.model.decoder, ids, length_B, from_BD, scale_B)
                for i, lang in enumerate(self.tokenizer.langs):
                    here_B = ids[:, 1] == self.tokenizer.lang_id(lang)
                    if name == "mt":
                        here_B &= paired_B
                    here_N = here_B[row_N]
                    entry = total.setdefault(f"valid_{name}_{self.tokenizer.langs[i][:3]}", [0.0, 0.0])
                    entry[0] += nll_N[here_N].sum().item()
                    entry[1] += int(here_N.sum())
        return {name: value / count for name, (value, count) in total.items() if count}

    def save(self, folder: Path, model: nn.Module, facts: dict[str, Any]) -> None:
        """The finished model folder."""
        tensors.save(
            folder,
            kind="sonar",
            model=model,
            card=card(self.settings, "sonar", facts),
            licence=self.settings.licence,
            weights=self.settings.run.weights,
            tokenizer=self.tokenizer.model_bytes,
            langs=self.tokenizer.langs,
            training=facts,
        )


def batches(pairs: corpus.Pairs, batch_tokens: int, rng: np.random.Generator) -> Lazy[np.ndarray]:
    """Items → micro-batches of at most `batch_tokens` padded tokens, of like length, in random order, each made when it
    is asked for: what is held are the items in order, and where each micro-batch ends."""
    order = rng.permutation(len(pairs.left)).astype(np.int32)
    length, paired = pairs.length(), pairs.right >= 0
    pool = 200 * max(1, batch_tokens // 32)
    ends = [0]
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = order[start : start + pool] = part[np.argsort(length[part], kind="stable")]
        ends += (start + cuts(length[part] + 3, 1 + paired[part], batch_tokens)).tolist()
    begin, end = (np.array(x, np.int32) for x in (ends[:-1], ends[1:]))
    place = rng.permutation(len(end)).astype(np.int32)
    return Lazy(len(place), lambda i: order[begin[place[i]] : end[place[i]]])


def cuts(length_N: np.ndarray, rows_N: np.ndarray, most: int) -> np.ndarray:
    """Items by rising length, each of so many rows → where micro-batches end, each as large as `most` padded tokens let
    it be, and of one item at least."""
    rows = np.append(0, np.cumsum(rows_N))
    ends, at = [], 0
    while at < len(length_N):
        last = min(len(length_N), at + most // int(length_N[at]) + 1)  # no end can lie beyond
        padded = (rows[at + 1 : last + 1] - rows[at]) * length_N[at:last]
        at += max(1, int(np.searchsorted(padded, most, "right")))
        ends.append(at)
    return np.array(ends)


def amounts(count: int, share: float, generator: torch.Generator) -> Tensor:
    """How much noise each text's vector gets: uniform in [0, 1] for `share` of them, 0 for the rest. → amount_B1"""
    amount_B1 = torch.rand(count, 1, generator=generator)
    return amount_B1 * (torch.rand(count, 1, generator=generator) < share)


def garble(ids: Tensor, length_B: Tensor, which_B: Tensor, generator: torch.Generator) -> Tensor:
    """SONAR's denoising input: of each chosen text a tenth of the words become `<unk>`, a tenth another word of the
    batch. Language token and `</s>` stay. ids_BT (source layout), length_B, which_B → ids_BT."""
    if not which_B.any():
        return ids
    place = torch.arange(ids.shape[1])
    word_BT = (place >= 1) & (place < (length_B - 1)[:, None]) & which_B[:, None]
    draw_BT = torch.rand(ids.shape, generator=generator)
    out = torch.where(word_BT & (draw_BT < 0.1), torch.full_like(ids, UNK), ids)
    swap_BT = word_BT & (draw_BT > 0.9)
    words = ids[(place >= 1) & (place < (length_B - 1)[:, None])]
    if len(words) and swap_BT.any():
        pick = torch.randint(len(words), (int(swap_BT.sum()),), generator=generator)
        out[swap_BT] = words[pick]
    return out
