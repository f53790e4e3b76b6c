"""Inference engines that users pick on a CPU, on the same weights: CTranslate2 decodes, onnxruntime encodes.

They are installed by hand: pip install ctranslate2; pip install onnxruntime onnx. Each is given the network in its own
format, written to a temporary folder, in float32 or with int8 weights as its own tools make them.

Legend: N texts, B texts of a batch, T tokens, D embedding, M model width, L layers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..nets.layers import sinusoid_TM
from ..nets.sonar import Sonar, SonarEncoder
from ..tokens import EOS

Run = Callable[[Any], Any]
DTYPES = ("float32", "int8")  # that they are compared in


def ctranslate2_decoder(net: Sonar, dtype: str) -> tuple[Run, dict[str, str]]:
    """A worker's `decode`: requests with embeddings, prompt, beam and max_tokens → seconds and ids."""
    import ctranslate2

    translator: list[Any] = []
    rows: dict[bytes, int] = {}  # which source token stands for a vector

    def decode(request: dict[str, Any]) -> dict[str, Any]:
        vectors_ND = np.array(request["embeddings"], dtype=np.float32)
        keys = [vector.tobytes() for vector in vectors_ND]
        if not rows.keys() >= set(keys):  # made once of all vectors, before anything is timed
            rows.clear()
            rows.update({key: row for row, key in enumerate(dict.fromkeys(keys))})
            translator[:] = [_translator(net, np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1), dtype)]
        sources = [[f"v{rows[key]}"] for key in keys]
        start, *prefix = (str(i) for i in request["prompt"])
        assert start == str(EOS)
        began = time.perf_counter()
        found = translator[0].translate_batch(
            sources,
            target_prefix=[prefix] * len(sources),
            beam_size=request["beam"],
            max_decoding_length=request["max_tokens"] - 1,  # the start is not counted
            min_decoding_length=1,
            return_end_token=True,
        )
        seconds = time.perf_counter() - began
        ids = [[int(token) for token in one.hypotheses[0][len(prefix) :]] for one in found]
        room = request["max_tokens"] - len(request["prompt"])
        return {"seconds": seconds, "ids": [i if len(i) < room else [*i[: room - 1], EOS] for i in ids]}  # as ours ends

    return decode, {"ctranslate2": ctranslate2.__version__}


def _translator(net: Sonar, vectors_ND: np.ndarray, dtype: str) -> Any:
    """An encoder whose table is the vectors and whose one layer (it must have one) adds nothing, before our decoder.
    Cross-attention has one key, so that its query and key weights, which SONAR's collapsed form does not hold, may be
    anything."""
    import ctranslate2
    from ctranslate2.specs import transformer_spec

    own, decoder, layers = net.config, net.decoder, cast("list[Any]", net.decoder.layers)
    encoder = transformer_spec.TransformerEncoderSpec(1, own.heads, no_final_norm=True)
    names = [*(f"v{i}" for i in range(len(vectors_ND))), "<unk>", "<s>", "</s>"]
    encoder.embeddings[0].weight = np.concatenate([vectors_ND, np.zeros((3, own.width), np.float32)])
    encoder.scale_embeddings = False
    encoder.position_encodings.encodings = np.zeros((1, own.width), np.float32)
    for place in (encoder.layer[0].self_attention.layer_norm, encoder.layer[0].ffn.layer_norm):
        _norm(place, torch.nn.LayerNorm(own.width))
    nothing = torch.nn.Linear(own.width, own.width)
    torch.nn.init.zeros_(nothing.weight)
    torch.nn.init.zeros_(nothing.bias)
    _linear(encoder.layer[0].self_attention.linear[0], layers[0].self_attn.qkv_proj)
    _linear(encoder.layer[0].self_attention.linear[1], nothing)
    _linear(encoder.layer[0].ffn.linear_0, nothing)
    _linear(encoder.layer[0].ffn.linear_1, nothing)
    spec = transformer_spec.TransformerDecoderSpec(own.decoder_layers, own.heads)
    spec.embeddings.weight, spec.scale_embeddings = decoder.embed.weight.numpy(), True
    spec.position_encodings.encodings = sinusoid_TM(own.max_target_tokens, own.width).numpy()
    spec.projection.weight = spec.embeddings.weight
    _norm(spec.layer_norm, decoder.layer_norm)
    for theirs, ours in zip(spec.layer, layers):
        _norm(theirs.self_attention.layer_norm, ours.self_attn_layer_norm)
        _linear(theirs.self_attention.linear[0], ours.self_attn.qkv_proj)
        _linear(theirs.self_attention.linear[1], ours.self_attn.out_proj)
        theirs.attention.layer_norm.gamma = np.ones(own.width, np.float32)
        theirs.attention.layer_norm.beta = np.zeros(own.width, np.float32)
        cross = ours.cross_v_proj
        _linear(theirs.attention.linear[0], ours.cross_out_proj)  # queries: any
        theirs.attention.linear[1].weight = torch.cat([cross.weight, cross.weight]).numpy()  # keys: any; values
        theirs.attention.linear[1].bias = torch.cat([cross.bias, cross.bias]).numpy()
        _linear(theirs.attention.linear[2], ours.cross_out_proj)
        _norm(theirs.ffn.layer_norm, ours.ffn_layer_norm)
        _linear(theirs.ffn.linear_0, ours.ffn.inner_proj)
        _linear(theirs.ffn.linear_1, ours.ffn.output_proj)
    model = transformer_spec.TransformerSpec(encoder, spec)
    model.register_source_vocabulary(names)
    model.register_target_vocabulary([str(i) for i in range(own.vocab_size)])
    model.config.unk_token, model.config.bos_token = "1", "2"
    model.config.eos_token = model.config.decoder_start_token = str(EOS)
    model.validate()
    model.optimize(quantization="int8" if dtype == "int8" else None)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        return ctranslate2.Translator(folder, compute_type=dtype, intra_threads=torch.get_num_threads())


