"""Published weights → model folders of ours, in the registry.

In: fairseq, fairseq2 and transformers checkpoints (.pt, .bin, .safetensors, or a folder with config.json). Out: a
folder that `registry.find(name)` finds. Sources are mapped, not read, and written tensor by tensor, so that memory
holds a few tensors and not the model.

    import_sonar("sonar-200", encoder="sonar_text_encoder.pt", decoder="sonar_text_decoder.pt", tokenizer="spm.model")
    import_sonar_llm("sonar-llm-100m", checkpoint="pytorch_model.bin", config="config.json", sonar="sonar-200")
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..languages import FLORES, NAMES, resolve
from ..nets.kinds import kind_of
from ..nets.sonar import Sonar, SonarConfig
from ..nets.sonar_llm import BEGINNING, ENDING, SonarLLM, SonarLLMConfig
from ..nets.speech import SpeechConfig, SpeechEncoder
from ..runtime import ALIASES, log
from ..tokens import Tokenizer
from . import model_dir, registry, tensors
from .layouts import (
    CONTROL_ROWS,
    FROZEN_DECODER,
    SONAR_DECODERS,
    SONAR_ENCODERS,
    SONAR_LLMS,
    SPEECH_BEGINNINGS,
    SPEECH_ENCODERS,
    Layout,
)
from .sources import PathName, Source, read_source

LIMITS = (514, 512)  # tokens the published encoder and decoder were trained with
LARGE = 1024  # the published width, whose heads are known to have 64 dimensions
# How far a frozen decoder may be from the space's, as stored: the rounding of each dtype.
_ROUNDING = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2, "int8": 5e-2}


# ---------------------------------------------------------------------------------------------- the strict loop


@dataclass(frozen=True)
class Found:
    """A source sorted by our names: each weight's parts by their place in it."""

    source: Source
    layout: Layout
    parts: Mapping[str, Mapping[int, Tensor]]

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape, its parts joined along the first axis. UserError if it is missing, or they don't fit."""
        parts = self.whole(name)
        if parts[0].ndim == 0 or any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise UserError(f"{self.source.path}: {name} has parts that don't fit: {shapes}", "fetch it again")
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        if name in self.layout.row:
            return shape[1:]
        return shape[:2] if _is_pointwise(shape) else shape

    def size(self, name: str, axis: int) -> int:
        """One number of a weight's shape."""
        shape = self.shape(name)
        if len(shape) <= axis:
            raise UserError(f"{self.source.path}: {name} is no matrix, but {shape}", "fetch it again")
        return shape[axis]

    def whole(self, name: str) -> list[Tensor]:
        """All parts of a weight, in order; UserError names the key that is missing."""
        parts = self.parts.get(name, {})
        for place, key in self.layout.sources(name).items():
            if place not in parts:
                raise UserError(f"{self.source.path}: no weight {key!r}", "is the file whole? fetch it again")
        return [parts[place] for place in sorted(parts)]

    def tensor(self, name: str) -> Tensor:
        """A weight: its parts joined, control rows in our order."""
        parts = self.whole(name)
        value = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        if not value.sum(dtype=torch.float32).isfinite():  # the sum: no mask as large as the weight
            raise UserError(f"{self.source.path}: {name} holds values that are not finite", "fetch it again")
        if name == "embed.weight" and self.layout.fairseq_rows:
            value = value.clone()
            value[: len(CONTROL_ROWS)] = value[CONTROL_ROWS]
        if (row := self.layout.row.get(name)) is not None:
            return value[row].clone()
        return value[..., 0] if _is_pointwise(value.shape) else value

    def layers(self, before: str = "layers") -> int:
        """How many layers there are."""
        return len({name.split(f"{before}.")[1].split(".")[0] for name in self.parts if name.startswith(f"{before}.")})


def _is_pointwise(shape: Sequence[int]) -> bool:
    """Whether a weight is a convolution of kernel 1, a matrix of ours (a depthwise one has a single input)."""
    return len(shape) == 3 and shape[1] > 1 and shape[2] == 1


