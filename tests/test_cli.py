"""The command line: what comes out, and what a user's mistakes are told."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import PARITY

from sonarllm_cli.cli import main, sonarllm
from sonarllm_cli.cli.common import Failures
from sonarllm_cli.errors import UserError

MODEL = ["-m", "tiny"]
WRITER = ["-m", "tiny-llm", "--max-tokens", "8"]


@pytest.fixture
def run(home, capsys, monkeypatch, tmp_path):
    """arguments, standard input → (exit code, stdout, stderr), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, stdin=None):
        if stdin is not None:
            (tmp_path / "stdin").write_bytes(stdin if isinstance(stdin, bytes) else stdin.encode())
            monkeypatch.setattr(sys, "stdin", open(tmp_path / "stdin", encoding="utf-8"))  # noqa: SIM115
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def test_segment_gives_a_sentence_a_line_or_its_place(run):
    text = "Dr. Who left.  He was\ntired."
    assert run("segment", stdin=text) == (0, "Dr. Who left.\nHe was tired.\n", "")
    _, out, _ = run("segment", "--json", stdin=text)
    assert [text[r["start"] : r["end"]] for r in map(json.loads, out.splitlines())] == [
        "Dr. Who left.",
        "He was\ntired.",
    ]


def test_embedding_and_decoding_are_the_library_s(run, expected):
    texts = [t["text"] for t in expected["texts"][:5]]
    code, out, _ = run("embed", *MODEL, stdin="\n".join(texts))
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == texts
    code, decoded, _ = run("decode", *MODEL, "--max-tokens", "28", stdin=out)
    want = [g["text"] for g in expected["generation"]["eng_Latn/beam5"][:5]]
    assert code == 0 and decoded.splitlines() == want


def test_segments_records_are_embeds_texts(run):
    _, records, _ = run("segment", "--json", stdin="One here. Another there.")
    code, out, _ = run("embed", *MODEL, stdin=records)
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == ["One here.", "Another there."]


def test_segment_takes_what_a_lines_end_is_and_more_abbreviations(run, tmp_path):
    text = "A long line of words that is filled, of a\nlong text. See abbr. Nine of them.\n"
    (tmp_path / "own").write_text("abbr.\n")
    assert [run("segment", *how, stdin=text)[1].count("\n") for how in ([], ["--newline", "keep"])] == [3, 4]
    assert run("segment", "--abbreviations", "own", stdin=text)[1].count("\n") == 2


@pytest.mark.parametrize("ending", ["npy", "safetensors", "parquet", "jsonl"])
def test_every_format_carries_the_same_embeddings(run, ending):
    run("embed", *MODEL, "-o", f"e.{ending}", stdin="One text.\nAnother text, longer.\n")
    _, out, _ = run("decode", *MODEL, "--max-tokens", "9", "--json", f"e.{ending}")
    _, want, _ = run(
        "decode",
        *MODEL,
        "--max-tokens",
        "9",
        "--json",
        stdin=run("embed", *MODEL, stdin="One text.\nAnother text, longer.\n")[1],
    )
    found, wanted = ([json.loads(line) | {"file": ""} for line in lines.splitlines()] for lines in (out, want))
    assert found == wanted and len(found) == 2


def test_a_blank_line_keeps_its_place_and_is_reported(run):
    code, out, err = run("embed", *MODEL, stdin="one\n\n \ntwo\n")
    assert (code, err) == (0, "sonarllm: 2 blank (first: line 2), embedded as no words\n")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["one", "", " ", "two"]
    code, decoded, _ = run("decode", *MODEL, "--max-tokens", "6", stdin=out)
    assert code == 0 and decoded.count("\n") == 4


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_blank_line_comes_back_as_a_blank_line(run, ending):
    run("embed", *MODEL, "-o", f"e{ending}", stdin="One.\n\nTwo.\n")
    code, out, _ = run("decode", *MODEL, f"e{ending}", "--max-tokens", "8")
    first, blank, last = out.splitlines()
    assert (code, blank) == (0, "") and first and last
    assert "tell decode so" in run("embed", *MODEL, "-o", "e.npy", stdin="One.\n\n")[2]


