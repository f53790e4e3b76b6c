"""The chain composed: prediction with cache and without, stop rules, feedback, no repetition."""

import dataclasses
import logging
import math

import pytest
import torch

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.compose import (
    NEVER,
    Writing,
    continuation,
    generate,
    generate_stream,
)
from sonarllm_cli.flow.decode import Search, decode
from sonarllm_cli.flow.embed_text import embed_sentences
from sonarllm_cli.flow.familiar import blurred, reconstruction
from sonarllm_cli.flow.predict import Reader, predict
from sonarllm_cli.flow.read import read_document
from sonarllm_cli.flow.summarize import summarize
from sonarllm_cli.flow.write import PLAIN, PREDICTED, author_of

SHORT = Search(beam=2, max_tokens=8, **PLAIN)


def context(writer, count=9):
    return torch.randn(count, writer.space.dim, generator=torch.Generator().manual_seed(count))


def test_reading_with_a_cache_predicts_what_the_whole_context_does(writer):
    document_SD, reader = context(writer), Reader(writer)
    for cut in ((0, 4), (4, 5), (5, 6), (6, 9)):  # several at once, one, one, several after a cache
        found = reader.read(document_SD[slice(*cut)])
        torch.testing.assert_close(found, predict(writer, document_SD[: cut[1]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("feedback", ["reembed", "latent"])
def test_what_is_written_equals_the_loop_spelled_out(writer, feedback):
    document_SD, want = context(writer, 3), []
    for _ in range(3):
        next_D = predict(writer, document_SD)
        text = decode(next_D, model=writer.space, beam=2, max_tokens=8)[0][0].text
        want.append(text)
        again_D = embed_sentences([text], "eng_Latn", writer.space)[0]
        document_SD = torch.cat([document_SD, (again_D if feedback == "reembed" else next_D)[None]])
    writing = Writing(max_sentences=3, feedback=feedback, search=SHORT, stop_threshold=2)
    assert [s.text for s in generate_stream(context(writer, 3), writer, writing)] == want


@pytest.mark.parametrize("stop", ["predicted", "reembedded"])
def test_the_text_ends_at_the_threshold_and_the_ending_is_not_written(writer, stop):
    writing = Writing(max_sentences=4, stop=stop, search=SHORT, stop_threshold=2)
    free = list(generate_stream(context(writer), writer, writing))
    top = max(s.ending for s in free)
    first = next(i for i, s in enumerate(free) if s.ending == top)
    stopped = Writing(max_sentences=4, stop=stop, search=SHORT, stop_threshold=top - 1e-6)
    assert len(list(generate_stream(context(writer), writer, stopped))) == first
    never = Writing(max_sentences=4, stop=stop, search=SHORT, stop_threshold=-1, min_sentences=2)
    assert not list(generate_stream(context(writer), writer, never))


def test_an_ending_that_comes_too_soon_is_passed_over_for_the_next_best_hypothesis(writer):
    search = Search(beam=3, max_tokens=8, **PLAIN)
    best, second = decode(predict(writer, context(writer)), model=writer.space, beam=3, max_tokens=8, num_return=2)[0]
    ends = dataclasses.replace(writer, ending=best.text)
    assert not list(generate_stream(context(writer), ends, Writing(max_sentences=1, search=search)))
    (found,) = generate_stream(context(writer), ends, Writing(max_sentences=1, min_sentences=1, search=search))
    assert (found.text, found.ended) == (second.text, True)


def test_no_repeat_writes_no_sentence_twice(writer):
    writing = Writing(max_sentences=6, no_repeat=True, search=Search(beam=5, max_tokens=6), stop_threshold=2)
    texts = generate("A beginning.", model=writer, writing=writing)
    assert len(texts) == len(set(texts)) > 1


def test_the_verbs_take_what_the_commands_take(writer):
    how = {"beam": 2, "max_tokens": 8, **PLAIN}
    writing = Writing(max_sentences=2, search=SHORT, stop_threshold=2)
    want = generate("A text.", model=writer, writing=writing)
    assert generate("A text.", model=writer, max_sentences=2, stop_threshold=2, **how) == want
    with pytest.raises(UserError, match="did you mean max_sentences"):
        generate("A text.", model=writer, max_sentence=2)


def test_empty_texts_and_impossible_wishes_are_refused(writer):
    for wish in (lambda: generate(" \n ", model=writer), lambda: summarize("A text.", sentences=0, model=writer)):
        with pytest.raises(UserError):
            wish()
    for options in ({"stop": "x"}, {"feedback": "x"}, {"max_sentences": 0}):
        with pytest.raises(UserError):
            Writing(**options)


def test_reconstruction_is_the_cost_of_each_token_after_those_before_it_over_the_bytes(space):
    texts, total = ["A first sentence.", "Et une autre, plus longue, là."], 0.0
    embedding_SD = embed_sentences(texts, "eng_Latn", space)
    for text, embedding_D in zip(texts, embedding_SD):
        ids = space.tokenizer.target(text, "eng_Latn")
        for place in range(2, len(ids)):
            hidden = space.net.decoder(torch.tensor([ids[:place]]), embedding_D[None])[0, -1]
            total -= space.net.decoder.logits(hidden).log_softmax(-1)[ids[place]].item()
    size = sum(len(text.encode()) for text in texts)
    want = pytest.approx(total / math.log(2) / size, rel=1e-5)
    assert reconstruction(texts, embedding_SD, "eng_Latn", space, 0) == want
    long = [*texts, "x " * 999]
    assert reconstruction(long, torch.cat([embedding_SD, embedding_SD[:1]]), "eng_Latn", space, 0) == want
    blurry = reconstruction(texts, blurred(embedding_SD, 0.5), "eng_Latn", space, 0)
    assert reconstruction(texts, embedding_SD, "eng_Latn", space, 0.5) == pytest.approx(blurry, rel=1e-5)


def test_a_blurred_vector_keeps_its_size_and_its_share():
    z = torch.randn(400, 128, generator=torch.Generator().manual_seed(1)) / 8
    for amount in (0.0, 0.6, 1.0):
        blurry = blurred(z, amount)
        assert blurry.std().item() == pytest.approx(z.std().item(), rel=0.03)
        share = torch.nn.functional.cosine_similarity(blurry, z).mean().item()
        assert share == pytest.approx((1 - amount**2) ** 0.5, abs=0.02)


def test_reading_in_chunks_equals_reading_at_once(writer, monkeypatch):
    monkeypatch.setattr("sonarllm_cli.flow.predict.CHUNK", 7)
    context_SD = torch.randn(45, writer.space.dim)
    reader, heard = Reader(writer), []
    reader.read(context_SD[:3])
    found_D = reader.read(context_SD[3:], lambda *news: heard.append(news))
    torch.testing.assert_close(found_D, predict(writer, context_SD), atol=1e-5, rtol=1e-5)
    assert heard[0] == ("reading", 7, 42) and heard[-1] == ("reading", 42, 42)


def test_a_text_read_in_blocks_is_the_text(writer, monkeypatch):
    texts = [f"Sentence number {i} is here." for i in range(23)]
    whole = read_document(" ".join(texts), "eng_Latn", writer)
    monkeypatch.setattr("sonarllm_cli.flow.read.BLOCK", 5)
    found = read_document(" ".join(texts), "eng_Latn", writer)
    assert found[0] == whole[0] and [s.flat for s in found[0]] == texts
    torch.testing.assert_close(found[1], whole[1], atol=1e-6, rtol=1e-5)


def test_a_text_ends_before_the_first_near_copy_of_a_sentence_written(writer, caplog):
    def written(threshold):
        writing = Writing(max_sentences=6, repeat_threshold=threshold, search=SHORT, stop_threshold=NEVER)
        return [s.text for s in continuation("A text.", lang="eng_Latn", model=writer, writing=writing)]

    free = written(NEVER)
    own_SD = embed_sentences(free, "eng_Latn", writer.space)
    near_S = (torch.nn.functional.normalize(own_SD, dim=1) @ torch.nn.functional.normalize(own_SD, dim=1).T).tril(-1)
    top_S = near_S.max(1).values
    first = int(top_S.argmax())
    with caplog.at_level(logging.INFO, "sonarllm"):
        assert written(top_S[first].item() - 1e-5) == free[:first]
    assert "goes round in circles" in caplog.text and f"after {first}" in caplog.text


def test_what_writes_nothing_says_so_and_what_to_try(writer, caplog):
    how = {"model": writer, "stop_threshold": -1, "beam": 1, "max_tokens": 8}  # whatever it says is the ending
    with caplog.at_level(logging.INFO, "sonarllm"):
        assert generate("A text.", **how) == []
        found = summarize("A text. One more.", extract=False, sentences=1, **how)
    assert [s.how for s in found] == ["extracted"] and len(caplog.records) == 2
    assert "wrote nothing; try a longer text" in caplog.text and "--abstract" not in caplog.text


@pytest.mark.parametrize(("lang", "out_lang", "notes"), [("it", "", 1), ("it", "it", 0), ("en", "", 0)])
def test_a_text_that_goes_on_in_another_language_is_told_how_to_keep_its_own(writer, caplog, lang, out_lang, notes):
    text = "Il gatto dorme sul divano." if lang == "it" else "The cat sleeps on the sofa."
    with caplog.at_level(logging.INFO, "sonarllm"):
        generate(text, lang=lang, out_lang=out_lang, model=writer, max_sentences=1, beam=1, max_tokens=8)
    assert caplog.text.count("writes English, its own language; --out-lang ita_Latn has it write Italian") == notes
    assert len(caplog.records) == notes


def test_a_model_writes_by_the_rules_for_predictions_unless_told_and_a_vector_is_decoded_without(writer):
    for said, want in ((Search(), Search(**PREDICTED)), (Search(**PLAIN), Search(**PLAIN))):
        assert author_of(writer, "eng_Latn", said).search == want
    context_SD = embed_sentences(["The first one is here."], "eng_Latn", writer.space)
    found, plain = (decode(context_SD, model=writer.space, max_tokens=12, **how) for how in ({}, PLAIN))
    assert found == plain


def test_who_asks_for_a_continuation_gets_a_sentence_though_the_likeliest_is_the_ending(writer):
    options = {"beam": 3, "max_tokens": 8, "max_sentences": 1}
    [best] = generate("A beginning.", model=writer, **options)
    ends = dataclasses.replace(writer, ending=best)
    [other] = generate("A beginning.", model=ends, **options)
    assert other != best and generate("A beginning.", model=ends, min_sentences=0, **options) == []