def match(source: Source, layouts: Sequence[Layout], what: str) -> Found:
    """The one loop: every key of a source goes to one of our names, or is left out on purpose.

    UserError for a key that the layout does not know, and for a tied weight whose two copies differ.
    """
    tensors = source.tensors
    layout = next((layout for layout in layouts if any(map(layout.mark.fullmatch, tensors))), None)
    if layout is None:
        known = ", ".join(layout.name for layout in layouts)
        raise UserError(f"{source.path} is not a {what} in a known layout", f"known are: {known}")
    found: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        target = layout.target(key)
        if target is None and not tensor.is_floating_point():
            continue  # a counter or an index that is kept beside the weights
        if target is None:
            cure = f"is it a {what} ({layout.name}), whole and unchanged?"
            raise UserError(f"{source.path}: unexpected weight {key!r}", cure)
        name, place = target
        if name == "-":
            continue
        if not tensor.is_floating_point():
            raise UserError(
                f"{source.path}: weight {key!r} is {tensor.dtype}, not floating point", "convert it to float32"
            )
        twin = found.setdefault(name, {}).setdefault(place, tensor)
        same = twin.data_ptr() == tensor.data_ptr() or (twin.dtype == tensor.dtype and torch.equal(twin, tensor))
        if not same:
            raise UserError(f"{source.path}: {key!r} differs from the weight it is tied to", "fetch it again")
    return Found(source, layout, found)


def fill(net: nn.Module, parts: Mapping[str, Found]) -> Callable[[str], Tensor]:
    """Check that the sources (each under its prefix) give every weight of `net` in its shape; → what reads one.

    Nothing can be left over: `match` knows every name, and the layers of `net` are those that were counted.
    """
    place: dict[str, tuple[Found, str]] = {}
    for name, parameter in net.named_parameters():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        found, own = parts[prefix], name.removeprefix(prefix)
        shape = found.shape(own)
        if shape != parameter.shape:
            raise UserError(
                f"{found.source.path}: {own} should be {tuple(parameter.shape)}, it is {shape}",
                "is the file whole, and do its config and its weights belong together?",
            )
        place[name] = found, own
    return lambda name: place[name][0].tensor(place[name][1])


def _weights(dtype: str | None, *sources: Found) -> str:
    """How to store: as asked, else as the sources are, if they agree on a dtype we have."""
    if dtype is None:
        have = {tensor.dtype for found in sources for parts in found.parts.values() for tensor in parts.values()}
        return next((name for name, value in tensors.STORED.items() if have == {value}), "float32")
    dtype = ALIASES.get(dtype, dtype)
    if dtype not in tensors.STORED:
        raise UserError(f"unknown dtype {dtype!r}", f"use one of {', '.join(tensors.STORED)}")
    return dtype


def _claiming(work: Callable[..., Path]) -> Callable[..., Path]:
    """An import into a new folder of the registry, which is its own from its beginning to its end."""

    @functools.wraps(work)
    def claiming(name: str, **options: Any) -> Path:
        with registry.claimed(name):
            return work(name, **options)

    return claiming


# ---------------------------------------------------------------------------------------------- SONAR


@_claiming
def import_sonar(
    name: str,
    *,
    encoder: PathName,
    decoder: PathName,
    tokenizer: PathName,
    langs: Sequence[str] | None = None,
    heads: int | None = None,
    max_tokens: int | None = None,
    dtype: str | None = None,
    licence: str = "",
    source: str = "",
) -> Path:
    """A published SONAR text encoder and decoder → the registry's model `name`; → its folder.

    `tokenizer` is a sentencepiece model; `langs` its languages in vocabulary order, without which they are
    FLORES-200's. `heads` are taken from a config.json, else a head has 64 dimensions.
    """
    folder = registry.target(name)
    from_encoder = match(read_source(encoder), SONAR_ENCODERS, "SONAR text encoder")
    from_decoder = match(read_source(decoder), SONAR_DECODERS, "SONAR text decoder")
    words = read_tokenizer(tokenizer, langs or FLORES)
    shape = _sonar_shape(from_encoder, from_decoder, heads, max_tokens)
    if words.vocab_size != shape.vocab_size:
        raise UserError(
            f"the tokenizer and its {len(words.langs)} languages make {words.vocab_size} ids, the weights have "
            f"{shape.vocab_size}",
            "name the model's own tokenizer, and with --langs its languages in their order",
        )
    with torch.device("meta"):
        net = Sonar(shape)
    tensors.save(
        folder,
        kind="sonar",
        model=net,
        weights=_weights(dtype, from_encoder, from_decoder),
        tokenizer=words.model_bytes,
        tensor=fill(net, {"encoder.": from_encoder, "decoder.": from_decoder}),
        card=_card(name, "A SONAR text encoder and decoder", licence, source or f"{encoder}, {decoder}"),
        langs=words.langs,
        licence=licence,
        source=source,
    )
    return folder