@pytest.mark.parametrize("place", ["e.csv", "no/such/e.npy"])
def test_where_nothing_can_be_written_is_told_before_a_model_is_loaded(run, monkeypatch, place):
    monkeypatch.setattr("sonarllm_cli.flow.embed.load_encoder", lambda *_: pytest.fail("loaded"))
    assert run("embed", "-o", place, stdin="text")[0] == 2


def test_embeddings_go_out_raw_and_come_back_with_their_width(run, tmp_path):
    run("embed", *MODEL, "-o", "e.emb", stdin="One text.\nAnother text.\n")
    raw = run("decode", *MODEL, "--max-tokens", "9", "--dim", "64", "e.emb")
    assert raw[0] == 0 and raw[1].count("\n") == 2
    assert run("decode", *MODEL, "--max-tokens", "9", "--dim", "64", stdin=(tmp_path / "e.emb").read_bytes()) == raw
    code, _, err = run("decode", *MODEL, "e.emb")
    assert code == 2 and "--dim" in err


def test_a_records_own_language_is_preferred(run):
    rows = [{"t": "uno", "lang": "ita_Latn"}, {"t": "uno"}]
    _, out, _ = run("embed", *MODEL, "--text-field", "t", "--lang", "fr", stdin="\n".join(map(json.dumps, rows)))
    assert [json.loads(line)["lang"] for line in out.splitlines()] == ["ita_Latn", "fra_Latn"]


@pytest.mark.parametrize(("how", "code", "rows", "words"), [
    ("truncate", 0, 2, "line 2 has"), ("split", 0, 3, "split into 2"), ("error", 2, 0, "--on-long"),
])  # fmt: skip
def test_a_text_over_the_limit_is_never_cut_in_silence(run, how, code, rows, words):
    got, out, err = run("embed", *MODEL, "--on-long", how, stdin="short\n" + "library, printer; " * 12)
    assert (got, len(out.splitlines())) == (code, rows) and words in err and err.count("\n") == 1


def test_generate_and_summarize_write_lines_and_records(run):
    code, out, _ = run("generate", *WRITER, "--max-sentences", "2", stdin="A text. It goes on.")
    assert code == 0 and len(out.splitlines()) == 2
    code, out, _ = run(
        "summarize", *WRITER, "--abstract", "--sentences", "2", "--cite", "--json", stdin="A text. It goes on."
    )
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(records) == 2
    assert {s["text"] for r in records for s in r["sources"]} == {"A text.", "It goes on."}
    assert all(r["how"] == "written" and r["score"] < 0 and r["start"] is r["end"] is None for r in records)
    code, out, _ = run("summarize", *WRITER, "--extract", "--sentences", "1", stdin="A text. It goes on.")
    assert code == 0 and out.strip() in ("A text.", "It goes on.")
    text = "A text. It goes on."
    code, out, _ = run("summarize", *WRITER, "--extract", "--sentences", "2", "--json", stdin=text)
    for record in map(json.loads, out.splitlines()):
        assert (record["how"], record["score"]) == ("extracted", None)
        assert text[record["start"] : record["end"]] == record["text"]


def test_a_seed_repeats_what_is_sampled(run):
    wish = ["generate", *WRITER, "--temperature", "1.5", "--max-sentences", "2", "--seed"]
    first, second, other = (run(*wish, seed, stdin="A text.")[1] for seed in ("1", "1", "2"))
    assert first == second != other


@pytest.mark.parametrize("group", [[], ["models"], ["evaluate"]])
def test_a_group_alone_prints_its_help_as_it_is(run, group):
    help_ = run(*group, "--help")[1]
    assert run(*group) == (2, "", help_) and "\nCommands:\n" in help_


def texts_in(folder):
    """Two texts and a third in a folder."""
    (folder / "more").mkdir()
    for name, text in (("a.txt", "A text. It goes on."), ("b.txt", "Another."), ("more/c.txt", "A third one.")):
        (folder / name).write_text(text)
    return ["a.txt", "b.txt", "more", "-"], ["a.txt", "b.txt", "more/c.txt", "-"]


