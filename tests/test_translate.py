"""translate: layout stays, prose is translated; by a stand-in that writes in capitals."""

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.say import Said
from sonarllm_cli.io.markup import prose, turns
from sonarllm_cli.io.pieces import pieces
from sonarllm_cli.use.translate import translate, translated
from sonarllm_cli.use.translate_files import files_of_documents


def parts(text, kind="", **options):
    def shout(sentences, _):
        return [Said(s.upper(), -1.0, 0.5) for s in sentences]

    return list(translated(text, kind, shout, lang="eng_Latn", **options))


def shouted(*args, **options):
    return "".join(part.text for part in parts(*args, **options))


def test_lists_headings_blank_lines_and_code_stay():
    text = "# One two\n\n- a b.\n  c d.\n- [ ] e\n\n1. f. G h.\n\n```\nx = y\n```\n\n| - | - |\n> quoted\n\n"
    want = "# ONE TWO\n\n- A B. C D.\n- [ ] E\n\n1. F. G H.\n\n```\nx = y\n```\n\n| - | - |\n> QUOTED\n\n"
    assert shouted(text, ".md") == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("````\n```\na b\n```\n````\nc d\n", "````\n```\na b\n```\n````\nC D\n"),
        ("~~~ sh\n```\na b\n~~~\nc d\n", "~~~ sh\n```\na b\n~~~\nC D\n"),
        ("<div>a b</div>\n<!-- c -->\n$$x = y$$\nd e\n", "<div>a b</div>\n<!-- c -->\n$$x = y$$\nD E\n"),
        ("<b>a b\n", "<B>A B\n"),
        ("a [b [c] d](https://e.org/f) g", "A [B [C] d](https://e.org/f) G"),
    ],
)
def test_code_html_formulas_and_addresses_of_markdown_stand(text, want):
    assert shouted(text, ".md") == want


@pytest.mark.parametrize("number", ["2\n", ""])
def test_a_cue_begins_with_its_times_where_no_blank_line_stands(number):
    text = f"1\n00:00:01,000 --> 00:00:02,000\na b\n{number}00:00:03,000 --> 00:00:04,000\nc d\n"
    assert shouted(text, ".srt") == text.replace("a b", "A B").replace("c d", "C D")


def test_lines_of_a_paragraph_are_one_text_and_what_is_between_sentences_stays():
    assert shouted("one\ntwo. three\n\n\nfour") == "ONE TWO. THREE\n\n\nFOUR"
    assert shouted("One.  \nTwo.") == "ONE.  \nTWO."


SRT = (
    "1\r\n00:00:01,000 --> 00:00:03,500\r\nIt is cold.\r\n\r\n"
    "2\r\n00:00:04,000 --> 00:00:07,200\r\nwe go\r\nto town.\r\n"
)
VTT = "WEBVTT\n\nNOTE no prose\n\n00:01.000 --> 00:03.500 align:start\nIt is cold.\n"


def test_subtitles_keep_numbers_times_and_lines():
    assert shouted(SRT, ".srt") == SRT.replace("It is cold", "IT IS COLD").replace(
        "we go\r\nto town", "WE GO TO\r\nTOWN"
    )
    assert shouted(VTT, ".vtt") == VTT.replace("It is cold", "IT IS COLD")


