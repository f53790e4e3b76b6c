"""Training a speech encoder: a student that hears is to say what a frozen text encoder says of the same words.

Loss: squared error between the student's vector of an utterance and the teacher's of its transcription, over the
teacher vectors' variance, so that 1 is what their mean would give. The teacher reads each transcription once, before
the first step. Features are made by worker threads while the network learns; utterances of like length are batched.

Legend: N clips, B those of a batch, S steps of 20 ms, F features of a step, D embedding, T frames of 10 ms.
Source: Duquenne et al. 2023 (arXiv 2308.11466), 3.3; Park et al. 2019 (SpecAugment).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.clips import Clip, read_clips
from ...data.documents import Lazy
from ...data.features import Features
from ...data.kept import kept
from ...errors import UserError
from ...flow.embed_speech import padded_steps
from ...flow.embed_text import embed_sentences
from ...nets import fbank
from ...nets.kinds import SOUND, kind_of
from ...nets.sonar import SonarConfig
from ...nets.speech import SpeechConfig, SpeechEncoder, StepNorm, speech_flops
from ...runtime import choose, log
from ...weights import convert, model_dir, registry, tensors
from ...weights.loaded import Space, load_space
from ..budget import Cost
from ..build import space_config
from ..card import card
from ..losses import contrast
from ..recipe import Settings, Speech, config_from
from ..spelling import Speller

CPU = torch.device("cpu")
POOL = 64  # micro-batches that are sorted by length together
UTTERANCE_STEPS = 250  # steps of 20 ms of an utterance, where there is no data to count
AHEAD = 4  # micro-batches whose features are made before they are asked for


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one micro-batch, and its share of the step's clips, by which its loss is weighted."""

    clips: np.ndarray
    share: float