@pytest.mark.parametrize("verb", ["summarize", "generate"])
def test_each_of_several_files_is_a_text_and_the_model_loads_once(run, tmp_path, monkeypatch, verb):
    from sonarllm_cli.weights import loaded as verbs

    loaded, real = [], verbs.load_writer
    monkeypatch.setattr(verbs, "load_writer", lambda *a, **k: loaded.append(a) or real(*a, **k))
    files, names = texts_in(tmp_path)
    own = ["--max-sentences", "1"] if verb == "generate" else ["--sentences", "1"]
    code, out, _ = run(verb, *WRITER, *own, "--json", *files, stdin="The last.\nIt ends.")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["file"] for r in records] == names and len(loaded) == 1
    code, out, _ = run(verb, *WRITER, *own, *files[:2])
    assert out.splitlines()[0] == "==> a.txt <==" and out.splitlines()[2] == "==> b.txt <=="
    alone = run(verb, *WRITER, *own, "b.txt")[1]
    assert out.splitlines()[3] == alone.strip()


def test_lines_of_several_files_follow_each_other(run, tmp_path):
    files, names = texts_in(tmp_path)
    code, out, _ = run("embed", *MODEL, *files, stdin="One.\nTwo.")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["file"] for r in records] == [*names, "-"]
    for name in ("x.npy", "more/y.jsonl"):
        run("embed", *MODEL, "-o", name, "a.txt", "b.txt")
    code, out, _ = run("decode", *MODEL, "--max-tokens", "8", "--json", "x.npy", "more")
    found = [json.loads(line) for line in out.splitlines()]
    assert [r["file"] for r in found] == ["x.npy"] * 2 + ["more/y.jsonl"] * 2
    assert [r["text"] for r in found[:2]] == [r["text"] for r in found[2:]]
    assert run("embed", *MODEL, "a.txt", "none.txt") == (2, "", "sonarllm: no such file: none.txt; check the path\n")


def test_auto_is_the_language_of_what_is_embedded(run):
    text = "Il gatto dorme sul divano.\nLa porta era chiusa a chiave."
    _, out, err = run("embed", *MODEL, stdin=text)
    assert {json.loads(line)["lang"] for line in out.splitlines()} == {"ita_Latn"} and err == ""
    assert run("embed", *MODEL, "--lang", "en", stdin=text)[2].startswith("standard input looks Italian")


@pytest.mark.parametrize("command", ["embed", "mine --dedup"])
@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("One is here. Two is there.\nDr. Four left.\n\nWas it five? Six.\n", 1),
        ("One is here. Two is there.\nDr. Four left.\nWas it five? Six.\nSeven.\n", 0),
        ("Dr. Who left.\nMr. Two came.\n", 0),
    ],
)
def test_lines_of_several_sentences_are_told_once(run, tmp_path, command, text, notes):
    (tmp_path / "a.txt").write_text(text)
    said = run(*command.split()[:1], *MODEL, "a.txt", *command.split()[1:])[2]
    note = "a.txt: lines hold several sentences each, and a line is one vector; sonarllm segment first\n"
    assert said.count(note) == notes and said.count("vector") == notes


def test_each_file_that_is_embedded_has_its_own_language(run, tmp_path):
    (tmp_path / "a.txt").write_text("Il gatto dorme sul divano.\n", "utf-8")
    (tmp_path / "b.txt").write_text("Die Katze schläft auf dem Sofa.\n", "utf-8")
    _, out, _ = run("embed", *MODEL, "a.txt", "b.txt")
    assert [json.loads(line)["lang"] for line in out.splitlines()] == ["ita_Latn", "deu_Latn"]


LOAD = {
    "bash": "source <(sonarllm completion bash)",
    "fish": "sonarllm completion fish | source",
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(sonarllm completion zsh)"',
}
SHELLS = {
    "bash": """COMP_WORDS=(sonarllm {words}); COMP_CWORD={last}
        _sonarllm_completion sonarllm; printf '%s\n' "${{COMPREPLY[@]}}" """,
    "fish": "complete -C 'sonarllm {words}'",
    "zsh": """compadd() {{ print -l ${{(P)@[-1]}} }}; _describe() {{ print -l ${{(P)3}} }}
        _path_files() {{ print -l a* }}
        words=(sonarllm {words}); CURRENT={last}+1; _sonarllm_completion""",
}


