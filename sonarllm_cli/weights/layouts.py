"""Key tables: what published checkpoints call a weight → what our networks call it.

A row is a source key and a target. `N` stands for a layer's number, `P` for `weight` or `bias`, `*` for anything;
`{q,k,v}` are fused, in that order, into the target; target `-` is left out on purpose. Two keys with one target must
hold the same values (an embedding and its tied output projection). A key that no row knows is an error.

    SONAR_ENCODERS[0].target("encoder.layers.3.self_attn.k_proj.bias")   # ("layers.3.self_attn.qkv_proj.bias", 1)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# Published tables in fairseq's order BOS, PAD, EOS, UNK; ours, and fairseq2's, is PAD, UNK, BOS, EOS.
CONTROL_ROWS = [1, 3, 0, 2]


@dataclass(frozen=True)
class Rule:
    """One source key of a row, as a pattern and with `N` and `P` in it; the target; its place in a fused weight."""

    pattern: re.Pattern[str]
    source: str
    target: str
    part: int


@dataclass(frozen=True)
class Layout:
    """A published layout: its name, its rules, the key that tells it from others, its control rows' order, and which
    row of a table is a vector of ours."""

    name: str
    rules: tuple[Rule, ...]
    mark: re.Pattern[str]
    fairseq_rows: bool = False
    row: Mapping[str, int] = field(default_factory=dict)

    def target(self, key: str) -> tuple[str, int] | None:
        """A source key → our name ("-": left out on purpose) and its place in it; None if no row knows it."""
        for rule in self.rules:
            if found := rule.pattern.fullmatch(key):
                named = found.groupdict()
                target = rule.target.replace(".N.", f".{named.get('N')}.")
                return re.sub(r"\bP$", named.get("P") or "", target), rule.part
        return None

    def sources(self, name: str) -> dict[int, str]:
        """The source keys that make up our `name`, by their place in it (of a tied weight, one of its keys)."""
        layer, end = re.search(r"\.(\d+)\.", name), name.rpartition(".")[2]
        one = re.sub(r"\.\d+\.", ".N.", name, count=1)
        keys: dict[int, str] = {}
        for rule in self.rules:
            if rule.target in (one, re.sub(r"(weight|bias)$", "P", one)):
                key = rule.source.replace(".N.", f".{layer[1]}.") if layer else rule.source
                keys.setdefault(rule.part, re.sub(r"\bP$", end, key))
        return keys


def _rules(prefix: str, *tables: str) -> tuple[Rule, ...]:
    rules = []
    for row in "\n".join(tables).split("\n"):
        if not row.strip():
            continue
        source, target = row.split()
        fused = re.search(r"\{(.*)\}", source)
        for part, word in enumerate(fused[1].split(",") if fused else [""]):
            key = prefix + (source.replace(fused[0], word) if fused else source)
            pattern = re.escape(key).replace(r"\*", ".*").replace(r"\.N\.", r"\.(?P<N>\d+)\.")
            rules.append(Rule(re.compile(re.sub(r"\bP$", "(?P<P>weight|bias)", pattern)), key, target, part))
    return tuple(rules)


_FAIRSEQ2 = """
layers.N.self_attn.{q,k,v}_proj.P               layers.N.self_attn.qkv_proj.P
layers.N.self_attn.output_proj.P                layers.N.self_attn.out_proj.P
layers.N.self_attn_layer_norm.P                 layers.N.self_attn_layer_norm.P
layers.N.ffn.inner_proj.P                       layers.N.ffn.inner_proj.P
layers.N.ffn.output_proj.P                      layers.N.ffn.output_proj.P
layers.N.ffn_layer_norm.P                       layers.N.ffn_layer_norm.P
"""
# The softmax of cross-attention to one vector is 1 whatever its query and key: neither they nor their norm are kept.
_FAIRSEQ2_CROSS = """
layers.N.encoder_decoder_attn.v_proj.P          layers.N.cross_v_proj.P
layers.N.encoder_decoder_attn.output_proj.P     layers.N.cross_out_proj.P
layers.N.encoder_decoder_attn.{q,k}_proj.P      -
layers.N.encoder_decoder_attn_layer_norm.P      -
layer_norm.P                                    layer_norm.P
"""
_FAIRSEQ1 = """
embed_tokens.weight                             embed.weight
layers.N.self_attn.{q,k,v}_proj.P               layers.N.self_attn.qkv_proj.P
layers.N.self_attn.out_proj.P                   layers.N.self_attn.out_proj.P
layers.N.self_attn_layer_norm.P                 layers.N.self_attn_layer_norm.P
layers.N.fc1.P                                  layers.N.ffn.inner_proj.P
layers.N.fc2.P                                  layers.N.ffn.output_proj.P
layers.N.final_layer_norm.P                     layers.N.ffn_layer_norm.P
layer_norm.P                                    layer_norm.P
embed_positions.*                               -
version                                         -
"""
_FAIRSEQ1_CROSS = """
layers.N.encoder_attn.v_proj.P                  layers.N.cross_v_proj.P
layers.N.encoder_attn.out_proj.P                layers.N.cross_out_proj.P
layers.N.encoder_attn.{q,k}_proj.P              -
layers.N.encoder_attn_layer_norm.P              -
output_projection.weight                        embed.weight
"""
_SHARED = "model.shared.weight  embed.weight"

_FAIRSEQ2_ENCODER = _rules("encoder.", _FAIRSEQ2) + _rules(
    "",
    """
