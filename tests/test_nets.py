"""The networks' exact shortcuts against the plain computation."""

import pytest
import torch
import torch.nn.functional as F

from sonarllm_cli.errors import UserError
from sonarllm_cli.nets.layers import KVCache, attend, plain_attend, sinusoid_TM
from sonarllm_cli.nets.llama import Llama, LlamaConfig
from sonarllm_cli.nets.sonar import POOLINGS, Sonar, SonarConfig
from sonarllm_cli.nets.sonar_llm import SonarLLM, SonarLLMConfig

TINY = {"width": 16, "heads": 2, "ffn": 24, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 50, "embedding": 16}


def tiny(**changes):
    torch.manual_seed(0)
    return Sonar(SonarConfig(**{**TINY, **changes})).eval()


def test_cross_attention_to_one_vector_is_real_attention_collapsed():
    layer = tiny().decoder.layers[0]
    e_BD, x_BTM = torch.randn(3, 16), torch.randn(3, 5, 16)
    q = torch.nn.Linear(16, 16)(x_BTM)
    k, v = torch.nn.Linear(16, 16)(e_BD)[:, None], layer.cross_v_proj(e_BD)[:, None]
    split = [t.view(3, -1, 2, 8).transpose(1, 2) for t in (q, k, v)]
    real_BTM = layer.cross_out_proj(F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(3, 5, 16))
    torch.testing.assert_close(real_BTM, layer.cross(e_BD, None).added_BM[:, None].expand(3, 5, 16))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_embedding(pooling):
    encoder = tiny(pooling=pooling, embedding=12).encoder
    ids, length = torch.tensor([[5, 6, 7, 9, 9], [8, 3, 2, 4, 1]]), torch.tensor([3, 5])
    torch.testing.assert_close(encoder(ids, length)[:1], encoder(ids[:1, :3], length[:1]))


def test_cross_attention_to_slots_is_multi_head_attention_with_a_penalty_on_distance():
    attention = tiny(slots=4).decoder.layers[0].cross_attn
    x_BTM, memory_BSM = torch.randn(3, 5, 16), torch.randn(3, 4, 16)
    plain = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([attention.q_proj.weight, attention.kv_proj.weight]))
        plain.in_proj_bias.copy_(torch.cat([attention.q_proj.bias, attention.kv_proj.bias]))
        plain.out_proj.load_state_dict(attention.out_proj.state_dict())
    penalty_TS = torch.tensor([[-4.0 * (7 + t - s) ** 2 for s in range(4)] for t in range(5)])  # of one head in two
    mask = torch.stack([penalty_TS, torch.zeros(5, 4)]).repeat(3, 1, 1)
    found = attention(x_BTM, attention.keys(memory_BSM), 7)
    wanted = plain(x_BTM, memory_BSM, memory_BSM, attn_mask=mask)[0]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_a_slot_is_read_of_its_own_part_of_the_vector():
    decoder = tiny(slots=4, pooling="attention").decoder
    e_BD = torch.zeros(2, 16)
    e_BD[1, 4:8] = 1.0  # the second of four slots
    changed_S = (decoder.slots(e_BD)[0] != decoder.slots(e_BD)[1]).any(-1)
    assert changed_S.tolist() == [False, True, False, False]