def install(shell, folder):
    """The command, where that shell is."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    (folder / "sonarllm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sonarllm_cli "$@"\n')
    (folder / "sonarllm").chmod(0o755)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_models_languages_dtypes_and_files(shell, home, tmp_path):
    install(shell, tmp_path)
    (tmp_path / "article.txt").touch()

    def completed(words):
        script = f"{LOAD[shell]}; {SHELLS[shell].format(words=words, last=len(words.split()))}"
        env = {**os.environ, **alone(home), "PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run([shell, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.stdout, done.stderr

    assert "tiny-llm" in completed("summarize -m tin")[0]
    assert "tiny-llm" in completed("segment -m tin")[0]
    assert "ita_Latn" in completed("summarize -m tiny --lang it")[0]
    assert "bfloat16" in completed("embed --dtype bf")[0]
    assert "sonar-200-facebook" in completed("models pull sonar-200")[0]
    assert [out.strip() for out in completed("summarise -m tin")] == [
        "",
        "",
    ]  # no command: nothing to complete, and no message
    if shell != "bash":  # which asks its own completion of files for them
        assert "article.txt" in completed("summarize art")[0]


TYPED = {  # what is typed before the Tab, and what then stands there
    "train r": r"train r\ x/",
    r"train r\ x/": r"train r\ x/own.toml ",
    "train ~/h": "train ~/home.toml ",
    "summarize --lang=it": "summarize --lang=ita_Latn ",
    "segment --abbreviations=ab": "segment --abbreviations=abb.txt ",
}


@pytest.mark.parametrize(("shell", "start"), [
    ("bash", ["--norc", "--noprofile", "-i"]), ("fish", ["--no-config", "-i"]), ("zsh", ["-f", "-i"])
])  # fmt: skip
def test_a_shell_at_a_terminal_completes_awkward_names_and_joined_values(shell, start, home, tmp_path):
    install(shell, tmp_path)
    (tmp_path / "r x").mkdir()
    for name in ("r x/own.toml", "home.toml", "abb.txt"):
        (tmp_path / name).touch()
    env = {**alone(home), "PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb", "LANG": "C.UTF-8"}
    pty = pytest.importorskip("pty")
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        os.execvpe(shell, [shell, *start], env)

    def until(want):
        shown, end = "", time.monotonic() + 30
        while want not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")
        assert want in shown

    try:
        os.write(terminal, f"{LOAD[shell]}; echo rea''dy\n".encode())
        until("ready")
        for typed, want in TYPED.items():
            os.write(terminal, f"sonarllm {typed}\t".encode())
            until(want)
            os.write(terminal, b"\x15")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


FREE = {  # what only the user knows
    *("--as", "--bleu-tokenizer", "--column", "--context", "--device", "--dtypes", "--endpoint", "--figure", "--index"),
    *("--judge-model", "--key-env", "--licence", "--query", "--ray-address", "--set", "--text-field", "--title"),
    "repo",
}


def parameters(command, context):
    """Those of a command and of all below it."""
    yield from command.params
    for name in command.list_commands(context) if isinstance(command, click.Group) else []:
        yield from parameters(command.get_command(context, name), context)


def test_every_name_of_a_thing_is_completed(home, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    context = click.Context(sonarllm)
    silent = {
        parameter.opts[-1]
        for parameter in parameters(sonarllm, context)
        if isinstance(parameter.type, click.types.StringParamType) and not parameter.shell_complete(context, "")
    }
    assert silent == FREE


NAN = np.full((1, 64), np.nan, np.float32)


@pytest.mark.parametrize(("arguments", "stdin", "words"), [
    (["summarise"], None, "did you mean summarize"),
    (["models", "remove", "x"], None, "did you mean rm"),
    (["models", "import", "sonr"], None, "did you mean sonar"),
    (["evaluate", "nlp"], None, "did you mean nlg"),
    (["evaluate", "scaling", "points.csv"], None, "--points FILE"),
    (["score", *MODEL, "stdin"], "text", "1 given; name A and B\n"),
    (["mine", *MODEL, "stdin"], "text", "near-duplicates; name A and B, or A and --dedup"),
    (["summarize", "--frobnicate"], None, "--help"),
    (["summarize", "none.txt"], None, "no such file"),
    (["summarize"], "", "empty"),
    (["summarize"], b"caf\xe9", "iconv"),
    (["segment"], b"a\0b", "NUL"),
    (["embed"], b"x" * 1_100_000, "longer than 1,000,000"),
    (["embed", "--lang", "klingon", "-m", "none"], "text", "unknown language"),
    (["embed", "--lang", "klingon", *MODEL], "text", "the model has: Acehnese (Arabic script) (ace_Arab), German"),
    (["embed", "--lang", "jpn_Jpan", *MODEL], "text", "does not have Japanese"),
    (["embed", "-m", "tinny"], "text", "tiny"),
    (["embed", *MODEL, "-o", "e.csv"], "text", "unknown ending"),
    (["embed", *MODEL, "-o", "no/such/e.npy"], "text", "no/such"),
    (["generate", *MODEL, "-o", "no/such/e.txt"], "text", "mkdir -p no/such"),
    (["embed", *MODEL, "--device", "warp"], "text", "--device cpu"),
    (["embed", *MODEL, "-b", "²"], "text", "--batch-size"),
    (["summarize", *MODEL, "--sentences", "²"], "text", "--sentences"),
    (["generate", *MODEL, "--seed", "99999999999999999999"], "text", "--seed"),
    (["generate", *MODEL, "--seed", "-1"], "text", "--seed"),
    (["generate", *MODEL, "--max-sentences", "-1"], "text", "--max-sentences"),
    (["generate", *MODEL, "--stop-threshold", "nan"], "text", "0.98"),
    (["generate", *MODEL, "--temperature", "inf"], "text", "use 0.6"),
    (["search"], "", "a query and files"),
    (["search", "."], "", "no query: . is what to search"),
    (["search", "bridge"], "", "no files to search: 'bridge' was taken as the query"),
    (["search", "-e", "bridge"], "", "no files to search"),
    (["search", *MODEL, "-k", "0", "x", "-"], "text", "-k"),
    (["search", *MODEL, "-k", "99999999999999999999", "x", "-"], "text", "-k"),
    (["mine", *MODEL, "--threshold", "nan", "stdin", "stdin"], "text", "1.06"),
    (["bench", "--context", "64K", *MODEL, "--plot", "a.gif"], None, "is no picture"),
    (["decode", *MODEL, "--beam", "100000"], "[1]", "1 to 1,000"),
    (["decode", *MODEL, "--lang", "klingon"], "[1]", "unknown language"),
    (["summarize", *MODEL, "--out-lang", "klingon"], "text", "unknown language"),
    (["embed", *MODEL, "--dtype", "float31"], "text", "float32"),
    (["embed", *MODEL, "-b", "0"], "text", "--batch-size"),
    (["decode", *MODEL], '{"embedding": [1, 2]}', "width 64"),
    (["decode", *MODEL], "hello", "JSON"),
    (["decode", "-m", "tiny-llm", "--beam", "0"], "[1]", "--beam 5"),
    (["generate", "-m", "tiny"], "text", "can't write"),
    (["summarize", "--sentences", "few"], "text", "--sentences"),
    (["train", "none.toml"], None, "no such recipe"),
    (["segment", "\x1b]0;title\a.txt"], None, "no such file: \\x1b]0;title\\x07.txt"),
])  # fmt: skip
def test_mistakes_get_one_line_with_a_cure_and_exit_2(run, arguments, stdin, words):
    code, out, err = run(*arguments, stdin=stdin)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1 and err.startswith("sonarllm: ")


def test_a_file_of_several_that_is_told_does_not_steer_a_terminal(capsys):
    Failures(several=True).tell(UserError("no such file: \x1b]0;title\a.txt"))
    assert capsys.readouterr().err == "sonarllm: no such file: \\x1b]0;title\\x07.txt\n"


def test_embeddings_that_are_not_finite_are_refused(run, tmp_path):
    np.save(tmp_path / "e.npy", NAN)
    code, _, err = run("decode", *MODEL, "e.npy")
    assert code == 2 and "e.npy" in err


def test_embeddings_of_another_space_are_refused(run):
    out = run("embed", *MODEL, "-o", "e.parquet", stdin="text")
    code, _, err = run("decode", "-m", "mini", "e.parquet")
    assert out[0] == 0 and code == 2
    assert "e.parquet is of the space tiny, not of mini-sonar; decode with the model that embedded them: -m tiny" in err


def test_a_failed_embed_leaves_the_old_file(run, tmp_path):
    (tmp_path / "e.npy").write_bytes(b"old")
    assert run("embed", *MODEL, "-o", "e.npy", stdin=b"good\nb\xff\n")[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npy", "stdin"]
    assert (tmp_path / "e.npy").read_bytes() == b"old"


def test_loading_torch_is_no_time_to_look_for_garbage():
    code = """
