"""A space → a folder that transformers or sentence-transformers loads, without a line of ours.

    export("sonar-200", "sonar-hf", "transformers")        # encoder/ and decoder/, as SONAR's ports are published
    export("mini", "mini-st", "sentence-transformers")     # SentenceTransformer("mini-st")

transformers: `M2M100Encoder` and `M2M100ForConditionalGeneration`, which is given the vector as an encoder's output of
length 1. sentence-transformers: the same encoder as a MegatronBERT, whose layers are alike, then what the space has of
pooling, projections and norm. Weights are written one at a time.

Legend: M model width.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..io.files import atomic_folder
from ..languages import resolve
from ..nets.layers import sinusoid_TM
from ..nets.sonar import Sonar, SonarConfig
from ..runtime import ALIASES
from ..tokens import Tokenizer
from . import model_dir, registry, tensors
from .hf_tokenizer import tokenizer_config, tokenizer_json
from .layouts import CONTROL_ROWS, MEGATRON_BERT, SONAR_DECODERS, SONAR_ENCODERS, Layout

DTYPES = ("float32", "float16", "bfloat16")
Values = Callable[[str], Tensor]  # the weight that has a name
Shapes = dict[str, tuple[int, ...]]
_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_ST = "sentence_transformers.models"


@dataclass(frozen=True)
class StoredWeights:
    """A space on the disk: what an export reads."""

    name: str
    folder: Path
    config: dict[str, Any]
    shape: SonarConfig
    words: Tokenizer

    @property
    def licence(self) -> str:
        return self.config.get("licence", "")

    def net(self) -> Sonar:
        """The network's names and shapes, without values."""
        with torch.device("meta"):
            return Sonar(self.shape)

    def value(self, name: str) -> Tensor:
        """A weight by its name, in the order of rows that published tables have. Tied tables are one."""
        if name == "decoder.embed.weight" and self.shape.tied:
            name = "encoder.embed.weight"
        value = tensors.read_tensor(self.folder, name)
        if name.endswith(".embed.weight"):
            value = value.clone()
            value[CONTROL_ROWS] = value[: len(CONTROL_ROWS)].clone()
        return value


def export(name: str, folder: str | os.PathLike[str], to: str, *, dtype: str | None = None, lang: str = "") -> Path:
    """Write the space of a model (by its name or folder) as `to` loads it; → the folder. `dtype` is that of the
    weights, else as they are stored, float32 for int8. `lang` is what sentence-transformers takes texts for that name
    none.

    UserError for a model that is no space, what the other side has no place for, and a damaged model.
    """
    if to not in TARGETS:
        raise UserError(f"can't export to {to!r}", f"use one of {', '.join(TARGETS)}, onnx")
    stored = read_space(name)
    weights = ALIASES.get(dtype, dtype) if dtype else stored.config.get("weights", DTYPES[0])
    if weights not in DTYPES:
        if dtype:
            raise UserError(f"{to} takes no {dtype}", f"use one of {', '.join(DTYPES)}")
        weights = DTYPES[0]
    lang = resolve(lang, stored.words.langs) if lang else default_lang(stored.words)
    check, write, marker = TARGETS[to]
    check(stored)
    with atomic_folder(folder, marker=marker) as scratch:
        write(stored, scratch, weights, lang)
    return Path(folder)


def read_space(name: str) -> StoredWeights:
    """A space by its name, its files compared with their hashes."""
    folder, config = registry.find_space(name)
    model_dir.check_files(folder, config)
    shape = model_dir.net_config(SonarConfig, folder, config)
    return StoredWeights(folder.name, folder, config, shape, model_dir.load_tokenizer(folder, config))


def default_lang(words: Tokenizer) -> str:
    """English where there is, else the first language."""
    return "eng_Latn" if "eng_Latn" in words.langs else words.langs[0]


# ---------------------------------------------------------------------------------------------- transformers


