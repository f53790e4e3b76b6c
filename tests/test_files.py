"""files.py and io/vectors.py: texts and embeddings come back as they went, and bad ones are named."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.io.files import atomic_file, atomic_folder, atomic_write, open_output, read_lines, read_text
from sonarllm_cli.io.vectors import EmbeddingRow, read_embeddings
from sonarllm_cli.io.vectors_out import EmbeddingWriter
from sonarllm_cli.learn.checkpoint import claimed
from sonarllm_cli.use.align import writing_vectors

ENDINGS = (".npy", ".safetensors", ".parquet", ".jsonl")
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=finite)
strings = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def lines(path, data=None, **options):
    """The (number, text, lang) of each line of `path`, after `data` is written to it."""
    if data is not None:
        Path(path).write_bytes(data)
    return [line[:3] for line in read_lines(str(path), **options)]


def write(path, blocks, texts=None, langs=None, **options):
    """`blocks` (N, D) into `path`, one write each."""
    with EmbeddingWriter(str(path), dim=blocks[0].shape[1], **options) as writer:
        for block_ND in blocks:
            n = len(block_ND)
            writer.write(block_ND, texts or ["t"] * n, langs or ["eng_Latn"] * n)


def read(path, **options):
    """All of `path` as one (N, D) array."""
    return np.concatenate([batch.embeddings_ND for batch in read_embeddings(str(path), **options)])


def same_bits(a, b):
    return a.dtype == b.dtype == np.float32 and a.shape == b.shape and a.tobytes() == b.tobytes()


@contextmanager
def fails(message, cure="", kind=UserError):
    """The body raises exactly `kind`, with these words in its message and cure."""
    with pytest.raises(UserError) as caught:
        yield
    assert type(caught.value) is kind
    assert message in caught.value.message and cure in caught.value.cure, str(caught.value)


def pipe(monkeypatch, data):
    """Make `data` the standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def only(folder):
    """The names in `folder`, hidden ones too."""
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------------------------ texts


@quick
@given(text=strings.filter(str.strip))
def test_a_text_comes_back_as_it_was_written(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_text(str(tmp_path / "a.txt")) == text.removeprefix("\ufeff")


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfHi.\n")
    assert read_text(str(tmp_path / "a.txt")) == "Hi.\n"
    assert lines(tmp_path / "a.txt") == [(1, "Hi.", None)]


def test_standard_input_is_a_file_named_by_a_dash(monkeypatch):
    pipe(monkeypatch, "Ünï.\n".encode())
    assert read_text("-") == "Ünï.\n"
    pipe(monkeypatch, "Ünï.\n".encode())
    assert lines("-") == [(1, "Ünï.", None)]


@pytest.mark.parametrize("reader", [read_text, lambda path: list(read_lines(path))])
@pytest.mark.parametrize(
    ("data", "message", "cure"),
    [
        (b"", "a.txt is empty", "text"),
        (b" \n\t\r\n\n", "a.txt is empty", "text"),
        (b"one\ntwo\xe9\n", "a.txt, line 2: not UTF-8 at byte 7", "iconv -f cp1252 -t utf-8 "),
        (b"one\n\xe2\x82", "a.txt, line 2: not UTF-8 at byte 4", "iconv -f cp1252 -t utf-8 "),
        (b"one\n\ntwo\0\n", "a.txt, line 3: binary data", "UTF-8"),
        ("one\n".encode("utf-16"), "a.txt, line 1: UTF-16, not UTF-8", "iconv -f utf-16 -t utf-8 "),
    ],
)
def test_what_is_not_text_is_named_with_its_line_and_byte(tmp_path, reader, data, message, cure):
    (tmp_path / "a.txt").write_bytes(data)
    with fails(message, cure):
        reader(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("reader", [read_text, read_lines, read_embeddings])
def test_a_file_that_cannot_be_opened_is_named_at_once(tmp_path, reader, monkeypatch):
    path = tmp_path / "a.jsonl"
    with fails(f"no such file: {path}", "check the path"):
        reader(str(path))
    with fails("is not a file name"):
        reader("a\0.jsonl")
    path.mkdir()
    with fails(f"{path} is a folder, not a file"):
        reader(str(path))

    def refuse(name, *rest):
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("sonarllm_cli.io.files.open", refuse, raising=False)
    with fails("no permission to read b.jsonl", "chmod u+r b.jsonl"):
        reader("b.jsonl")


def test_a_read_that_fails_half_way_is_an_error(monkeypatch):
    class Broken(io.BytesIO):
        def readline(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Broken()))
    with fails("cannot read standard input: Input/output error"):
        lines("-")


def test_lines_keep_their_order_spaces_and_numbers_and_blank_ones_are_skipped(tmp_path):
    data = b"\n a b \r\n \t\nc\n\n\xc3\xa9 last"
    assert lines(tmp_path / "a.txt", data) == [(2, " a b ", None), (4, "c", None), (6, "é last", None)]


@quick
@given(texts=st.lists(strings.map(lambda text: "".join(text.split())).filter(bool), min_size=1))
def test_every_line_of_a_text_file_comes_back(tmp_path, texts):
    data = "\n".join(["", *texts]).encode()
    assert lines(tmp_path / "a.txt", data) == [(i, text, None) for i, text in enumerate(texts, 2)]


def test_json_lines_give_text_language_and_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "A.", "lang": "eng_Latn"}\n\n{"text": "\\u00e9\\ud83d\\ude00", "lang": null, "id": [1]}\n'
    )
    first, second = read_lines(str(path))
    assert first[:3] == (1, "A.", "eng_Latn") and second[:3] == (3, "é😀", None)
    assert second.record == {"text": "é😀", "lang": None, "id": [1]}