@pytest.mark.parametrize(
    ("cue", "want"),
    [
        ("<i>We go.</i>", "<i>WE GO.</i>"),
        ('<font color="#ff0000"><b>We go.</b></font>', '<font color="#ff0000"><b>WE GO.</b></font>'),
        ("<i>We</i> go <i>now.</i>", "WE GO NOW."),
        ("We <i>go.", "WE GO."),
        ("<i><i>We</i> go.</i>", "<i>WE GO.</i>"),
        ("{\\an8}- Is it?\n- No.", "{\\an8}- IS IT?\n- NO."),
        ("<i>- Is it\ncold?</i>\n<i>-No.</i>", "<i>- IS IT\nCOLD?</i>\n<i>-NO.</i>"),
        ("<i>- Is it?\n- No.</i>", "<i>- IS IT?\n- NO.</i>"),
        ("{\\an8}{\\i1}We go{\\i0}", "{\\an8}{\\i1}WE GO{\\i0}"),
        ("{\\an8}{\\i1}We{\\i0} go", "{\\an8}WE GO"),
        ("<v Bob>We go.\n<v.loud Ann>No.</v>", "<v Bob>WE GO.\n<v.loud Ann>NO.</v>"),
        ("We <00:00:02.000>go<br>now", "WE GO NOW"),
        ("-5 degrees", "-5 DEGREES"),
        ("♪ We go ♪", "♪ WE GO ♪"),
        ("<I>♪ We go ♪\n♪ on ♪</i>", "<I>♪ WE GO ♪\n♪ ON ♪</i>"),
        ("A &amp; b &lt;3", "A &amp; B &lt;3"),
        ("A & b", "A & B"),
        ("[LAUGHS] We go\\Nto town (GUNSHOT) now.", "[LAUGHS] WE GO TO\\NTOWN (GUNSHOT) NOW."),
        ("ANN: We go.\n[SIGHS] MR. BOB : No.", "ANN: WE GO.\n[SIGHS] MR. BOB : NO."),
        ("Ann: we go", "ANN: WE GO"),
        ("<i>[DOOR SLAMS]</i>", "<i>[DOOR SLAMS]</i>"),
    ],
)
def test_marks_of_subtitles_are_no_words(cue, want):
    head = "1\n00:00:01,000 --> 00:00:02,000\n"
    found = parts(f"{head}{cue}\n", ".srt")
    assert "".join(part.text for part in found) == f"{head}{want}\n"
    words = " ".join(one.source for part in found for one in part.sentences)
    assert not set("<>{}/♪\\") & set(words.replace("<3", ""))


def test_a_sentence_between_marks_has_its_place():
    text = "WEBVTT\n\n00:01.000 --> 00:03.500\n<i>One.\nTom &amp; <b>Ann.</b></i>\n"
    [part] = parts(text, ".vtt")
    assert [text[one.start : one.end] for one in part.sentences] == ["One.", "Tom &amp; <b>Ann.</b>"]
    assert [(one.source, one.line) for one in part.sentences] == [("One.", 4), ("Tom & Ann.", 5)]
    assert "<i>ONE. TOM\n&amp; ANN.</i>" in part.text


@given(st.text("ab\n<i>/{}\\-v &;", max_size=30))
def test_the_turns_are_the_cue(cue):
    assert "".join("".join(turn) for turn in turns(cue)) == cue


@pytest.mark.parametrize("kind", ["", ".md"])
@pytest.mark.parametrize(
    "text",
    ["https://example.org/a/b\n", "- <ann@example.org>,\n  www.example.org\n", "?!\n\n- 😀😀\n", "12.5 %\n7\n"],
)
def test_what_has_no_words_stands(text, kind):
    found = parts(text, kind, bilingual=True)
    assert "".join(part.text for part in found) == text and not any(part.sentences for part in found)


def test_the_cells_of_a_table_are_texts_of_their_own():
    table = "| a b | c. D |\n|:--|--|\n|  | *e* \\| f | `g` |\n\nh | i\n"
    want = "| A B | C. D |\n|:--|--|\n|  | *E* \\| F | `g` |\n\nH | I\n"
    assert shouted(table, ".md") == want
    assert shouted("| a | b |\n", ".md", bilingual=True) == "| a / A | b / B |\n"


def test_a_fence_that_nothing_closes_is_none():
    assert shouted("```py\na b\n```\nc d\n~~~\ne f\n", ".md") == "```py\na b\n```\nC D\n~~~\nE F\n"


def test_a_table_needs_no_bars_around_it():
    table = "a | b.\n--|:-:\nc d | *e*\n\nf | g\n"
    assert shouted(table, ".md") == "A | B.\n--|:-:\nC D | *E*\n\nF | G\n"
    assert [p.cell for p in pieces(table, ".md") if p.prose] == [True] * 4 + [False]