def _check_m2m100(stored: StoredWeights) -> None:
    shape = stored.shape
    for trait, found in (
        (f"vectors of {shape.embedding} numbers in layers of {shape.width}", shape.embedding != shape.width),
        ("a layer of its own before pooling", bool(shape.pool_width)),
        ("a norm after pooling", shape.norm_embedding),
    ):
        if found:
            cure = "export it --to sentence-transformers (the encoder), or --to onnx (both)"
            raise UserError(f"{stored.name} has {trait}, which transformers' M2M100 has not", cure)


def _write_m2m100(stored: StoredWeights, folder: Path, weights: str, lang: str) -> None:
    """encoder/ and decoder/, each with the tokenizer, as SONAR's ports have them."""
    shape, net = stored.shape, stored.net()
    encoder = _named(SONAR_ENCODERS[-1], stored, "encoder.", net.encoder)
    config = {**_m2m100(shape, weights), "architectures": ["M2M100Encoder"]}
    _part(folder / "encoder", config, weights, encoder, stored, shape.max_source_tokens)

    decoder = _named(SONAR_DECODERS[1], stored, "decoder.", net.decoder)
    decoder["model.shared.weight"] = decoder.pop("model.decoder.embed_tokens.weight")
    decoder |= _unread(shape)
    config = {**_m2m100(shape, weights), "architectures": ["M2M100ForConditionalGeneration"], "encoder_layers": 0}
    config |= {"max_position_embeddings": shape.max_target_tokens, "tie_word_embeddings": True}
    _part(folder / "decoder", config, weights, decoder, stored, shape.max_target_tokens)
    generation = {**_IDS, "decoder_start_token_id": 2, "max_length": shape.max_target_tokens}
    _json(folder / "decoder" / "generation_config.json", generation)
    most = min(256, shape.max_target_tokens)  # as decode has it
    _card(stored, folder, _M2M100_USE.replace("LANG", lang).replace("MOST", str(most)))


def _m2m100(shape: SonarConfig, weights: str) -> dict[str, Any]:
    sides = ("encoder", "decoder")
    return {
        "model_type": "m2m_100",
        "d_model": shape.width,
        **{f"{side}_layers": layers for side, layers in zip(sides, (shape.encoder_layers, shape.decoder_layers))},
        **{f"{side}_attention_heads": shape.heads for side in sides},
        **{f"{side}_ffn_dim": shape.ffn for side in sides},
        **{f"{side}_layerdrop": 0.0 for side in sides},
        "activation_function": "relu",
        "scale_embedding": True,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_source_tokens,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 2,
        "dtype": weights,
        **_IDS,
    }


def _unread(shape: SonarConfig) -> dict[str, tuple[tuple[int, ...], Values]]:
    """Weights that M2M100 has and one vector has no use for: queries, keys and their norm in cross-attention, whose
    softmax over one key is 1, and the norm of an encoder without layers. Norms are the identity, the rest is 0."""
    width = shape.width
    norms = [f"model.decoder.layers.{i}.encoder_attn_layer_norm" for i in range(shape.decoder_layers)]
    found: dict[str, tuple[tuple[int, ...], Values]] = {}
    for norm in ("model.encoder.layer_norm", *norms):
        found[f"{norm}.weight"] = (width,), lambda _: torch.ones(width)
        found[f"{norm}.bias"] = (width,), lambda _: torch.zeros(width)
    for i in range(shape.decoder_layers):
        for part in "qk":
            one = f"model.decoder.layers.{i}.encoder_attn.{part}_proj"
            found[f"{one}.weight"] = (width, width), lambda _: torch.zeros(width, width)
            found[f"{one}.bias"] = (width,), lambda _: torch.zeros(width)
    return found


def _part(
    folder: Path,
    config: dict[str, Any],
    weights: str,
    values: Mapping[str, tuple[tuple[int, ...], Values]],
    stored: StoredWeights,
    limit: int,
) -> None:
    """A folder of transformers: config, weights, tokenizer."""
    folder.mkdir(exist_ok=True)
    _json(folder / "config.json", config)
    _weights(folder, weights, values)
    write_tokenizer(stored.words, folder, limit)


