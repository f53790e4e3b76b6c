"""Another library doing the same work on the same weights, in a process of its own: sonar-space, transformers, or an
engine for CPUs (engines.py).

The parent (`Peer`) writes one JSON object a line to the worker's stdin and reads one from its stdout: first what to
build, then pieces of work, each timed where it runs. The worker may run under another Python, where the library is.

    peer = Peer("sonar-space", "encoder", Weights(seed=0), python="other/bin/python"); peer.embed(ids, batch=5)

The parts are a space's "encoder" and "decoder", and "speech", a speech encoder.

Legend: N texts, B texts of a batch, T tokens or samples, D embedding, M model width.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..io.audio import RATE
from ..nets.sonar import Sonar, SonarConfig
from ..nets.speech import SpeechConfig, SpeechEncoder
from ..weights.layouts import CONTROL_ROWS, SONAR_DECODERS, SONAR_ENCODERS, SPEECH_ENCODERS, Layout
from . import engines

# What a library is compared in, and on; "" is both.
DTYPES = {"ctranslate2": engines.DTYPES, "onnxruntime": engines.DTYPES}
PART = {"ctranslate2": "decoder", "onnxruntime": "encoder"}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Whose weights: a model by name or folder, or random ones of the published shape, the same for one `seed`, with
    `layers` layers (0: all); in which dtype."""

    model: str = ""
    seed: int = 0
    layers: int = 0
    dtype: str = "float32"


def published(layers: int) -> SonarConfig:
    """The published shape; with fewer layers, where memory or time are short."""
    full = SonarConfig()
    return replace(full, encoder_layers=layers or full.encoder_layers, decoder_layers=layers or full.decoder_layers)


def random_sonar(config: SonarConfig, part: str, seed: int = 0) -> Sonar:
    """A network with random weights in its "encoder" or "decoder"; the other part stays without storage."""
    with torch.device("meta"):
        net = Sonar(config)
    _draw(net.get_submodule(part), seed)
    return net.eval()


def random_speech(layers: int, seed: int = 0) -> SpeechEncoder:
    """A speech encoder of the published shape, with `layers` layers (0: all), and random weights."""
    full = SpeechConfig()
    with torch.device("meta"):
        net = SpeechEncoder(replace(full, layers=layers or full.layers))
    _draw(net, seed)
    return net.eval()


def _draw(module: nn.Module, seed: int) -> None:
    """Random weights, of a size that keeps activations near 1. A weight depends on its name and the seed alone."""
    for name, parameter in list(module.named_parameters()):
        generator = torch.Generator().manual_seed(seed + sum(i * b for i, b in enumerate(name.encode(), 1)))
        value = torch.empty(parameter.shape)
        if parameter.ndim == 1 and not name.endswith("query"):
            value.fill_(1.0 if name.endswith(("norm.weight", "running_var")) else 0.0)
        else:
            value.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def sounds(count: int, seed: int) -> list[np.ndarray]:
    """Noise in utterances as long as sentences are: log-normal, 5 s in the median, 1 to 20. → (samples_T, …)"""
    rng = np.random.default_rng(seed)
    seconds = np.clip(5 * np.exp(0.5 * rng.normal(size=count)), 1, 20)
    return [(0.1 * rng.normal(size=int(s * RATE))).astype(np.float32) for s in seconds]


