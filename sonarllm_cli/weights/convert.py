"""Published weights → model folders of ours, in the registry.

In: fairseq, fairseq2 and transformers checkpoints (.pt, .bin, .safetensors, or a folder with config.json). Out: a
folder that `registry.find(name)` finds. Sources are mapped, not read, and written tensor by tensor, so that memory
holds a few tensors and not the model.

    import_sonar("sonar-200", encoder="sonar_text_encoder.pt", decoder="sonar_text_decoder.pt", tokenizer="spm.model")
    import_sonar_llm("sonar-llm-100m", checkpoint="pytorch_model.bin", config="config.json", sonar="sonar-200")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..languages import FLORES, NAMES, resolve
from ..nets.sonar import Sonar, SonarConfig
from ..nets.sonar_llm import BEGINNING, ENDING, SonarLLMConfig
from ..nets.speech import SpeechConfig, SpeechEncoder
from ..runtime import log
from ..tokens import Tokenizer
from . import model_dir, registry, tensors
from .layouts import (
    FROZEN_DECODER,
    SONAR_DECODERS,
    SONAR_ENCODERS,
    SONAR_LLMS,
    SPEECH_BEGINNINGS,
    SPEECH_ENCODERS,
)
from .matching import (
    Found,
    claiming,
    fill,
    import_card,
    lives_in,
    match,
    save_import,
    space_config_of,
    stored_as_asked,
)
from .sources import PathName, Source, read_source

LIMITS = (514, 512)  # tokens the published encoder and decoder were trained with
LARGE = 1024  # the published width, whose heads are known to have 64 dimensions
# How far a frozen decoder may be from the space's, as stored: the rounding of each dtype.
_ROUNDING = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2, "int8": 5e-2}


# ---------------------------------------------------------------------------------------------- SONAR


@claiming
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
        weights=stored_as_asked(dtype, from_encoder, from_decoder),
        tokenizer=words.model_bytes,
        tensor=fill(net, {"encoder.": from_encoder, "decoder.": from_decoder}),
        card=import_card(name, "A SONAR text encoder and decoder", licence, source or f"{encoder}, {decoder}"),
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


@claiming
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
    lang = resolve(lang)
    home = space_config_of(sonar) if sonar else {}
    found = match(read_source(checkpoint), SPEECH_ENCODERS, "SONAR speech encoder")
    shape = _speech_shape(found, heads, pooler_heads)
    if sonar and (dim := model_dir.net_config(SonarConfig, registry.find(sonar), home).embedding) != shape.embedding:
        cure = "name the space it was taught with --sonar, or none"
        raise UserError(f"{checkpoint} gives vectors of {shape.embedding} numbers, {sonar} has {dim}", cure)
    facts: dict[str, Any] = {"sonar": lives_in(registry.find(sonar), home)} if sonar else {}
    about = f"A SONAR speech encoder of {NAMES[lang]}"
    said: dict[str, Any] = {"lang": lang, "dtype": dtype, "licence": licence, "source": source}
    return save_import(name, "sonar-speech", shape, found, about, **said, **facts)


def speech_beginning(path: PathName) -> tuple[SpeechConfig, dict[str, Tensor]]:
    """The encoder of a checkpoint that a student may start from: a published SONAR encoder, w2v-BERT 2.0 or SeamlessM4T
    v1 in transformers' layout (a folder with config.json). → its shape, and its weights by our names, float32."""
    found = _speech_start(path)
    shape = _speech_shape(found, None, None)
    with torch.device("meta"):
        net = SpeechEncoder(shape)
    names = [name for name, _ in net.named_parameters() if name in found.parts]
    if missing := [name for name, _ in net.named_parameters() if name.startswith("layers.") and name not in names]:
        raise UserError(f"{path} has no {missing[0]}", "is the file whole? fetch it again")
    return shape, {name: found.tensor(name).float() for name in names}


def speech_shape(path: PathName) -> SpeechConfig:
    """The shape of the encoder of such a checkpoint."""
    return _speech_shape(_speech_start(path), None, None)


def _speech_start(path: PathName) -> Found:
    return match(read_source(path), (*SPEECH_ENCODERS, *SPEECH_BEGINNINGS), "speech encoder")


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


@claiming
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
    space, home = registry.find(sonar), space_config_of(sonar)
    read = read_source(checkpoint)
    settings = model_dir.read_json(Path(os.path.expanduser(config))) if config else read.config
    found = match(read, SONAR_LLMS, "SONAR-LLM checkpoint")
    shape = _llama_shape(found, settings)
    width = model_dir.net_config(SonarConfig, space, home).embedding
    if width != shape.embedding:
        cure = "name the space it was trained in with --sonar"
        raise UserError(f"{read.path} was trained on {shape.embedding}-wide sentences, {sonar} has {width}", cure)
    _check_decoder(read, space, sonar)
    return save_import(
        name,
        "sonar-llm",
        shape,
        found,
        f"A SONAR-LLM in the space {space.name}",
        sonar=lives_in(registry.find(sonar), home),
        marker="",
        ending=ENDING,
        lang=lang,
        begin=BEGINNING if settings.get("add_begin") is True else "",
        dtype=dtype,
        licence=licence,
        source=source,
    )


def _llama_shape(found: Found, settings: dict[str, Any]) -> SonarLLMConfig:
    """Sizes from the weights; heads, norm and rotary settings from the config, with transformers' defaults."""
    path, llama = found.source.path, settings.get("llama_config")
    if not isinstance(llama, dict) or not isinstance(llama.get("num_attention_heads"), int):
        raise UserError(f"the config of {path} has no llama_config with num_attention_heads", "name it with --config")
    for key, want in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if llama.get(key, want) != want:
            raise UserError(f"{path}: {key} {llama[key]!r} is not supported", f"SONAR-LLM has {want!r}")
    scaled = [llama[key] for key in ("rope_scaling", "rope_parameters") if llama.get(key)]
    if not all(isinstance(one, dict) for one in scaled):
        raise UserError(
            f"the config of {path} has no table of rotary settings, but {str(scaled[0])[:80]}", "fetch it again"
        )
    rope = {key: value for table in (llama, *scaled) for key, value in table.items()}
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