def write_tokenizer(words: Tokenizer, folder: Path, limit: int) -> None:
    """The tokenizer as transformers reads it, and the sentencepiece model that it is of."""
    _json(folder / "tokenizer.json", tokenizer_json(words), indent=None)
    _json(folder / "tokenizer_config.json", tokenizer_config(limit))
    (folder / "sentencepiece.bpe.model").write_bytes(words.model_bytes)


# ---------------------------------------------------------------------------------------------- sentence-transformers


def _write_sentence_transformers(stored: StoredWeights, folder: Path, weights: str, lang: str) -> None:
    """The modules one after the other: encoder, a layer before pooling, pooling, projection, norm."""
    shape, net = stored.shape, stored.net()
    config, values = _megatron_bert(stored, net, weights)
    _part(folder, config, weights, values, stored, shape.max_source_tokens)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": shape.max_source_tokens, "do_lower_case": False})

    modules = [("", "Transformer")]

    def module(kind: str, config: dict[str, Any], parts: Mapping[str, tuple[tuple[int, ...], Values]]) -> None:
        path = f"{len(modules)}_{kind}"
        modules.append((path, kind))
        (folder / path).mkdir()
        _json(folder / path / "config.json", config)
        if parts:
            _weights(folder / path, weights, parts)

    def dense(name: str, activation: str, place: str) -> None:
        layer: Any = net.encoder.get_submodule(name)
        config: dict[str, Any] = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": True}
        config |= {"activation_function": f"torch.nn.modules.{activation}", "module_input_name": place}
        own = {part: tuple(getattr(layer, part).shape) for part in ("weight", "bias")}
        parts = {
            f"linear.{part}": (size, lambda _, part=part: stored.value(f"encoder.{name}.{part}"))
            for part, size in own.items()
        }
        module("Dense", config, parts)

    if shape.pool_width:
        dense("pool_proj", "activation.ReLU", "token_embeddings")
    modes = dict(zip(("mean", "max", "last"), ("mean_tokens", "max_tokens", "lasttoken"), strict=True))
    chosen = {f"pooling_mode_{mode}": pooling == shape.pooling for pooling, mode in modes.items()}
    pooling = {"word_embedding_dimension": shape.pool_width or shape.width, "pooling_mode_cls_token": False, **chosen}
    module("Pooling", {**pooling, "include_prompt": True}, {})
    if any(name.startswith("out_proj.") for name, _ in net.encoder.named_parameters()):
        dense("out_proj", "linear.Identity", "sentence_embedding")
    if shape.norm_embedding:
        size = (shape.embedding,)
        identity: dict[str, tuple[tuple[int, ...], Values]] = {
            "norm.weight": (size, lambda _: torch.ones(size)),
            "norm.bias": (size, lambda _: torch.zeros(size)),
        }
        module("LayerNorm", {"dimension": shape.embedding}, identity)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{_ST}.{kind}"} for i, (path, kind) in enumerate(modules)
    ]
    _json(folder / "modules.json", listed)
    prompts = {code: code for code in stored.words.langs}
    settings = {"prompts": prompts, "default_prompt_name": lang, "similarity_fn_name": "cosine"}
    _json(folder / "config_sentence_transformers.json", settings)
    _card(stored, folder, _ST_USE.replace("LANG", lang))


