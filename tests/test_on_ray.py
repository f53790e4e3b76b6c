"""A store made on Ray is the store made here, whoever dies on the way; other engines call the same worker."""

import json
import logging
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from sonarllm_cli.data.embedder import DocumentEmbedder
from sonarllm_cli.data.store import embed_documents, read_manifest
from sonarllm_cli.errors import UserError
from sonarllm_cli.weights.loaded import load_space

ROOT = Path(__file__).parent.parent
PAGE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale.md").read_text("utf-8"), re.DOTALL)
ROWS = [
    {"id": "a", "title": "On rain", "text": "It rains. It is cold."},
    {"id": "b", "title": None, "text": "The sun is out."},
    {"id": None, "title": None, "text": "We go home. It is late."},
    {"id": "d", "title": None, "text": " "},
]


class Dying(DocumentEmbedder):
    """Is killed at its second shard, once: whoever comes after it finds the mark."""

    def make_shard(self, folder, number, rows):
        mark = folder.parent / "killed"
        if number == 2 and not mark.exists():
            mark.touch()
            (folder / f".shard-{number:05d}.parquet.tmp-half").write_bytes(b"half a shard")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make_shard(folder, number, rows)


@pytest.fixture(scope="module")
def ray():
    library = pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    library.init(
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    library.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker does not see this file
    yield library
    library.shutdown()


@pytest.fixture
def model(parity_home):
    return str(parity_home / "models/tiny")


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "docs.jsonl"
    kept = ({name: value for name, value in row.items() if value} for row in ROWS)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return str(path)


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def same(found, wanted):
    """Tables of sentences that are equal; embeddings within float16's last bit, as batches differ."""
    assert set(found) == set(wanted)
    for name in wanted:
        if name == "embedding":
            found_ND, wanted_ND = (np.array([*x[name]], np.float32) for x in (found, wanted))
            np.testing.assert_allclose(found_ND, wanted_ND, atol=1e-3)
        else:
            assert list(found[name]) == list(wanted[name]), name


def test_a_killed_worker_loses_nothing_and_what_is_there_is_kept(ray, model, documents, tmp_path):
    from sonarllm_cli.data.on_ray import embed_on_ray

    options = {"shard_documents": 1, "max_tokens": 24}
    wanted = embed_documents([documents], tmp_path / "here", load_space(model), **options)
    folder, shown = tmp_path / "store", []
    embed_documents([documents], folder, load_space(model), **options)
    (folder / "manifest.json").unlink()
    for number in (1, 2, 3):
        (folder / f"shard-{number:05d}.parquet").unlink()
    first = (folder / "shard-00000.parquet").stat().st_mtime_ns
    made = embed_on_ray(
        [documents],
        folder,
        Dying(model=model, max_tokens=24),
        shard_documents=1,
        workers=1,
        shown=shown.append,
    )
    assert (tmp_path / "killed").exists() and shown == [1, 1, 1, 1]
    assert made == wanted == read_manifest(folder)
    assert (folder / "shard-00000.parquet").stat().st_mtime_ns == first
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "here").iterdir())


def test_what_is_wrong_is_said_as_it_is_without_ray(ray, model, documents, tmp_path, sonarllm):
    from sonarllm_cli.data import on_ray

    strict = ("--max-tokens", 4, "--on-long", "error")
    done = sonarllm(
        "embed", "--store", tmp_path / "s", "--engine", "ray", "--workers", 1, "-m", model, *strict, documents
    )
    assert done.returncode == 2 and "docs.jsonl, line 1: a sentence is longer than 4 tokens; use --on-long" in done.err
    with pytest.raises(UserError, match="no machine has 64 cores"):
        on_ray.embed_on_ray([documents], tmp_path / "s", DocumentEmbedder(model=model), cores=64)
    (tmp_path / "bad.jsonl").write_text('{"text": "It rains."}\n[1]\n')
    read = on_ray._Documents([str(tmp_path / "bad.jsonl")], 1, os.getcwd()).get_read_tasks(1)[0]
    assert [json.loads(block["fault"][0].as_py() or "null") for block in read()] == [
        None,
        [f"{tmp_path / 'bad.jsonl'}, line 2: not a JSON object", "give one object a line", 2],
    ]


@pytest.mark.parametrize("engine", ["ray", "datasets"])
def test_what_the_page_shows_calls_the_worker(engine, request, tmp_path, monkeypatch):
    """docs/scale.md's own lines, as they stand."""
    library = request.getfixturevalue("ray") if engine == "ray" else pytest.importorskip(engine)
    code = next(block for block in PAGE if block.startswith(f"import {engine}\n"))
    rows = [json.loads(line) for line in (ROOT / "examples/documents.jsonl").read_text("utf-8").splitlines()[:4]]
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "docs/scale.md", "exec"), names)
    made = (
        columns(library.data.read_parquet(str(tmp_path / "sentences")).take_all())
        if engine == "ray"
        else names["sentences"].to_dict()
    )
    same(made, DocumentEmbedder(model="mini")(columns(rows)))


def test_frames_go_through_the_worker_as_spark_sends_them(model):
    pandas = pytest.importorskip("pandas")
    [frame] = DocumentEmbedder(model=model).frames(iter([pandas.DataFrame(ROWS)]))
    same(frame.to_dict("list"), DocumentEmbedder(model=model)(columns(ROWS)))


def test_the_worker_reads_columns_as_a_store_reads_documents(model):
    made = DocumentEmbedder(model=model)(columns(ROWS))
    assert [(d, p, t) for d, p, t in zip(made["document"], made["position"], made["text"])] == [
        ("a", -1, "On rain"),
        ("a", 0, "It rains."),
        ("a", 1, "It is cold."),
        ("b", 0, "The sun is out."),
        ("document 3", 0, "We go home."),
        ("document 3", 1, "It is late."),
    ]
    assert made["embedding"].dtype == np.float16 and made["embedding"].shape == (6, load_space(model).dim)
    with pytest.raises(UserError, match="document 1: a document has no body"):
        DocumentEmbedder(model=model, text_field="body")(columns(ROWS))
    with pytest.raises(UserError, match="install the same model"):
        DocumentEmbedder(model=model, fingerprint="another")(columns(ROWS))


def test_a_missing_ray_is_said_with_the_cure(sonarllm, documents, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sonarllm_cli.data.on_ray", raising=False)
    done = sonarllm("embed", "--store", tmp_path / "s", "--engine", "ray", documents)
    assert done.returncode == 2 and "sonarllm-cli[ray]" in done.err
    done = sonarllm("embed", "--store", tmp_path / "s", "--workers", "2", documents)
    assert done.returncode == 2 and "--engine ray" in done.err