def _norm(theirs: Any, ours: Any) -> None:
    theirs.gamma, theirs.beta = ours.weight.detach().numpy(), ours.bias.detach().numpy()


def _linear(theirs: Any, ours: Any) -> None:
    theirs.weight, theirs.bias = ours.weight.detach().numpy(), ours.bias.detach().numpy()


# ---------------------------------------------------------------------------------------------- onnxruntime


def onnxruntime_encoder(net: Sonar, dtype: str) -> tuple[Callable[[list[list[int]]], Tensor], dict[str, str]]:
    """A worker's encoder: source ids of a batch, padded → embeddings_BD. Words are looked up, and states pooled, by
    our own code; the layers are onnxruntime's, with its fused attention."""
    import onnxruntime

    encoder, count = net.encoder, torch.get_num_threads()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count
    with tempfile.TemporaryDirectory() as folder:
        path = _onnx(encoder, Path(folder, "encoder.onnx"))
        if dtype == "int8":
            path = _quantised(path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def embed(ids: list[list[int]]) -> Tensor:
        length_B = torch.tensor([len(text) for text in ids])
        ids_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in ids], batch_first=True)
        feed = {"x": encoder.embed(ids_BT).numpy(), "length": length_B.int().numpy()}
        x_BTM = torch.from_numpy(session.run(None, feed)[0])
        return encoder.project(encoder.pool(x_BTM, torch.arange(x_BTM.shape[1]) < length_B[:, None]))

    return embed, {"onnxruntime": onnxruntime.__version__}


def _onnx(encoder: SonarEncoder, path: Path) -> Path:
    """The encoder's layers as an ONNX graph: x_BTM, length_B → x_BTM."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    values: list[Any] = []

    def held(tensor: Tensor) -> str:
        values.append(numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), f"w{len(values)}"))
        return str(values[-1].name)

    def node(kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        names = [f"n{len(nodes)}.{i}" for i in range(outputs)]
        nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names

    def norm(x: str, layer: Any) -> str:
        return node("LayerNormalization", x, held(layer.weight), held(layer.bias), epsilon=layer.eps, axis=-1)[0]

    def linear(x: str, layer: Any) -> str:
        return node("Add", node("MatMul", x, held(layer.weight.T))[0], held(layer.bias))[0]

    x, layers = "x", cast("list[Any]", encoder.layers)
    for layer in layers:
        qkv = linear(norm(x, layer.self_attn_layer_norm), layer.self_attn.qkv_proj)
        q, k, v = node("Split", qkv, outputs=3, axis=-1, num_outputs=3)
        heads = layer.self_attn.heads
        mixed = node("MultiHeadAttention", q, k, v, "", "length", domain="com.microsoft", num_heads=heads)[0]
        x = node("Add", x, linear(mixed, layer.self_attn.out_proj))[0]
        inner = node("Relu", linear(norm(x, layer.ffn_layer_norm), layer.ffn.inner_proj))[0]
        x = node("Add", x, linear(inner, layer.ffn.output_proj))[0]
    shape = ["B", "T", encoder.config.width]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("length", TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        values,
    )
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save_model(
        helper.make_model(graph, opset_imports=versions, ir_version=9),
        str(path),
        save_as_external_data=True,  # one message holds at most 2 GB
        location=path.name + ".data",
    )
    return path


def _quantised(path: Path) -> Path:
    """Products in int8, weights by row in advance and activations as they come: what onnxruntime's own tool makes."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_name("int8.onnx")
    quantize_dynamic(
        str(path),
        str(out),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return out