def _megatron_bert(
    stored: StoredWeights, net: Sonar, weights: str
) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], Values]]]:
    """The encoder's layers as transformers' MegatronBert: its config, and its weights by name."""
    shape, limit, width = stored.shape, stored.shape.max_source_tokens, stored.shape.width
    values = _named(MEGATRON_BERT, stored, "encoder.", net.encoder)
    words, (rows, read) = "embeddings.word_embeddings.weight", values["embeddings.word_embeddings.weight"]
    values[words] = rows, lambda name: read(name) * width**0.5
    values["embeddings.position_embeddings.weight"] = (limit, width), lambda _: sinusoid_TM(limit, width)
    values["embeddings.token_type_embeddings.weight"] = (1, width), lambda _: torch.zeros(1, width)
    values["pooler.dense.weight"] = (width, width), lambda _: torch.zeros(width, width)  # loaded, and read by nobody
    values["pooler.dense.bias"] = (width,), lambda _: torch.zeros(width)
    config = {
        "model_type": "megatron-bert",
        "architectures": ["MegatronBertModel"],
        "hidden_size": width,
        "num_hidden_layers": shape.encoder_layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": limit,
        "type_vocab_size": 1,
        "vocab_size": shape.vocab_size,
        "dtype": weights,
        **_IDS,
    }
    return config, values


# ---------------------------------------------------------------------------------------------- what they share


def _named(
    layout: Layout, stored: StoredWeights, prefix: str, net: torch.nn.Module
) -> dict[str, tuple[tuple[int, ...], Values]]:
    """The weights of a network by the layout's names, fused ones apart: name there → shape, and what gives it. What the
    layout has no name for is left to its caller."""
    found: dict[str, tuple[tuple[int, ...], Values]] = {}
    for name, parameter in net.named_parameters():
        keys = layout.sources(name)
        rows = parameter.shape[0] // max(1, len(keys))
        for place, key in keys.items():

            def value(_: str, name: str = name, first: int = place * rows, rows: int = rows) -> Tensor:
                return stored.value(prefix + name)[first : first + rows]

            found[key] = (rows, *parameter.shape[1:]), value
    return found


def _weights(folder: Path, weights: str, values: Mapping[str, tuple[tuple[int, ...], Values]]) -> None:
    shapes = {name: shape for name, (shape, _) in values.items()}
    tensors.write_weights(folder / "model.safetensors", shapes, weights, lambda name: values[name][1](name))


def _json(path: Path, value: Any, indent: int | None = 1) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", "utf-8")


def _card(stored: StoredWeights, folder: Path, use: str) -> None:
    """README.md: whose it is, and how it is used."""
    header = f"---\nlicense: {stored.licence.lower()}\n---\n\n" if stored.licence else ""
    made = f"The space {stored.name} ({stored.config.get('fingerprint', '')}), written by `sonarllm models export`."
    langs = shlex.join(stored.words.langs)
    text = f"{header}# {stored.name}\n\n{made}\n\n```python\n{use.strip()}\n```\n\nLanguages: {langs}\n"
    (folder / "README.md").write_text(text, "utf-8")


_M2M100_USE = """
import torch
from transformers import AutoTokenizer, M2M100ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

tokenizer = AutoTokenizer.from_pretrained("encoder")
encoder, decoder = M2M100Encoder.from_pretrained("encoder"), M2M100ForConditionalGeneration.from_pretrained("decoder")
batch = tokenizer(["LANG" + "A text."], return_tensors="pt", padding=True)   # a text after its language
mask = batch["attention_mask"][..., None]
vectors = (encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
lang, end = tokenizer.convert_tokens_to_ids("LANG"), tokenizer.eos_token_id
every, most = torch.arange(len(tokenizer)), MOST
ids = decoder.generate(  # SONAR's search: the language's probability counts, and a text ends with its end
    encoder_outputs=BaseModelOutput(last_hidden_state=vectors[:, None]),
    prefix_allowed_tokens_fn=lambda _, ids: [lang] if len(ids) == 1 else [end] if len(ids) == most - 1 else every,
    num_beams=5,
    early_stopping=True,
    max_length=most,
)
texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
"""
_ST_USE = """
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
model.encode(["A text."])                        # in LANG
model.encode(["Ein Text."], prompt_name="deu_Latn")   # in another language of its
"""
TARGETS: dict[str, tuple[Callable[[StoredWeights], None], Callable[[StoredWeights, Path, str, str], None], str]] = {
    "transformers": (_check_m2m100, _write_m2m100, "encoder"),
    "sentence-transformers": (lambda _: None, _write_sentence_transformers, "modules.json"),
}