def test_a_vector_of_a_whole_and_slots_is_both_one_after_the_other():
    """The first numbers are those of the model without slots, and are added at every position as there."""
    mixed, plain = tiny(whole=8, slots=4, slot_depth=1, norm_embedding=True), tiny(embedding=8, norm_embedding=True)
    plain.load_state_dict({k: v for k, v in mixed.state_dict().items() if k in plain.state_dict()})
    ids, length = torch.tensor([[5, 6, 7, 9, 9], [8, 3, 2, 4, 1]]), torch.tensor([3, 5])
    z_BD = mixed.encoder(ids, length)
    torch.testing.assert_close(z_BD[:, :8], plain.encoder(ids, length))
    torch.testing.assert_close(z_BD[:, 8:].std(1, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    for layer in mixed.decoder.layers:
        layer.cross_attn.out_proj.weight.data.zero_()
        layer.cross_attn.out_proj.bias.data.zero_()
    torch.testing.assert_close(mixed.decoder(ids, z_BD), plain.decoder(ids, z_BD[:, :8]))


def test_a_widened_concept_model_predicts_as_before_and_the_mean_of_what_is_new():
    torch.manual_seed(0)
    net = SonarLLM(SonarLLMConfig(embedding=6, width=8, ffn=12, layers=1, heads=2, head_size=4)).init_()
    wide, z_BSD = net.widened(torch.arange(9.0)), torch.randn(2, 5, 9)
    want_BSD = torch.cat([net(z_BSD[..., :6]), torch.tensor([6.0, 7.0, 8.0]).expand(2, 5, 3)], -1)
    torch.testing.assert_close(wide(z_BSD), want_BSD)


@pytest.mark.parametrize("changes", [{"slots": 1}, {"slots": 4}, {"slots": 4, "whole": 8, "slot_depth": 1}])
def test_decoding_step_by_step_equals_all_at_once(changes):
    decoder = tiny(**changes).decoder
    ids, e_BD = torch.randint(50, (2, 70)), torch.randn(2, 16)
    caches, cross = [KVCache(4) for _ in decoder.layers], decoder.cross(e_BD)
    steps = [decoder.step(ids[:, :3], cross, caches)] + [
        decoder.step(ids[:, t : t + 1], cross, caches) for t in range(3, 70)
    ]
    torch.testing.assert_close(torch.cat(steps, 1), decoder(ids, e_BD), atol=1e-5, rtol=1e-5)


def test_a_cache_keeps_the_chosen_rows_in_order():
    cache = KVCache(2)
    k = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 3, 2)
    cache.append(k, k)
    for rows, want in (([2, 0, 0, 1], [2, 0, 0, 1]), ([0, 3], [2, 1])):
        cache.select(torch.tensor(rows))
        found, _ = cache.append(torch.zeros(len(rows), 1, 1, 2), torch.zeros(len(rows), 1, 1, 2))
        assert found[:, 0, 0, 0].tolist() == want


@pytest.mark.parametrize("causal", [True, False])
def test_fused_and_plain_attention_agree(causal):
    q, k, v = torch.randn(3, 2, 2, 6, 8).unbind(0)
    mask = None if causal else (torch.rand(2, 1, 6, 6) < 0.7) | torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(
        attend(q, k, v, mask=mask, causal=causal), plain_attend(q, k, v, mask=mask, causal=causal)
    )


def test_positions_begin_at_step_two_sines_first():
    first = sinusoid_TM(1, 8)[0]
    rate = torch.tensor([10000 ** -(i / 3) for i in range(4)])
    torch.testing.assert_close(first, torch.cat([(2 * rate).sin(), (2 * rate).cos()]))


def test_grouped_queries_equal_repeated_keys():
    torch.manual_seed(0)
    few = Llama(LlamaConfig(width=16, ffn=24, layers=1, heads=4, head_size=8, kv_heads=2))
    many = Llama(LlamaConfig(width=16, ffn=24, layers=1, heads=4, head_size=8))
    state = few.state_dict()
    q, k, v = state["layers.0.qkv_proj.weight"].view(8, 8, 16).split([4, 2, 2])
    k, v = (t.repeat_interleave(2, 0) for t in (k, v))
    many.load_state_dict({**state, "layers.0.qkv_proj.weight": torch.cat([q, k, v]).reshape(-1, 16)})
    x_BSM = torch.randn(2, 7, 16)
    torch.testing.assert_close(few(x_BSM), many(x_BSM))


def test_impossible_shapes_name_the_cure():
    with pytest.raises(UserError, match="use 96 or 112"):
        SonarConfig(width=100, heads=8)
    with pytest.raises(UserError, match=r"use model\.kv_heads = 2"):
        LlamaConfig(heads=6, kv_heads=4)


def test_scaled_slots_weigh_less_in_the_vector_and_decode_to_the_same():
    plain, scaled = (tiny(whole=8, slots=4, norm_embedding=True, slot_scale=scale) for scale in (1.0, 0.125))
    ids, length = torch.tensor([[5, 6, 7], [8, 3, 2]]), torch.tensor([3, 2])
    a_BD, b_BD = (net.encoder(ids, length) for net in (plain, scaled))
    torch.testing.assert_close(b_BD, a_BD * torch.tensor([1.0] * 8 + [0.125] * 8))
    torch.testing.assert_close(plain.decoder(ids, a_BD), scaled.decoder(ids, b_BD))


def test_grafted_slots_add_their_code_at_the_position_of_their_number():
    net = tiny(whole=8, slots=4, slot_depth=1, norm_embedding=True).graft_()
    codes_1P, x_1TM = torch.randn(1, 8), torch.randn(1, 4, 16)
    code_PM = net.encoder.pool_attn.v_proj.weight  # 2 numbers a slot
    near_TS = torch.tensor([[-4.0 * (t - s) ** 2 for s in range(4)] for t in range(4)]).softmax(1)
    place_SP = (net.decoder.slots.place - net.decoder.slots.place.mean(0)) @ code_PM.T
    wanted = near_TS @ (codes_1P.view(4, 2) + place_SP) @ code_PM * 16**0.5 / 2
    first, last = (layer.cross_attn for layer in net.decoder.layers)
    memory_1SM = net.decoder.slots(codes_1P)
    torch.testing.assert_close(last(x_1TM, last.keys(memory_1SM))[0], wanted + last.out_proj.bias)
    assert not first(x_1TM, first.keys(memory_1SM)).any()