encoder_frontend.embed.weight                   embed.weight
encoder_frontend.pos_encoder.*                  -
layer_norm.P                                    layer_norm.P
""",
)
_FAIRSEQ2_DECODER = _rules("decoder.", _FAIRSEQ2, _FAIRSEQ2_CROSS) + _rules(
    "",
    """
decoder_frontend.embed.weight                   embed.weight
decoder_frontend.pos_encoder.*                  -
final_proj.weight                               embed.weight
""",
)
SONAR_ENCODERS = (
    Layout("fairseq2 text encoder", _FAIRSEQ2_ENCODER, re.compile(r"encoder_frontend\..*")),
    Layout(
        "transformers encoder-decoder",
        _rules("model.encoder.", _FAIRSEQ1) + _rules("", _SHARED, "model.decoder.*  -", "lm_head.weight  -"),
        re.compile(r"model\.encoder\..*"),
        fairseq_rows=True,
    ),
    Layout("transformers or fairseq text encoder", _rules("", _FAIRSEQ1), re.compile(r"layers\..*fc1.*"), True),
)
SONAR_DECODERS = (
    Layout("fairseq2 text decoder", _FAIRSEQ2_DECODER, re.compile(r"decoder_frontend\..*")),
    Layout(
        "transformers encoder-decoder",
        _rules("model.decoder.", _FAIRSEQ1, _FAIRSEQ1_CROSS)
        + _rules("", _SHARED, "lm_head.weight  embed.weight", "model.encoder.*  -"),
        re.compile(r"model\.decoder\..*"),
        fairseq_rows=True,
    ),
    Layout(
        "fairseq text decoder", _rules("", _FAIRSEQ1, _FAIRSEQ1_CROSS), re.compile(r"layers\..*encoder_attn.*"), True
    ),
)
# What an encoder becomes where there is no M2M100 encoder by itself: MegatronBERT is pre-norm, has a norm after its
# last layer and none after its tables (of words, here scaled, and of positions). For exports alone.
MEGATRON_BERT = Layout(
    "MegatronBERT of transformers",
    _rules(
        "",
        """
embeddings.word_embeddings.weight               embed.weight
encoder.layer.N.attention.ln.P                  layers.N.self_attn_layer_norm.P
encoder.layer.N.attention.self.{query,key,value}.P   layers.N.self_attn.qkv_proj.P
encoder.layer.N.attention.output.dense.P        layers.N.self_attn.out_proj.P
encoder.layer.N.ln.P                            layers.N.ffn_layer_norm.P
encoder.layer.N.intermediate.dense.P            layers.N.ffn.inner_proj.P
encoder.layer.N.output.dense.P                  layers.N.ffn.output_proj.P
encoder.ln.P                                    layer_norm.P
""",
    ),
    re.compile(r"embeddings\.word_embeddings\..*"),
    fairseq_rows=True,
)
# The word table is not used: a document comes in as sentence embeddings. The frozen decoder is the space's own.
FROZEN_DECODER = "sonar_decoder.model.decoder."
SONAR_LLMS = (
    Layout(
        "SONAR-LLM checkpoint",
        _rules(
            "",
            """
