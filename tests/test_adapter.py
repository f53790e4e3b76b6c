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
    from sentence_transformers.evaluation import TranslationEvaluator

    [[score, i, j], *_] = util.paraphrase_mining(model, [*TEXTS, TEXTS[1]], show_progress_bar=False)
    assert score == pytest.approx(1, abs=1e-5) and {i, j} == {1, 3}
    vectors = model.encode_document(TEXTS, convert_to_tensor=True)
    hits = util.semantic_search(model.encode_query(TEXTS, convert_to_tensor=True), vectors, top_k=1)
    assert [[hit["corpus_id"] for hit in own] for own in hits] == [[0], [1], [2]]
    found = TranslationEvaluator(TEXTS, TEXTS, write_csv=False)(model)
    assert found["mean_accuracy"] == 1 and model.model_card_data.found == {"TranslationEvaluator": found}