def test_a_text_field_makes_any_name_json_lines(tmp_path):
    assert lines(tmp_path / "a.txt", b'{"t": "A."}\n{"t": " "}\n{"t": "B."}', text_field="t") == [
        (1, "A.", None),
        (3, "B.", None),
    ]
    assert lines(tmp_path / "a.NDJSON", b'{"text": "A."}') == [(1, "A.", None)]


@pytest.mark.parametrize(
    ("line", "message", "cure"),
    [
        (b'{"txet": "A."}', 'line 2: no field "text"', 'did you mean "txet"?'),
        (b'{"id": 1, "url": 2}', 'line 2: no field "text"', "its fields are: id, url"),
        (b"{}", 'line 2: no field "text"', "none"),
        (b'{"text": 3}', 'line 2: the field "text" is not a string', ""),
        (b'{"text": "a", "lang": 5}', 'line 2: the field "lang" is not a string', ""),
        (b'{"text": "A."', "line 2: not JSON", "JSON Lines"),
        (b'["A."]', "line 2: not a JSON object", '{"text": "..."}'),
        (b'{"text": "\\ud800"}', "line 2: not JSON", ""),
        (b'{"text": "A.", "\\ud800": 1}', "line 2: not JSON", ""),
        (b'{"text": "\\u0000"}', "line 2: binary data", ""),
        (b"[" * 100_000, "line 2: not JSON", ""),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 2: not JSON", ""),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, message, cure):
    with fails(message, cure):
        lines(tmp_path / "a.jsonl", b'{"text": "A."}\n' + line + b"\n")


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)])
def test_compressed_files_are_read_and_cut_ones_are_errors(tmp_path, ending, pack):
    path, data = tmp_path / f"a.jsonl.{ending}", pack(b'{"text": "A."}\n' * 2)
    assert lines(path, data) == [(1, "A.", None), (2, "A.", None)]
    assert read_text(str(path)) == '{"text": "A."}\n' * 2
    for damaged in (data[:-5], data[:9], b"plain text", data[:-20] + b"!!!!" + data[-16:]):
        with fails(f"{path} is damaged or cut short"):
            lines(path, damaged)


def test_a_line_may_have_max_chars_and_no_more(tmp_path):
    line = "é" * 9 + "😀"
    assert lines(tmp_path / "a.txt", f"\ufeff{line}\r\n".encode(), max_chars=10) == [(1, line, None)]
    assert lines(tmp_path / "a.txt", ("\ufeff" + "😀" * 10 + "\r\n").encode(), max_chars=10) == [(1, "😀" * 10, None)]
    for long in (line + "x", "x" * 100):
        with fails("line 2 is longer than 10 characters", "split it into sentences first"):
            lines(tmp_path / "a.txt", f"ok\n{long}\n".encode(), max_chars=10)


def test_a_line_that_never_ends_is_not_read_to_its_end(monkeypatch):
    class Endless(io.RawIOBase):
        taken = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = b"x" * len(buffer)
            self.taken += len(buffer)
            return len(buffer)

    endless = Endless()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
    with fails("line 1 is longer than 1,000 characters"):
        lines("-", max_chars=1000)
    assert endless.taken < 20_000


def test_lines_come_before_the_file_is_read(monkeypatch):
    pipe(monkeypatch, b"one\n\xff\n")
    assert next(iter(read_lines("-"))).text == "one"


