"""Clips as people keep them, and a student that learns to hear from them."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from test_precision import FULL, HALF, Dtypes

from sonarllm_cli.data.clips import read_clips
from sonarllm_cli.data.features import Features
from sonarllm_cli.errors import UserError
from sonarllm_cli.flow.embed import load_speech
from sonarllm_cli.learn import loop
from sonarllm_cli.learn.loop import Trainer
from sonarllm_cli.learn.recipe import Speech, build, to_toml
from sonarllm_cli.learn.spelling import Speller
from sonarllm_cli.learn.tasks import speech as speech_task
from sonarllm_cli.nets import fbank
from sonarllm_cli.nets.speech import SpeechConfig
from sonarllm_cli.runtime import choose
from sonarllm_cli.score import metrics
from sonarllm_cli.score.tasks import evaluate
from sonarllm_cli.weights.loaded import load_space

PARITY = Path(__file__).parent / "parity-speech"
TEXTS = ("One tone.", "Another tone, higher.", "It rises.", "It falls.")


@pytest.fixture(autouse=True)
def registry_home(parity_home, monkeypatch):
    monkeypatch.setenv("SONARLLM_HOME", str(parity_home))


@pytest.fixture
def clips(tmp_path):
    """Four sounds, each twice, and what is said of them, as Common Voice keeps its clips."""
    (tmp_path / "clips").mkdir()
    rng, time = np.random.default_rng(0), np.arange(8_000) / 16_000
    rows = ["client_id\tpath\tsentence\tlocale"]
    for i, text in enumerate(TEXTS * 2):
        pitch = (300 + 0 * time, 900 + 0 * time, 300 + 1200 * time, 1500 - 1200 * time)[i % 4]
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) * (time * 20 % 1 > 0.1 * (i > 3))
        soundfile.write(tmp_path / "clips" / f"{i}.flac", wave + 0.01 * rng.normal(size=len(time)), 16_000)
        rows.append(f"me\t{i}.flac\t{text}\ten")
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def settings(root, **changes):
    model = {"width": 16, "heads": 2, "ffn": 32, "layers": 1, "kernel": 5, "conv_norm": "layer"}
    model |= {"pooler_layers": 1, "pooler_heads": 2, "pooler_ffn": 16, "dropout": 0.0}
    table = {
        "kind": "sonar-speech",
        "sonar": "tiny",
        "model": model,
        "data": {"root": str(root), "documents": ["train.tsv"], "valid_documents": ["train.tsv"]},
        "speech": {"batch_seconds": 4, "max_seconds": 2, "time_masks": 0, "bin_masks": 0, "workers": 1},
        "optim": {"lr": 1e-2, "warmup": 5, "steps": 60, "eps": 1e-8},
        "run": {"valid_every": 1000, "peak_tflops": 1.0, "device": "cpu", "weights": "float32"},
    }
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value}
    return build(table)


def test_a_student_learns_what_the_teacher_says(clips, tmp_path):
    figures = Trainer(settings(clips), tmp_path / "run").run()
    assert figures["valid_mse"] < 0.1 and figures["valid_xsim_eng"] == 0
    heard, space = load_speech(str(tmp_path / "run" / "model"), choose("cpu", "float32")), load_space("tiny")
    heard.check(space)
    result = evaluate(
        "speech", str(tmp_path / "run" / "model"), [str(clips / "train.tsv")], runtime=heard.runtime, beam=1
    )
    assert result["figures"]["eng_Latn speech → text error"] == 0 and result["figures"]["eng_Latn clips"] == 8


def test_statistics_of_clips_are_one_process_own_where_the_network_has_any(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    how = {"speech": {"statistics": "masked"}}
    speech_task.SpeechTask(settings(clips, **how), tmp_path)  # of conv_norm = "layer", as the cure says
    with pytest.raises(UserError, match="would count one process' clips alone"):
        speech_task.SpeechTask(settings(clips, model={"conv_norm": "batch"}, **how), tmp_path)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(clips, tmp_path):
    """With statistics that batches move, which looking at FLOPs must not."""
    changes = {"model": {"conv_norm": "batch"}, "speech": {"statistics": "masked"}, "optim": {"steps": 6}}
    whole = Trainer(settings(clips, **changes), tmp_path / "whole")
    whole.run()
    changes["run"] = {"save_every": 3, "keep": 9}
    Trainer(settings(clips, **changes), tmp_path / "parts").run()
    shutil.rmtree(tmp_path / "parts" / "checkpoint-6")
    again = Trainer(settings(clips, **changes), tmp_path / "parts", resume=True)
    again.run()
    for (name, one), other in zip(whole.task.model.state_dict().items(), again.task.model.state_dict().values()):
        assert torch.equal(one, other), name
    assert not torch.equal(one, torch.zeros_like(one))


def test_two_processes_end_where_one_does(clips, tmp_path):
    """Three micro-batches a step, of which each does its own; the features that one makes the other reads."""
    changes = {"loss": {"spell": 0.5, "contrast": 0.2}, "optim": {"lr": 1e-3, "steps": 3, "accumulate": 3}}
    changes["speech"] = {"batch_seconds": 1.2, "max_seconds": 1, "keep": True}
    (tmp_path / "r.toml").write_text(to_toml(settings(clips, **changes).as_dict()))
    for count in (1, 2):
        command = [sys.executable, "-m", "sonarllm_cli", "train", "r.toml", "-o", f"run{count}", "--threads", "1"]
        done = subprocess.run([*command, "--nproc", str(count)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / f"run{count}/model/model.safetensors") for count in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_student_starts_from_an_encoder_that_is_there(clips, pooling):
    for init, width in ((PARITY / "w2v_bert_2", 32), (PARITY / "speech_encoder.fairseq1.pt", 64)):
        run = build({"kind": "sonar-speech", "run": {"init": str(init)}, "model": {"pooling": pooling}})
        model = speech_task.starting_network(run, 64)
        assert (model.config.width, model.config.pooling, model.config.embedding) == (width, pooling, 64)
        assert torch.isfinite(model(torch.randn(2, 9, 160), torch.tensor([9, 5]))).all()


def test_the_teacher_reads_once(clips, tmp_path, monkeypatch):
    space, found = load_space("tiny"), read_clips(["train.tsv"], str(clips))
    first = speech_task.Teacher(found, space, tmp_path / "teacher.safetensors")
    assert len(first.vectors_UD) == 4 and first.row_N.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    monkeypatch.setattr(speech_task, "embed_sentences", None)
    path = tmp_path / "teacher.safetensors"
    again = speech_task.Teacher(found, space, path)
    assert torch.equal(again.vectors_UD, first.vectors_UD)
    with pytest.raises(TypeError):  # other words are read
        speech_task.Teacher(found[:3], space, path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(TypeError):  # and what is damaged
        speech_task.Teacher(found, space, path)


def test_bfloat16_products_teach_the_same(clips, tmp_path):
    slopes = []
    for dtype in ("float32", "bfloat16"):
        model = {"conv_norm": "batch", "pooling": "mean", "pool_width": 64, "norm_embedding": True, "subsample": 2}
        changes = {"model": model, "speech": {"statistics": "masked"}, "run": {"dtype": dtype}}
        trainer = Trainer(settings(clips, **changes), tmp_path / dtype)
        trainer._learn(trainer.task.steps(trainer.task.epoch(0))[0][0], 0)
        slopes.append(torch.cat([p.grad.flatten() for p in trainer.task.model.parameters() if p.requires_grad]))
    assert torch.cosine_similarity(*slopes, dim=0) > 0.99


def test_a_student_that_spells_leaves_its_speller_behind(clips, tmp_path):
    changes = {"loss": {"spell": 0.5}, "model": {"subsample": 2}, "optim": {"steps": 3}}
    trainer = Trainer(settings(clips, **changes), tmp_path / "run")
    before = trainer.task.speller.proj.weight.clone()
    trainer.run()
    assert not torch.equal(trainer.task.speller.proj.weight, before)
    heard = load_speech(str(tmp_path / "run" / "model"), choose("cpu", "float32"))
    assert not [name for name, _ in heard.net.named_parameters() if "speller" in name]


def test_spelling_is_the_sum_over_all_alignments():
    """Of "ab" in three places of letters: a path is as likely as the product of its places."""
    config = SpeechConfig(width=4, heads=2, ffn=4, layers=1, kernel=3, embedding=4, pooler_heads=2, subsample=2)
    speller = Speller(["Ab, a!"], config)
    assert speller.number == {"a": 1, "b": 2, " ": 3}
    encoded = torch.randn(1, 2, 4)
    chance = speller.proj(encoded).view(4, 4).softmax(1)  # four places, blank and three letters
    paths = [p for p in itertools.product(range(4), repeat=4) if [k for k, _ in itertools.groupby(p) if k] == [1, 2]]
    total = sum(chance[range(4), list(p)].prod() for p in paths)
    torch.testing.assert_close(speller(encoded, None, ["AB?"]), -total.log() / 2)
    real = torch.tensor([[[True], [False]]])  # padding has no letters, and four are too many for two places
    assert speller(encoded, real, ["ab a"]) == 0


def test_features_are_made_once(clips, tmp_path, monkeypatch):
    found = read_clips(["train.tsv"], str(clips))
    kept = Features(found, 1, tmp_path / "features.int8")
    kept.announce([1])
    exact, first = Features(found, 0).take(1), kept.take(1)
    assert (first - exact).abs().max() <= 1 / 32 + 1e-6 and len(first) == len(exact)
    monkeypatch.setattr(fbank, "steps", None)
    again = Features(found, 0, tmp_path / "features.int8")
    assert torch.equal(again.take(1), first)
    for other, number in ((again, 2), (Features(found[::-1], 0, tmp_path / "features.int8"), 1)):  # not made yet
        with pytest.raises(TypeError):
            other.take(number)


def test_kept_features_that_are_damaged_are_made_again(clips, tmp_path):
    found, path = read_clips(["train.tsv"], str(clips)), tmp_path / "features.int8"
    first = Features(found, 0, path).take(0)
    for at in (32, 32 + 8 * len(found)):  # the length of the first, its first feature
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        assert torch.equal(Features(found, 0, path).take(0), first)


def test_contrast_counts_beside_the_distance(clips, tmp_path):
    plain, told = (
        Trainer(settings(clips, loss={"contrast": weight}), tmp_path / str(weight)).task for weight in (0.0, 0.5)
    )
    batch = plain.steps(plain.epoch(0))[0][0]
    told.model.load_state_dict(plain.model.state_dict())
    (a, facts), (b, more) = (task.loss(batch, torch.Generator().manual_seed(0)) for task in (plain, told))
    assert "contrast" not in facts and more["contrast"] > 0
    torch.testing.assert_close(b, a + 0.5 * batch.share * more["contrast"])


def test_clips_in_every_form(clips):
    (clips / "audio" / "dev").mkdir(parents=True)
    shutil.copy(clips / "clips" / "0.flac", clips / "audio" / "dev" / "said.flac")
    (clips / "dev.tsv").write_text("12\tsaid.flac\tOne tone.\tone tone\to n e\t8000\tMALE\n")
    (clips / "a.jsonl").write_text(json.dumps({"audio": "clips/0.flac", "text": "One tone.", "lang": "de"}) + "\n")
    sound = [{"bytes": (clips / "clips" / "0.flac").read_bytes(), "path": None}]
    pq.write_table(pa.table({"audio": sound, "sentence": ["One tone."]}), clips / "a.parquet")
    forms = [read_clips([name], str(clips))[0] for name in ("train.tsv", "dev.tsv", "a.jsonl", "a.parquet")]
    assert [clip.text for clip in forms] == ["One tone."] * 4 and {clip.seconds for clip in forms} == {0.5}
    assert [clip.lang for clip in forms] == ["eng_Latn", "eng_Latn", "deu_Latn", "eng_Latn"]
    for clip in forms:
        np.testing.assert_array_equal(clip.recording().samples(), forms[0].recording().samples())


def test_clips_that_are_none(clips, caplog):
    (clips / "clips" / "bad.wav").write_bytes(b"hello")
    row = {"audio": "clips/0.flac", "text": "One tone."}
    rows = [row, row | {"audio": "clips/bad.wav"}, row | {"text": " "}]
    (clips / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows.append(row | {"audio": "clips/gone.wav"})
    (clips / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(read_clips(["a.jsonl"], str(clips))) == 1
    assert "left out 2 recordings that can't be read" in caplog.text
    for wrong, said in (({"audio": "no.wav"}, "no such recording: no.wav"), ({"text": None}, "no text")):
        (clips / "b.jsonl").write_text(json.dumps(row | wrong))
        with pytest.raises(UserError, match=said):
            read_clips(["b.jsonl"], str(clips))
    with pytest.raises(UserError, match="no clip in"):
        read_clips(["a.jsonl"], str(clips), max_seconds=0.1)


@pytest.mark.parametrize(
    "sound", [["0.flac"], [{"bytes": None, "path": "0.flac"}], [b""], [{"bytes": None, "path": None}], ["x" * 999]]
)
def test_parquet_names_sounds_as_other_files_do(clips, sound, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    pq.write_table(pa.table({"audio": sound, "text": [7]}), clips / "a.parquet")
    if "0.flac" not in str(sound):
        with pytest.raises(UserError, match=r"no recording can be read, the first, .*a\.parquet, row 0:0: "):
            read_clips([str(clips / "a.parquet")])
        return
    (clip,) = read_clips([str(clips / "a.parquet")])
    assert clip.text == "7" and clip.recording().seconds == 0.5


def test_a_file_of_clips_that_is_no_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"audio\ttext\n" * 9)
    with pytest.raises(UserError, match=r"a\.parquet is damaged or no Parquet file"):
        read_clips([str(tmp_path / "a.parquet")])


def test_batches_hold_every_clip_once_and_no_more_than_their_seconds():
    seconds = np.random.default_rng(0).uniform(1, 10, 200)
    found = speech_task.clip_batches(list(seconds), 30, np.random.default_rng(1))
    assert sorted(np.concatenate(found)) == list(range(200))
    assert max(len(part) * seconds[part].max() for part in found) <= 30
    assert np.mean([seconds[part].sum() / (len(part) * seconds[part].max()) for part in found]) > 0.9


def test_masks_silence_stretches_and_bands():
    step_SF = torch.ones(50, 160)
    speech = Speech(time_masks=1, time_share=0.5, bin_masks=1, bin_width=40)
    frame_TB = speech_task.masked(step_SF, speech, torch.Generator().manual_seed(1)).view(100, 80)
    silent_T, silent_B = (frame_TB == 0).all(1), (frame_TB == 0).all(0)
    assert silent_T.any() and silent_B.any() and (frame_TB[~silent_T][:, ~silent_B] == 1).all()
    assert (step_SF == 1).all()


def test_word_errors():
    assert metrics.word_errors(["the cat sat"], ["The cat sat!"]) == 0
    assert metrics.word_errors(["the bat sat down"], ["the cat sat"]) == pytest.approx(200 / 3)


def test_a_recipe_that_cannot_be(clips, tmp_path):
    with pytest.raises(UserError, match=r"holds no clip of 20 s"):
        settings(clips, speech={"max_seconds": 20})
    with pytest.raises(UserError, match=r"model\.embedding is 32, the teacher's vectors have 64"):
        Trainer(settings(clips, model={"embedding": 32}), tmp_path / "run")


@pytest.mark.parametrize("dtype", [FULL, HALF])
def test_products_and_sums_of_a_step_have_the_stated_dtypes(clips, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(loop, "multiplies_bfloat16", lambda device: True)
    trainer = Trainer(settings(clips, run={"dtype": dtype}, loss={"spell": 0.3}), tmp_path / "r")
    with Dtypes() as seen:
        trainer.train_step(trainer._epoch()[0], 10)
    assert (seen.products, seen.sums) == ({dtype}, {FULL})
