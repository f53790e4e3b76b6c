"""Inference engines that users pick on a CPU, on the same weights: CTranslate2 decodes, onnxruntime encodes.

They are installed by hand: pip install ctranslate2; pip install 'sonarllm-cli[export]'. Each is given the network in
its own format, written to a temporary folder, in float32 or with int8 weights as its own tools make them.

Legend: N texts, B texts of a batch, T tokens, D embedding.
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
from ..nets.sonar import Sonar
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
    """A worker's encoder: source ids of a batch, padded → embeddings_BD, by the file that `models export` writes."""
    import onnxruntime

    from ..weights.onnx import ENCODER, write_encoder

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ENCODER)
        write_encoder(net, path, dtype)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def embed(ids: list[list[int]]) -> Tensor:
        texts = [torch.tensor(text) for text in ids]
        ids_BT = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        feed = {"input_ids": ids_BT.numpy(), "attention_mask": mask_BT.numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return embed, {"onnxruntime": onnxruntime.__version__}