class Peer:
    """The parent's end. UserError where the library is missing or can't hold the model."""

    def __init__(self, library: str, part: str, weights: Weights, python: str = "", threads: int = 0) -> None:
        package = Path(__file__).parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self.process = subprocess.Popen(
                [python or sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError as error:
            raise UserError(f"{python} can't be run: {error.strerror}", "check --peer-python") from None
        self.library, self.versions = library, {}  # type: tuple[str, dict[str, str]]
        self._send({"library": library, "part": part, "threads": threads, **asdict(weights)})

    def wait(self) -> Peer:
        """Until the library has its model."""
        if not self.versions:
            self.versions = self._answer()["versions"]
        return self

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.wait()
        self._send(request)
        return self._answer()

    def _send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(f"{self.library} stopped", "its own message is above")
        found = json.loads(answer)
        if "error" in found:
            raise UserError(f"{self.library}: {found['error']}", found["cure"])
        return found

    def embed(self, ids: Sequence[Sequence[int]], batch: int) -> tuple[float, Tensor]:
        """Source ids → seconds, embeddings_ND; sorted by length, `batch` texts at once, padded: as the library does."""
        found = self._ask({"ids": [list(i) for i in ids], "batch": batch})
        return found["seconds"], torch.tensor(found["embeddings"])

    def decode(
        self, embedding_ND: Tensor, prompt: list[int], beam: int, max_tokens: int
    ) -> tuple[float, list[list[int]]]:
        """Embeddings → seconds, the best hypothesis' ids after the prompt."""
        vectors = embedding_ND.float().tolist()
        found = self._ask({"embeddings": vectors, "prompt": prompt, "beam": beam, "max_tokens": max_tokens})
        return found["seconds"], found["ids"]

    def hear(self, count: int, seed: int, batch: int) -> tuple[float, Tensor]:
        """`sounds(count, seed)` → seconds, embeddings_ND; by its own pipeline, from samples."""
        found = self._ask({"count": count, "seed": seed, "batch": batch})
        return found["seconds"], torch.tensor(found["embeddings"])

    def close(self) -> None:
        self.process.communicate("")


# ---- the worker's end ----

Run = Callable[[Any], Any]


def main() -> None:
    """Serve one parent until it closes our stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    run: Run | None = None
    for row in sys.stdin:
        request = json.loads(row)
        try:
            if run is None:
                if request["threads"]:
                    torch.set_num_threads(request["threads"])
                run, versions = _build(request)
                answer({"versions": versions})
                continue
            with torch.inference_mode():
                answer(run(request))
        except ImportError as error:
            answer({"error": f"can't be imported here ({error})", "cure": "install it, or name its --peer-python"})
        except UserError as error:
            answer({"error": error.message, "cure": error.cure})


def _build(request: dict[str, Any]) -> tuple[Run, dict[str, str]]:
    part, library = request["part"], request["library"]
    if part != (only := PART.get(library, part)):
        work = "embed" if only == "encoder" else "decode"
        raise UserError(f"is compared on the {only} alone", f"use it with bench {work}")
    if part == "speech":
        return _sonar_space_speech(_speech(request))
    if request["model"]:
        from ..runtime import choose
        from ..weights.loaded import load_space

        net = load_space(request["model"], choose("cpu", "float32"), trainable=True).net
    else:
        net = random_sonar(published(request["layers"]), part, request["seed"])
    config = net.config
    if config.pool_width or config.norm_embedding or config.embedding != config.width or config.pooling != "mean":
        raise UserError("has no place for this model's vectors", "compare on --size published, or an imported SONAR")
    if library == "ctranslate2":
        return engines.ctranslate2_decoder(net, request["dtype"])
    if library == "onnxruntime":
        embed, versions = engines.onnxruntime_encoder(net, request["dtype"])
        return lambda request: _in_batches(request, embed), versions
    return _sonar_space(net, part) if library == "sonar-space" else _transformers(net, part)


def _speech(request: dict[str, Any]) -> SpeechEncoder:
    if not request["model"]:
        return random_speech(request["layers"], request["seed"])
    from ..runtime import choose
    from ..weights import model_dir, registry, tensors

    folder, place = registry.find(request["model"]), choose("cpu", "float32")
    net: SpeechEncoder = tensors.load_net(folder, model_dir.read_config(folder), place.device, place.dtype)
    shape, full = net.config, SpeechConfig()
    for name in ("positions", "conv_norm", "causal", "subsample", "top_norm", "pooling", "norm_embedding"):
        if getattr(shape, name) != getattr(full, name):
            raise UserError(f"has no place for model.{name}", "compare on --size published, or an imported SONAR's")
    return net.eval()


def _fill(peer: nn.Module, own: nn.Module, layout: Layout) -> None:
    """Our weights into another library's modules by the key tables of the importers, read the other way."""
    values = dict(own.named_parameters())
    seen: set[int] = set()
    with torch.no_grad():
        for key, place in peer.state_dict(keep_vars=True).items():
            name, index = layout.target(key) or ("-", 0)
            if name == "-" or place.data_ptr() in seen:
                continue
            seen.add(place.data_ptr())
            if name in layout.row:
                place.data[layout.row[name]] = values[name]
                continue
            parts = len(layout.sources(name)) if "embed" not in name else 1
            value = values[name].chunk(parts)[index] if parts > 1 else values[name]
            value = value.view_as(place) if value.numel() == place.numel() else value  # a convolution of kernel 1
            place.data[: len(value)] = value
            if "embed" in name and layout.fairseq_rows:
                place.data[CONTROL_ROWS] = value[:4]


def _sonar_space(net: Sonar, part: str) -> tuple[Run, dict[str, str]]:
    import fairseq2
    from fairseq2.data.tokenizers import VocabularyInfo
    from fairseq2.generation.beam_search.generator import BeamSearchSeq2SeqGenerator
    from fairseq2.nn import BatchLayout
    from sonar.models.sonar_text import config as shapes
    from sonar.models.sonar_text import factory
    from sonar.models.sonar_translation import SonarEncoderDecoderModel
    from sonar.models.sonar_translation.model import DummyEncoderModel

    own, versions = net.config, {"fairseq2": fairseq2.__version__, "torch": torch.__version__}
    vocabulary = VocabularyInfo(size=own.vocab_size, unk_idx=1, bos_idx=2, eos_idx=3, pad_idx=1)
    common = {"model_dim": own.width, "vocab_info": vocabulary, "ffn_inner_dim": own.ffn, "num_decoder_layers": 0}
    if part == "encoder":
        encoder = factory.SonarTextEncoderFactory(
            shapes.SonarTextEncoderConfig(
                **{**common, "num_decoder_layers": 1},
                max_seq_len=own.max_source_tokens - 2,
                num_encoder_layers=own.encoder_layers,
                num_encoder_attn_heads=own.heads,
                num_decoder_attn_heads=own.heads,
                pooling=own.pooling,
                _from_fairseq=True,
            )
        ).create_model()
        _fill(encoder, net.encoder, SONAR_ENCODERS[0])
        encoder.eval()

        def embed(ids: list[list[int]]) -> Tensor:
            lengths = [len(i) for i in ids]
            return encoder(_padded(ids, 0), BatchLayout.of(_padded(ids, 0), lengths)).sentence_embeddings

        return lambda request: _in_batches(request, embed), versions

    decoder = factory.SonarTextDecoderFactory(
        shapes.SonarTextDecoderConfig(
            **{**common, "num_decoder_layers": own.decoder_layers},
            max_seq_len=own.max_target_tokens,
            activation_fn="ReLU",
            no_scale_embedding=False,
            no_token_positional_embeddings=False,
            learned_pos=False,
            num_encoder_layers=own.decoder_layers,
            num_encoder_attn_heads=own.heads,
            num_decoder_attn_heads=own.heads,
            emb_dropout_p=0.1,
            attention_dropout_p=0.1,
            activation_dropout_p=0.1,
            normalize_before=True,
        )
    ).create_model()
    _fill(decoder, net.decoder, SONAR_DECODERS[0])
    both = SonarEncoderDecoderModel(DummyEncoderModel(), decoder).eval()
    words = VocabularyInfo(size=own.vocab_size, unk_idx=1, bos_idx=2, eos_idx=3, pad_idx=0)

    def decode(request: dict[str, Any]) -> dict[str, Any]:
        search = BeamSearchSeq2SeqGenerator(both, words, beam_size=request["beam"], max_seq_len=request["max_tokens"])
        vectors = torch.tensor(request["embeddings"])
        prompt = torch.tensor([request["prompt"]]).expand(len(vectors), -1)
        start = time.perf_counter()
        found = search(vectors, BatchLayout.of(vectors), prompt, BatchLayout.of(prompt)).hypotheses
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "ids": [hyps[0].seq.tolist() for hyps in found]}

    return decode, versions


def _sonar_space_speech(net: SpeechEncoder) -> tuple[Run, dict[str, str]]:
    import fairseq2
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.w2vbert import W2VBertConfig
    from sonar.inference_pipelines.speech import SpeechToEmbeddingModelPipeline
    from sonar.models.sonar_speech import config as shapes
    from sonar.models.sonar_speech import factory

    own, beneath = net.config, W2VBertConfig().w2v2_config.encoder_config
    beneath.model_dim, beneath.ffn_inner_dim, beneath.num_encoder_layers = own.width, own.ffn, own.layers
    beneath.num_encoder_attn_heads, beneath.depthwise_conv_kernel_size = own.heads, own.kernel
    encoder = factory.SonarSpeechEncoderFactory(
        shapes.SonarSpeechEncoderConfig(
            w2v2_encoder_config=beneath,
            final_dropout_p=0.1,
            model_dim=own.width,
            max_seq_len=1024,
            pad_idx=1,
            bos_idx=2,
            num_decoder_layers=own.pooler_layers,
            num_decoder_attn_heads=own.pooler_heads,
            decoder_norm_order=TransformerNormOrder.POST,
            ffn_inner_dim=own.pooler_ffn,
            dropout_p=0.1,
        )
    ).create_model()
    _fill(encoder, net, SPEECH_ENCODERS[0])
    pipeline = SpeechToEmbeddingModelPipeline(encoder)

    def hear(request: dict[str, Any]) -> dict[str, Any]:
        waves = [torch.from_numpy(wave)[None] for wave in sounds(request["count"], request["seed"])]
        start = time.perf_counter()
        order = sorted(range(len(waves)), key=lambda i: waves[i].shape[1])
        found_ND = pipeline.predict([waves[i] for i in order], batch_size=request["batch"])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "embeddings": found_ND[torch.tensor(order).argsort()].tolist()}

    return hear, {"fairseq2": fairseq2.__version__, "torch": torch.__version__}


