"""The adapter gives what `embed` gives, in sentence-transformers' forms; and that library's own code runs on it."""

import numpy as np
import pytest
import torch

from sonarllm_cli import SentenceEncoder
from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.embed import embed
from sonarllm_cli.runtime import choose

TEXTS = ["A music player.", "A chess game.", "Tools for backups."]


@pytest.fixture
def model(home):
    return SentenceEncoder("tiny", runtime=choose("cpu"))


def test_vectors_are_embeds_in_the_form_that_was_asked_for(model):
    want = embed(TEXTS, model="tiny", runtime=choose("cpu"))
    assert np.array_equal(model.encode(TEXTS, batch_size=2), want)
    assert np.array_equal(model.encode(TEXTS[1]), want[1])
    assert torch.equal(model.encode(TEXTS, convert_to_tensor=True), torch.from_numpy(want))
    assert [v.shape for v in model.encode(TEXTS, convert_to_numpy=False)] == [(64,)] * 3
    assert model.encode([]).shape == (0, model.get_embedding_dimension())
    assert np.allclose(np.linalg.norm(model.encode(TEXTS, normalize_embeddings=True), axis=1), 1)
    assert np.array_equal(model.encode_query(TEXTS, truncate_dim=8), want[:, :8])


def test_a_language_may_be_told_text_by_text(home, model):
    german = embed(TEXTS[:1], lang="deu_Latn", model="tiny", runtime=choose("cpu"))
    assert np.array_equal(model.encode(TEXTS[:1], lang="de"), german)
    telling = SentenceEncoder("tiny", lang=lambda text: "de" if "music" in text else "en", runtime=choose("cpu"))
    assert np.array_equal(telling.encode(TEXTS), np.concatenate([german, model.encode(TEXTS[1:])]))


def test_similarity_is_the_cosine(model):
    a_ND, b_MD = np.random.default_rng(0).standard_normal((2, 3, 5))
    want = a_ND @ b_MD.T / np.linalg.norm(a_ND, axis=1)[:, None] / np.linalg.norm(b_MD, axis=1)
    assert np.allclose(model.similarity(a_ND, b_MD), want, atol=1e-6)
    assert np.allclose(model.similarity_pairwise(a_ND, b_MD), np.diag(want), atol=1e-6)


@pytest.mark.parametrize("option", [{"prompt": "query: "}, {"precision": "int8"}, {"output_value": "token_embeddings"}])
def test_what_the_encoder_cannot_do_is_refused(model, option):
    with pytest.raises(UserError, match="means nothing"):
        model.encode(TEXTS, **option)


def test_sentence_transformers_own_code_runs_on_it(model):
    util = pytest.importorskip("sentence_transformers.util")
    from sentence_transformers.sentence_transformer.evaluation import TranslationEvaluator

    [[score, i, j], *_] = util.paraphrase_mining(model, [*TEXTS, TEXTS[1]], show_progress_bar=False)
    assert score == pytest.approx(1, abs=1e-5) and {i, j} == {1, 3}
    vectors = model.encode_document(TEXTS, convert_to_tensor=True)
    hits = util.semantic_search(model.encode_query(TEXTS, convert_to_tensor=True), vectors, top_k=1)
    assert [[hit["corpus_id"] for hit in own] for own in hits] == [[0], [1], [2]]
    found = TranslationEvaluator(TEXTS, TEXTS, write_csv=False)(model)
    assert found["mean_accuracy"] == 1 and model.model_card_data.found == {"TranslationEvaluator": found}


def test_mtebs_own_bitext_task_runs_on_it_in_the_tasks_languages(model, monkeypatch):
    """A pair's columns are each in one of its two languages; a parallel task's are named for theirs."""
    mteb, datasets = pytest.importorskip("mteb"), pytest.importorskip("datasets")
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining

    facts = {
        "name": "OwnBitext",
        "type": "BitextMining",
        "category": "t2t",
        "modalities": ["text"],
        "description": "own",
    }
    facts |= {"dataset": {"path": "own/bitext", "revision": "1"}, "reference": None, "eval_splits": ["test"]}
    facts |= {"eval_langs": {"de-en": ["deu-Latn", "eng-Latn"]}, "main_score": "f1"}
    german = ["Der Hund schläft unter dem Tisch.", "Wir haben heute keine Zeit.", "Das Schachspiel ist alt."]
    english = ["The dog is sleeping under the table.", "We have no time today.", "The chess game is old."]

    class Own(AbsTaskBitextMining):
        metadata = TaskMetadata(**facts)

        def load_data(self, **_):
            columns = {"sentence1": german, "sentence2": english}
            self.dataset = {"de-en": datasets.DatasetDict(test=datasets.Dataset.from_dict(columns))}
            self.data_loaded = True

    asked, heard = [], type(model.encoder).stream

    def stream(self, lines, **options):
        asked.extend((line.text, line.lang) for line in lines)
        return heard(self, lines, **options)

    monkeypatch.setattr(type(model.encoder), "stream", stream)
    result = mteb.evaluate(model, Own(), cache=None, show_progress_bar=False)
    assert asked == [(t, "deu_Latn") for t in german] + [(t, "eng_Latn") for t in english]
    a_ND, b_ND = model.encode(german, lang="de"), model.encode(english, lang="en")
    right = model.similarity(a_ND, b_ND).argmax(1) == torch.arange(3)
    [[scores]] = [found.scores["test"] for found in result.task_results]
    assert scores["accuracy"] == pytest.approx(right.float().mean().item())
    assert result.model_name == "sonarllm/tiny" and result.model_revision == model.encoder.fingerprint
