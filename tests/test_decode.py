"""Beam search is sonar-space's, token for token; sampling follows its distribution."""

import io
import math

import numpy as np
import pytest
import sentencepiece
import torch
from conftest import PARITY
from safetensors.torch import load_file

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.decode import (
    Search,
    _draw,
    beam_search,
    decode,
    decode_batch,
    decode_stream,
    discouraged,
    log_softmax,
    ngrams,
)
from sonarllm_cli.flow.embed import embed
from sonarllm_cli.io.vectors import EmbeddingBatch
from sonarllm_cli.nets.layers import moves
from sonarllm_cli.runtime import choose
from sonarllm_cli.tokens import EOS, PAD, Tokenizer, fitting
from sonarllm_cli.weights.loaded import load_space, shortlisted, shortlisted_ids

EMBEDDINGS = load_file(PARITY / "expected.safetensors")["embeddings"]


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("lang", ["eng_Latn", "fra_Latn"])
def test_beam_search_equals_sonar_space(space, expected, lang, beam):
    found = decode(EMBEDDINGS, lang=lang, model=space, beam=beam, max_tokens=28)
    for (best, *_), want in zip(found, expected["generation"][f"{lang}/beam{beam}"]):
        assert list(best.ids) == want["tokens"]
        assert best.text == want["text"]
        assert best.score == pytest.approx(want["score"], abs=1e-4)


def plain_beam_search(space, embedding_1D, prompt, beam, limit):
    """One sentence, no cache, every candidate of every beam: what the fast search must equal."""
    decoder = space.net.decoder

    def log_probs(ids):
        hidden = decoder(torch.tensor([ids]), embedding_1D)[0]
        return log_softmax(decoder.logits(hidden), space.tokenizer.vocab_size)

    beams = [(log_probs(prompt)[0, prompt[1]].item(), prompt)]
    done = []
    for length in range(3, limit + 1):
        options = []
        for score, ids in beams:
            for token, gain in enumerate(log_probs(ids)[-1].tolist()):
                if token != PAD and (length < limit or token == EOS):
                    options.append((score + gain, [*ids, token]))
        options = sorted(options, key=lambda o: -o[0])[: 2 * beam]
        for score, ids in options[:beam]:
            if ids[-1] == EOS and len(done) < beam:
                done.append((tuple(ids[2:]), score / (length - 1)))
        beams = [o for o in options if o[1][-1] != EOS][:beam]
        if len(done) == beam:
            break
    return sorted(done, key=lambda d: -d[1])


