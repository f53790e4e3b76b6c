"""Engines that are compared with ours are given the same weights, and so find the same; where they are installed."""

import pytest
import torch
from test_nets import TINY, tiny

from sonarllm_cli.bench import engines
from sonarllm_cli.bench.chain import Wish, _dtype, _peers
from sonarllm_cli.bench.peers import random_sonar
from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.decode import Search, beam_search
from sonarllm_cli.nets.sonar import SonarConfig
from sonarllm_cli.runtime import choose
from sonarllm_cli.tokens import Tokenizer
from sonarllm_cli.weights.loaded import Space


class Words(Tokenizer):
    """Ids alone."""

    def __init__(self):
        pass

    vocab_size = 50


@pytest.mark.parametrize(("dtype", "same"), [("float32", 3), ("int8", 0)])
def test_ctranslate2_finds_what_our_search_finds(dtype, same):
    pytest.importorskip("ctranslate2")
    net = random_sonar(SonarConfig(**TINY), "decoder")
    vectors_SD = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))  # other vectors have near ties
    run, versions = engines.ctranslate2_decoder(net, dtype)
    found = run({"embeddings": vectors_SD.tolist(), "prompt": [3, 40], "beam": 3, "max_tokens": 12})["ids"]
    space = Space("tiny", "", Words(), net, choose("cpu", "float32"))
    with torch.inference_mode():
        want = [hyps[0][0] for hyps in beam_search(space, vectors_SD, [3, 40], Search(beam=3, max_tokens=12))]
    assert "ctranslate2" in versions and all(0 < len(ids) <= 10 for ids in found)
    assert sum(list(ours) == theirs for ours, theirs in zip(want, found)) >= same


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("int8", 0.99)])
def test_onnxruntime_embeds_what_our_encoder_embeds(dtype, least):
    for module in ("onnxruntime", "onnxscript"):
        pytest.importorskip(module)
    encoder = tiny().requires_grad_(False)
    ids = [[5, 6, 7, 9, 3], [8, 3, 2], [4, 4, 1, 3]]
    embed, _ = engines.onnxruntime_encoder(encoder, dtype)
    alone = [encoder.encoder(torch.tensor([i]), torch.tensor([len(i)]))[0] for i in ids]
    assert torch.cosine_similarity(embed(ids), torch.stack(alone)).min() >= least


def test_an_engine_is_asked_for_what_it_does_in_each_of_its_dtypes(home, monkeypatch):
    with pytest.raises(UserError, match="is compared on the decoder alone; use it with bench decode"):
        _peers(Wish(model="tiny", peer="ctranslate2"), "encoder")
    monkeypatch.setattr("sonarllm_cli.bench.chain._peer", lambda wish, part, dtype: dtype)
    peers = _peers(Wish(model="tiny", peer="ctranslate2"), "decoder")
    assert peers == {"ctranslate2 float32": "float32", "ctranslate2 int8": "int8"}
    assert [_dtype(name) for name in ("int8, 8 at once", "ctranslate2 int8, 1 at once")] == ["int8", "int8"]
