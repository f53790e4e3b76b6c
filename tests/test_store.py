"""A store holds what was embedded, goes on where it stopped, and trains as on-the-fly embedding does."""

import gzip
import json
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import on_ranks
from test_loop import changed
from test_train import concept, corpus, sonar, trained  # noqa: F401

from sonarllm_cli.data import records, store
from sonarllm_cli.data import stored as reading
from sonarllm_cli.data.store import embed_documents, read_manifest
from sonarllm_cli.data.stored import Stored
from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.ranks import Ranks
from sonarllm_cli.weights.loaded import load_space

ROWS = [
    {"id": "a", "title": "music player", "text": "It plays music. It is small."},
    {"id": "b", "text": "A disk tool. Go on."},
    {"id": "empty", "text": " "},
    {"id": "c", "title": "printer", "paragraphs": [["A printer server."], ["It prints.", "It scans."]]},
    {"id": "short", "text": "Alone."},
]


@pytest.fixture(scope="module")
def tiny(trained):  # noqa: F811
    return load_space(str(trained / "sonar/model"))


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def vectors(folder):
    return torch.from_numpy(np.concatenate([np.load(path) for path in sorted(folder.glob("*.vectors.npy"))]))


def table(folder):
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def test_a_store_holds_sentences_titles_and_half_precision_embeddings(documents, tiny, tmp_path):
    made = embed_documents([documents], tmp_path / "s", tiny, shard_documents=2)
    rows = table(tmp_path / "s").to_pylist()
    assert [(r["document"], r["position"], r["text"]) for r in rows][:4] == [
        *(("a", -1, "music player"), ("a", 0, "It plays music."), ("a", 1, "It is small."), ("b", 0, "A disk tool."))
    ]
    assert (made["documents"], made["sentences"], len(made["shards"])) == (4, 10, 3)
    assert made["skipped"] == {"empty documents": 1, "documents of one sentence (kept)": 1}
    want = store.encode([tiny.tokenizer.source(r["text"], "eng_Latn") for r in rows], tiny).half()
    assert torch.equal(vectors(tmp_path / "s"), want)
    titles, first, count = Stored(tmp_path / "s", tiny).documents()
    assert (titles.tolist(), first.tolist(), count.tolist()) == ([0, -1, 5, -1], [1, 3, 6, 9], [2, 2, 3, 1])


def test_rows_are_read_in_any_order_and_little_is_held(documents, tiny, tmp_path, monkeypatch):
    for module in (store, reading):
        monkeypatch.setattr(module, "GROUP_ROWS", 2)
    monkeypatch.setattr(reading, "HELD_GROUPS", 2)
    embed_documents([documents], tmp_path / "s", tiny, shard_documents=2)
    held, stored = table(tmp_path / "s").to_pylist(), Stored(tmp_path / "s", tiny)
    rows = np.array([[9, 0, 3, 3], [1, 8, 2, 7]])
    assert torch.equal(stored.embeddings(rows), vectors(tmp_path / "s")[torch.from_numpy(rows)].float())
    flat = rows.reshape(-1)
    assert stored.text(flat) == [held[r]["text"] for r in flat]
    assert stored.target_ids(flat) == [tiny.tokenizer.target(held[r]["text"], "eng_Latn") for r in flat]
    assert stored.bytes(flat) == sum(len(held[r]["text"].encode()) for r in flat)
    assert len(stored._texts) <= 2


