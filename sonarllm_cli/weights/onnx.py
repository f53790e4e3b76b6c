"""A space → ONNX: its encoder, and one step of its decoder, for onnxruntime.

    export_onnx("mini", "mini-onnx", dtype="int8")

encoder.onnx: input_ids_BT, attention_mask_BT → sentence_embedding_BD. decoder_step.onnx: input_ids_B1, the vector
sentence_embedding_BD and past_L2BHCK, what the steps before gave (C = 0 at first) → logits_BV and present_L2BHCK. Ids
are in our order, tokenizer.model and config.json's languages make them.

Legend: B texts, T tokens, C tokens before, D embedding, M width, V vocabulary, L layers, H heads, K head size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..io.files import atomic_folder
from ..nets.layers import SelfAttention, sinusoid_TM
from ..nets.sonar import Sonar
from ..runtime import ALIASES, choose
from ..tokens import EOS
from . import registry
from .loaded import load_space

DTYPES = ("float32", "int8")
ENCODER, STEP = "encoder.onnx", "decoder_step.onnx"
BESIDE = 1 << 30  # bytes of weights from which they lie in a file beside the graph: a protocol buffer holds 2 GiB


class OnnxEncoder(nn.Module):
    """`SonarEncoder.forward` with nothing that asks what its input holds: ids_BT, mask_BT → embedding_BD."""

    def __init__(self, net: Sonar) -> None:
        super().__init__()
        self.encoder = net.encoder
        config = net.config
        self.place_TM = nn.Buffer(sinusoid_TM(config.max_source_tokens, config.width), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoder, real_BT = self.encoder, attention_mask > 0
        x_BTM = encoder.embed.words(input_ids) * encoder.embed.scale + self.place_TM[: input_ids.shape[1]]
        for layer in encoder.layers:
            x_BTM = layer(x_BTM, real_BT[:, None, None])
        return encoder.project(encoder.pool(x_BTM, real_BT))


class OnnxStep(nn.Module):
    """`SonarDecoder.step` of one token, its caches one tensor: ids_B1, embedding_BD, past_L2BHCK → logits_BV,
    present_L2BHCK."""

    def __init__(self, net: Sonar) -> None:
        super().__init__()
        self.decoder = net.decoder
        config = net.config
        self.place_TM = nn.Buffer(sinusoid_TM(config.max_target_tokens, config.width), persistent=False)

    def forward(self, input_ids: Tensor, sentence_embedding: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.decoder
        here = torch.full((1,), past.shape[4], dtype=torch.int64)
        x_B1M = decoder.embed.words(input_ids) * decoder.embed.scale + self.place_TM[here]
        present = []
        layers: list[Any] = list(decoder.layers)
        for i, layer in enumerate(layers):
            mixed_B1M, kv_2BHCK = _attend_cached(layer.self_attn, layer.self_attn_layer_norm(x_B1M), past[i])
            x_B1M = x_B1M + mixed_B1M + layer.cross(sentence_embedding)[:, None]
            x_B1M = x_B1M + layer.ffn(layer.ffn_layer_norm(x_B1M))
            present.append(kv_2BHCK)
        return F.linear(decoder.layer_norm(x_B1M)[:, 0], decoder.embed.weight), torch.stack(present)


def _attend_cached(attention: SelfAttention, x_B1M: Tensor, past_2BHCK: Tensor) -> tuple[Tensor, Tensor]:
    """`SelfAttention` of one new token over it and those before: → mixed_B1M, kv_2BHCK with the new one."""
    B, _, M = x_B1M.shape
    q, k, v = attention.qkv_proj(x_B1M).view(B, 1, 3, attention.heads, M // attention.heads).permute(2, 0, 3, 1, 4)
    kv_2BHCK = torch.cat([past_2BHCK, torch.stack([k, v])], dim=3)
    mixed_BH1K = F.scaled_dot_product_attention(q, kv_2BHCK[0], kv_2BHCK[1])
    return attention.out_proj(mixed_BH1K.transpose(1, 2).reshape(B, 1, M)), kv_2BHCK


def export_onnx(name: str, folder: str | os.PathLike[str], *, dtype: str | None = None) -> Path:
    """Write encoder and decoder step of a model's space; → the folder. `dtype` "int8" has matrices as int8 by channel,
    products in int8 of activations measured as they come (onnxruntime's dynamic quantisation).

    UserError where the extra `export` is not installed, or for another dtype.
    """
    weights = ALIASES.get(dtype, dtype) if dtype else DTYPES[0]
    if weights not in DTYPES:
        raise UserError(f"onnx takes no {dtype}", f"use one of {', '.join(DTYPES)}")
    registry.find_space(name)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed", "pip install 'sonarllm-cli[export]'") from None
    space = load_space(name, choose("cpu", "float32"), trainable=True)  # not packed
    net, config = space.net.eval(), space.net.config
    with atomic_folder(folder, marker=STEP) as scratch:
        write_encoder(net, scratch / ENCODER, weights)
        write_step(net, scratch / STEP, weights)
        (scratch / "tokenizer.model").write_bytes(space.tokenizer.model_bytes)
        facts: dict[str, Any] = {"fingerprint": space.fingerprint, "weights": weights, "langs": space.tokenizer.langs}
        facts |= {"past": [config.decoder_layers, 2, "texts", config.heads, "before", config.width // config.heads]}
        (scratch / "config.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return Path(folder)


def write_encoder(net: Sonar, path: Path, dtype: str) -> None:
    """A network's encoder: ids_BT, mask_BT → embedding_BD."""
    ids_BT = torch.full((2, 3), EOS)
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    names = ["input_ids", "attention_mask"]
    example = (ids_BT, torch.ones_like(ids_BT))
    _write(OnnxEncoder(net), example, path, names, ["sentence_embedding"], (sizes, sizes), dtype)


def write_step(net: Sonar, path: Path, dtype: str) -> None:
    """One step of a network's decoder: ids_B1, embedding_BD, past_L2BHCK → logits_BV, present_L2BHCK."""
    config, B, C = net.config, 2, 4
    past_L2BHCK = torch.zeros(config.decoder_layers, 2, B, config.heads, C, config.width // config.heads)
    texts, before = torch.export.Dim("texts"), torch.export.Dim("before")
    names = ["input_ids", "sentence_embedding", "past"]
    example = (torch.full((B, 1), EOS), torch.zeros(B, config.embedding), past_L2BHCK)
    sizes = ({0: texts}, {0: texts}, {2: texts, 4: before})
    _write(OnnxStep(net), example, path, names, ["logits", "present"], sizes, dtype)


def _write(
    net: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    sizes: Any,
    dtype: str,
) -> None:
    """A network as a graph of these inputs and outputs, `sizes` those dimensions that differ from call to call."""
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            net.eval(),
            example,
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=sizes,
            dynamo=True,
            verbose=False,
            external_data=sum(p.numel() for p in net.parameters()) * 4 > BESIDE,
        )
        if dtype == "int8":
            _quantise(path)


def _quantise(path: Path) -> None:
    """Products in int8, weights by row in advance and activations as they come: what onnxruntime's own tool makes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    beside = path.with_name(f"{path.name}.data")
    with TemporaryDirectory(dir=path.parent) as small:  # under its own name, by which a graph finds what is beside it
        quantize_dynamic(
            path,
            Path(small, path.name),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=beside.exists(),
        )
        beside.unlink(missing_ok=True)
        for part in Path(small).iterdir():
            os.replace(part, path.with_name(part.name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell their developers much."""
    was = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(was)
