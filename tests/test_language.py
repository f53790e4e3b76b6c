"""What language a text is in, and what is said where `--lang` says another."""

import logging

import pytest

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow import language
from sonarllm_cli.flow.language import language_of

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


def test_auto_names_what_the_model_lacks():
    with pytest.raises(UserError, match="does not have Dutch"):
        language_of("Zij opende het raam en keek naar buiten, waar het regende.", "auto", MINI)
    assert language_of("1 + 1 = 2", "auto", MINI) == "eng_Latn"


@pytest.mark.parametrize(("lang", "notes"), [("en", 1), ("it", 0), ("auto", 0)])
def test_another_language_than_said_is_noted_in_one_line(caplog, lang, notes):
    with caplog.at_level(logging.INFO, "sonarllm"):
        language_of("Il gatto dorme sul divano. La porta era chiusa a chiave.", lang, MINI)
        language_of("12 34", lang, MINI)
    assert [r.getMessage() for r in caplog.records] == [
        "the text looks Italian, and is read as English; --lang auto tells"
    ] * notes


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
        ["align", "it.txt", "other.txt"],
        ["mine", "it.txt", "other.txt", "--margin", "absolute"],
        ["score", "it.txt", "other.txt"],
        ["summarize", "it.txt", "--extract"],
        ["generate", "it.txt", "--max-sentences", "1", "--max-tokens", "6"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_reads_a_text_takes_auto_and_notes_another_language(
    home, sonarllm, tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.txt").write_text("Il gatto dorme sul divano.\nLa porta era chiusa a chiave.\n", "utf-8")
    (tmp_path / "other.txt").write_text("She opened the window.\nThe door was locked.\n", "utf-8")
    model = "tiny-llm" if words[0] in ("summarize", "generate") else "tiny"
    said, auto, wrong = (sonarllm(*words, "-m", model, "--lang", lang) for lang in ("it", "auto", "en"))
    assert (auto.returncode, auto.out, auto.err) == (0, said.out, said.err) and said.out and "looks" not in said.err
    notes = [line for line in wrong.err.splitlines() if "looks" in line]
    assert notes == ["it.txt looks Italian, and is read as English; --lang auto tells"]