@quick
@given(data=st.binary(), ending=st.sampled_from([".txt", ".jsonl", ".gz", ".xz", ".bz2"]))
def test_random_bytes_are_texts_or_a_user_error(tmp_path, data, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(data)
    for reader in (read_text, lambda path: list(read_lines(path))):
        try:
            reader(str(path))
        except UserError as error:
            assert type(error) is UserError and error.cure


# ------------------------------------------------------------------------------------------------ writing


def test_an_atomic_write_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(KeyError), atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert temporary == tmp_path / f".a.txt.tmp-{os.getpid()}"
        raise KeyError
    assert path.read_bytes() == "é\n".encode() and only(tmp_path) == ["a.txt"]


def test_a_link_is_followed_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.txt")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.txt").read_bytes() == b"new"


def test_a_target_that_cannot_be_is_an_error_with_a_cure(tmp_path):
    with fails("no such folder:", "mkdir -p "):
        atomic_write(tmp_path / "none" / "a.txt", "a")
    with fails("it is a folder"):
        atomic_write(tmp_path, "a")
    with fails("cannot write", "another -o"):
        atomic_write(tmp_path / ("a" * 250), "a")
    with fails("is not a file name"):
        atomic_write("", "a")
    assert only(tmp_path) == []


def test_an_error_of_the_work_is_not_an_error_of_the_writing(tmp_path):
    with pytest.raises(BrokenPipeError), atomic_file(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        os.stat(tmp_path / "other")


full = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")


@pytest.fixture
def full_disk(monkeypatch):
    """Whatever the package opens to write is /dev/full (which no test names as a target: a bug could replace it)."""
    real = open
    for name in ("io.vectors_out", "io.files"):
        monkeypatch.setattr(
            f"sonarllm_cli.{name}.open",
            lambda path, mode, **options: real(path if "r" in mode else "/dev/full", mode, **options),
            raising=False,
        )


@full
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("rows", [1, 5000])  # fails at the end, fails on the way
def test_a_disk_that_fills_up_leaves_nothing(tmp_path, full_disk, ending, rows):
    (tmp_path / f"a{ending}").write_bytes(b"old")
    with fails(f"a{ending}: No space left on device", "free some space or choose another -o", RunError):
        write(tmp_path / f"a{ending}", [np.ones((rows, 8), np.float32)])
    assert only(tmp_path) == [f"a{ending}"] and (tmp_path / f"a{ending}").read_bytes() == b"old"


@full
def test_a_text_on_a_full_disk_is_a_failed_run(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    with fails(f"cannot write {path}: No space left on device", "free", RunError), open_output(str(path)) as stream:
        stream.write("a")
    assert only(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_written_to_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    atomic_write(tmp_path / "pipe", "a")
    assert os.read(reader, 9) == b"a" and (tmp_path / "pipe").is_fifo() and only(tmp_path) == ["pipe"]
    os.close(reader)


@full
def test_a_full_disk_under_standard_output_is_a_failed_run(monkeypatch):
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with fails("cannot write standard output: No space left", kind=RunError):
            write("-", [np.ones((1, 2))])
        with fails("cannot write standard output: No space left", kind=RunError), open_output(None) as stream:
            stream.write("a")
        monkeypatch.undo()
        with pytest.raises(OSError):
            stdout.close()


def test_an_atomic_folder_replaces_the_old_one_or_leaves_it(tmp_path):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / content).write_text(content)
    assert only(tmp_path) == ["model"] and only(tmp_path / "model") == ["two"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "three").write_text("")
        raise KeyError
    assert only(tmp_path) == ["model"] and only(tmp_path / "model") == ["two"]


def test_a_folder_whose_replacing_fails_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    real, seen = os.replace, []

    def second_fails(old, new):
        seen.append(old)
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(old, new)

    monkeypatch.setattr(os, "replace", second_fails)
    with fails("No space left on device", kind=RunError), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "new").write_text("")
    assert only(tmp_path) == ["model"] and only(tmp_path / "model") == []


@pytest.mark.parametrize("below", ["file", "file/x"])
def test_a_folder_that_cannot_be_made_is_told_with_a_cure(tmp_path, below):
    (tmp_path / "file").write_text("")
    for make in (claimed(tmp_path / below).__enter__, lambda: writing_vectors(len, str(tmp_path / below), "a")):
        with fails("cannot make", "choose another folder"):
            make()
    assert only(tmp_path) == ["file"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path, marker, message in (
        (".", "", "it holds your home or current folder"),
        ("..", "", "it holds your home or current folder"),
        ("../file", "", "it is a file"),
        ("../home", "", "it holds your home or current folder"),
        ("../none/a", "", "no such folder"),
    ):
        with fails(message), atomic_folder(path, marker=marker):
            pass
    monkeypatch.chdir(tmp_path)
    with fails("it holds other things and no config.json"), atomic_folder("mine", marker="config.json"):
        pass
    assert only(tmp_path) == ["file", "mine"] and only("mine") == ["thesis.txt"]


def test_output_goes_to_standard_output_or_a_whole_file(tmp_path, capsys):
    for path in (None, "-"):
        with open_output(path) as stream:
            stream.write("é\n")
    assert capsys.readouterr().out == "é\né\n"
    with open_output(str(tmp_path / "a.txt")) as stream:
        stream.write("é\n")
        assert "a.txt" not in only(tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()


# ------------------------------------------------------------------------------------------------ embeddings


@pytest.mark.parametrize("ending", ENDINGS)
@quick
@given(array_ND=matrices, cut=st.integers(0, 6), batch=st.integers(1, 7))
def test_float32_embeddings_come_back_bit_for_bit(tmp_path, ending, array_ND, cut, batch):
    write(tmp_path / f"a{ending}", [array_ND[:cut], array_ND[cut:]])
    assert same_bits(read(tmp_path / f"a{ending}", batch=batch), array_ND)
    assert only(tmp_path) == [f"a{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
@quick
@given(array_ND=arrays(np.float16, (3, 4), elements=st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_float16_embeddings_come_back_as_the_same_numbers(tmp_path, ending, array_ND):
    write(tmp_path / f"a{ending}", [array_ND], dtype="float16")
    assert same_bits(read(tmp_path / f"a{ending}"), array_ND.astype(np.float32))


@quick
@given(texts=st.lists(strings, min_size=1, max_size=4))
def test_texts_and_languages_come_back(tmp_path, texts):
    array_ND = np.arange(len(texts) * 2, dtype=np.float32).reshape(-1, 2)
    for ending in (".parquet", ".jsonl"):
        write(tmp_path / f"a{ending}", [array_ND], texts=texts, langs=["é"] * len(texts))
        (batch,) = read_embeddings(str(tmp_path / f"a{ending}"))
        assert batch.texts == texts and batch.langs == ["é"] * len(texts)
        row = list(batch.rows())[-1]
        assert isinstance(row, EmbeddingRow) and row.text == texts[-1] and row.lang == "é"
        assert same_bits(row.embedding, array_ND[-1])


@pytest.mark.parametrize("ending", ENDINGS)
def test_batches_say_where_they_begin_and_keep_the_order(tmp_path, ending):
    array_ND = np.arange(5001, dtype=np.float32)[:, None]
    write(tmp_path / f"a{ending}", [array_ND[i : i + 300] for i in range(0, 5001, 300)])
    seen = 0
    for batch in read_embeddings(str(tmp_path / f"a{ending}"), batch=7):
        assert batch.first == seen and len(batch.texts) == len(batch.langs) == len(batch.embeddings_ND) <= 7
        assert batch.embeddings_ND[:, 0].tolist() == list(range(seen, seen + len(batch.texts)))
        seen += len(batch.texts)
    assert seen == 5001


def test_the_fingerprint_is_kept_where_the_format_has_a_place(tmp_path):
    for ending in (".parquet", ".safetensors"):
        write(tmp_path / f"a{ending}", [np.ones((1, 2))], fingerprint="af12")
        assert next(read_embeddings(str(tmp_path / f"a{ending}"))).fingerprint == "af12"


def test_other_programs_read_what_is_written(tmp_path):
    array_ND = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    for ending in ENDINGS:
        write(tmp_path / f"a{ending}", [array_ND])
    assert np.array_equal(np.load(tmp_path / "a.npy"), array_ND)
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["embeddings"], array_ND)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.column("text").to_pylist() == ["t"] * 10
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert records[0].keys() == {"text", "lang", "embedding"}
    assert np.array_equal(np.array([record["embedding"] for record in records], np.float32), array_ND)


def test_parquet_has_large_row_groups_whatever_the_batches(tmp_path):
    write(tmp_path / "a.parquet", [np.ones((100, 2))] * 50)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3


def test_numbers_in_json_are_short_and_exact(tmp_path):
    numbers = np.array([[0.1, -0.0, 1, 1e-45, 3.4028235e38, 0]], np.float32)
    numbers[0, 5] = np.uint32(0x15AE43FD).view(np.float32)  # 7.038531e-26 read as float64 rounds to its neighbour
    write(tmp_path / "a.jsonl", [numbers])
    assert '"embedding": [0.1, -0.0, 1, 1e-45, 3.4028235e+38, 7.03853069e-26]' in (tmp_path / "a.jsonl").read_text()
    loaded = json.loads((tmp_path / "a.jsonl").read_text())["embedding"]
    assert same_bits(np.array([loaded], np.float32), numbers)


def test_a_dash_writes_json_lines_in_utf8_as_each_batch_comes(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    with EmbeddingWriter("-", dim=1) as writer:
        writer.write(np.array([[0.5]]), ["é"], ["fra_Latn"])
        assert out.getvalue().decode() == '{"text": "é", "lang": "fra_Latn", "embedding": [0.5]}\n'


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    for bad, dtype in ((np.nan, "float32"), (np.inf, "float32"), (1e6, "float16")):
        with fails(f"embedding 4 is NaN or too large for {dtype}", "float32", RunError):
            write(tmp_path / "a.jsonl", [np.zeros((2, 2)), np.array([[0, 0], [0, bad]])], dtype=dtype)
    assert only(tmp_path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_exception_leaves_nothing_half_written(tmp_path, ending):
    with pytest.raises(KeyError), EmbeddingWriter(str(tmp_path / f"a{ending}"), dim=2) as writer:
        writer.write(np.ones((1, 2)), ["t"], ["l"])
        assert only(tmp_path) == [f".a{ending}.tmp-{os.getpid()}"]
        raise KeyError
    assert only(tmp_path) == []


def test_a_writer_refuses_what_it_cannot_write_before_it_begins(tmp_path):
    for name in ("a.csv", "a", "a.jsonl.gz", "a.npy.gz"):
        with fails("unknown ending", "use .npy, .safetensors, .parquet, .jsonl, .emb or -"):
            EmbeddingWriter(str(tmp_path / name), dim=2)
    with fails("no such folder", "mkdir -p"):
        EmbeddingWriter(str(tmp_path / "none" / "a.npy"), dim=2)
    with fails('not written as "int8"', "float32 or float16"):
        EmbeddingWriter(str(tmp_path / "a.npy"), dim=2, dtype="int8")


@pytest.mark.parametrize("shapes", [((1, 3), 1, 1), ((2, 2), 1, 2), ((1, 2), 1, 2), ((2,), 2, 2)])
def test_a_writer_refuses_rows_that_do_not_match(tmp_path, shapes):
    shape, texts, langs = shapes
    with pytest.raises(ValueError), EmbeddingWriter(str(tmp_path / "a.npy"), dim=2) as writer:
        writer.write(np.ones(shape), ["t"] * texts, ["l"] * langs)
    assert only(tmp_path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_without_rows_is_an_error_to_read(tmp_path, ending):
    write(tmp_path / f"a{ending}", [np.ones((0, 2))])
    with fails(f"a{ending} holds no embeddings"):
        read(tmp_path / f"a{ending}")
    (tmp_path / f"a{ending}").write_bytes(b"")
    with fails("holds no embeddings" if ending == ".jsonl" else f"a{ending} is empty"):
        read(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_cut_short_is_an_error(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write(path, [np.ones((9, 64))])
    whole = path.read_bytes()
    for size in range(1, len(whole) - 1, 61):
        path.write_bytes(whole[:size])
        with fails(f"a{ending}"):
            if read(path).shape == (size * 9 // len(whole), 64):  # whole lines of JSON
                raise UserError(str(path))


@pytest.mark.parametrize("name", ["a.csv", "a", "a.npy.gz", "a.parquet.xz", "a.json"])
def test_an_unknown_ending_is_an_error_to_read(name):
    with fails(f"{name}: unknown ending", "use .npy, .safetensors, .parquet, .jsonl, .emb or -"):
        read_embeddings(name)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "<i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_of_all_numbers_are_read(tmp_path, dtype, order):
    np.save(tmp_path / "a.npy", np.array([[1, 2, 3], [4, 5, 6]], dtype, order=order))
    assert read(tmp_path / "a.npy", batch=1).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_single_vector_is_one_row(tmp_path):
    vector_D = np.array([1, 2, 3], np.float32)
    np.save(tmp_path / "a.npy", vector_D)
    save_file({"embeddings": vector_D}, tmp_path / "a.safetensors")
    assert read(tmp_path / "a.npy").tolist() == read(tmp_path / "a.safetensors").tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float32(1), "an array of shape ()"),
        (np.ones((2, 3, 4)), "an array of shape (2, 3, 4)"),
        (np.ones((2, 0)), "an array of shape (2, 0)"),
        (np.ones(0), "an array of shape (0,)"),
        (np.array([["a"]]), "does not hold plain numbers"),
        (np.array([[True]]), "does not hold plain numbers"),
        (np.array([[1j]]), "does not hold plain numbers"),
        (np.zeros((2, 2), "f4,f4"), "does not hold plain numbers"),
        (np.array([[None]]), "pickled Python objects"),
        (np.array([[1, 2], [3, np.nan]]), "row 2: NaN"),
        (np.array([[1, np.inf]]), "row 1: NaN, infinity"),
        (np.array([[1, 1e300]]), "row 1: NaN, infinity or a number too large"),
    ],
)
def test_an_npy_of_anything_else_is_an_error(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with fails(message):
        read(tmp_path / "a.npy")


def test_an_npy_with_a_tail_is_an_error(tmp_path):
    with open(tmp_path / "a.npy", "wb") as stream:
        np.save(stream, np.ones((1, 2), np.float32))
        np.save(stream, np.ones((1, 2), np.float32))
    with fails("cut short or has a tail: 144 bytes where 8 are due"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("rows", [[None, [1.0]], [[1.0], None], [[], [1.0]]])
def test_a_parquet_row_without_an_embedding_is_named(tmp_path, rows):
    pq.write_table(pa.table({"embedding": pa.array(rows, pa.list_(pa.float32()))}), tmp_path / "a.parquet")
    where = next(i for i, row in enumerate(rows) if not row)
    with fails(f"a.parquet, row {where + 1}: there is no embedding", "remove it, or embed its text again"):
        list(read_embeddings(tmp_path / "a.parquet"))


def test_safetensors_without_the_key_or_with_other_numbers_are_errors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"vectors": np.ones((1, 2))}, path)
    with fails('has no tensor "embeddings"', "it holds vectors"):
        read(path)
    save_file({"embeddings": np.ones((1, 2), bool)}, path)
    with fails("does not hold plain numbers"):
        read(path)
    header = b'{"embeddings":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with fails("does not hold plain numbers", "float32"):
        read(path)


def test_safetensors_may_carry_texts(tmp_path):
    path, array_ND = tmp_path / "a.safetensors", np.ones((3, 2), np.float32)
    save_file({"embeddings": array_ND}, path, metadata={"texts": '["a", null, "c"]'})
    assert [batch.texts for batch in read_embeddings(str(path), batch=2)] == [["a", None], ["c"]]
    for texts in ('["a"]', "{}", "[1, 2, 3]", "["):
        save_file({"embeddings": array_ND}, path, metadata={"texts": texts})
        with fails("a.safetensors"):
            read(path)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.int32()), pa.list_(pa.float32(), 2)]
)
def test_parquet_of_other_programs_is_read(tmp_path, kind):
    column = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32())).cast(kind)
    text = pa.array(["a", None, "c"]).dictionary_encode()
    pq.write_table(pa.table({"id": [1, 2, 3], "embedding": column, "text": text}), tmp_path / "a.parquet")
    first, second = read_embeddings(str(tmp_path / "a.parquet"), batch=2)
    assert first.embeddings_ND.tolist() == [[1, 2], [3, 4]] and second.embeddings_ND.tolist() == [[5, 6]]
    assert first.texts == ["a", None] and first.langs == [None, None] and first.fingerprint == ""


@pytest.mark.parametrize(
    ("columns", "message", "cure"),
    [
        ({"vector": [[1.0]]}, 'has no column "embedding"', "it holds vector"),
        ({"embedding": [1.0]}, "is double, not lists of numbers", ""),
        ({"embedding": [["a"]]}, "not lists of numbers", ""),
        ({"embedding": [[1.0], [2.0], [1.0, 2.0]]}, "row 3: 2 numbers, where the first row has 1", ""),
        ({"embedding": [[1.0], [1.0, 2.0]]}, "row 2: 2 numbers, where the first row has 1", ""),
        ({"embedding": [[1.0], [2.0], None]}, "row 3: there is no embedding", ""),
        ({"embedding": pa.array([[], []], pa.list_(pa.float32()))}, "row 1: there is no embedding", ""),
        ({"embedding": [[1.0], [2.0], [None]]}, "row 3: a number is missing", ""),
        ({"embedding": [[1.0], [2.0], [float("nan")]]}, "row 3: NaN", ""),
        ({"embedding": [[1.0]], "text": [1]}, 'the column "text" is not strings', ""),
    ],
)
def test_parquet_of_anything_else_is_an_error(tmp_path, columns, message, cure):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with fails(message, cure):
        read(tmp_path / "a.parquet", batch=2)


def test_a_missing_embedding_in_a_fixed_size_list_is_an_error(tmp_path):
    column = pa.array([[1, 2], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"embedding": column}), tmp_path / "a.parquet")
    with fails("row 2: there is no embedding"):
        read(tmp_path / "a.parquet")


def test_json_lines_may_be_bare_lists_and_packed(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'[1, -0, 2.5]\n\n{"embedding": [1e20, 3, 4], "text": "a"}\n'))
    (batch,) = read_embeddings(str(path))
    assert same_bits(batch.embeddings_ND, np.array([[1, -0.0, 2.5], [1e20, 3, 4]], np.float32))
    assert batch.texts == [None, "a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "line 3: 1 numbers, where the first row has 2"),
        (b"[1, NaN]", "line 3: NaN"),
        (b"[1, 1e39]", "line 3: NaN, infinity or a number too large"),
        (b"[1, 1" + b"0" * 400 + b"]", "line 3: NaN, infinity or a number too large"),
        (b'[1, "2"]', "line 3: the embedding is not a list of numbers"),
        (b"[1, true]", "line 3: the embedding is not a list of numbers"),
        (b"[1, null]", "line 3: the embedding is not a list of numbers"),
        (b"[[1, 2]]", "line 3: the embedding is not a list of numbers"),
        (b"[]", "line 3: the embedding is not a list of numbers"),
        (b"3", "line 3: the embedding is not a list of numbers"),
        (b'{"embeding": [1, 2]}', 'line 3: no field "embedding"'),
        (b'{"embedding": [1, 2], "text": 3}', 'line 3: "text" or "lang" is not a string'),
        (b"[1, 2", "line 3: not JSON"),
        (b"\xff", "line 3: not UTF-8 at byte 8"),
    ],
)
def test_a_bad_line_of_embeddings_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b"[1, 2]\n\n" + line + b"\n")
    with fails(message):
        read(tmp_path / "a.jsonl")