def test_an_entity_is_read_as_what_it_stands_for():
    text = "Ann &amp; *Bob&nbsp;or* `x&amp;y`, [we](a?b&amp;c)."
    assert prose(text).words == "Ann & Bob\xa0or `x&amp;y`, we."
    assert shouted(text, ".md") == "ANN & *BOB OR* `x&amp;y`, [WE](a?b&amp;c)."


def test_an_address_between_sentences_stands():
    assert shouted("One two.\nhttps://example.org/a.\n\nSee a/b.") == "ONE TWO.\nhttps://example.org/a.\n\nSEE A/B."


@pytest.mark.parametrize("kind", ["", ".md"])
@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("**We go.** No.", "**WE GO.** NO."),
        ("*We go. No.* Why?", "*WE GO. NO.* WHY?"),
        ("***We*** go *now*, Bob.", "***WE*** GO *NOW*, BOB."),
        ("We *go, go* now, go.", "WE *GO, GO* NOW, GO."),
        ("We *go* and go.", "WE GO AND GO."),
        ("2 * 3 * 4, f(*a, **b), c_d_e", "2 * 3 * 4, F(*A, **B), C_D_E"),
        ("# A *b*\n", "# A *B*\n"),
        ("See [my *old* book](a_b.html 'x y') and [go][1].", "SEE [MY *OLD* BOOK](a_b.html 'x y') AND [GO][1]."),
        ("Go, [go](u_r_l) we.[^n] No.", "GO, GO WE. [GO](u_r_l)[^n] NO."),
        ("Run `make it`, then (`go`) now.", "RUN `make it`, THEN (`go`) NOW."),
        ("`only code`\n", "`only code`\n"),
        ("![a view](b.png) of it", "![a view](b.png) OF IT"),
        (
            "Mail ann@a.org, see (https://a.org/b_c?d=*e*) now.",
            "MAIL ann@a.org, SEE (https://a.org/b_c?d=*e*) NOW.",
        ),
        (
            "Go ~/a/b and docs/a.md, C:\\Ann or __init__.py.",
            "GO ~/a/b AND docs/a.md, C:\\Ann OR __init__.py.",
        ),
        ("See `a. B c` and [d. E f](g) too.", "SEE `a. B c` AND [D. E F](g) TOO."),
    ],
)
def test_what_is_no_words_stands_or_comes_back(text, want, kind):
    assert shouted(text, kind) == want


def test_the_words_of_a_mark_that_are_said_otherwise_lose_it_but_a_link_follows():
    said = {"See my book now.": "Sieh dir mein Buch an.", "my book": "Das meine.", "now": "jetzt"}
    run = lambda sentences, _: [Said(said[s], -1.0, 0.5) for s in sentences]  # noqa: E731
    [part] = translated("See [my book](u) *now*.", "", run, lang="eng_Latn", to="deu_Latn")
    assert part.text == "Sieh dir mein Buch an. [Das meine](u)"
    [one] = part.sentences
    assert (one.source, one.said.text) == ("See my book now.", "Sieh dir mein Buch an.")


def test_a_sentence_in_parts_is_joined_to_one():
    said = {"Write to": ("Schreib an.", -1.0, 0.9), "or": ("Oder.", -2.0, 0.5), "by May.": ("Bis Mai.", -3.0, 0.8)}
    run = lambda sentences, _: [Said(*said[s]) for s in sentences]  # noqa: E731
    [part] = translated("Write to a@b.org or x@y.de, by May.", "", run, lang="eng_Latn", to="deu_Latn")
    assert part.text == "Schreib an a@b.org oder x@y.de, Bis Mai."
    assert part.sentences[0].said == Said(part.text, -2.0, 0.5)


@given(st.text("ab *_`[]()!~.\n/:@^", max_size=40))
def test_what_is_cut_out_of_a_text_is_marks(text):
    found = prose(text)
    assert len(found.places) == len(found.words) + 1 and found.places[-1] == len(text)
    assert found.words == "".join(text[place] for place in found.places[:-1])
    assert all(0 <= m.start <= m.end <= len(found.words) for m in found.marks)
    shouted(text), shouted(text, ".md")


