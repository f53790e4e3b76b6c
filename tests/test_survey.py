"""What a recipe's data finds is told before a run, from a megabyte of each file at most."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sonarllm_cli.data import prepared, survey
from sonarllm_cli.data.records import Data
from sonarllm_cli.data.store import embed_documents


@pytest.fixture
def root(tmp_path):
    row = json.dumps({"text": "It rains. It is cold."})
    (tmp_path / "three.jsonl").write_text(f"{row}\n{row}\n{row}")
    (tmp_path / "empty.jsonl").write_text("")
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "two.parquet")
    (tmp_path / "notes").mkdir()
    for name in "abcd":
        (tmp_path / "notes" / f"{name}.md").write_text("It rains.")
    (tmp_path / "clips.tsv").write_text("path\tsentence\na.wav\tOne.\nb.wav\tTwo.\n")
    return tmp_path


def found(root, **data):
    return survey.survey(Data(root=str(root), **data))


def test_files_and_their_rows_are_counted(root):
    names = ["three.jsonl", "empty.jsonl", "two.parquet", "notes"]
    valid = {"valid_documents": ["no.jsonl", "three.jsonl", "hf:a/b"], "valid_pairs": ["two.parquet"]}
    assert found(root, documents=names, **valid) == [
        "training: 9 documents in 7 files",
        f"validation: 3 documents in 1 file; no such file: {root / 'no.jsonl'}; hf:a/b, which is not asked; "
        "2 pairs in 1 file",
    ]
    lines = found(root, documents=names, limit=2, valid_share=0.05)
    assert lines == ["training: 6 documents in 7 files", "validation: 5 % of the training documents"]
    assert survey.survey(Data(root=str(root), documents=["clips.tsv"]), clips=True) == ["training: 2 clips in 1 file"]


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_of_a_long_file_the_rest_is_reckoned(root, monkeypatch, opener):
    monkeypatch.setattr(survey, "SAMPLE", 1 << 18)
    rng = np.random.default_rng(0)
    name = "long.jsonl" + (".gz" if opener is gzip.open else "")
    with opener(root / name, "wb") as file:
        for _ in range(10_000):
            file.write(json.dumps({"text": rng.bytes(50).hex()}).encode() + b"\n")
    [line] = found(root, documents=[name])
    about, count, *_ = line.removeprefix("training: ").split()
    assert about == "about" and int(count.replace(",", "")) == pytest.approx(10_000, rel=0.1)


def test_a_store_and_a_prepared_corpus_say_what_they_hold(root, space):
    embed_documents([str(root / "notes"), str(root / "three.jsonl")], root / "store", space)
    arrays = {name: np.zeros(0, np.uint8) for name in prepared.ARRAYS}
    arrays |= {"left": np.zeros(1200, np.int32), "sizes": np.zeros(30, np.int32)}
    corpus = prepared.Prepared(**arrays, langs=["eng_Latn"], held_items=200, held_documents=5)
    prepared.write(root / "corpus.xz", corpus)
    assert found(root, store="store", prepared="corpus.xz", valid_store="three.jsonl") == [
        f"training: 7 documents of 10 sentences in {root / 'store'}; 1,000 items and 25 documents in "
        f"{root / 'corpus.xz'}",
        f"validation: {root / 'three.jsonl'} is no store: it has no manifest.json; 200 items and 5 documents in "
        f"{root / 'corpus.xz'}",
    ]
    assert found(root, prepared="three.jsonl")[0] == f"training: {root / 'three.jsonl'} is no prepared corpus"


def test_print_config_tells_it_beside_the_settings(root, sonarllm):
    (root / "r.toml").write_text('kind = "sonar"\n[data]\ndocuments = "notes"\n')
    recipe = [root / "r.toml", "--print-config", "--set", f"data.root={root}"]
    done = sonarllm("train", *recipe)
    assert (
        done.returncode == 0
        and done.err == "training: 4 documents in 4 files\n"
        and 'documents = ["notes"]' in done.out
    )
    assert sonarllm("train", *recipe, "-q").err == ""
    done = sonarllm("train", *recipe, "--set", 'run.train_only=["decodr"]')
    assert (
        done.returncode == 2
        and "matches no parameter; did you mean decoder? their names begin with decoder, encoder" in done.err
    )
