"""Each kind that writes: trained, saved, loaded, run with a cache and without; losses against the law spelled out."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.compose import Writing, generate, generate_stream
from sonarllm_cli.flow.decode import Hypothesis, Search
from sonarllm_cli.flow.embed_text import embed_sentences
from sonarllm_cli.flow.predict import Reader, predict, predict_all
from sonarllm_cli.flow.summarize import summarize
from sonarllm_cli.flow.write import author_of
from sonarllm_cli.learn.build import trainable_parameters
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.recipe import build, load
from sonarllm_cli.nets.diffusion_lcm import alpha_bar
from sonarllm_cli.nets.kinds import ROWS, WRITERS
from sonarllm_cli.nets.packed import Int8Linear
from sonarllm_cli.runtime import choose
from sonarllm_cli.score.tasks import TASKS, evaluate
from sonarllm_cli.weights.loaded import load_writer

SHORT = Search(beam=2, max_tokens=8)
VECTORS = tuple(row.name for row in ROWS if row.normaliser)  # their losses are of embeddings, not of words


@pytest.fixture(scope="module")
def runs(parity_home, tmp_path_factory):
    """A folder with a tiny trained model of each kind, in the space `tiny`, and the documents they saw."""
    folder = tmp_path_factory.mktemp("kinds")
    rows = [{"title": f"tool {i}", "text": f"It is tool {i}. It works. It is fast. It is free."} for i in range(12)]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONARLLM_HOME", str(parity_home))
        for kind in WRITERS:
            Trainer(settings(folder, kind), folder / kind).run()
    return folder


def settings(folder, kind, **optim):
    diffusion = {"context_layers": 1, "steps": 20, "inference_steps": 5} if kind == "diffusion-lcm" else {}
    files = {"documents": ["docs.jsonl"], "valid_documents": ["docs.jsonl"]}
    table = {
        "kind": kind,
        "name": f"tiny-{kind}",
        "sonar": "tiny",
        "model": {"width": 16, "ffn": 32, "layers": 1, "heads": 2, "head_size": 8} | diffusion,
        "data": {"root": str(folder), "max_tokens": 64} | files,
        "optim": {"steps": 6, "batch_tokens": 300, "documents": 6, "warmup": 1, "lr": 1e-2} | optim,
        "run": {"weights": "float32"},
    }
    return build(table)


@pytest.fixture(params=WRITERS)
def writer(request, runs, home):
    return load_writer(str(runs / request.param / "model"))


@pytest.fixture
def task(request, runs, home, tmp_path):
    """The task of a kind, untrained."""
    return Trainer(settings(runs, request.param), tmp_path / "run").task


@pytest.mark.parametrize("kind", WRITERS)
def test_the_loss_falls(runs, kind):
    lines = [json.loads(line) for line in (runs / kind / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6
    log = {name: lines[-1][name] for name in lines[-1] if name.startswith("valid_")}
    assert ("valid_text_mse" in log) == (kind in VECTORS) and all(math.isfinite(v) for v in log.values())


def test_a_folder_says_its_kind_space_and_normaliser(runs, home, writer):
    config = json.loads((runs / writer.kind / "model/config.json").read_text())
    assert config["kind"] == writer.kind and config["sonar"]["fingerprint"] == writer.space.fingerprint
    if writer.kind in VECTORS:
        assert (writer.net.normaliser.scale > 0).all() and writer.net.normaliser.center.abs().sum() > 0
    count = trainable_parameters(settings(runs, writer.kind))
    net = load_writer(str(runs / writer.kind / "model"), trainable=True).net  # a packed one has no parameters to count
    assert count == sum(p.numel() for name, p in net.named_parameters() if "normaliser" not in name)


def test_in_int8_every_kind_predicts_nearly_what_it_does_in_float32(runs, writer):
    """The concept model too has int8 products, not its space alone."""
    near = load_writer(str(runs / writer.kind / "model"), choose("cpu", "int8"))
    assert any(isinstance(module, Int8Linear) for module in near.net.modules())
    if writer.kind == "token-llm":
        ids_1T = torch.arange(4, 12)[None]
        with torch.inference_mode():
            want, found = (one.net.logits(one.net(ids_1T)) for one in (writer, near))
    else:
        context_SD = torch.randn(5, writer.space.dim)
        want, found = (predict_all(one, context_SD, torch.Generator().manual_seed(0)) for one in (writer, near))
    assert torch.cosine_similarity(want.flatten(0, -2), found.flatten(0, -2)).min() > 0.995


def test_every_kind_continues_and_summarises(writer):
    writing = Writing(max_sentences=2, search=SHORT, stop_threshold=2, repeat_threshold=2)
    assert len(generate("It is good. It works.", model=writer, writing=writing)) == 2
    assert len(summarize("It is good. It works.", sentences=1, model=writer, writing=Writing(search=SHORT))) == 1


def test_no_kind_writes_a_token_twice_in_a_text_where_none_may(writer):
    def repeated(count):
        search = Search(temperature=5.0, max_tokens=40, no_repeat_ngram=count)
        author = author_of(writer, writer.lang, search, torch.Generator().manual_seed(0))
        texts, ids = ["It is good. It works."], []
        for _ in range(3):
            [best], _ = author.next(texts, embed_sentences(texts, writer.lang, writer.space))
            texts = [best.text]
            ids += best.ids[:-1]
        return len(ids) - len(set(ids))

    assert repeated(0) > 0 == repeated(1)


def test_no_kind_says_its_ending(writer, monkeypatch):
    """Whatever a kind's author proposes: the ending's words in any form are passed over, or end the text."""
    zero_1D = torch.eye(1, writer.space.dim)
    said = ["End of sequence.", "END OF  SEQUENSE", "End of", "End of sequence music players", "Summary:", "A tool."]
    writer = dataclasses.replace(writer, marker="Summary:")

    class Author:
        def next(self, *_):
            return [Hypothesis(text, 0.0, ()) for text in said], zero_1D

    monkeypatch.setattr("sonarllm_cli.flow.compose.author_of", lambda *_: Author())
    monkeypatch.setattr("sonarllm_cli.flow.special.Special.cosine", lambda *_: 0.0)
    written = list(generate_stream(zero_1D, writer, Writing(max_sentences=2, min_sentences=1)))
    assert [(s.text, s.ended) for s in written] == [("A tool.", True)]
    said.pop()
    assert not list(generate_stream(zero_1D, writer, Writing(max_sentences=2, min_sentences=1)))


def test_reading_with_a_cache_predicts_what_the_whole_context_does(writer):
    if writer.kind == "token-llm":
        pytest.skip("it predicts no embedding; see below")
    document_SD = torch.randn(6, writer.space.dim, generator=torch.Generator().manual_seed(0))
    reader = Reader(writer, torch.Generator().manual_seed(1))
    one_by_one = []
    for cut in ((0, 3), (3, 4), (4, 6)):
        reader.generator = torch.Generator().manual_seed(cut[1])
        found = reader.read(document_SD[slice(*cut)])
        again = predict(writer, document_SD[: cut[1]], torch.Generator().manual_seed(cut[1]))
        torch.testing.assert_close(found, again, atol=1e-4, rtol=1e-4)
        one_by_one.append(found)
    if writer.kind != "diffusion-lcm":  # whose noise is drawn in one go there
        torch.testing.assert_close(
            predict_all(writer, document_SD)[[2, 3, 5]], torch.stack(one_by_one), atol=1e-4, rtol=1e-4
        )


def plain_beam(writer, ids, beam, limit):
    """Beam search by reading everything anew for each hypothesis: `</s>` counts among the best `beam` of a step."""
    alive, done = [(0.0, [])], []
    for place in range(limit):
        grown = []
        for score, words in alive:
            log_V = writer.net.logits(writer.net(torch.tensor([[*ids, *words]]))[0, -1]).log_softmax(-1)
            log_V = log_V[: writer.space.tokenizer.vocab_size].clone()
            log_V[0] = -math.inf
            choices = [3] if place == limit - 1 else range(1, len(log_V))
            grown += [(score + log_V[v].item(), [*words, v]) for v in choices]
        grown = sorted(grown, reverse=True)[: 2 * beam]
        done += [(s / (len(w) + 1), w) for s, w in grown[:beam] if w[-1] == 3][: beam - len(done)]
        alive = [(s, w) for s, w in grown if w[-1] != 3][:beam]
        if len(done) == beam:
            break
    return [tuple(w) for _, w in sorted(done, reverse=True)]


def test_a_token_llm_writes_with_its_cache_what_it_does_without(runs, home):
    writer = load_writer(str(runs / "token-llm/model"))
    search = Search(beam=3, num_return=3, max_tokens=8)
    author, ids = author_of(writer, "eng_Latn", search), list(writer.space.tokenizer.prompt("eng_Latn"))
    for texts in (["It is tool 3.", "It works."], ["It is fast."]):
        found, _ = author.next(texts, embed_sentences(texts, "eng_Latn", writer.space))
        ids += [i for words in writer.space.tokenizer.content(texts) for i in [*words, 3]]
        assert [h.ids for h in found] == plain_beam(writer, ids, 3, 6)


def test_a_token_llm_writes_no_other_language(runs, home):
    writer = load_writer(str(runs / "token-llm/model"))
    other = next(lang for lang in writer.space.tokenizer.langs if lang != "eng_Latn")
    with pytest.raises(UserError, match="leave --out-lang out"):
        generate("It works.", model=writer, writing=Writing(out_lang=other))


def test_a_seed_decides_what_diffusion_writes(runs, home):
    folder = str(runs / "diffusion-lcm/model")
    context = torch.zeros(2, load_writer(folder).space.dim)

    def drawn(seed, **options):
        writer = load_writer(folder, choose("cpu", seed=seed))
        sampling = dataclasses.replace(writer.net.config, **options)
        return Reader(writer, writer.space.runtime.generator(), sampling).read(context)

    assert drawn(1).equal(drawn(1)) and not drawn(1).equal(drawn(2))
    assert not drawn(1).equal(drawn(1, guidance=1.0)) and not drawn(1).equal(drawn(1, inference_steps=2))


def test_only_diffusion_takes_guidance(runs, home):
    with pytest.raises(UserError, match="makes no embedding from noise"):
        generate(
            "It works.", model=load_writer(str(runs / "mse-lcm/model")), writing=Writing(sampling={"guidance": 2.0})
        )


@pytest.mark.parametrize("task", ["token-llm"], indirect=True)
def test_the_token_loss_is_that_of_each_token_read_one_by_one(task):
    """The words and `</s>` of all sentences but the first; after a marker, of what follows it."""
    table, net = task.table, task.model.eval()
    for summary in (False, True):
        document = task.data.document(task.data.train, 0, summary)
        ids, want = [*task.space.tokenizer.prompt("eng_Latn")], []
        for place, row in enumerate(document.rows):
            for word in table.ids[row][2:]:
                log_p = F.log_softmax(net.logits(net(torch.tensor([ids]))[0, -1]), -1)
                if place >= document.scored:
                    want.append(-log_p[word].item())
                ids.append(word)
        loaded = task._loaded([document])
        nll_N, row_N = task._score(loaded.groups, 1.0)[1], loaded.row_N
        assert row_N.tolist() == document.rows[document.scored :].tolist()
        assert nll_N.sum().item() == pytest.approx(sum(want), rel=1e-4)
        assert len(want) == table.labels[row_N].sum()


@pytest.mark.parametrize("task", ["mse-lcm"], indirect=True)
def test_the_error_is_of_normalised_embeddings_and_a_mean_over_sentences(task):
    step = task.steps(task.epoch(0))[0]
    normal, net = task.normaliser, task.model.eval()
    errors = []
    for document in (d for batch in step for d in batch.documents):
        x_SD = task.table.embeddings(document.rows)
        predicted_SD = net(x_SD[None, :-1])[0]
        for place in range(document.scored, len(document.rows)):
            errors.append((normal(predicted_SD[place - 1]) - normal(x_SD[place])).square().sum())
    found = sum(task.loss(batch, torch.Generator())[0] for batch in step)
    assert found.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


@pytest.mark.parametrize("task", ["diffusion-lcm"], indirect=True)
def test_the_diffusion_loss_of_a_gaussian_is_its_posterior_variance(task):
    """With the exact denoiser of independent normal dimensions, the loss is D times the mean over steps of
    (1 − ᾱ)/(ᾱ + 1 − ᾱ) of normalised variance 1: what no denoiser can undercut."""
    z_ND = torch.randn(task.table.embeddings_ND.shape, generator=torch.Generator().manual_seed(0))
    z_ND *= z_ND.shape[1] ** 0.5 / z_ND.norm(dim=1, keepdim=True)  # so few draws have their variance exactly
    task.table.embeddings_ND = z_ND * 2 + 1
    normal = task.normaliser
    normal.center.data.fill_(1.0), normal.scale.data.fill_(2.0)
    task.model.forward = lambda context, x, step, mask: task.model.alpha(step).float().sqrt()[..., None] * x
    documents = [task.data.document(task.data.train, i, i % 2 == 0) for i in range(12)]
    found = torch.cat(
        [task._errors(task._loaded(documents), torch.Generator().manual_seed(s)) for s in range(60)]
    ).mean()
    alpha_T = alpha_bar(task.config)
    assert found.item() == pytest.approx(task.space.dim * (1 - alpha_T).mean().item(), rel=0.03)


@pytest.mark.parametrize("task", ["diffusion-lcm"], indirect=True)
def test_a_target_is_denoised_from_what_stands_before_it(task):
    """Column 0 is the zero vector; sentence k sees columns 0 … k, which are the sentences before it."""
    seen = []
    task.model.forward = lambda context, x, step, mask: seen.append(mask) or x
    task.model.config = dataclasses.replace(task.config, drop=0.0)
    text, title = (task.data.document(task.data.train, 0, summary) for summary in (False, True))
    task._errors(task._loaded([text]), torch.Generator().manual_seed(0))
    task._errors(task._loaded([title]), torch.Generator().manual_seed(0))
    assert seen[0][0].sum(1).tolist() == list(range(2, len(text.rows) + 1))
    assert seen[1][0].sum(1).tolist() == [len(title.rows) - 1, len(title.rows)]


def test_every_kind_takes_every_task_of_texts(runs, home, writer):
    for name in ("summarize", "nextsentence", "generate", "nlg"):
        found = evaluate(
            name, str(runs / writer.kind / "model"), [str(runs / "docs.jsonl")], runtime=choose("cpu"), limit=2, beam=1
        )
        assert all(math.isfinite(v) for v in found["figures"].values()), name
        assert found["model"]["kind"] == writer.kind and found["model"]["name"] == f"tiny-{writer.kind}"


def test_the_next_sentence_of_a_token_llm_is_scored_as_in_training(runs, home, tmp_path):
    task = Trainer(settings(runs, "token-llm"), tmp_path / "run").task
    writer = load_writer(str(runs / "token-llm/model"))
    task.model = writer.net
    documents = [task.data.document(task.data.train, i, False) for i in range(len(task.data.train))]
    loaded = task._loaded(documents)
    nll_N, row_N = task._score(loaded.groups, 1.0)[1], loaded.row_N
    found = evaluate("nextsentence", str(runs / "token-llm/model"), [str(runs / "docs.jsonl")], runtime=choose("cpu"))
    assert found["figures"]["clean nats a token"] == round(nll_N.sum().item() / int(task.table.labels[row_N].sum()), 2)
    assert "reference nats a token" not in found["figures"]


def test_seeds_give_a_mean_and_a_deviation(runs, home):
    def figures(**options):
        model, data = str(runs / "diffusion-lcm/model"), [str(runs / "docs.jsonl")]
        return evaluate("nextsentence", model, data, runtime=choose("cpu"), limit=3, **options)

    each = [figures(seed=seed)["figures"]["clean nats a token"] for seed in (5, 6, 7)]
    together = figures(seed=5, seeds=3)
    assert together["figures"]["clean nats a token"] == pytest.approx(sum(each) / 3, abs=0.011)
    assert together["deviation"]["sentences"] == 0 and together["settings"]["seeds"] == 3
    assert "nlg" in TASKS


def test_a_recipe_says_what_is_different_for_a_kind(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        'kind = "sonar-llm"\nname = "{kind}-x"\n[optim]\nlr = 1.0\nclip = 2.0\n[for.mse-lcm.optim]\nlr = 3.0\n'
    )
    own, other = load(str(path)), load(str(path), ["kind=mse-lcm"])
    assert (own.name, own.optim.lr, own.optim.clip) == ("sonar-llm-x", 1.0, 2.0)
    assert (other.name, other.optim.lr, other.optim.clip) == ("mse-lcm-x", 3.0, 2.0)
    assert load(str(path), ["kind=mse-lcm", "optim.lr=5.0"]).optim.lr == 5.0
    path.write_text('kind = "sonar-llm"\n[for.mse-lmc]\nname = "x"\n')
    with pytest.raises(UserError, match="did you mean 'mse-lcm'"):
        load(str(path))