@pytest.mark.parametrize("bit", ["`a ", "*a ", "[a", "a/", "a.", "aa", "[a](", "`", "![", "*a_b~~c ", "https://a.b/ "])
def test_marks_take_time_as_their_number(bit):
    began = time.perf_counter()
    prose(bit * 20_000)
    assert time.perf_counter() - began < 5


def test_sentences_in_letters_that_the_model_has_not_stand_and_are_told(tmp_path, home, sonarllm):
    text = "It is cold.\n\nПривет, мир.\nКак дела?\n\n你好 世界。\n"
    (tmp_path / "a.txt").write_text(text, "utf-8")
    done = sonarllm("translate", tmp_path / "a.txt", "-m", "mini", "--to", "de", "--beam", 1)
    assert done.out.partition("\n")[2] == text.partition("\n")[2] and not done.out.startswith("It is")
    assert "3 of 4 sentences, in letters of no language that the model has, stand as they were (lines 3, 4, 6)" in (
        done.err
    )
    done = sonarllm("translate", tmp_path / "a.txt", "-m", "mini", "--to", "de", "--beam", 1, "--json", "-q")
    first, *others = map(json.loads, done.out.splitlines())
    assert first["score"] < 0 < first["back_cosine"]
    assert [one["text"] for one in others] == ["Привет, мир.", "Как дела?", "你好 世界。"]
    assert {(one["score"], one["back_cosine"]) for one in others} == {(None, None)}


def test_nested_marks_take_time_as_their_number():
    cue = "<i>" * 20_000 + "a" + "</i>" * 20_000
    began = time.perf_counter()
    assert turns(cue) == [("<i>" * 20_000, "a", "</i>" * 20_000)] and time.perf_counter() - began < 5


def test_bilingual_has_each_block_and_its_translation():
    assert shouted("one\n\n- two\n", bilingual=True) == "one\nONE\n\n- two\nTWO\n"


@given(st.text("ab \n#->.1*`|\t", max_size=40), st.sampled_from(["", ".md"]))
def test_the_pieces_are_the_document(text, kind):
    assert "".join(p.before + p.prose + p.after for p in pieces(text, kind)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1\n00:01 --> 00:02\na\n", "line 2: broken times"),
        ("1\n00:00:05,000 --> 00:00:04,999\na\n", "line 2: broken times"),
        ("1\n00:00:61,000 --> 00:02:00,000\na\n", "line 2: broken times"),
        ("no times\n", "there are no times in subtitles"),
    ],
)
def test_broken_subtitles_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        shouted(text, ".srt")


def test_the_command_knows_subtitles_by_their_ending(tmp_path, home, sonarllm):
    (tmp_path / "a.srt").write_text(SRT, "utf-8")
    (tmp_path / "bad.srt").write_text("1\n00:01 --> 2\nx\n", "utf-8")

    def run(name, *options):
        return sonarllm("translate", tmp_path / name, "-m", "tiny", "--to", "it", *options)

    done = run("a.srt", "--max-tokens", "6")
    assert "00:00:04,000 --> 00:00:07,200" in done.out and "It is cold" not in done.out, done.err
    done = run("bad.srt")
    assert done.returncode == 2 and "broken times" in done.err