def test_a_store_of_the_first_format_is_converted_also_where_that_was_broken_off(documents, tiny, tmp_path):
    made = embed_documents([documents], tmp_path / "s", tiny, shard_documents=2)
    want, rows = Stored(tmp_path / "s", tiny), np.arange(10)
    old = tmp_path / "old"
    old.mkdir()
    entries = []
    for i, entry in enumerate(made["shards"]):  # all but the first as they were
        table = pq.read_table(tmp_path / "s" / entry["file"])
        array = np.load(tmp_path / "s" / entry["vectors"]["file"])
        flat = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), tiny.dim)
        if i:
            pq.write_table(table.drop_columns(["bytes"]).append_column("embedding", flat), old / entry["file"])
        else:
            for name in (entry["file"], entry["vectors"]["file"], entry["tokens"]["file"]):
                (old / name).write_bytes((tmp_path / "s" / name).read_bytes())
        entries.append({"file": entry["file"], "rows": entry["rows"], "documents": entry["documents"]})
        entries[-1] |= {"bytes": (old / entry["file"]).stat().st_size if i else 1}
    (old / "manifest.json").write_text(json.dumps({**made, "format": 1, "shards": entries}))
    for _ in range(2):
        found = Stored(old, tiny)
        assert torch.equal(found.embeddings(rows), want.embeddings(rows))
        assert found.target_ids(rows) == want.target_ids(rows) and found.text(rows) == want.text(rows)
    assert read_manifest(old)["format"] == 2 and "embedding" not in table_names(old)


def table_names(folder):
    return {name for path in folder.glob("*.parquet") for name in pq.read_schema(path).names}


@pytest.mark.parametrize("tokens", [64, 16])
def test_training_from_a_store_is_training_on_the_fly(corpus, trained, tiny, tmp_path, tokens):  # noqa: F811
    embed_documents([str(corpus / "docs.jsonl.xz")], tmp_path / "s", tiny, shard_documents=7, max_tokens=64)
    plain = changed(concept(corpus, trained / "sonar/model"), data={"max_tokens": tokens, "max_sentences": 3})
    from_store = changed(plain, data={"documents": [], "store": str(tmp_path / "s")})
    losses, shapes = [], []
    for name, settings in (("plain", plain), ("store", from_store)):
        trainer = Trainer(settings, tmp_path / name)
        steps = trainer._epoch()
        losses.append([[trainer._learn(batch, 0)[0] for batch in step] for step in steps][:3])
        shapes.append([[[(len(d.rows), d.scored) for d in b.documents] for b in step] for step in steps])
    assert shapes[0] == shapes[1] and shapes[0]
    np.testing.assert_allclose(np.concatenate(losses[0]), np.concatenate(losses[1]), rtol=1e-3)


def test_a_store_goes_on_at_the_shard(documents, tiny, tmp_path, monkeypatch):
    embed_documents([documents], tmp_path / "whole", tiny, shard_documents=1)
    encode, calls = store.encode, []

    def stop_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(store, "encode", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        embed_documents([documents], tmp_path / "s", tiny, shard_documents=1)
    with pytest.raises(UserError, match="not finished"):
        read_manifest(tmp_path / "s")
    embed_documents([documents], tmp_path / "s", tiny, shard_documents=1)
    assert len(calls) == 3 + 3  # of five: two were there
    whole, broken = (read_manifest(tmp_path / name) for name in ("whole", "s"))
    assert whole == broken


@pytest.mark.parametrize("name", ["shard-00000.parquet", "shard-00000.vectors.npy", "shard-00000.tokens.npy"])
def test_a_flipped_bit_of_a_store_is_told_and_mended(documents, tiny, tmp_path, name):
    folder = tmp_path / "s"
    made = embed_documents([documents], folder, tiny)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 3] ^= 4
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        Stored(folder, tiny)
    assert embed_documents([documents], folder, tiny) == made
    Stored(folder, tiny)


def test_a_store_is_written_by_one_command_at_a_time(documents, tiny, tmp_path):
    with (
        store.writing(tmp_path / "s", tiny),
        pytest.raises(UserError, match="another embed --store writes"),
    ):
        embed_documents([documents], tmp_path / "s", tiny)
    embed_documents([documents], tmp_path / "s", tiny)
    assert not (tmp_path / "s/.lock").exists()


def test_two_ranks_make_the_same_store(documents, tiny, tmp_path):
    embed_documents([documents], tmp_path / "1", tiny, shard_documents=2)

    def work():
        ranks, shown = Ranks("cpu"), []
        embed_documents([documents], tmp_path / "2", tiny, shard_documents=2, ranks=ranks, shown=shown.append)
        assert len(shown) == 2 - ranks.rank  # of three shards

    on_ranks(2, work)
    assert read_manifest(tmp_path / "1") == read_manifest(tmp_path / "2")