llama_model.model.layers.N.self_attn.{q,k,v}_proj.weight     body.layers.N.qkv_proj.weight
llama_model.model.layers.N.self_attn.o_proj.weight           body.layers.N.out_proj.weight
llama_model.model.layers.N.mlp.{gate,up}_proj.weight         body.layers.N.gate_up_proj.weight
llama_model.model.layers.N.mlp.down_proj.weight              body.layers.N.down_proj.weight
llama_model.model.layers.N.input_layernorm.weight            body.layers.N.attn_norm.weight
llama_model.model.layers.N.post_attention_layernorm.weight   body.layers.N.ffn_norm.weight
llama_model.model.norm.weight                                body.norm.weight
forward_proj.linear.P                                        project_in.P
reverse_proj.linear.P                                        project_out.P
llama_model.model.embed_tokens.weight                        -
llama_model.lm_head.weight                                   -
llama_model.model.rotary_emb.*                               -
llama_model.model.layers.N.self_attn.rotary_emb.*            -
sonar_decoder.*                                              -
""",
        ),
        re.compile(r"llama_model\..*"),
    ),
)

# ---------------------------------------------------------------------------------------------- speech encoders

# A convolution of kernel 1 is a matrix here; of the pooler's table one row is read.
_FAIRSEQ2_SPEECH = """
encoder_frontend.post_extract_layer_norm.P                 front_norm.P
encoder_frontend.model_dim_proj.P                          front_proj.P
encoder.layers.N.ffn1_layer_norm.P                         layers.N.ffn1_norm.P
encoder.layers.N.ffn1.inner_proj.P                         layers.N.ffn1.inner_proj.P
encoder.layers.N.ffn1.output_proj.P                        layers.N.ffn1.output_proj.P
encoder.layers.N.self_attn_layer_norm.P                    layers.N.attn_norm.P
encoder.layers.N.self_attn.{q,k,v}_proj.P                  layers.N.attn.qkv_proj.P
encoder.layers.N.self_attn.output_proj.P                   layers.N.attn.out_proj.P
encoder.layers.N.self_attn.sdpa.r_proj.weight              layers.N.attn.distance_proj.weight
encoder.layers.N.self_attn.sdpa.u_bias                     layers.N.attn.key_bias
encoder.layers.N.self_attn.sdpa.v_bias                     layers.N.attn.distance_bias
encoder.layers.N.conv_layer_norm.P                         layers.N.conv_norm.P
encoder.layers.N.conv.pointwise_conv1.weight               layers.N.conv.pointwise1.weight
encoder.layers.N.conv.depthwise_conv.weight                layers.N.conv.depthwise.weight
encoder.layers.N.conv.batch_norm.P                         layers.N.conv.norm.P
encoder.layers.N.conv.batch_norm.running_mean              layers.N.conv.norm.running_mean
encoder.layers.N.conv.batch_norm.running_var               layers.N.conv.norm.running_var
encoder.layers.N.conv.batch_norm.num_batches_tracked       -
encoder.layers.N.conv.pointwise_conv2.weight               layers.N.conv.pointwise2.weight
encoder.layers.N.ffn2_layer_norm.P                         layers.N.ffn2_norm.P
encoder.layers.N.ffn2.inner_proj.P                         layers.N.ffn2.inner_proj.P
encoder.layers.N.ffn2.output_proj.P                        layers.N.ffn2.output_proj.P
encoder.layers.N.layer_norm.P                              layers.N.norm.P
layer_norm.P                                               top_norm.P
encoder_pooler.decoder_frontend.embed.weight               pooler.query
encoder_pooler.decoder.layers.N.self_attn.v_proj.P         pooler.layers.N.self_v_proj.P
encoder_pooler.decoder.layers.N.self_attn.output_proj.P    pooler.layers.N.self_out_proj.P
encoder_pooler.decoder.layers.N.self_attn.{q,k}_proj.P     -
encoder_pooler.decoder.layers.N.self_attn_layer_norm.P     pooler.layers.N.self_norm.P
encoder_pooler.decoder.layers.N.encoder_decoder_attn.q_proj.P       pooler.layers.N.q_proj.P
encoder_pooler.decoder.layers.N.encoder_decoder_attn.{k,v}_proj.P   pooler.layers.N.kv_proj.P
encoder_pooler.decoder.layers.N.encoder_decoder_attn.output_proj.P  pooler.layers.N.out_proj.P
encoder_pooler.decoder.layers.N.encoder_decoder_attn_layer_norm.P   pooler.layers.N.cross_norm.P
encoder_pooler.decoder.layers.N.ffn.inner_proj.P           pooler.layers.N.inner_proj.P
encoder_pooler.decoder.layers.N.ffn.output_proj.P          pooler.layers.N.output_proj.P
encoder_pooler.decoder.layers.N.ffn_layer_norm.P           pooler.layers.N.ffn_norm.P
encoder_pooler.projection_out.weight                       proj.weight
"""
# Beside the published names: what the two layouts of transformers and fairseq's have alike.
_FAIRSEQ1_SPEECH_LAYER = """
layers.N.self_attn_layer_norm.P                            layers.N.attn_norm.P
layers.N.self_attn.linear_{q,k,v}.P                        layers.N.attn.qkv_proj.P
layers.N.self_attn.linear_out.P                            layers.N.attn.out_proj.P
layers.N.self_attn.linear_pos.weight                       layers.N.attn.distance_proj.weight
layers.N.self_attn.pos_bias_u                              layers.N.attn.key_bias
layers.N.self_attn.pos_bias_v                              layers.N.attn.distance_bias
layers.N.conv_module.layer_norm.P                          layers.N.conv_norm.P
layers.N.conv_module.pointwise_conv1.weight                layers.N.conv.pointwise1.weight
layers.N.conv_module.depthwise_conv.weight                 layers.N.conv.depthwise.weight
layers.N.conv_module.batch_norm.P                          layers.N.conv.norm.P
layers.N.conv_module.batch_norm.running_mean               layers.N.conv.norm.running_mean
layers.N.conv_module.batch_norm.running_var                layers.N.conv.norm.running_var
layers.N.conv_module.batch_norm.num_batches_tracked        -
layers.N.conv_module.pointwise_conv2.weight                layers.N.conv.pointwise2.weight
layers.N.final_layer_norm.P                                layers.N.norm.P
layer_norm.P                                               top_norm.P
"""
_FAIRSEQ1_SPEECH_FFN = """
layers.N.ffn1.layer_norm.P                                 layers.N.ffn1_norm.P
layers.N.ffn1.w_1.P                                        layers.N.ffn1.inner_proj.P
layers.N.ffn1.w_2.P                                        layers.N.ffn1.output_proj.P
layers.N.ffn2.layer_norm.P                                 layers.N.ffn2_norm.P
layers.N.ffn2.w_1.P                                        layers.N.ffn2.inner_proj.P
layers.N.ffn2.w_2.P                                        layers.N.ffn2.output_proj.P
pos_conv.0.bias                                            -
pos_conv.0.weight_g                                        -
pos_conv.0.weight_v                                        -
"""
_FAIRSEQ1_SPEECH_POOLER = """
embed_tokens.weight                                        pooler.query
layers.N.self_attn.v_proj.P                                pooler.layers.N.self_v_proj.P
layers.N.self_attn.out_proj.P                              pooler.layers.N.self_out_proj.P
layers.N.self_attn.{q,k}_proj.P                            -
layers.N.self_attn_layer_norm.P                            pooler.layers.N.self_norm.P
layers.N.encoder_attn.q_proj.P                             pooler.layers.N.q_proj.P
layers.N.encoder_attn.{k,v}_proj.P                         pooler.layers.N.kv_proj.P
layers.N.encoder_attn.out_proj.P                           pooler.layers.N.out_proj.P
layers.N.encoder_attn_layer_norm.P                         pooler.layers.N.cross_norm.P
layers.N.fc1.P                                             pooler.layers.N.inner_proj.P
layers.N.fc2.P                                             pooler.layers.N.output_proj.P
layers.N.final_layer_norm.P                                pooler.layers.N.ffn_norm.P
embed_out                                                  proj.weight
version                                                    -
embed_positions._float_tensor                              -
"""
_TRANSFORMERS_SPEECH_FFN = """
layers.N.ffn1_layer_norm.P                                 layers.N.ffn1_norm.P
layers.N.ffn1.intermediate_dense.P                         layers.N.ffn1.inner_proj.P
layers.N.ffn1.output_dense.P                               layers.N.ffn1.output_proj.P
layers.N.ffn2_layer_norm.P                                 layers.N.ffn2_norm.P
layers.N.ffn2.intermediate_dense.P                         layers.N.ffn2.inner_proj.P
layers.N.ffn2.output_dense.P                               layers.N.ffn2.output_proj.P
layers.N.self_attn.distance_embedding.weight               layers.N.attn.distance
layers.N.conv_module.depthwise_layer_norm.P                layers.N.conv.norm.P
"""
_TRANSFORMERS_FRONT = """
feature_projection.layer_norm.P                            front_norm.P
feature_projection.projection.P                            front_proj.P
masked_spec_embed                                          -
"""
BOS_ROW = {"pooler.query": 2}  # the row that the pooler reads, in either file's own order
SPEECH_ENCODERS = (
    Layout(
        "fairseq2 speech encoder",
        _rules("", _FAIRSEQ2_SPEECH),
        re.compile(r"encoder_frontend\.post_extract_layer_norm\..*"),
        row=BOS_ROW,
    ),
    Layout(
        "fairseq speech encoder",
        _rules("encoder.w2v_model.encoder.", _FAIRSEQ1_SPEECH_LAYER, _FAIRSEQ1_SPEECH_FFN)
        + _rules("decoder.", _FAIRSEQ1_SPEECH_POOLER)
        + _rules("encoder.w2v_model.", "layer_norm.P front_norm.P", "post_extract_proj.P front_proj.P", "mask_emb -"),
        re.compile(r"encoder\.w2v_model\..*"),
        row=BOS_ROW,
    ),
)
# What a student may start from: the encoder alone, its pooler is new.
SPEECH_BEGINNINGS = (
    Layout(
        "SeamlessM4T of transformers",
        _rules("speech_encoder.", _TRANSFORMERS_FRONT)
        + _rules("speech_encoder.encoder.", _FAIRSEQ1_SPEECH_LAYER, _TRANSFORMERS_SPEECH_FFN)
        + _rules(
            "",
            *(f"{part}.* -" for part in ("speech_encoder.adapter", "speech_encoder.intermediate_ffn")),
            *(f"{part}.* -" for part in ("speech_encoder.inner_layer_norm", "text_encoder", "text_decoder")),
            *(f"{part}.* -" for part in ("t2u_model", "vocoder", "shared", "lm_head")),
        ),
        re.compile(r"speech_encoder\..*"),
    ),
    Layout(
        "w2v-BERT 2.0 of transformers",
        _rules("", _TRANSFORMERS_FRONT) + _rules("encoder.", _FAIRSEQ1_SPEECH_LAYER, _TRANSFORMERS_SPEECH_FFN),
        re.compile(r"feature_projection\..*"),
    ),
)

# ---------------------------------------------------------------------------------------------- heads, LASER2

BLASERS = (
    Layout(
        "BLASER 2.0",
        _rules("", "mlp.1.P  layers.0.P\nmlp.4.P  layers.1.P\nmlp.7.P  layers.2.P"),
        re.compile(r"mlp\.1\..*"),
    ),
)
MUTOXES = (
    Layout(
        "MuTox",
        _rules(
            "",
            """
model_all.0.1.P     layers.0.P
model_all.1.1.P     layers.1.P
model_all.2.1.P     layers.2.P
model_h*            -
""",
        ),
        re.compile(r"model_all\..*"),
    ),
)
_LSTM = [
    f"lstm.{part}_l{layer}{way}"
    for layer in range(16)
    for way in ("", "_reverse")
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
]
LASER2S = (
    Layout(
        "LASER2",
        _rules("", "embed_tokens.weight  embed_tokens.weight", *(f"{name}  {name}" for name in _LSTM)),
        re.compile(r"lstm\..*"),
    ),
)