def test_several_files_go_into_a_folder_and_a_bad_one_is_left_out(tmp_path, home, sonarllm):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/a.srt").write_text(SRT, "utf-8")
    (tmp_path / "in/bad.srt").write_text("1\n00:01 --> 2\nx\n", "utf-8")
    (tmp_path / "in/deep/b.md").write_text("# One\n\n```\ncode\n```\n", "utf-8")
    options = ("-m", "tiny", "--to", "it", "--max-tokens", "5", "-o", tmp_path / "out")
    done = sonarllm("translate", tmp_path / "in", *options)
    assert done.returncode == 1 and done.err.count("bad.srt, line 2: broken times") == 1
    assert {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*.*")} == {"a.srt", "deep/b.md"}
    assert "00:00:04,000 --> 00:00:07,200" in (tmp_path / "out/a.srt").read_text("utf-8")
    assert "\n\n```\ncode\n```\n" in (tmp_path / "out/deep/b.md").read_text("utf-8")
    alone = sonarllm("translate", tmp_path / "in/a.srt", *options[:6])
    assert alone.out == (tmp_path / "out/a.srt").read_bytes().decode()


@pytest.mark.parametrize(
    ("files", "out", "says"),
    [
        (["in/a.txt", "in/b.txt"], None, "into a folder; name it with -o FOLDER"),
        (["in"], "in", "would be written over"),
        (["in/a.txt"], "in/../in/a.txt", "in/a.txt would be written over"),
        (["in/b.txt", "in/a.txt", "--json"], "in/a.txt", "in/a.txt would be written over"),
        (["in/a.txt", "a.txt"], "out", "two files are named a.txt"),
    ],
)
def test_a_translation_is_never_written_over_another_text(tmp_path, home, sonarllm, monkeypatch, files, out, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("in/a.txt", "in/b.txt", "a.txt"):
        (tmp_path / name).write_text("One.", "utf-8")
    done = sonarllm("translate", *files, "-m", "tiny", *(["-o", out] if out else []))
    assert done.returncode == 2 and says in done.err and not (tmp_path / "out").exists()
    assert (tmp_path / "in/a.txt").read_text() == "One."


def test_what_was_translated_before_is_not_translated_again(tmp_path):
    for name in ("in/a.txt", "in/out/a.txt", "in/outer/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", "utf-8")
    found = files_of_documents([str(tmp_path / "in")], str(tmp_path / "in/out"))
    assert [os.path.relpath(name, tmp_path) for name, _ in found] == ["in/a.txt", "in/outer/b.txt"]
    (tmp_path / "in/a.txt").unlink()
    (tmp_path / "in/outer/b.txt").unlink()
    with pytest.raises(UserError, match="every text there is lies in"):
        files_of_documents([str(tmp_path / "in")], str(tmp_path / "in/out"))


def test_a_name_tells_what_is_in_the_file(tmp_path):
    for name in ("page.html", "a.txt.gz", "b.vtt", "LICENCE", "C.MD"):
        (tmp_path / name).write_text("x", "utf-8")
    found = files_of_documents([*map(str, sorted(tmp_path.iterdir()))], "out")
    assert {place.name for _, place in found} == {"page.html.txt", "a.txt", "b.vtt", "LICENCE", "C.MD"}


def test_the_verb_takes_what_the_command_takes(tmp_path, home, sonarllm):
    text = "# Eins\n\nDas ist *ein* Haus, und ich wohne darin. Geh nicht!\n"
    (tmp_path / "a.md").write_text(text, "utf-8")
    words = ["--to", "it", "--bilingual", "--no-clauses", "--beam", 2, "--max-tokens", 6, "-b", 3]
    done = sonarllm("translate", tmp_path / "a.md", "-m", "tiny", *words)
    how = {"kind": ".md", "bilingual": True, "clauses": False, "beam": 2, "max_tokens": 6, "batch_size": 3}
    found = translate(text, "it", model="tiny", **how)
    assert found.text == done.out and [one.line for one in found.sentences] == [1, 3, 3]
    with pytest.raises(UserError, match="the text is in German already"):
        translate(text, "de", model="tiny")


def test_standard_input_among_files_has_no_name_in_the_folder(tmp_path):
    (tmp_path / "a.txt").write_text("x", "utf-8")
    with pytest.raises(UserError, match="standard input has no name"):
        files_of_documents(["-", str(tmp_path / "a.txt")], str(tmp_path / "out"))


def test_a_text_is_not_translated_into_its_own_language(home, tmp_path, sonarllm):
    (tmp_path / "a.txt").write_text("It is late.")
    said = [sonarllm("translate", tmp_path / "a.txt", "-m", "mini", *lang) for lang in ([], ["--lang", "en"])]
    assert [done.returncode for done in said] == [2, 2]
    assert "a.txt is in English already; --to says" in said[0].err
    assert "would go from English into English; --lang says" in said[1].err


def test_a_line_in_another_language_is_read_in_its_own_and_stands_in_that_to_be_written():
    own = lambda text, usual: {"A": "ita_Latn", "E": "eng_Latn"}.get(text.strip()[:1], usual)  # noqa: E731
    run = lambda sentences, lang: [Said(f"{lang[0]}<{s}>", -1.0, 1.0) for s in sentences]  # noqa: E731
    text = "- D x\n\nD d\nd.\n  A b\na\nE f\nOh.\nD, d\n"
    found = list(translated(text, "", run, lang="deu_Latn", own=own, to="eng_Latn"))
    assert "".join(part.text for part in found) == "- d<D x>\n\nd<D d d.>\n  i<A b a>\nE f\nd<Oh.>\nd<D, d>\n"
    sentences = [one for part in found for one in part.sentences]
    assert all(" ".join(text[one.start : one.end].split()) == one.source for one in sentences)
    assert [one.line for one in sentences] == [1, 3, 5, 7, 8, 9] and [one.already for one in sentences].index(True) == 3


LINES = "Das Haus ist sehr alt.\nLe chat dort dans la maison.\nThe weather is very cold today.\nJa.\n"


def test_lines_in_several_languages_are_each_translated_and_those_already_there_told(home, tmp_path, sonarllm):
    (tmp_path / "a.txt").write_text(LINES, "utf-8")
    done = sonarllm("translate", tmp_path / "a.txt", "-m", "mini", "--to", "en", "--beam", 1)
    first, second, *rest = done.out.splitlines()
    assert first != LINES.splitlines()[0] and second != LINES.splitlines()[1] and done.returncode == 0
    assert rest[0] == "The weather is very cold today."
    assert "sentences, read as English, stand as they were (line" in done.err


def test_of_several_files_one_that_is_there_already_is_copied(home, tmp_path, sonarllm):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("It is late.\n\n- So we go home now.\n")
    (tmp_path / "in/b.txt").write_text("Das Haus ist alt.\n")
    done = sonarllm("translate", tmp_path / "in", "-m", "mini", "--to", "en", "--beam", 1, "-o", tmp_path / "out")
    assert done.returncode == 0 and "a.txt is in English already, and stands as it is" in done.err
    assert (tmp_path / "out/a.txt").read_text() == (tmp_path / "in/a.txt").read_text()
    assert (tmp_path / "out/b.txt").exists()


@pytest.mark.parametrize("to", ["en", "de"])
def test_a_text_in_a_language_that_the_model_lacks_is_told_once(home, tmp_path, sonarllm, to):
    (tmp_path / "a.txt").write_text("今日は天気がとても良いです。\n私は学生です。\n", "utf-8")
    done = sonarllm("translate", tmp_path / "a.txt", "-m", "mini", "--to", to)
    assert (done.returncode, done.err.count("\n")) == (2, 1)
    assert "a.txt is in Japanese, which the model does not have; -m" in done.err


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_front_matter_stands_but_a_rule_at_the_top_is_none(end):
    text = "---\ntitle: One two\ntags: [a]\n---\n# A\n\n---\n\nb c\n".replace("\n", end)
    assert shouted(text, ".md") == text.replace("b c", "B C")
    assert shouted("---\n\na\n\n---\n", ".md") == "---\n\nA\n\n---\n"
    assert shouted("---\na: b\n", ".md") == "---\nA: B\n"


def test_a_sentence_that_comes_out_as_it_was_is_told(home, tmp_path, sonarllm):
    (tmp_path / "a.txt").write_text("Hello, Anna.\n")
    done = sonarllm("translate", tmp_path / "a.txt", "-m", "mini", "--to", "de")
    assert done.out == "Hello, Anna.\n" and "1 of 1 sentences came out as they were (line 1)" in done.err


def test_a_text_without_blank_lines_is_translated_as_it_is_read():
    asked = []

    def run(sentences, _):
        asked.append(len(sentences))
        return [Said(s.upper(), -1.0, 0.5) for s in sentences]

    text = "One two.\n" * 1000
    found = translated(text, "", run, lang="eng_Latn", most=100)
    assert next(found).text == "ONE TWO.\n" * 64 and sum(asked) < 200
    assert "".join(part.text for part in found) == "ONE TWO.\n" * 936