@pytest.mark.parametrize("kind", ["gz", "parquet", "folder", "hub"])
def test_documents_come_in_many_forms(documents, tiny, tmp_path, monkeypatch, kind):
    rows = [{"id": f"{i}.txt", "text": f"This is text {i}. It is short."} for i in range(4)]
    source = tmp_path / kind
    if kind == "gz":
        source = tmp_path / "x.jsonl.gz"
        source.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    elif kind == "parquet":
        source = tmp_path / "x.parquet"
        pq.write_table(pa.Table.from_pylist(rows), source)
    elif kind == "folder":
        source.mkdir()
        for row in rows:
            (source / row["id"]).write_text(row["text"])
    else:
        source = "hf:org/name:train"
        fake = types.SimpleNamespace(
            load_dataset=lambda name, split, streaming: iter(rows) if name == "org/name" else 0
        )
        monkeypatch.setitem(sys.modules, "datasets", fake)
    assert [record for _, record in records.records(str(source))] == rows


def test_a_data_set_without_its_package_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        next(records.records("hf:org/name"))


@pytest.mark.parametrize(("on_long", "rows"), [("split", 3), ("truncate", 2)])
def test_a_long_sentence_is_counted_and_nothing_is_lost(tiny, tmp_path, on_long, rows):
    text = "disk file image music, " * 5 + "player. It is fine."
    (tmp_path / "x.txt").write_text(text)
    made = embed_documents([str(tmp_path / "x.txt")], tmp_path / "s", tiny, max_tokens=40, on_long=on_long)
    assert made["skipped"] == {"sentences over 40 tokens": 1}
    assert " ".join(table(tmp_path / "s")["text"].to_pylist()) == text and made["sentences"] >= rows
    with pytest.raises(UserError, match=r"x.txt: a sentence is longer than 40 tokens"):
        embed_documents([str(tmp_path / "x.txt")], tmp_path / "e", tiny, max_tokens=40, on_long="error")


def test_what_is_wrong_with_a_store_is_said(corpus, documents, trained, tiny, tmp_path):  # noqa: F811
    folder = tmp_path / "s"
    embed_documents([documents], folder, tiny)
    Trainer(sonar(corpus, steps=1), tmp_path / "other").run()
    other = load_space(str(tmp_path / "other/model"))
    for use in (lambda: Stored(folder, other), lambda: embed_documents([documents], folder, other)):
        with pytest.raises(UserError, match="was made with model"):
            use()
    shard = folder / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short; delete it and run sonarllm embed --store"):
        Stored(folder, tiny)
    embed_documents([documents], folder, tiny)  # makes the damaged shard anew
    assert len(Stored(folder, tiny)) == 10
    beside = folder / "shard-00000.vectors.npy"
    beside.write_bytes(beside.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"vectors\.npy has .* cut short"):
        Stored(folder, tiny)
    beside.unlink()
    embed_documents([documents], folder, tiny)
    assert len(Stored(folder, tiny)) == 10
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        Stored(folder, tiny)
    with pytest.raises(UserError, match="is no store"):
        Stored(tmp_path / "other", tiny)
    with pytest.raises(UserError, match="holds other things"):
        embed_documents([documents], tmp_path / "other", tiny)


def test_documents_that_are_none_are_named(tiny, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "A tool. It runs."}\n{"body": 1}\n')
    with pytest.raises(UserError, match="line 2: a document has no text"):
        embed_documents([str(tmp_path / "x.jsonl")], tmp_path / "s", tiny)


def test_half_precision_that_overflows_is_an_error(documents, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "encode", lambda ids, space: torch.full((len(ids), space.dim), 1e6))
    with pytest.raises(RunError, match="no place in float16"):
        embed_documents([documents], tmp_path / "s", tiny)
