"""Key tables: what published checkpoints call a weight → what our networks call it.

A row is a source key and a target. `N` stands for a layer's number, `P` for `weight` or `bias`, `*` for anything;
`{q,k,v}` are fused, in that order, into the target; target `-` is left out on purpose. Two keys with one target must
hold the same values (an embedding and its tied output projection). A key that no row knows is an error.

    SONAR_ENCODERS[0].target("encoder.layers.3.self_attn.k_proj.bias")   # ("layers.3.self_attn.qkv_proj.bias", 1)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
    """A published layout: its name, its rules, the key that tells it from others, its control rows' order."""

    name: str
    rules: tuple[Rule, ...]
    mark: re.Pattern[str]
    fairseq_rows: bool = False

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