def test_a_shortlist_is_a_softmax_over_its_words(space, monkeypatch):
    """Its plain twin: every logit, those of other words at −∞."""
    names, words = {space.tokenizer.lang_id(lang) for lang in space.tokenizer.langs}, set(range(10, 90))
    short = shortlisted_ids(space, words)
    found = decode(EMBEDDINGS[:3], model=short, max_tokens=9)
    drawn = decode(EMBEDDINGS[:3], model=short, max_tokens=9, top_p=0.9)
    assert {i for hyps in drawn for h in hyps for i in h.ids} <= words | names | {*range(EOS + 1)}
    banned = torch.tensor([i not in words | names and i > EOS for i in range(space.net.config.vocab_size)])
    real = space.net.decoder.logits
    monkeypatch.setattr(space.net.decoder, "logits", lambda hidden: real(hidden).masked_fill(banned, -torch.inf))
    plain = decode(EMBEDDINGS[:3], model=space, max_tokens=9)
    assert [h.ids for (h,) in found] == [h.ids for (h,) in plain]
    assert [h.score for (h,) in found] == pytest.approx([h.score for (h,) in plain], abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_likeliest_word_is_the_likeliest_of_a_shortlist_that_has_it(home, dtype):
    space = load_space("tiny", choose("cpu", dtype))
    (want,) = decode(EMBEDDINGS[0], model=space, max_tokens=20, beam=1)[0]
    (found,) = decode(EMBEDDINGS[0], model=shortlisted_ids(space, want.ids), max_tokens=20, beam=1)[0]
    assert found.ids == want.ids and found.score > want.score


def test_a_shortlist_is_made_of_a_texts_pieces(space):
    words = space.tokenizer.content(["The file."])[0]
    assert set(words) <= set(shortlisted(space, ["The file."]).shortlist.id_W.tolist())
    assert len(shortlisted(space, ["The file."]).shortlist.id_W) <= len(words) + 4 + len(space.tokenizer.langs)
    with pytest.raises(UserError, match="no word"):
        shortlisted(space, [])


def test_beam_search_equals_its_plain_twin(space):
    with torch.inference_mode():
        prompt = space.tokenizer.prompt("ita_Latn")
        fast = beam_search(space, EMBEDDINGS[:3], prompt, Search(beam=3, max_tokens=9))
        for s in range(3):
            plain = plain_beam_search(space, EMBEDDINGS[s : s + 1], prompt, 3, 9)
            assert [ids for ids, _ in fast[s]] == [ids for ids, _ in plain]
            assert [score for _, score in fast[s]] == pytest.approx([score for _, score in plain], abs=1e-5)


def test_a_batch_decodes_as_its_rows_do(space):
    together = decode(EMBEDDINGS[:5], model=space, max_tokens=12, num_return=2)
    alone = [decode(e, model=space, max_tokens=12, num_return=2)[0] for e in EMBEDDINGS[:5]]
    assert [[h.ids for h in hyps] for hyps in together] == [[h.ids for h in hyps] for hyps in alone]


def test_max_tokens_counts_prompt_and_end(space):
    assert all(len(h[0].ids) <= 4 for h in decode(EMBEDDINGS, model=space, max_tokens=6))
    assert all(h[0].ids[-1] == EOS for h in decode(EMBEDDINGS, model=space, max_tokens=6, temperature=1.0))


def test_sampling_repeats_with_a_seed_and_only_then(home):
    from sonarllm_cli.runtime import choose
    from sonarllm_cli.weights.loaded import load_space

    def texts(seed):
        space = load_space("tiny", choose(seed=seed))
        return [h.ids for h in decode(EMBEDDINGS[0], model=space, temperature=2.0, num_return=4, max_tokens=9)[0]]

    assert texts(1) == texts(1) != texts(2)


def test_top_p_draws_only_from_the_smallest_set_of_that_mass():
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(2000, 1)
    drawn = _draw(log_p, Search(top_p=0.7), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 1}
    assert (drawn == 0).float().mean().item() == pytest.approx(0.5 / 0.8, abs=0.04)
    assert set(_draw(log_p, Search(top_p=1e-300), torch.Generator()).tolist()) == {0}


@pytest.mark.parametrize(
    ("bad", "word"),
    [(np.zeros((2, 3), np.float32), "width"), (np.full((1, 64), np.nan, np.float32), "finite")],
)
def test_embeddings_of_another_width_or_not_finite_are_refused(space, bad, word):
    with pytest.raises(UserError, match=word):
        decode(bad, model=space)


HUGE = torch.cat([EMBEDDINGS[:2], torch.full((1, 64), 1e20), EMBEDDINGS[2:3]])


@pytest.mark.parametrize("options", [{}, {"beam": 1}, {"temperature": 1.0}, {"top_p": 0.9, "num_return": 2}])
def test_a_row_that_overflows_is_named_and_not_left_out(space, options):
    with pytest.raises(UserError, match="the embeddings, row 3 overflows float32"):
        decode(HUGE, model=space, max_tokens=6, batch_size=2, **options)
    assert len(decode(EMBEDDINGS[:3], model=space, max_tokens=6, batch_size=2, **options)) == 3


def test_a_stream_names_a_row_by_its_place_in_the_whole_file(home):
    batches = [
        EmbeddingBatch(part.numpy(), [], first, "", [], "e.npy") for first, part in ((0, EMBEDDINGS[:5]), (5, HUGE))
    ]
    with pytest.raises(UserError, match=r"e\.npy, row 8 overflows"):
        list(decode_stream(batches, "eng_Latn", load_space("tiny"), Search(max_tokens=6)))


def test_a_row_of_fewer_texts_than_asked_for_is_named(space, monkeypatch):
    monkeypatch.setattr("sonarllm_cli.flow.decode.beam_search", lambda space, rows, *_: [[((EOS,), 0.0)]] * len(rows))
    with pytest.raises(UserError, match="row 1 has only 1 texts; use --num-return 1"):
        decode(EMBEDDINGS[:2], model=space, num_return=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tensors_of_any_dtype_and_with_gradients_are_decoded(space, dtype):
    found = decode(EMBEDDINGS[:2].to(dtype).requires_grad_(), model=space, max_tokens=9)
    want = decode(EMBEDDINGS[:2].to(dtype).float(), model=space, max_tokens=9)
    assert found == want


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_tensors_of_a_gpu_are_decoded(space):
    assert decode(EMBEDDINGS[:2].cuda(), model=space, max_tokens=9) == decode(EMBEDDINGS[:2], model=space, max_tokens=9)


@pytest.mark.parametrize("text", ["ﷺ" * 20, "a" * 62])
def test_only_tokens_say_whether_a_text_fits(space, text):
    """One character may be many tokens (NFKC), and before the first word there is a blank."""
    words = space.tokenizer.content([text])[0]
    assert fitting(space.tokenizer, len(words) + 2)(text) and not fitting(space.tokenizer, len(words) + 1)(text)


def test_what_was_written_is_discouraged_as_the_search_says():
    logits, written = torch.tensor([[1.0, -2.0, 3.0, 0.0]] * 2), torch.tensor([[0, 1, 0], [2, 2, 1]])
    no = -math.inf

    def found(before=(), **rules):
        search = Search(**rules)
        return discouraged(logits.clone(), written, search, ngrams(before, search)).tolist()

    assert found() == logits.tolist()
    assert found(repetition_penalty=2.0) == [[0.5, -4.0, 3.0, 0.0], [1.0, -4.0, 1.5, 0.0]]
    assert found(no_repeat_ngram=1) == [[no, no, 3.0, 0.0], [1.0, no, no, 0.0]]
    assert found(no_repeat_ngram=2) == [[1.0, no, 3.0, 0.0], [1.0, -2.0, 3.0, 0.0]]
    assert found(no_repeat_ngram=4) == logits.tolist()
    earlier = [[3], [2, 2, 1, 3], [1, 0, 2]]  # sentences that stand already
    assert found(earlier, no_repeat_ngram=4) == [[1.0, -2.0, 3.0, 0.0], [1.0, -2.0, 3.0, no]]
    assert found(earlier, no_repeat_ngram=3) == [[1.0, -2.0, no, 0.0], [1.0, -2.0, 3.0, no]]
    assert found(earlier) == logits.tolist()


@pytest.mark.parametrize("how", [{"beam": 3}, {"temperature": 0.5}])
def test_no_ngram_of_tokens_stands_twice(space, how):
    def repeats(**rules):
        found = decode(EMBEDDINGS, model=space, max_tokens=28, **how, **rules)
        pairs = [list(zip(h.ids, h.ids[1:])) for (h,) in found]
        return sum(len(p) - len(set(p)) for p in pairs)

    assert repeats() > 0 == repeats(no_repeat_ngram=2)


@pytest.mark.parametrize("how", [{"beam": 3}, {"temperature": 0.5}])
@pytest.mark.parametrize("few", [False, True])
def test_no_ngram_of_sentences_that_a_text_has_is_written(space, how, few):
    """By their ids, whether all words may be written or few, among which is not every one of theirs."""

    def pairs(h):
        return set(zip(h.ids, h.ids[1:]))

    if few:
        space = shortlisted_ids(space, {i for (h,) in decode(EMBEDDINGS, model=space, max_tokens=12) for i in h.ids})
    search = Search(max_tokens=12, no_repeat_ngram=2, **how)
    [first] = decode_batch(EMBEDDINGS[:1], "eng_Latn", space, search)[0]
    unknown = next(i for i in range(9, 99) if not few or i not in space.shortlist.id_W)
    before = [first.ids[:-1], [first.ids[0], unknown]]
    [again] = decode_batch(EMBEDDINGS[:1], "eng_Latn", space, search, before=before)[0]
    assert not pairs(first) & pairs(again) - {(first.ids[-2], EOS)} and again.text


def test_a_length_penalty_ranks_by_log_probability_over_a_power_of_the_length():
    """7 tokens of -1 each beside 3 of -1.2; the prompt counts one."""
    long, short = ((1,) * 7, -1.0), ((1,) * 3, -1.2)
    for power, want in ((None, long), (1, long), (0.75, long), (0.7, short), (0, short)):
        assert Search(length_penalty=power).ranked([short, long], 2)[0] == want


@pytest.mark.parametrize("cut", [1, 2])
def test_bytes_that_make_no_whole_character_are_not_written(cut):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a text of letters", "another text"]),
        model_writer=model,
        vocab_size=280,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    tokenizer = Tokenizer(model.getvalue(), ["eng_Latn"])
    (ids,) = tokenizer.content(["a €"])
    assert tokenizer.text(ids) == "a €"
    assert tokenizer.text(ids[:-cut]).strip() == "a"
    assert tokenizer.text([*ids[:-cut], *tokenizer.content(["a"])[0]]).split() == ["a", "a"]


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 0},
        {"temperature": 0},
        {"top_p": 1.5},
        {"max_tokens": 2},
        {"beam": 2, "num_return": 3},
        {"length_penalty": -0.1},
        {"no_repeat_ngram": -1},
        {"repetition_penalty": 0.5},
        {"repetition_penalty": math.nan},
    ],
)
def test_impossible_searches_are_refused(options):
    with pytest.raises(UserError):
        Search(**options)


def test_embeddings_equal_sonar_space(space, expected):
    for row, want in zip(expected["texts"], EMBEDDINGS):
        found = embed([row["text"]], lang=row["lang"], model=space)[0]
        np.testing.assert_allclose(found, want.numpy(), atol=1e-5)


def test_a_step_asks_once_which_beams_moved(space, monkeypatch):
    """A GPU is waited for at each such question, and there are as many caches as layers."""
    asked = []
    monkeypatch.setattr("sonarllm_cli.nets.layers.moves", lambda rows: pytest.fail("a cache asked"))
    monkeypatch.setattr("sonarllm_cli.flow.decode.moves", lambda rows: asked.append(1) or moves(rows))
    found = decode(EMBEDDINGS[0], model=space, beam=2, max_tokens=9)
    assert len(asked) == 9 - 3 >= len(found[0][0].ids) - 1