def test_standard_input_may_be_json_lines_or_npy(monkeypatch):
    pipe(monkeypatch, b"\n[1, 2]\n[3, 4]\n")
    assert read("-", batch=1).tolist() == [[1, 2], [3, 4]]
    npy = io.BytesIO()
    np.save(npy, np.array([[1, 2], [3, 4]], np.float64))
    pipe(monkeypatch, npy.getvalue())
    assert read("-", batch=1).tolist() == [[1, 2], [3, 4]]
    pipe(monkeypatch, npy.getvalue()[:-1])
    with fails("standard input is cut short"):
        read("-")
    pipe(monkeypatch, b"")
    with fails("standard input holds no embeddings"):
        read("-")


@pytest.mark.parametrize("ending", ENDINGS)
@quick
@given(data=st.binary(max_size=300), whole=st.booleans(), at=st.integers(0, 400))
def test_random_and_damaged_bytes_are_embeddings_or_a_user_error(tmp_path, ending, data, whole, at):
    path = tmp_path / f"a{ending}"
    if whole:  # overwrite a part of a good file
        write(path, [np.ones((4, 3), np.float32)])
        good = path.read_bytes()
        data = good[:at] + data[:3] + good[at + len(data[:3]) :]
    path.write_bytes(data)
    try:
        assert read(path).dtype == np.float32
    except UserError as error:
        assert type(error) is UserError and error.cure


