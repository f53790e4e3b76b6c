"""translate: layout stays, prose is translated; by a stand-in that writes in capitals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonarllm_cli.errors import UserError
from sonarllm_cli.use.translate import pieces, translate, translator


def shouted(text, kind="", **options):
    return "".join(
        translate(text, lambda sentences: [s.upper() for s in sentences], lang="eng_Latn", kind=kind, **options)
    )


def test_lists_headings_blank_lines_and_code_stay():
    text = "# One two\n\n- a b.\n  c d.\n- [ ] e\n\n1. f. G h.\n\n```\nx = y\n```\n\n| - | - |\n> quoted\n\n"
    want = "# ONE TWO\n\n- A B. C D.\n- [ ] E\n\n1. F. G H.\n\n```\nx = y\n```\n\n| - | - |\n> QUOTED\n\n"
    assert shouted(text, ".md") == want


def test_lines_of_a_paragraph_are_one_text():
    assert shouted("one\ntwo. three\n\n\nfour") == "ONE TWO. THREE\n\n\nFOUR"


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


def test_bilingual_has_each_block_and_its_translation():
    assert shouted("one\n\n- two\n", bilingual=True) == "one\nONE\n\n- two\nTWO\n"


@given(st.text("ab \n#->.1*`|\t", max_size=40), st.sampled_from(["", ".md"]))
def test_the_pieces_are_the_document(text, kind):
    assert "".join(p.before + p.prose + p.after for p in pieces(text, kind)) == text


@pytest.mark.parametrize(
    ("text", "says"), [("1\n00:01 --> 00:02\na\n", "line 2: broken times"), ("no times\n", "there is no time")]
)
def test_broken_subtitles_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        shouted(text, ".srt")


def test_a_translation_is_the_decoded_embedding(space):
    from sonarllm_cli.flow.decode import decode
    from sonarllm_cli.flow.embed import embed

    texts = ["A music player.", "A chess game."]
    want = [found[0].text for found in decode(embed(texts, model=space), lang="deu_Latn", model=space, max_tokens=12)]
    from sonarllm_cli.flow.decode import Search

    assert translator(space, "eng_Latn", "deu_Latn", Search(max_tokens=12))(texts) == want


def test_the_command_knows_subtitles_by_their_ending(tmp_path, home, sonarllm):
    (tmp_path / "a.srt").write_text(SRT, "utf-8")
    (tmp_path / "bad.srt").write_text("1\n00:01 --> 2\nx\n", "utf-8")

    def run(name, *options):
        return sonarllm("translate", tmp_path / name, "-m", "tiny", *options)

    done = run("a.srt", "--max-tokens", "6")
    assert "00:00:04,000 --> 00:00:07,200" in done.out and "It is cold" not in done.out, done.err
    done = run("bad.srt")
    assert done.returncode == 2 and "broken times" in done.err