import gc
from sonarllm_cli.cli.common import load_torch
before = gc.get_stats()
load_torch()
print(gc.get_stats() == before, gc.get_freeze_count() > 0, gc.isenabled())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 3


def alone(home):
    """An environment with this checkout's package and these models, and nothing else."""
    return {"PATH": "/usr/bin:/bin", "SONARLLM_HOME": str(home), "PYTHONPATH": str(Path(__file__).parent.parent)}


def shell(command, home):
    return subprocess.run(
        ["bash", "-c", f'sonarllm() {{ "{sys.executable}" -m sonarllm_cli "$@"; }}; {command}'],
        capture_output=True, text=True, env=alone(home),
    )  # fmt: skip


def test_a_closed_pipe_is_quiet_and_a_full_disk_is_not(home):
    done = shell("yes 'A sentence.' | head -20000 | sonarllm segment | head -1", home)
    assert (done.stdout, done.stderr) == ("A sentence.\n", "")
    done = shell("yes 'A line.' | head -400 | sonarllm embed -m tiny | head -c 1 | wc -c; echo ${PIPESTATUS[2]}", home)
    assert (done.stdout.split(), done.stderr) == (["1", "0"], "")
    done = shell("echo 'A text.' | sonarllm segment > /dev/full", home)
    assert done.returncode == 1 and "No space left" in done.stderr and done.stderr.count("\n") == 1