class SpeechTask(Cost):
    """Data, model and loss of one `sonar-speech` run, for the loop."""

    unit = "steps of 20 ms"

    def __init__(self, settings: Settings, folder: Path, device: torch.device = CPU) -> None:
        self.settings, self.device = settings, device
        if not settings.sonar:
            raise UserError("the recipe names no space", 'add sonar = "mini", or a model folder: the teacher')
        space = load_space(settings.sonar, choose(str(device), "float32"))
        self.train = self._clips(settings.data.documents)
        self.valid = self._clips(settings.data.valid_documents) if settings.data.valid_documents else []
        self.langs = sorted({clip.lang for clip in self.train})
        taught = Teacher([*self.train, *self.valid], space, folder / "teacher.safetensors")
        self.vectors_ND, self.row = taught.vectors_UD, taught.row_N
        self.home = {"name": space.name, "fingerprint": space.fingerprint}
        if not registry.is_known(registry.find(settings.sonar)) and "/" in settings.sonar:
            self.home["name"] = str(Path(settings.sonar).resolve())
        variance_D, mean_D = torch.var_mean(self.vectors_ND[self.row[: len(self.train)]], 0, correction=0)
        self.variance, self.mean_D = variance_D.mean().item(), mean_D.to(device)
        if not self.variance > 0:
            raise UserError("all clips say the same", "give a corpus of different sentences")
        kept = folder / "features.int8" if settings.speech.keep else None
        self.features = Features(self.train, settings.speech.workers, kept)
        self.model = starting_network(settings, space.dim)
        self.speller = None
        if settings.loss.spell:  # a part of the model as long as it learns
            self.speller = Speller((clip.text for clip in self.train), self.model.config)
            self.model.add_module("speller", self.speller)
        learns = any(isinstance(module, StepNorm) and module.learns for module in self.model.modules())
        if learns and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            cure = 'use speech.statistics = "frozen", or model.conv_norm = "layer"'
            raise UserError('speech.statistics = "masked" would count one process\' clips alone', cure)
        hours = sum(clip.seconds for clip in self.train) / 3600
        log.info("%d clips, %.2f hours, in %s", len(self.train), hours, ", ".join(self.langs))

    def _clips(self, names: Sequence[str]) -> list[Clip]:
        data, speech = self.settings.data, self.settings.speech
        return read_clips(names, data.root, lang=data.lang, max_seconds=speech.max_seconds, limit=data.limit)

    @classmethod
    def shape(cls, settings: Settings) -> SpeechConfig:
        """The config of the network that the recipe describes; where it begins with one that is not on this machine, as
        if it were a new one."""
        begun = {}
        with contextlib.suppress(UserError):
            begun = asdict(_beginning(settings.run.init, shape=True)[0]) if settings.run.init else {}
        fields = {**begun, "embedding": space_config(settings.sonar).embedding, **settings.model}
        config: SpeechConfig = config_from(SpeechConfig, fields)
        return config

    @classmethod
    def beside(cls, settings: Settings) -> Sequence[str]:
        """The speller."""
        return ["speller.proj.weight", "speller.proj.bias"] if settings.loss.spell else ()

    @classmethod
    def size(cls, settings: Settings) -> tuple[int, int, str]:
        """As many steps of sound as fit, and utterances."""
        steps = int(settings.optim.accumulate * settings.speech.batch_seconds * 50)
        return steps, steps // UTTERANCE_STEPS, f"at {UTTERANCE_STEPS / 50:g} s an utterance, nothing padded"

    @classmethod
    def flops(cls, settings: Settings, model: Any, space: SonarConfig | None, tokens: int, sentences: int) -> float:
        """The encoder, three times."""
        return 3 * sentences * speech_flops(model.config, tokens // max(1, sentences))

    @classmethod
    def activations(cls, settings: Settings, config: Any, space: SonarConfig | None, half: int) -> float:
        """A layer keeps 24 M + 4 F numbers a step, beside its scores."""
        recompute = settings.parallel.recompute
        scores = 0 if recompute else 3 * config.heads * UTTERANCE_STEPS / config.subsample
        layer = config.width if recompute else 24 * config.width + 4 * config.ffn
        return settings.speech.batch_seconds * 50 / config.subsample * config.layers * (layer + scores) * half

    # ------------------------------------------------------------------------------------------ batches

    def epoch(self, number: int) -> list[np.ndarray]:
        """The micro-batches of one pass: clips of like length, in random order, a function of seed and pass."""
        rng = np.random.default_rng([self.settings.run.seed, number])
        return clip_batches([clip.seconds for clip in self.train], self.settings.speech.batch_seconds, rng)

    def steps(self, epoch: list[np.ndarray]) -> Sequence[list[ClipBatch]]:
        """Optimisation steps of `optim.accumulate` micro-batches; a remainder of the pass is left out."""
        size = min(self.settings.optim.accumulate, len(epoch))
        rank, ranks = (int(os.environ.get(name, d)) for name, d in (("RANK", "0"), ("WORLD_SIZE", "1")))

        def step(i: int) -> list[ClipBatch]:
            first = i * size
            for j in range(first, min(first + size + AHEAD * ranks, len(epoch))):
                if (j % size) % ranks == rank:  # those that are this process' to do
                    self.features.announce(epoch[j].tolist())
            parts = epoch[first : first + size]
            total = sum(map(len, parts))
            return [ClipBatch(part, len(part) / total) for part in parts]

        return Lazy(len(epoch) // size, step)

    def describe(self, batch: ClipBatch) -> str:
        """A micro-batch's first clips, for messages."""
        named = [self.train[i].place for i in batch.clips]
        return f"clips {', '.join(named[:4])}" + (f" and {len(named) - 4} more" if len(named) > 4 else "")

    # ------------------------------------------------------------------------------------------ the loss

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch's share of the step's loss, and what to log of it."""
        steps = [masked(self.features.take(int(i)), self.settings.speech, generator) for i in batch.clips]
        step_BSF, length_B = padded_steps(steps, self.device)
        want_BD = self.vectors_ND[self.row[batch.clips]].to(self.device)
        encoded_BSM, real_BS1 = self.model.encode(step_BSF, self.model.real(step_BSF, length_B))
        got_BD = self.model.embed(encoded_BSM, real_BS1).float()
        error_B = (got_BD - want_BD).square().mean(1) / self.variance
        loss, facts = error_B.mean(), {"mse": error_B.mean().item()}
        if weight := self.settings.loss.contrast:
            row_B = torch.from_numpy(self.row[batch.clips]).to(self.device)
            told = contrast(got_BD - self.mean_D, want_BD - self.mean_D, row_B, row_B)
            loss = loss + weight * told
            facts["contrast"] = told.item()
        if self.speller is not None:
            spelt = self.speller(encoded_BSM, real_BS1, [self.train[i].text for i in batch.clips])
            loss = loss + self.settings.loss.spell * spelt
            facts["spell"] = spelt.item()
        return batch.share * loss, facts | {"tokens": int(length_B.sum()), "sentences": len(steps)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On clips held out: the loss, and how often the nearest of all their transcriptions' vectors is not the clip's
        own (xsim), in percent, by language."""
        if not self.valid:
            return {}
        features = Features(self.valid, self.settings.speech.workers)
        order = np.argsort([clip.seconds for clip in self.valid], kind="stable")
        got_ND = torch.empty(len(self.valid), self.vectors_ND.shape[1])
        for rows in np.array_split(order, max(1, len(order) // 32)):
            features.announce(rows.tolist())
            step_BSF, length_B = padded_steps([features.take(int(i)) for i in rows], self.device)
            got_ND[torch.from_numpy(rows)] = self.model(step_BSF, length_B).float().cpu()
        row_N = torch.from_numpy(self.row[len(self.train) :])
        unique_U = row_N.unique()
        all_UD = F.normalize(self.vectors_ND[unique_U], dim=1)
        wrong_N = unique_U[(F.normalize(got_ND, dim=1) @ all_UD.T).argmax(1)] != row_N
        out = {"valid_mse": ((got_ND - self.vectors_ND[row_N]).square().mean() / self.variance).item()}
        for lang in sorted({clip.lang for clip in self.valid}):
            here_N = torch.tensor([clip.lang == lang for clip in self.valid])
            out[f"valid_xsim_{lang[:3]}"] = 100 * wrong_N[here_N].float().mean().item()
        return out

    def save(self, folder: Path, model: nn.Module, facts: dict[str, Any]) -> None:
        """The finished model folder, which names its space; no speller is in it."""
        with torch.device("meta"):
            plain = SpeechEncoder(self.model.config)
        state = model.state_dict()
        plain.load_state_dict({name: state[name] for name in plain.state_dict()}, assign=True)
        tensors.save(
            folder,
            kind=self.settings.kind,
            model=plain,
            card=card(self.settings, self.settings.kind, facts, unit=self.unit),
            licence=self.settings.licence,
            weights=self.settings.run.weights,
            lang=self.langs[0] if len(self.langs) == 1 else "",
            langs=self.langs,
            sonar=self.home,
            training=facts,
        )


class Teacher:
    """What a space's text encoder says of every transcription, once: vectors_UD of different ones, and the row of each
    clip. Kept in a file (kept.py); read again where words, languages and space are the same."""

    def __init__(self, clips: Sequence[Clip], space: Space, path: Path) -> None:
        said = list(dict.fromkeys((clip.lang, clip.text) for clip in clips))
        place = {one: i for i, one in enumerate(said)}
        self.row_N = np.array([place[clip.lang, clip.text] for clip in clips])
        key = hashlib.sha256(repr((space.fingerprint, said)).encode()).hexdigest()
        arrays = kept(path, key, lambda: {"vectors": _taught(said, space).numpy()})
        self.vectors_UD = torch.from_numpy(arrays["vectors"])


def _taught(said: Sequence[tuple[str, str]], space: Space) -> Tensor:
    vectors_UD = torch.empty(len(said), space.dim)
    for lang in dict.fromkeys(lang for lang, _ in said):
        rows = [i for i, (own, _) in enumerate(said) if own == lang]
        vectors_UD[torch.tensor(rows)] = embed_sentences([said[i][1] for i in rows], lang, space).float().cpu()
    return vectors_UD


def starting_network(settings: Settings, dim: int) -> SpeechEncoder:
    """The network before its first step: new, or with the weights of `run.init`: a speech encoder of ours, or a
    checkpoint of SONAR's, of w2v-BERT 2.0 or of SeamlessM4T v1. [model] may give it another top or pooler."""
    shape: dict[str, Any] = {}
    known: dict[str, Tensor] = {}
    if init := settings.run.init:
        config, known = _beginning(init)
        shape = asdict(config)
    config = config_from(SpeechConfig, {**shape, **settings.model, "embedding": dim})
    if (own_dim := settings.model.get("embedding", dim)) != dim:
        what = f"model.embedding is {own_dim}, the teacher's vectors have {dim} numbers"
        raise UserError(what, "leave model.embedding out")
    model = SpeechEncoder(config)
    own = model.state_dict()
    kept = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(kept, strict=False)
    if init:
        log.info("%d of %d tensors are %s's, the others begin new", len(kept), len(own), init)
    for module in model.modules():
        if isinstance(module, StepNorm):
            module.learns = settings.speech.statistics == "masked"
    return model


def _beginning(init: str, *, shape: bool = False) -> tuple[SpeechConfig, dict[str, Tensor]]:
    """The config of what a run starts from, and its weights, unless its `shape` alone is asked for."""
    try:
        folder = registry.find(init)
        config = model_dir.read_config(folder)
    except UserError:
        if not os.path.exists(os.path.expanduser(init)):
            raise
        return (convert.speech_shape(init), {}) if shape else convert.speech_beginning(init)
    if kind_of(config["kind"]).reads != SOUND:
        raise UserError(f"run.init {init} is a {config['kind']} model", "name a speech encoder")
    if shape:
        return model_dir.net_config(SpeechConfig, folder, config), {}
    model = tensors.load_net(folder, config, CPU, torch.float32)
    return model.config, dict(model.state_dict())


def clip_batches(seconds: Sequence[float], most: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Clips → micro-batches of at most `most` padded seconds, of like length, in random order."""
    order = rng.permutation(len(seconds))
    length = np.asarray(seconds)[order]
    pool = max(1, int(POOL * most / max(length.mean(), 1e-3)))
    out: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        part = start + np.argsort(length[start : start + pool], kind="stable")
        begin = 0
        for i in range(1, len(part)):
            if (i + 1 - begin) * length[part[i]] > most:
                out.append(order[part[begin:i]])
                begin = i
        out.append(order[part[begin:]])
    return [out[i] for i in rng.permutation(len(out))]


def masked(step_SF: Tensor, speech: Speech, generator: torch.Generator) -> Tensor:
    """SpecAugment: stretches of time and bands of bins become 0, their mean. step_SF → step_SF"""
    frame_TB = step_SF.reshape(-1, fbank.BINS).clone()
    widths: list[tuple[Callable[[int, int], Tensor], int, int]] = [
        (lambda at, wide: frame_TB[at : at + wide], len(frame_TB), int(speech.time_share * len(frame_TB)))
    ] * speech.time_masks
    widths += [(lambda at, wide: frame_TB[:, at : at + wide], fbank.BINS, speech.bin_width)] * speech.bin_masks
    for part, size, most in widths:
        wide = int(torch.randint(most + 1, (1,), generator=generator))
        at = int(torch.randint(size - wide + 1, (1,), generator=generator))
        part(at, wide).zero_()
    return frame_TB.view(-1, fbank.FEATURES)
