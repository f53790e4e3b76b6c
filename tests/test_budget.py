"""What a run is said to take against what it takes."""

import pytest
import torch
from test_loop import changed
from test_train import concept, corpus, sonar, trained  # noqa: F401

from sonarllm_cli.learn import budget, build
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.nets import layers, llama
from sonarllm_cli.nets import sonar as sonar_net
from sonarllm_cli.nets.sonar_llm import SonarLLM, SonarLLMConfig


@pytest.fixture(autouse=True)
def plain_attention(monkeypatch):
    """Which the counter sees."""
    for module in (layers, llama):
        monkeypatch.setattr(module, "attend", layers.plain_attend)


def counted(run):
    with layers.flop_counter() as counter:
        run()
    return counter.get_total_flops()


def test_flops_of_each_network_are_those_it_takes():
    config = SonarLLMConfig(width=16, ffn=24, layers=3, heads=4, head_size=8, kv_heads=2, embedding=12)
    took = counted(lambda: SonarLLM(config)(torch.zeros(5, 7, 12)))
    assert took == 5 * 7 * budget.body_token_flops(config, 12, 7)
    shape = {"width": 16, "heads": 2, "ffn": 40, "encoder_layers": 2, "decoder_layers": 3}
    config = sonar_net.SonarConfig(**shape, vocab_size=50, embedding=16)
    net, ids = sonar_net.Sonar(config), torch.zeros(5, 7, dtype=torch.long)
    assert counted(lambda: net.encoder(ids, torch.full((5,), 7))) == 35 * budget.encoder_token_flops(config, 7)
    took = counted(lambda: net.decoder(ids, torch.zeros(5, 16)))
    assert took == 35 * budget.decoder_token_flops(config, 7) + 5 * budget.cross_flops(config)


@pytest.mark.parametrize("kind", ["sonar", "sonar-llm"])
def test_flops_of_a_step_are_about_those_it_takes(corpus, trained, tmp_path, kind):  # noqa: F811
    settings = sonar(corpus) if kind == "sonar" else concept(corpus, trained / "sonar/model")
    trainer = Trainer(changed(settings, data={"max_sentences": 4}), tmp_path / "r")
    batch = trainer._epoch()[0][0]
    facts = trainer._learn(batch, 0)[1]
    space = build.space_config(str(trained / "sonar/model")) if kind == "sonar-llm" else None
    said = budget.step_flops(trainer.settings, trainer.task.model, space, facts["tokens"], facts["sentences"])
    assert trainer._count_flops(batch) * facts["tokens"] == pytest.approx(said, rel=0.1)


def test_memory_counts_every_parameter_and_shards_them(corpus, trained):  # noqa: F811
    settings = concept(corpus, trained / "sonar/model")
    count = build.trainable_parameters(settings)
    alone = budget.estimate(settings)
    assert (alone.weights, alone.gradients, alone.optimizer) == (4 * count, 4 * count, 8 * count)
    parts = budget.estimate(changed(settings, parallel={"shard": "full"}), ranks=4)
    assert (parts.weights, parts.optimizer) == (5 * count, 2 * count)
    recomputed = budget.estimate(changed(settings, parallel={"recompute": True}))
    assert recomputed.activations < alone.activations
    decoder = sum(p.numel() for p in sonar_net.Sonar(build.space_config(settings.sonar)).decoder.parameters())
    assert alone.frozen_weights == 4 * decoder
