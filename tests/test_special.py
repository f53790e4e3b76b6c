"""The ending is known in whatever language, words or vector, and is never output, by any kind of model."""

import pytest

from sonarllm_cli.flow.compose import Writing, generate_stream
from sonarllm_cli.flow.decode import decode
from sonarllm_cli.flow.embed_text import embed_sentences
from sonarllm_cli.flow.special import Special
from sonarllm_cli.flow.summarize import summarize
from sonarllm_cli.weights.loaded import load_writer

OTHERS = {
    "eng_Latn": ["The end of the road was near.", "A sequence of tools.", "Ending a process.", "Enter."],
    "deu_Latn": ["Am Ende der Straße stand ein Haus.", "Endlich kam der Zug."],
    "fra_Latn": ["La fin du film est triste.", "Une suite de logiciels."],
    "ita_Latn": ["Alla fine della strada c'era una casa.", "Finalmente arrivò il treno."],
    "spa_Latn": ["Al final de la calle había una casa.", "El tren llegó por fin."],
}


@pytest.fixture(scope="module")
def mini():
    return load_writer("mini")


def test_every_language_of_the_embedded_model_is_tried(mini):
    assert {*OTHERS} == {*mini.space.tokenizer.langs}


@pytest.mark.parametrize("lang", OTHERS)
def test_the_ending_is_known_in_every_language_spelt_anyhow(mini, lang):
    special = Special(mini, lang)
    ending_1D = embed_sentences([mini.ending], mini.lang, mini.space)
    said = decode(ending_1D, lang=lang, model=mini.space)[0][0].text
    for text in (mini.ending, said):
        word = text.split()
        forms = [text, text.upper(), text.rstrip("."), " ".join(word[:-1]) if len(word) > 2 else text, f"{text} It is."]
        forms += ["".join(word), text.replace("e", "é"), text[:-3] + text[-2:], f"A tool. {text}"]
        assert [form for form in forms if not special.ending(form)] == []
    assert special.ending("End of tools") and special.ending("End di sequenze per tools")
    assert special.ending("End von tools") == (lang != mini.lang)
    assert special.cosine(ending_1D) > 0.999
    assert special.cosine(embed_sentences([said], lang, mini.space)) > 0.999
    assert [text for text in OTHERS[lang] if special.ending(text)] == []


@pytest.mark.parametrize("lang", OTHERS)
def test_a_model_that_only_wants_to_end_says_nothing(mini, lang, monkeypatch):
    """The vector predicted is the ending's: nothing is written, and a summary is the text's own sentence."""
    ending_1D = embed_sentences([mini.ending], mini.lang, mini.space)
    monkeypatch.setattr("sonarllm_cli.flow.predict.Reader.read", lambda *_: ending_1D[0])
    for stop in ("predicted", "reembedded"):
        writing = Writing(out_lang=lang, stop=stop, min_sentences=2)
        assert list(generate_stream(ending_1D, mini, writing)) == []
    (found,) = summarize("A tool.", model=mini, extract=False)
    assert (found.text, found.how) == ("A tool.", "extracted")
