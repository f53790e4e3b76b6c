"""Files, folders and standard input → (name, text); HTML read, other documents refused by name."""

import gzip
import io
import json
import time

import pytest
from click.testing import CliRunner

from sonarllm_cli.cli import sonarllm
from sonarllm_cli.errors import UserError
from sonarllm_cli.io.files import read_lines
from sonarllm_cli.io.texts import expand, html_text, read_texts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder `notes` within the current one; its names are relative, as a user types them."""
    monkeypatch.chdir(tmp_path)
    for name in ("notes/b.txt", "notes/a.md", "notes/sub/c.txt", "notes/.git/x.txt", "notes/.y.txt", "notes/p.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"In {name}.", "utf-8")
    return tmp_path / "notes"


def test_a_folder_is_its_text_files_sorted_without_hidden_ones(folder):
    names = ["notes/a.md", "notes/b.txt", "notes/sub/c.txt"]
    assert expand(["notes"]) == [str(folder.parent / name).removeprefix(f"{folder.parent}/") for name in names]
    assert list(read_texts(["notes/sub", "notes/p.png"])) == [
        ("notes/sub/c.txt", "In notes/sub/c.txt."),
        ("notes/p.png", "In notes/p.png."),  # named by its user: not judged by its ending
    ]
    assert expand(["notes"], endings=[".png"]) == ["notes/p.png"]


def test_standard_input_is_a_dash_and_what_no_path_means(folder, monkeypatch):
    for paths in ([], ["-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Ça va.".encode())))
        assert list(read_texts(paths)) == [("-", "Ça va.")]


def test_a_path_that_is_not_there_is_told_before_any_is_read(folder):
    with pytest.raises(UserError, match=r"no such file: notes/z\.txt"):
        read_texts(["notes/a.md", "notes/z.txt"])
    with pytest.raises(UserError, match="give - once"):
        read_texts(["-", "-"])
    (folder / "none").mkdir()
    with pytest.raises(UserError, match="notes/none holds no file ending in"):
        read_texts(["notes/none"])


def test_a_blank_file_is_an_error_where_it_was_named_and_passed_over_in_a_folder(folder):
    (folder / "a.md").write_text(" \n", "utf-8")
    assert [name for name, _ in read_texts(["notes"])] == ["notes/b.txt", "notes/sub/c.txt"]
    with pytest.raises(UserError, match=r"notes/a\.md is empty"):
        list(read_texts(["notes/a.md"]))


@pytest.mark.parametrize(
    "data, tool",
    [
        (b"%PDF-1.7\n\xe2\xe3\0", "pdftotext"),
        (b"PK\x03\x04\0", "pandoc -t plain"),
        (b"{\\rtf1", "pandoc -f rtf"),
        (b"[Script Info]\r\nTitle: x", "ffmpeg -i"),
    ],
)
def test_a_document_that_is_no_text_names_the_tool_that_reads_it(folder, data, tool):
    (folder / "my doc").write_bytes(data)
    with pytest.raises(UserError) as error:
        list(read_texts(["notes/my doc"]))
    assert tool in error.value.cure and "'notes/my doc'" in error.value.cure


PAGE = """<!DOCTYPE html><html><head><title>Not text</title><style>p {}</style></head>
<body><h1>Otters &amp; seals</h1>
<p>They   float
on their <b>backs</b>.<br>So</p><script>var x = "<p>";</script>
<ul><li>fish<li>crabs</ul><table><tr><th>Name</th> <th>Mass</th></tr><tr><td>sea</td><td>45 kg</td></tr></table>
<pre>if a:
    b()</pre>End"""
TEXT = "Otters & seals\n\nThey float on their backs.\nSo\n\nfish\n\ncrabs\n\nName\tMass\n\nsea\t45 kg\n\n"
TEXT += "if a:\n    b()\n\nEnd\n"


def test_of_html_the_text_is_taken_by_its_ending_or_its_beginning(folder, monkeypatch):
    assert html_text(PAGE) == TEXT
    (folder / "page.html.gz").write_bytes(gzip.compress(b"<p>One <p>Two"))
    assert list(read_texts(["notes/page.html.gz"])) == [("notes/page.html.gz", "One\n\nTwo\n")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PAGE.encode())))
    assert list(read_texts(["-"])) == [("-", TEXT)]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('<p title="a > b">One</p>', "One"),
        ("1 < 2 and <b>3</b> &gt; 2 &amp; so", "1 < 2 and 3 > 2 & so"),
        ("<script>if (a<b) x('<p>')</script>One<SCRIPT>two", "One"),
        ("<!-- a > b --><p>One<!-- two", "One two"),
        ("<p>One <a href='x>two</p> three", "One two\n\nthree"),
        ("<p>One <a href=x", "One <a href=x"),
        ("<?xml version='1'?><!DOCTYPE html>One<br/>two<hr>", "One\ntwo"),
        ("One &#" + "9" * 5000 + "; two", "One \ufffd two"),
        ("<svg/>One<svg><svg>no</svg>no</svg> two", "One two"),
    ],
)
def test_of_html_what_nothing_closes_stays_text(source, text):
    assert html_text(source).strip() == text


@pytest.mark.parametrize(
    "unit", ["<", "<!--", "<a ", '<a b="', "<a b='x", "</", "<!", "<?", "&", "&#", "<script>", "<![CDATA[", "<b><a "]
)
@pytest.mark.parametrize("end", ["", ">", '">'])
def test_a_hostile_page_takes_time_as_its_length(unit, end):
    html_text("<html>" + unit * (400_000 // len(unit)) + end)  # with the standard library's parser, minutes and hours


def test_text_that_speaks_of_html_stays_as_it_is(folder):
    (folder / "a.md").write_text("Write <html> first.\n" + "<!-- a -->" * 40 + "<p>", "utf-8")
    (folder / "b.txt").write_text("<!-- a -->" * 40 + "<p>", "utf-8")  # neither slow
    began = time.perf_counter()
    assert [text[:10] for _, text in read_texts(["notes/a.md", "notes/b.txt"])] == ["Write <htm", "<!-- a -->"]
    assert time.perf_counter() - began < 5


def test_segment_takes_files_and_folders_and_says_where_each_sentence_is(folder, monkeypatch):
    (folder / "a.md").write_text("One Zqx. Smith. Two.\n", "utf-8")
    (folder / "abbreviations").write_text("zqx.\n", "utf-8")
    arguments = ["segment", "--json", "--abbreviations", "notes/abbreviations", "notes/a.md", "notes/sub"]
    out = CliRunner().invoke(sonarllm, arguments, catch_exceptions=False).output
    assert [json.loads(line) for line in out.splitlines()] == [
        {"text": "One Zqx. Smith.", "file": "notes/a.md", "start": 0, "end": 15},
        {"text": "Two.", "file": "notes/a.md", "start": 16, "end": 20},
        {"text": "In notes/sub/c.txt.", "file": "notes/sub/c.txt", "start": 0, "end": 19},
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(out.encode())))
    assert [line.text for line in read_lines("-")] == ["One Zqx. Smith.", "Two.", "In notes/sub/c.txt."]  # for embed


def test_standard_input_that_is_no_record_stays_text(monkeypatch):
    for text in ('{"text": 1}', "{text}", '["text"]', 'Say {"text": "a"}'):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert [line.text for line in read_lines("-")] == [text]


def test_of_several_texts_one_that_cannot_be_read_is_told_and_the_others_are_done(folder):
    (folder / "b.txt").write_bytes("Café.".encode("cp1252"))
    done = CliRunner().invoke(sonarllm, ["segment", "notes"])
    assert done.stdout == "In notes/a.md.\nIn notes/sub/c.txt.\n"
    assert "notes/b.txt, line 1: not UTF-8" in done.stderr and "1 could not be done" in str(done.exception)
    (folder / "sub" / "c.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match="no file could be read"):
        list(read_texts(["notes/b.txt", "notes/sub"], print))


def test_records_are_no_text(folder):
    (folder / "docs.jsonl").write_text('{"text": "One. Two."}\n', "utf-8")
    with pytest.raises(UserError, match=r"holds records .*jq -r \.text notes/docs\.jsonl"):
        list(read_texts(["notes/docs.jsonl"]))


SRT = "1\n00:00:01,000 --> 00:00:02,000\n<i>It is cold\nthis</i> morning\n\n2\n00:00:03,000 --> 00:00:04,000\n"
SRT += "and {\\an8}dark &amp; wet.\n\n3\n00:00:05,000 --> 00:00:06,000\n- ANN: [SIGHS] Is it?\n- Yes.\n"


def test_of_subtitles_what_is_said_is_read_without_numbers_times_tags_and_sounds(folder):
    (folder / "a.srt").write_text(SRT, "utf-8")
    (folder / "b.vtt").write_text("WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.000 align:left\n<v Bob>Hi.\n", "utf-8")
    (folder / "bad.srt").write_text("1\n00:01 --> 2\nx\n", "utf-8")
    said = "It is cold this morning\nand dark & wet.\nIs it?\nYes.\n"
    assert list(read_texts(["notes/a.srt", "notes/b.vtt"])) == [("notes/a.srt", said), ("notes/b.vtt", "Hi.\n")]
    assert list(read_texts(["notes/a.srt"], marked=True)) == [("notes/a.srt", SRT)]
    done = CliRunner().invoke(sonarllm, ["segment", "notes/a.srt", "notes/bad.srt"])
    assert done.stdout == "It is cold this morning and dark & wet.\nIs it?\nYes.\n"
    assert "notes/bad.srt, line 2: broken times" in done.stderr


def test_of_markdown_front_matter_fenced_code_and_rules_are_no_text_and_places_stay(folder):
    text = "---\ntitle: Notes\n---\nOne.\n\n---\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    text += "- ```sh\n  ls\n  ~~~\n  ```\nTwo.\n```\nthree\n"
    (folder / "a.md").write_text(text, "utf-8")
    [(_, read)] = read_texts(["notes/a.md"])
    assert len(read) == len(text) and " ".join(read.split()) == "One. | a | b | | 1 | 2 | Two. ``` three"
    assert read.index("Two.") == text.index("Two.")
    assert list(read_texts(["notes/a.md"], marked=True)) == [("notes/a.md", text)]
    (folder / "b.txt").write_text(text, "utf-8")
    assert list(read_texts(["notes/b.txt"])) == [("notes/b.txt", text)]
