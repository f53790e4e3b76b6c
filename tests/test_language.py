"""What language a text is in, and what is said where `--lang` says another."""

import logging

import pytest

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow import language
from sonarllm_cli.flow.language import language_of, lines_told
from sonarllm_cli.io.files import TextLine

MINI = ["eng_Latn", "deu_Latn", "fra_Latn", "ita_Latn", "spa_Latn"]
TEXTS = {
    "eng_Latn": "She opened the window and looked out.",
    "deu_Latn": "Sie öffnete das Fenster und sah hinaus.",
    "fra_Latn": "Elle ouvrit la fenêtre et regarda dehors.",
    "ita_Latn": "Aprì la finestra e guardò fuori.",
    "spa_Latn": "Abrió la ventana y miró afuera.",
}


@pytest.mark.parametrize("lang", TEXTS)
def test_auto_is_the_language_of_the_text(lang):
    assert language_of(TEXTS[lang], "auto", MINI) == language_of(TEXTS[lang], "auto") == lang


@pytest.mark.parametrize("text", ["1 + 1 = 2", "", "Sure.", "Berlin", "iPhone 12 Pro"])
def test_what_tells_no_language_is_taken_for_english_or_the_models_first(text):
    assert language_of(text, "auto", MINI) == language_of(text, "auto") == "eng_Latn"
    assert language_of(text, "auto", ["fra_Latn", "deu_Latn"]) == "fra_Latn" or text == "Berlin"


def test_what_the_model_lacks_is_named_and_read_as_the_likeliest_that_it_has(caplog):
    with caplog.at_level(logging.INFO, "sonarllm"):
        assert language_of("Zij opende het raam en keek naar buiten, waar het regende.", "auto", MINI) == "deu_Latn"
    assert [r.getMessage() for r in caplog.records] == [
        "the text looks Dutch, which the model does not have, and is read as German"
    ]


def test_a_model_of_one_language_is_asked_for_no_other(monkeypatch):
    monkeypatch.setattr(language, "_identifier", None)
    assert language_of(TEXTS["ita_Latn"], "auto", ["deu_Latn"]) == "deu_Latn"
    assert [own for _, own in lines_told([TextLine(1, "Si.")], "auto", ["deu_Latn"])] == ["deu_Latn"]


def told(*texts, lang="auto"):
    rows = [TextLine(i, *text) if isinstance(text, tuple) else TextLine(i, text) for i, text in enumerate(texts)]
    return [own[:3] for _, own in lines_told(rows, lang, MINI)]


@pytest.mark.parametrize(
    ("lang", "found"), [("de", "deu"), (" EN ", "eng"), ("auto", "ita"), ("", "ita"), (None, "ita")]
)
def test_a_records_language_goes_first(lang, found):
    assert told((TEXTS["ita_Latn"], lang)) == [found]


def test_a_records_language_that_is_none_is_named_with_its_line():
    with pytest.raises(UserError, match=r"^the text, line 1: unknown language 'xx'"):
        told("A text.", ("Another.", "xx"))


def test_lines_have_one_language_but_where_some_are_surely_in_another():
    de, en, it = (TEXTS[code] for code in ("deu_Latn", "eng_Latn", "ita_Latn"))
    assert told(de, "Sure.", de) == ["deu", "deu", "deu"]
    assert told(de, en, "Sure.", de, it, de, de) == ["deu", "eng", "deu", "deu", "ita", "deu", "deu"]
    assert told(de, (de, "fr"), en, lang="it") == ["ita", "fra", "ita"]
    assert told(*[de] * 60, en)[-1] == "deu" and told(en, *[de] * 60, en)[-1] == "eng"


def test_only_the_first_lines_of_one_language_are_looked_at(monkeypatch):
    asked = []
    monkeypatch.setattr(language, "_ranked", lambda text: asked.append(text) or {"deu_Latn": 1.0})
    assert told(*"abcdefghij" * 1000) == ["deu"] * 10_000 and len(asked) <= 110


@pytest.mark.parametrize(("lang", "notes"), [("en", 1), ("it", 0), ("auto", 0)])
def test_another_language_than_said_is_noted_in_one_line(caplog, lang, notes):
    with caplog.at_level(logging.INFO, "sonarllm"):
        language_of("Il gatto dorme sul divano. La porta era chiusa a chiave.", lang, MINI)
        language_of("12 34", lang, MINI)
    assert [r.getMessage() for r in caplog.records] == [
        "the text looks Italian, and is read as English; --lang auto tells"
    ] * notes


def test_a_note_promises_auto_only_what_the_model_has():
    text = "De kat slaapt op de bank. De deur was op slot en het regende de hele dag."
    note = "x looks Dutch, which the model does not have, and is read as English"
    assert language.reading(text, "en", MINI, "x")[1] == note
    assert language.reading(text, "en", None, "x")[1].endswith("; --lang auto tells")


def test_the_identifier_is_read_once_though_a_thread_began_to(monkeypatch):
    from py3langid.langid import LanguageIdentifier

    plain, reads = LanguageIdentifier.from_model_file, []
    counted = lambda *a, **k: reads.append(1) or plain(*a, **k)  # noqa: E731
    monkeypatch.setattr(LanguageIdentifier, "from_model_file", counted)
    language._read.cache_clear()
    language.prepare()
    assert language_of(TEXTS["ita_Latn"], "auto", MINI) == "ita_Latn" and reads == [1]


@pytest.mark.parametrize(
    "words",
    [
        ["translate", "it.txt", "--max-tokens", "6"],
        ["search", "un gatto", "it.txt", "--query-lang", "it", "--no-cache"],
        ["embed", "it.txt"],
        ["align", "it.txt", "other.txt"],
        ["mine", "it.txt", "other.txt", "--margin", "absolute"],
        ["score", "it.txt", "other.txt"],
        ["summarize", "it.txt", "--extract"],
        ["generate", "it.txt", "--max-sentences", "1", "--max-tokens", "6"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_reads_a_text_tells_its_language_and_notes_a_wrong_one(
    home, sonarllm, tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.txt").write_text("Il gatto dorme sul divano.\nLa porta era chiusa a chiave.\n", "utf-8")
    (tmp_path / "other.txt").write_text("She opened the window.\nThe door was locked.\n", "utf-8")
    model = "tiny-llm" if words[0] in ("summarize", "generate") else "tiny"
    said, auto, wrong = (sonarllm(*words, "-m", model, *lang) for lang in (["--lang", "it"], [], ["--lang", "en"]))
    assert (auto.returncode, auto.out, auto.err) == (0, said.out, said.err) and said.out and "looks" not in said.err
    notes = [line for line in wrong.err.splitlines() if "looks" in line]
    assert notes == ["it.txt looks Italian, and is read as English; --lang auto tells"]


def test_auto_is_auto_in_any_case(sonarllm, tmp_path, monkeypatch):
    (tmp_path / "it.txt").write_text(TEXTS["ita_Latn"], "utf-8")
    monkeypatch.chdir(tmp_path)
    assert sonarllm("segment", "it.txt", "--lang", "Auto ").out == sonarllm("segment", "it.txt").out != ""