def read_tokenizer(path: PathName, langs: Sequence[str]) -> Tokenizer:
    """A sentencepiece model from a file, or from a transformers folder."""
    path = Path(os.path.expanduser(path))
    if os.path.isdir(path):
        path = path / "sentencepiece.bpe.model"
    if not os.path.isfile(path):
        raise UserError(f"no such file: {path}", "name a sentencepiece model")
    return Tokenizer(path, langs)


def _sonar_shape(encoder: Found, decoder: Found, heads: int | None, max_tokens: int | None) -> SonarConfig:
    width, rows = encoder.size("embed.weight", 1), encoder.size("embed.weight", 0)
    pairs = {
        "width": (width, decoder.size("embed.weight", 1), decoder.size("layers.0.cross_v_proj.weight", 1)),
        "vocabulary": (rows, decoder.size("embed.weight", 0)),
        "feed-forward width": tuple(part.size("layers.0.ffn.inner_proj.weight", 0) for part in (encoder, decoder)),
    }
    for what, values in pairs.items():
        if len(set(values)) > 1:
            cure = "name an encoder and a decoder of the same space"
            raise UserError(f"encoder and decoder differ in {what}: {values[0]:,} and {values[-1]:,}", cure)
    known, limits = set(), []
    for side, part, most in (("encoder", encoder, LIMITS[0]), ("decoder", decoder, LIMITS[1])):
        path, config = part.source.path, part.source.config
        for key, want in (("activation_function", "relu"), ("scale_embedding", True)):
            if config.get(key, want) != want:
                raise UserError(f"{path}: {key} {config[key]!r} is not supported", f"SONAR has {want!r}")
        known.add(int(_number(path, config, f"{side}_attention_heads", 0)))
        limits.append(max_tokens or min(most, int(_number(path, config, "max_position_embeddings", most))))
    known -= {0}
    if len(known) > 1 and not heads:
        raise UserError(f"encoder and decoder differ in heads: {known}", "name a pair of the same space, or --heads")
    heads = heads or (known.pop() if known else 0)
    if not heads:
        heads = max(1, width // 64)
        if width != LARGE:
            log.warning("taking %d heads of %d for %d; name others with --heads", heads, width // heads, width)
    return SonarConfig(
        width=width,
        heads=heads,
        ffn=pairs["feed-forward width"][0],
        encoder_layers=encoder.layers(),
        decoder_layers=decoder.layers(),
        vocab_size=rows,
        embedding=width,
        max_source_tokens=limits[0],
        max_target_tokens=limits[1],
    )


def _number(path: Path, settings: Mapping[str, Any], key: str, default: float) -> float:
    """A number from a published config; UserError if something else stands there."""
    value = settings.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise UserError(f"the config of {path} has {key} {value!r}", "fetch it again")
    return value


# ---------------------------------------------------------------------------------------------- speech


@_claiming
def import_speech(
    name: str,
    *,
    checkpoint: PathName,
    lang: str,
    sonar: str = "",
    heads: int | None = None,
    pooler_heads: int | None = None,
    dtype: str | None = None,
    licence: str = "",
    source: str = "",
) -> Path:
    """A published SONAR speech encoder → the registry's model `name`; → its folder.

    `lang` is what it hears, `sonar` the space it was taught: without one it embeds, and nothing decodes its vectors.
    The encoder's heads are in the weights, the pooler's in none: 16 of 64 dimensions are published.
    """
    folder = registry.target(name)
    lang = resolve(lang)
    home = _home(sonar) if sonar else {}
    found = match(read_source(checkpoint), SPEECH_ENCODERS, "SONAR speech encoder")
    shape = _speech_shape(found, heads, pooler_heads)
    if sonar and (dim := model_dir.net_config(SonarConfig, registry.find(sonar), home).embedding) != shape.embedding:
        cure = "name the space it was taught with --sonar, or none"
        raise UserError(f"{checkpoint} gives vectors of {shape.embedding} numbers, {sonar} has {dim}", cure)
    with torch.device("meta"):
        net = SpeechEncoder(shape)
    facts: dict[str, Any] = {"sonar": _lives_in(sonar, home)} if sonar else {}
    tensors.save(
        folder,
        kind="sonar-speech",
        model=net,
        weights=_weights(dtype, found),
        tensor=fill(net, {"": found}),
        card=_card(name, f"A SONAR speech encoder of {NAMES[lang]}", licence, source or str(checkpoint)),
        lang=lang,
        licence=licence,
        source=source,
        **facts,
    )
    return folder


def speech_beginning(path: PathName) -> tuple[SpeechConfig, dict[str, Tensor]]:
    """The encoder of a checkpoint that a student may start from: a published SONAR encoder, w2v-BERT 2.0 or SeamlessM4T
    v1 in transformers' layout (a folder with config.json). → its shape, and its weights by our names, float32."""
    found = match(read_source(path), (*SPEECH_ENCODERS, *SPEECH_BEGINNINGS), "speech encoder")
    shape = _speech_shape(found, None, None)
    with torch.device("meta"):
        net = SpeechEncoder(shape)
    names = [name for name, _ in net.named_parameters() if name in found.parts]
    if missing := [name for name, _ in net.named_parameters() if name.startswith("layers.") and name not in names]:
        raise UserError(f"{path} has no {missing[0]}", "is the file whole? fetch it again")
    return shape, {name: found.tensor(name).float() for name in names}


def _speech_shape(found: Found, heads: int | None, pooler_heads: int | None) -> SpeechConfig:
    """Sizes from the weights; of a folder of transformers what no weight tells, from its config.json."""
    path, config = found.source.path, found.source.config
    width = found.size("front_proj.weight", 0)
    shaw = "layers.0.attn.distance" in found.parts
    pools = "pooler.query" in found.parts
    if shaw:
        own = int(_number(path, config, "num_attention_heads", width // found.size("layers.0.attn.distance", 1)))
    else:
        own = found.size("layers.0.attn.key_bias", 0)
    if heads and heads != own:
        raise UserError(f"{path} has {own} heads in its weights, not {heads}", "leave --heads out")
    if pools and not pooler_heads and width != LARGE:
        log.warning("taking %d heads for the pooler; name others with --pooler-heads", own)
    left = int(_number(path, config, "left_max_position_embeddings", 64))
    return SpeechConfig(
        width=width,
        heads=own,
        ffn=found.size("layers.0.ffn1.inner_proj.weight", 0),
        layers=found.layers(),
        kernel=found.size("layers.0.conv.depthwise.weight", 2),
        embedding=found.size("proj.weight", 0) if pools else width,
        positions="shaw" if shaw else "relative",
        left=left,
        right=found.size("layers.0.attn.distance", 0) - left - 1 if shaw else 8,
        conv_norm="batch" if "layers.0.conv.norm.running_mean" in found.parts else "layer",
        causal=shaw,
        top_norm="top_norm.weight" in found.parts,
        pooler_layers=found.layers("pooler.layers") if pools else 3,
        pooler_heads=pooler_heads or own,
        pooler_ffn=found.size("pooler.layers.0.inner_proj.weight", 0) if pools else 4 * width,
    )


# ---------------------------------------------------------------------------------------------- SONAR-LLM


@_claiming
def import_sonar_llm(
    name: str,
    *,
    checkpoint: PathName,
    config: PathName | None = None,
    sonar: str = "sonar-200",
    lang: str = "eng_Latn",
    dtype: str | None = None,
    licence: str = "",
    source: str = "",
) -> Path:
    """A published SONAR-LLM checkpoint (a file, or a folder with config.json) → the registry's model `name`.

    `sonar` is the space it was trained in: UserError if its width, or the frozen decoder that the checkpoint carries,
    is another's.
    """
    folder = registry.target(name)
    space, home = registry.find(sonar), _home(sonar)
    read = read_source(checkpoint)
    settings = model_dir.read_json(Path(os.path.expanduser(config))) if config else read.config
    found = match(read, SONAR_LLMS, "SONAR-LLM checkpoint")
    shape = _llama_shape(found, settings)
    width = model_dir.net_config(SonarConfig, space, home).embedding
    if width != shape.embedding:
        cure = "name the space it was trained in with --sonar"
        raise UserError(f"{read.path} was trained on {shape.embedding}-wide sentences, {sonar} has {width}", cure)
    _check_decoder(read, space, sonar)
    with torch.device("meta"):
        net = SonarLLM(shape)
    tensors.save(
        folder,
        kind="sonar-llm",
        model=net,
        weights=_weights(dtype, found),
        tensor=fill(net, {"": found}),
        card=_card(name, f"A SONAR-LLM in the space {space.name}", licence, source or str(checkpoint)),
        sonar=_lives_in(sonar, home),
        marker="",
        ending=ENDING,
        lang=lang,
        begin=BEGINNING if settings.get("add_begin") is True else "",
        licence=licence,
        source=source,
    )
    return folder


def _home(sonar: str) -> dict[str, Any]:
    """The config of a space. UserError for a model of another kind."""
    home = model_dir.read_config(registry.find(sonar))
    if not kind_of(home["kind"]).space:
        raise UserError(f"{sonar} is a {home['kind']} model, not a space", "name a sonar model: sonarllm models list")
    return home


def _lives_in(sonar: str, home: Mapping[str, Any]) -> dict[str, str]:
    """What a model's config says of its space."""
    space = registry.find(sonar)
    return {
        "name": space.name if registry.is_known(space) else str(space.resolve()),
        "fingerprint": home.get("fingerprint", ""),
    }


def _llama_shape(found: Found, settings: dict[str, Any]) -> SonarLLMConfig:
    """Sizes from the weights; heads, norm and rotary settings from the config, with transformers' defaults."""
    path, llama = found.source.path, settings.get("llama_config")
    if not isinstance(llama, dict) or not isinstance(llama.get("num_attention_heads"), int):
        raise UserError(f"the config of {path} has no llama_config with num_attention_heads", "name it with --config")
    for key, want in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if llama.get(key, want) != want:
            raise UserError(f"{path}: {key} {llama[key]!r} is not supported", f"SONAR-LLM has {want!r}")
    rope = {**llama, **(llama.get("rope_scaling") or {}), **(llama.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"{path}: rotary scaling {kind!r} is not supported", "supported are default and llama3")

    def number(key: str, default: float) -> float:
        return _number(path, rope, key, default)

    heads = llama["num_attention_heads"]
    return SonarLLMConfig(
        width=found.size("project_in.weight", 0),
        embedding=found.size("project_in.weight", 1),
        ffn=found.size("body.layers.0.down_proj.weight", 1),
        layers=found.layers("body.layers"),
        heads=heads,
        head_size=int(number("head_dim", found.size("body.layers.0.out_proj.weight", 1) // max(1, heads))),
        kv_heads=int(number("num_key_value_heads", 0)),
        norm_eps=number("rms_norm_eps", 1e-6),
        rope_theta=number("rope_theta", 10_000.0),
        rope_factor=number("factor", 1.0) if kind == "llama3" else 1.0,
        rope_low=number("low_freq_factor", 1.0),
        rope_high=number("high_freq_factor", 4.0),
        rope_positions=int(number("original_max_position_embeddings", 8192)),
    )


def _check_decoder(read: Source, space: Path, sonar: str) -> None:
    """If the checkpoint carries the frozen decoder it was trained through, it must be the space's."""
    name = "layers.0.cross_v_proj.weight"
    key = FROZEN_DECODER + SONAR_DECODERS[0].sources(name)[0]
    theirs = read.tensors.get(key)
    if theirs is None:
        return
    ours, theirs = tensors.read_tensor(space, f"decoder.{name}").float(), theirs.float()
    stored = model_dir.read_config(space).get("weights", "float32")
    same = ours.shape == theirs.shape and (ours - theirs).norm() <= _ROUNDING[stored] * theirs.norm()
    if not same:
        raise UserError(
            f"{read.path} was trained through another decoder than that of {sonar}",
            "name the space it was trained in with --sonar",
        )


def _card(name: str, what: str, licence: str, source: str) -> str:
    """The folder's README.md, with the model card's header that hubs read."""
    header = f"---\nlicense: {licence.lower()}\n---\n\n" if licence else ""
    return f"{header}# {name}\n\n{what}, converted by `sonarllm models import` from {source}.\n"
