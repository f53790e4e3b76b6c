"""The cost model against counted operations; timing, the context table, and the published loop."""

import json
import os
import sys

import pytest
import torch
from test_nets import tiny

from sonarllm_cli.bench import flops
from sonarllm_cli.bench.chain import Wish, bench_generate, published_loop
from sonarllm_cli.bench.context import PUBLISHED, bench_context, read_tokens
from sonarllm_cli.bench.peers import Peer, Weights
from sonarllm_cli.bench.speech import SpeechWish, bench_speech
from sonarllm_cli.bench.timing import clock, side_by_side
from sonarllm_cli.cli import main
from sonarllm_cli.cli.bench import tokens
from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.compose import Writing, generate_stream
from sonarllm_cli.flow.decode import Search
from sonarllm_cli.flow.write import PLAIN
from sonarllm_cli.nets import layers, llama
from sonarllm_cli.nets.layers import KVCache, onednn_serves, plain_attend
from sonarllm_cli.nets.llama import Llama, LlamaConfig
from sonarllm_cli.nets.token_lm import TokenLM, TokenLMConfig
from sonarllm_cli.runtime import Runtime, choose

BODY = LlamaConfig(width=16, ffn=24, layers=2, heads=4, head_size=8, kv_heads=2)


@pytest.fixture
def counted(monkeypatch):
    """Operations of what runs, masked scores among them."""
    for module in (layers, llama):
        monkeypatch.setattr(module, "attend", plain_attend)
    return layers.flop_counter()


def test_reading_costs_what_is_counted(counted):
    with counted:
        Llama(BODY)(torch.randn(1, 9, 16))
    assert counted.get_total_flops() == flops.body_flops(BODY, 9, causal=False)


def test_embedding_costs_what_is_counted(counted):
    net = tiny()
    with counted:
        net.encoder(torch.arange(7)[None], torch.tensor([7]))
    assert counted.get_total_flops() == flops.encoder_flops(net.config, 7 - flops.EDGE)


def test_decoding_costs_what_is_counted(counted):
    decoder = tiny().decoder
    caches, cross = [KVCache() for _ in decoder.layers], decoder.cross(torch.randn(3, 16))
    with counted, torch.enable_grad():  # with gradients the plain products run, which are counted
        for _ in range(7):
            decoder.logits(decoder.step(torch.zeros(3, 1, dtype=torch.long), cross, caches))
    assert counted.get_total_flops() == flops.decoder_flops(decoder.config, 7 - flops.EDGE, beam=3)


def test_at_the_crossover_both_cost_the_same_and_the_papers_is_there():
    for how in flops.SHOWN:
        if at := flops.crossover(PUBLISHED, 60, how):
            costs = [f(PUBLISHED, at, 60, how) for f in (flops.sonar_llm_flops, flops.token_llm_flops)]
            assert costs[0] == pytest.approx(costs[1], rel=0.01)
    assert 2048 < flops.crossover(PUBLISHED, 60, flops.PAPER) < 4096
    assert flops.crossover(PUBLISHED, 60, flops.Assumptions(writes="all")) > 20_000


def test_rounds_run_in_turns_and_a_run_may_time_itself():
    order = []
    found = side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 7.0}, rounds=3)
    assert order == ["a", "b"] * 4
    assert found["b"].seconds == (7.0, 7.0, 7.0) and found["b"].spread == 0 and len(found["a"].seconds) == 3


def test_the_context_table_marks_what_is_extrapolated(writer):
    found = bench_context(writer, 4096, per_sentence=20, time_limit=0)
    short, long = found["points"]
    assert (short["tokens"], long["tokens"]) == (1024, 4096)
    assert not short["extrapolated"] and long["extrapolated"]
    assert long["token_seconds"] > 4 * short["token_seconds"] > 0 and long["token_bytes"] == 4 * short["token_bytes"]
    with pytest.raises(UserError, match="tokens a sentence"):
        bench_context(writer, 4096, per_sentence=10_000)


def test_the_token_model_reads_in_chunks_as_at_once(monkeypatch):
    torch.manual_seed(0)
    net, ids = TokenLM(TokenLMConfig(**vars(BODY), vocab_size=50)).eval(), torch.randint(50, (23,))
    whole = net.logits(net(ids[None])[0, -1])
    monkeypatch.setattr("sonarllm_cli.bench.context.CHUNK", 5)
    torch.testing.assert_close(read_tokens(net, ids), whole, atol=1e-5, rtol=1e-5)


def test_the_published_loop_writes_what_generate_writes(writer):
    context_SD, search = torch.randn(4, writer.space.dim), Search(beam=2, max_tokens=8, **PLAIN)
    writing = Writing(max_sentences=3, stop_threshold=2, repeat_threshold=2, search=search)
    found = [s.text for s in generate_stream(context_SD, writer, writing)]
    assert published_loop(writer, context_SD, 3, search) == found


@pytest.mark.skipif(not onednn_serves(torch.device("cpu"), torch.float32), reason="PyTorch without oneDNN")
def test_generating_is_timed_in_each_dtype_against_the_published_loop(home):
    wish = Wish(model="tiny-llm", dtypes=("float32", "int8"), rounds=1, beam=2, max_tokens=6)
    rows = bench_generate(wish, sentences=2, read=4)["rows"]
    work = "next of 4, cached", "next of 4, recomputed", "2 sentences"
    want = [(*(f"{dtype}, {one}" for one in work), f"the published loop beside {dtype}") for dtype in wish.dtypes]
    assert [row["name"] for row in rows] == [*want[0], *want[1]] and rows[2]["same texts"] == 1


def test_a_missing_library_is_named(home, tmp_path, monkeypatch):
    (tmp_path / "transformers.py").write_text("raise ImportError('none')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(UserError, match="can't be imported"):
        Peer("transformers", "encoder", Weights(model="tiny"), sys.executable, 1).wait()


def test_sonar_space_hears_what_we_hear():
    pytest.importorskip("sonar")
    rows = bench_speech(SpeechWish(layers=1, count=2, rounds=1, peer="sonar-space"))["rows"]
    assert [row["cosine"] > 0.99999 for row in rows] == [True] * 4


def test_the_command_prints_a_record(home, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--context", "1K", "-m", "tiny-llm", "--tokens-per-sentence", "20", "--json"])
    assert json.loads(capsys.readouterr().out)["points"][0]["tokens"] == 1024


def test_tf32_is_a_gpus_and_float32_is_exact_again_after_it():
    with pytest.raises(UserError, match="tf32 runs on a GPU"):
        choose("cpu", "tf32")
    Runtime(device=torch.device("cuda"), dtype=torch.float32, tf32=True).use()
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    choose("cpu", "float32")
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32


def test_a_clock_waits_for_the_gpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    card = torch.device("cuda")
    assert clock(lambda: waited.append("work"), card) >= 0 and waited == [card, "work", card]


def test_a_context_is_a_number_of_tokens():
    assert [tokens(t) for t in ("1M", "64k", "777")] == [1 << 20, 64 << 10, 777]
    with pytest.raises(UserError):
        tokens("lots")