def test_reading_texts_imports_no_heavy_library():
    code = "import sys, sonarllm_cli.io.vectors_out; print({'torch', 'pyarrow', 'safetensors'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_json_lines_name_their_space_and_mix_none(tmp_path):
    with EmbeddingWriter(str(tmp_path / "a.jsonl"), dim=1, fingerprint="abc") as writer:
        writer.write(np.ones((2, 1), np.float32), ["x", "y"], [None, None])
    assert [b.fingerprint for b in read_embeddings(tmp_path / "a.jsonl")] == ["abc"]
    (tmp_path / "b.jsonl").write_text('{"embedding": [1], "space": "abc"}\n{"embedding": [1], "space": "abd"}\n')
    with pytest.raises(UserError, match="line 2 is of another space"):
        list(read_embeddings(tmp_path / "b.jsonl"))


# ------------------------------------------------------------------------------------------------ other programs' files


def test_raw_float32_goes_out_and_comes_back_with_its_width(tmp_path):
    array_ND = np.arange(6, dtype=np.float32).reshape(3, 2)
    write(tmp_path / "a.emb", [array_ND])
    assert np.array_equal(np.fromfile(tmp_path / "a.emb", "<f4"), array_ND.ravel())  # as LASER and vecalign have it
    assert same_bits(read(tmp_path / "a.emb", dim=2, batch=2), array_ND)
    with fails("a.emb does not say how wide", "--dim 1024"):
        read(tmp_path / "a.emb")
    with fails("cut short, or its rows are not 5 wide: it has 24 bytes", "a row of float32 has 20"):
        read(tmp_path / "a.emb", dim=5)
    with fails("and does not say otherwise", "--half"):
        EmbeddingWriter(str(tmp_path / "b.emb"), dim=2, dtype="float16")
    write(tmp_path / "a.npy", [array_ND])
    with fails("says itself how wide", "--dim"):
        read(tmp_path / "a.npy", dim=2)


