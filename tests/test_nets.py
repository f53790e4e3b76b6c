"""The networks' exact shortcuts against the plain computation."""

import pytest
import torch
import torch.nn.functional as F

from sonarllm_cli.errors import UserError
from sonarllm_cli.nets.layers import KVCache, Linear, attend, onednn_serves, plain_attend, product, sinusoid_TM
from sonarllm_cli.nets.llama import Llama, LlamaConfig
from sonarllm_cli.nets.sonar import POOLINGS, Sonar, SonarConfig
from sonarllm_cli.nets.speech import SpeechConfig, SpeechEncoder

TINY = {"width": 16, "heads": 2, "ffn": 24, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 50, "embedding": 16}


def tiny(**changes):
    torch.manual_seed(0)
    return Sonar(SonarConfig(**{**TINY, **changes})).eval()


def test_a_network_without_memory_is_not_drawn(monkeypatch):
    """PyTorch imports its compiler to draw what has no memory: a second of every command's start."""
    monkeypatch.setattr("torch.nn.init.normal_", lambda *_, **__: pytest.fail("drawn"))
    with torch.device("meta"):
        with monkeypatch.context() as linear:  # of which SONAR has many
            linear.setattr("torch.nn.init.kaiming_uniform_", lambda *_, **__: pytest.fail("drawn"))
            Sonar(SonarConfig(**TINY))
        SpeechEncoder(SpeechConfig(layers=1, positions="shaw", pooling="attention"))


def test_cross_attention_to_one_vector_is_real_attention_collapsed():
    layer = tiny().decoder.layers[0]
    e_BD, x_BTM = torch.randn(3, 16), torch.randn(3, 5, 16)
    q = torch.nn.Linear(16, 16)(x_BTM)
    k, v = torch.nn.Linear(16, 16)(e_BD)[:, None], layer.cross_v_proj(e_BD)[:, None]
    split = [t.view(3, -1, 2, 8).transpose(1, 2) for t in (q, k, v)]
    real_BTM = layer.cross_out_proj(F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(3, 5, 16))
    torch.testing.assert_close(real_BTM, layer.cross(e_BD)[:, None].expand(3, 5, 16))


@pytest.mark.parametrize("pool_width", [0, 20])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_embedding(pooling, pool_width):
    encoder = tiny(pooling=pooling, pool_width=pool_width, embedding=12).encoder
    ids, length = torch.tensor([[5, 6, 7, 9, 9], [8, 3, 2, 4, 1]]), torch.tensor([3, 5])
    torch.testing.assert_close(encoder(ids, length)[:1], encoder(ids[:1, :3], length[:1]))


def test_decoding_step_by_step_equals_all_at_once():
    decoder = tiny().decoder
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


@pytest.mark.parametrize(("pool_width", "rank"), [(0, 15), (40, 40)])
def test_vectors_span_as_many_dimensions_as_features_are_pooled(pool_width, rank):
    """One less of states, whose norm takes their mean."""
    encoder = tiny(pool_width=pool_width, embedding=64).encoder
    z_BD = encoder(torch.randint(50, (300, 9)), torch.full((300,), 9))
    assert torch.linalg.matrix_rank(z_BD - z_BD.mean(0), rtol=1e-5).item() == rank


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


@pytest.mark.skipif(not onednn_serves(torch.device("cpu"), torch.float32), reason="no oneDNN here")
@pytest.mark.parametrize("rows", [(1,), (4,), (2, 3), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_and_its_gradients_are_pytorchs(rows, bias):
    torch.manual_seed(0)
    layer, x, slope = Linear(5, 7, bias=bias), torch.randn(*rows, 5, requires_grad=True), torch.randn(*rows, 7)
    own = layer(x)
    assert "Product" in own.grad_fn.name()
    read = [x, *layer.parameters()]
    found = torch.autograd.grad(own, read, slope)
    plain = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close([own, *found], [plain, *torch.autograd.grad(plain, read, slope)])
    assert product(x.detach(), layer.weight.detach()).grad_fn is None