def test_ctrl_c_is_one_line_and_130(home):
    done = shell(f"timeout -s INT 3 '{sys.executable}' -m sonarllm_cli embed -m tiny --lang en < <(sleep 5)", home)
    assert done.stderr.strip().splitlines() == ["sonarllm: interrupted"]


@pytest.mark.parametrize(("redirect", "arguments", "code", "words"), [
    ("<&-", "embed -m tiny", 2, "standard input is closed"),
    ("<&-", "embed -q -m tiny -o e.npy text", 0, ""),  # e.npy gets no stream's number
    ("2>&-", "segment text", 0, ""),
    ("2>&-", "segment none", 2, ""),
    ("2>/dev/full", "segment none", 2, ""),
    (">&-", "segment text", 1, "standard output: Bad file descriptor"),
    (">&-", "--help", 1, "standard output: Bad file descriptor"),
    (">&- 2>&- <&-", "segment text", 1, ""),
])  # fmt: skip
def test_a_closed_stream_is_no_traceback(home, tmp_path, redirect, arguments, code, words):
    (tmp_path / "text").write_text("One.\nTwo.\n")
    done = shell(f"cd {tmp_path}; sonarllm {arguments} {redirect}", home)
    assert (done.returncode, done.stderr.count("\n")) == (code, bool(words)) and words in done.stderr
    if redirect == "2>&-":
        assert done.stdout == ("One.\nTwo.\n" if code == 0 else "")  # no message among the data
    assert {p.name for p in tmp_path.iterdir()} <= {"text", "e.npy"}


@pytest.mark.parametrize(("signals", "code", "word"), [
    (["INT"] * 20, 130, "interrupted"), (["TERM"], 143, "terminated"), (["HUP", "INT"], 129, "terminated"),
])  # fmt: skip
def test_a_signal_ends_a_command_in_one_line_and_leaves_nothing(home, tmp_path, signals, code, word):
    """However often it comes: what is half-written is put away first."""
    command = [sys.executable, "-m", "sonarllm_cli", "embed", "-m", "tiny", "-o", "e.npy"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, cwd=tmp_path, env=alone(home), preexec_fn=heeding)
    process.stdin.write(b"A text.\n" * 5000)  # more than a block: the first is written, the next waited for
    process.stdin.flush()
    wait_for(lambda: any(p.stat().st_size > 128 for p in tmp_path.iterdir()))
    for name in signals:
        process.send_signal(getattr(signal, f"SIG{name}"))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (code, f"sonarllm: {word}\n")
    assert not list(tmp_path.iterdir())


