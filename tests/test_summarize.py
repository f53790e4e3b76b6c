"""A summary: written or extracted, its sources, in another language."""

import dataclasses
import logging
import math

import pytest
import torch

from sonarllm_cli.flow.compose import Writing
from sonarllm_cli.flow.decode import Search, decode
from sonarllm_cli.flow.embed_text import embed_sentences
from sonarllm_cli.flow.familiar import reconstruction
from sonarllm_cli.flow.summarize import shortened, summarize
from sonarllm_cli.flow.write import PLAIN

SHORT = Search(beam=2, max_tokens=8, **PLAIN)


def test_extract_gives_distinct_sentences_of_the_article(writer):
    article = "The first one is here. A second follows it. Then a third. And a last."
    found = summarize(article, sentences=3, extract=True, model=writer, writing=Writing(search=SHORT))
    assert len({s.text for s in found}) == 3
    assert all(article[s.start : s.end] == s.text == s.sources[0][1] for s in found)
    assert [s.start for s in found] == sorted(s.start for s in found)


@pytest.mark.parametrize("text", ["Sure.", "Sure", "We left at noon."])
def test_a_text_of_one_sentence_is_its_own_summary(writer, monkeypatch, text):
    """Also where its field is known and what is written would do."""
    monkeypatch.setattr("sonarllm_cli.flow.summarize.SUPPORT", 0)
    familiar = dataclasses.replace(writer, familiar=math.inf)
    assert [s.text for s in summarize(text, model=familiar, beam=1, max_tokens=8)] == [text]


def test_an_extract_in_another_language_is_decoded_from_the_sentences_own_vectors(writer):
    how = {"beam": 1, "max_tokens": 8}
    article = ["The first one is here.", "A second follows it.", "Then a third."]
    found = summarize(" ".join(article), sentences=2, extract=True, out_lang="ita_Latn", model=writer, **how)
    own = [article[s.sources[0][0]] for s in found]
    embedding_SD = embed_sentences(own, "eng_Latn", writer.space)
    want = [h[0] for h in decode(embedding_SD, lang="ita_Latn", model=writer.space, **how)]
    assert [(s.text, s.how) for s in found] == [(h.text, "extracted") for h in want]
    assert [s.score for s in found] == pytest.approx([h.score for h in want], abs=1e-4)


def test_cite_names_the_nearest_sentences_with_their_cosines(writer):
    article = ["The first one is here.", "A second follows it.", "Then a third."]
    found = summarize(" ".join(article), sentences=1, cite=2, model=writer, writing=Writing(search=SHORT))[0]
    article_SD = embed_sentences(article, "eng_Latn", writer.space)
    own_D = embed_sentences([found.text], "eng_Latn", writer.space)
    cosine = torch.nn.functional.cosine_similarity(article_SD, own_D)
    best = cosine.topk(2)
    assert [i for i, _, _ in found.sources] == best.indices.tolist()
    assert [c for _, _, c in found.sources] == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("extract", "share", "least", "own"),
    [(None, 0.9, 0, True), (None, 1.1, 0, False), (None, 1.1, 9, True), (False, 0.9, 9, False)],
)
def test_text_that_is_better_not_rewritten_is_summarised_in_its_own_sentences(
    writer, caplog, monkeypatch, extract, share, least, own
):
    """Where the space knows little of it, or what was written has less than `least` of an extract's support."""
    monkeypatch.setattr("sonarllm_cli.flow.summarize.SUPPORT", least)
    article = ["The first one is here.", "A second follows it.", "Then a third."]
    bits = reconstruction(article, embed_sentences(article, "eng_Latn", writer.space), "eng_Latn", writer.space)
    familiar = dataclasses.replace(writer, familiar=bits * share)
    with caplog.at_level(logging.INFO, "sonarllm"):
        how = {"model": familiar, "extract": extract, "writing": Writing(search=SHORT)}
        found = summarize(" ".join(article), name="news.txt", **how)
    said = [record.getMessage() for record in caplog.records]
    assert all(s.text in article for s in found) == own == any("(--abstract: what it w" in line for line in said)
    assert all(line.startswith("news.txt") for line in said if "own sentences" in line)
    assert {s.how for s in found} == {"extracted" if own else "written"}
    assert all((s.score is None) == own == (s.start is not None) for s in found)


def test_a_summary_is_written_without_a_wish_for_short_sentences_unless_told(writer, monkeypatch):
    def wished(**options):
        seen = []
        monkeypatch.setattr(
            "sonarllm_cli.flow.summarize.generate_stream", lambda _, __, how, *a, **k: seen.append(how) or []
        )
        shortened(["A text."], torch.zeros(1, writer.space.dim), writer, Writing().but(**options), 1)
        return seen[0].search.length_penalty

    assert (wished(), wished(length_penalty=0.7)) == (1.0, 0.7)


def test_an_extract_in_another_language_is_said_to_be_translated(writer, caplog):
    article = "The first one is here. A second follows it. Then a third."
    with caplog.at_level(logging.INFO, "sonarllm"):
        summarize(
            article, model=dataclasses.replace(writer, familiar=0.0), writing=Writing(search=SHORT, out_lang="ita_Latn")
        )
    assert any("the text's own sentences, translated (--abstract" in record.getMessage() for record in caplog.records)