def _transformers(net: Sonar, part: str) -> tuple[Run, dict[str, str]]:
    import transformers
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    own, versions = net.config, {"transformers": transformers.__version__, "torch": torch.__version__}
    their = {ours: row for row, ours in zip(CONTROL_ROWS, range(4))}  # ids of control tokens
    back = {row: ours for ours, row in their.items()}
    config = M2M100Config(
        vocab_size=own.vocab_size,
        d_model=own.width,
        encoder_layers=own.encoder_layers if part == "encoder" else 1,
        decoder_layers=own.decoder_layers if part == "decoder" else 1,
        encoder_attention_heads=own.heads,
        decoder_attention_heads=own.heads,
        encoder_ffn_dim=own.ffn,
        decoder_ffn_dim=own.ffn,
        max_position_embeddings=max(own.max_source_tokens, own.max_target_tokens),
        encoder_layerdrop=0,
        decoder_layerdrop=0,
    )
    model = M2M100ForConditionalGeneration(config).eval()
    layouts = SONAR_ENCODERS if part == "encoder" else SONAR_DECODERS
    _fill(model, net.get_submodule(part), layouts[1])
    if part == "encoder":

        def embed(ids: list[list[int]]) -> Tensor:
            ids_BT = _padded([[their.get(i, i) for i in text] for text in ids], 1)
            mask_BT = ids_BT != 1
            hidden_BTM = model.get_encoder()(ids_BT, attention_mask=mask_BT.long()).last_hidden_state
            return (hidden_BTM * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)

        return lambda request: _in_batches(request, embed), versions

    def decode(request: dict[str, Any]) -> dict[str, Any]:
        vectors = torch.tensor(request["embeddings"])
        start = time.perf_counter()
        found = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=vectors[:, None]),
            decoder_start_token_id=their[request["prompt"][0]],
            forced_eos_token_id=their[3],
            forced_bos_token_id=request["prompt"][1],
            num_beams=request["beam"],
            max_length=request["max_tokens"],
            do_sample=False,
        )
        seconds = time.perf_counter() - start
        ids = [[back.get(i, i) for i in row[2:].tolist() if i != 1] for row in found]
        return {"seconds": seconds, "ids": ids}

    return decode, versions


def _padded(ids: list[list[int]], pad: int) -> Tensor:
    widest = max(map(len, ids))
    return torch.tensor([text + [pad] * (widest - len(text)) for text in ids])


def _in_batches(request: dict[str, Any], embed: Callable[[list[list[int]]], Tensor]) -> dict[str, Any]:
    ids, size = request["ids"], request["batch"]
    start = time.perf_counter()
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts = [embed([ids[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
    seconds = time.perf_counter() - start
    out_ND = torch.cat(parts)
    return {"seconds": seconds, "embeddings": out_ND[torch.tensor(order).argsort()].tolist()}


if __name__ == "__main__":
    main()
