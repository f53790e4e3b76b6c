"""Packed layers against the plain ones they replace."""

import copy

import pytest
import torch
from test_nets import tiny

from sonarllm_cli.flow.decode import best_tokens, log_softmax
from sonarllm_cli.nets.layers import onednn_serves
from sonarllm_cli.nets.packed import Int8Linear, PackedLinear, int8_tokens, pack_
from sonarllm_cli.nets.sonar import POOLINGS
from sonarllm_cli.runtime import choose
from sonarllm_cli.tokens import PAD, Tokenizer
from sonarllm_cli.weights.loaded import Space, packed

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not onednn_serves(CPU, torch.float32), reason="PyTorch without oneDNN")
IDS, LENGTHS = torch.tensor([[5, 6, 7, 9, 9], [8, 3, 2, 4, 1], [7, 7, 3, 9, 9]]), [3, 5, 3]


def flat(ids, lengths):
    return torch.cat([row[:n] for row, n in zip(ids, lengths)])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_texts_end_to_end_equal_padded_ones(pooling):
    encoder = tiny(pooling=pooling, embedding=12).encoder
    with torch.inference_mode():
        plain = encoder(IDS, torch.tensor(LENGTHS))
        torch.testing.assert_close(encoder.ragged(flat(IDS, LENGTHS), LENGTHS), plain)


@needs_onednn
@pytest.mark.parametrize(
    "changes",
    [{"pooling": "max"}, {"tied": True, "pool_width": 24}],
)
def test_a_packed_network_computes_the_same(changes):
    net = tiny(**changes)
    fast = pack_(copy.deepcopy(net))
    with torch.inference_mode():
        e_BD = net.encoder(IDS, torch.tensor(LENGTHS))
        torch.testing.assert_close(fast.encoder.ragged(flat(IDS, LENGTHS), LENGTHS), e_BD, atol=1e-5, rtol=1e-5)
        plain = net.decoder.logits(net.decoder(IDS, e_BD))
        torch.testing.assert_close(fast.decoder.logits(fast.decoder(IDS, e_BD)), plain, atol=1e-5, rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize("tied", [False, True])
def test_a_space_packed_to_embed_with_leaves_the_one_that_trains_as_it_was(tied):
    net = tiny(tied=tied)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = packed(Space("tiny", "", Tokenizer.__new__(Tokenizer), net, choose("cpu", "float32"))).net
    with torch.inference_mode():
        e_BD = net.encoder(IDS, torch.tensor(LENGTHS))
        torch.testing.assert_close(fast.encoder.ragged(flat(IDS, LENGTHS), LENGTHS), e_BD, atol=1e-5, rtol=1e-5)
    assert any(isinstance(module, PackedLinear) for module in fast.encoder.modules()) and fast.decoder is net.decoder
    after = net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    net.decoder(IDS, e_BD.clone()).sum().backward()


@needs_onednn
def test_a_packed_network_refuses_gradients():
    decoder = pack_(tiny()).decoder
    with pytest.raises(RuntimeError, match="trainable=True"):
        decoder(IDS, torch.randn(3, 16, requires_grad=True))


@needs_onednn
@pytest.mark.parametrize("positive", [True, False])
def test_the_int8_product_equals_its_plain_twin(positive):
    linear = torch.nn.Linear(64, 32)
    x = torch.randn(300, 64).abs() if positive else torch.randn(300, 64)
    fast = Int8Linear(copy.deepcopy(linear), positive=positive)
    q, scale = int8_tokens(x, fast.zero)
    w_scale = linear.weight.detach().abs().amax(1) / 127
    w = (linear.weight.detach() / w_scale[:, None]).round()
    plain = ((q.double() - fast.zero) @ w.double().T) * scale * w_scale + linear.bias.detach()
    torch.testing.assert_close(fast(x.detach()), plain.float(), atol=1e-5, rtol=1e-5)
    assert (fast(x) - linear(x)).norm() / linear(x).norm() < 0.012


@needs_onednn
def test_an_int8_network_is_near_and_a_text_is_the_same_whatever_stands_beside_it():
    net = tiny()
    fast = pack_(copy.deepcopy(net), int8=True)
    with torch.inference_mode():
        found = fast.encoder.ragged(flat(IDS, LENGTHS), LENGTHS)
        cosine = torch.nn.functional.cosine_similarity(found, net.encoder(IDS, torch.tensor(LENGTHS)))
        assert cosine.min() > 0.999
        torch.testing.assert_close(fast.encoder.ragged(IDS[0, :3], [3])[0], found[0], atol=1e-6, rtol=0)
        want = net.decoder.logits(net.decoder(IDS, found))
        assert (fast.decoder.logits(fast.decoder(IDS, found)) - want).norm() / want.norm() < 0.03


def test_best_tokens_are_those_of_log_softmax():
    logits = torch.randn(19, 40)
    plain = log_softmax(logits.clone(), 37)
    plain[:, PAD] = -torch.inf
    want = plain.topk(6)
    found = best_tokens(logits.clone(), 37, 6)
    torch.testing.assert_close(found[0], want.values)
    assert (found[1] == want.indices).all()