def lcm(path, **columns):
    """A Parquet as LCM's preparation writes it: documents of sentences and their vectors."""
    kinds = {"text_sentences": pa.list_(pa.string())}
    table = {name: pa.array(value, kinds.get(name)) for name, value in columns.items()}
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize("vector", [pa.list_(pa.float32()), pa.list_(pa.float16(), 2)])
def test_the_documents_of_lcm_are_read_as_their_sentences(tmp_path, vector):
    vectors = pa.array([[[1, 2], [3, 4]], [], [[5, 6]]], pa.list_(pa.list_(pa.int32()))).cast(pa.list_(vector))
    lcm(tmp_path / "a.parquet", text_sentences=[["a", "b"], [], ["c"]], lang=["x", "y", "z"],
        text_sentences_sonar_emb=vectors)  # fmt: skip
    batches = list(read_embeddings(tmp_path / "a.parquet", batch=2))
    assert [b.embeddings_ND.tolist() for b in batches] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert [(b.texts, b.langs, b.first) for b in batches] == [(["a", "b"], ["x", "x"], 0), (["c"], ["z"], 2)]


def test_a_document_whose_texts_and_vectors_differ_is_named(tmp_path):
    lcm(tmp_path / "a.parquet", text_sentences=[["a"], ["b", "c"]], text_sentences_sonar_emb=[[[1.0]], [[2.0]]])
    with fails("row 2: 2 texts, 1 embeddings"):
        read(tmp_path / "a.parquet")