def heeding():
    """Signals as a terminal's command has them: one in the background, or under nohup, inherits them ignored."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def wait_for(done):
    end = time.monotonic() + 100
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("ending", ["npy", "safetensors", "parquet", "jsonl"])
def test_a_file_over_the_limit_is_a_failed_run(run, tmp_path, ending):
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, old[1]))
    try:
        code, _, err = run("embed", *MODEL, "-o", f"e.{ending}", stdin="A text.\n" * 4000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert code == 1 and f"cannot write e.{ending}: File too large; free some space" in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["stdin"]


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
    RuntimeError("can't start new thread"), ImportError("libx.so: failed to map segment from shared object"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
])  # fmt: skip
def test_no_memory_is_one_line_whoever_says_so(run, monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    (tmp_path / "text").write_text("One.")
    monkeypatch.setattr("sonarllm_cli.flow.segment.segment_stream", fail)
    code, _, err = run("segment", "text")
    assert (code, err) == (1, "sonarllm: out of memory; use a smaller --batch-size, or --dtype bfloat16\n")


def test_too_little_memory_for_pytorch_is_told_before_it_loads(home, tmp_path):
    import resource

    done = subprocess.run(
        [sys.executable, "-m", "sonarllm_cli", "embed", "-m", "tiny", "-o", "e.npy"],
        input="A text.",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20)),
    )
    assert done.returncode == 1 and "ulimit -v 1048576" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_the_command_line_loads_is_one_line(tmp_path):
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"}
    done = subprocess.run([sys.executable, "-m", "sonarllm_cli"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "sonarllm: interrupted\n")


def test_an_error_of_ours_keeps_its_traceback(run, monkeypatch, tmp_path):
    (tmp_path / "text").write_text("One.")
    monkeypatch.setattr("sonarllm_cli.flow.segment.segment_stream", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["segment", "text"])


def test_a_run_folder_is_its_own_recipe_and_stands_for_its_model(run, tmp_path):
    (tmp_path / "docs.jsonl").write_text("\n".join(json.dumps({"text": f"It is {i}. It works."}) for i in range(6)))
    (tmp_path / "r.toml").write_text(
        'kind = "sonar-llm"\nsonar = "tiny"\n[model]\nwidth = 16\nffn = 32\nlayers = 1\nheads = 2\nhead_size = 8\n'
        '[data]\ndocuments = "docs.jsonl"\nmax_tokens = 64\n[optim]\nsteps = 2\nbatch_tokens = 300\n'
    )
    assert run("train", "r.toml", "-o", "runs/a")[0] == 0
    code, out, err = run("train", "--resume", "runs/a", "--set", "optim.steps=3")
    assert (code, out) == (0, "runs/a/model\n") and "continuing at step 2, with another optim.steps" in err
    assert run("generate", "-m", "runs/a", "--max-tokens", "8", "--max-sentences", "1", stdin="It is.")[0] == 0
    assert run("models", "show", "runs/a")[1] == run("models", "show", "runs/a/model")[1]
    for arguments, words in (
        (["train", "runs/a"], "continue it with --resume"),
        (["train", "--resume", "runs/a", "-o", "b"], "leave -o out"),
        (["train", "--resume", "runs"], "is no run folder"),
        (["train", "--resume", "runs/none"], "no such run folder: runs/none; name the folder"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and words in err
    for name in ("model", "best"):
        shutil.rmtree(tmp_path / "runs/a" / name, ignore_errors=True)
    assert "end it: sonarllm train --resume runs/a" in run("generate", "-m", "runs/a", stdin="It is.")[2]


def test_help_is_readable_where_the_console_lacks_a_character(home):
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "sonarllm_cli", "evaluate", "--help"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="cp1252")
    assert done.returncode == 0 and "summarize" in done.stdout, done.stderr


def test_models_import_from_the_command_line(run, expected):
    langs = ",".join(expected["config"]["langs"])
    files = ["--encoder", str(PARITY / "m2m100_encoder"), "--decoder", str(PARITY / "text_decoder.fairseq1.pt")]
    files += ["--tokenizer", str(PARITY / "sentencepiece.model"), "--langs", langs, "--heads", "4"]
    assert run("models", "import", "sonar", "again", *files)[0] == 0
    assert "again" in run("models", "list")[1]
    assert run("models", "verify", "again")[0] == 0
    assert run("models", "rm", "again")[0] == 0
    assert "again" not in run("models", "list")[1]