def test_a_column_is_chosen_by_name(tmp_path):
    lcm(tmp_path / "a.parquet", p_sonar_emb=[[[1.0]]], q_sonar_emb=[[[2.0]]], vector=[[3.0]])
    assert read(tmp_path / "a.parquet", column="q_sonar_emb").tolist() == [[2]]
    assert read(tmp_path / "a.parquet", column="vector").tolist() == [[3]]
    with fails('no column "embedding"', "it holds p_sonar_emb, q_sonar_emb; name the embeddings with --column"):
        read(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"vector": [4], "text": "a"}\n')
    assert read(tmp_path / "a.jsonl", column="vector").tolist() == [[4]]
    save_file({"vectors": np.ones((1, 2))}, tmp_path / "a.safetensors")
    assert read(tmp_path / "a.safetensors", column="vectors").tolist() == [[1, 1]]
    with fails("no columns", "--column"):
        read("a.npy", column="vector")


def test_blank_lines_keep_their_place_where_they_are_asked_for(tmp_path):
    assert lines(tmp_path / "a.txt", b"\na\n \n", blank=True) == [(1, "", None), (2, "a", None), (3, " ", None)]
    assert lines(tmp_path / "a.jsonl", b'{"text": ""}\n\n{"text": "b"}', blank=True) == [(1, "", None), (3, "b", None)]
    with fails("is empty"):
        lines(tmp_path / "a.txt", b"\n \n", blank=True)


# ------------------------------------------------------------------------------------------------ what is left behind


def test_what_a_killed_writer_left_is_swept_and_what_a_live_one_writes_is_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {who: f".a.txt.tmp-{pid}" for who, pid in (("dead", gone.pid), ("alive", os.getppid()), ("new", 2**22 + 1))}
    for name in (*names.values(), ".a.txt.tmp-mine", ".b.txt.tmp-1"):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / names["new"])
    atomic_write(tmp_path / "a.txt", "a")
    assert only(tmp_path) == sorted([names["alive"], names["new"], ".a.txt.tmp-mine", ".b.txt.tmp-1", "a.txt"])


def test_a_model_whose_replacing_was_killed_half_way_comes_back(tmp_path):
    (tmp_path / f".m.old-{2**22 + 1}").mkdir()
    (tmp_path / f".m.old-{2**22 + 1}" / "kept").write_text("")
    os.utime(tmp_path / f".m.old-{2**22 + 1}", (1, 1))
    with pytest.raises(KeyError), atomic_folder(tmp_path / "m"):
        raise KeyError
    assert only(tmp_path) == ["m"] and only(tmp_path / "m") == ["kept"]


def test_a_text_does_not_steer_a_terminal(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((Screen(), "\\x1b]0;a\\x07\\x9b\té\n"), (io.StringIO(), "\x1b]0;a\a\x9b\té\n")):
        monkeypatch.setattr(sys, "stdout", stream)
        with open_output(None) as out:
            print("\x1b]0;a\a\x9b\té", file=out)
        assert stream.getvalue() == shown


def test_a_disk_that_numpy_fills_is_a_full_disk(tmp_path):
    with (
        pytest.raises(RunError, match=r"cannot write .*: 409600 requested and 47040 written; free some space"),
        atomic_file(tmp_path / "a.npy"),
    ):
        raise OSError("409600 requested and 47040 written")
    assert not list(tmp_path.iterdir())
