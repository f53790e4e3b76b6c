"""Pulling from a hub: a small one of our own, on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.languages import FLORES
from sonarllm_cli.runtime import choose
from sonarllm_cli.weights import hub, model_dir, registry
from sonarllm_cli.weights.loaded import load_writer

PARITY = Path(__file__).parent / "parity"
BLASER = "facebook/blaser-2.0-qe"
COMMIT = "c0ffee" + "0" * 34
ENCODER, DECODER, LLM = (
    "cointegrated/SONAR_200_text_encoder",
    "raxtemur/SONAR_200_text_decoder",
    "raxtemur/sonar-llm-100m",
)


class Hub(BaseHTTPRequestHandler):
    """What `snapshot_download` asks of a hub, for the folders ORG/REPO under `root`; `gated` ones say so."""

    def do_GET(self):
        words = self.path.split("?")[0].strip("/").split("/")
        self.server.asked.append(self.path)
        if words[:2] == ["api", "models"]:
            return self.describe("/".join(words[2:4]), words[4:])
        repo, revision, name = "/".join(words[:2]), words[3], "/".join(words[4:])
        if not self.allowed(repo, revision):
            return None
        file = self.server.root / repo / name
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        data = file.read_bytes()
        return self.answer(data, {"ETag": self.server.etag or f'"{hashlib.sha1(data).hexdigest()}"'})

    do_HEAD = do_GET

    def describe(self, repo, rest):
        if not self.allowed(repo, rest[1] if len(rest) > 1 else "main"):
            return None
        files = sorted((self.server.root / repo).iterdir())
        if rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            return self.answer(json.dumps(entries).encode())
        info = {"id": repo, "sha": self.server.sha, "siblings": [{"rfilename": f.name} for f in files]}
        return self.answer(json.dumps(info).encode())

    def allowed(self, repo, revision):
        if repo in self.server.gated:
            return self.refuse(403, "GatedRepo")
        if not (self.server.root / repo).is_dir():
            return self.refuse(404, "RepoNotFound")
        return revision in ("main", COMMIT) or self.refuse(404, "RevisionNotFound")

    def refuse(self, status, code):
        self.answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def answer(self, data, headers=(), status=200):
        self.send_response(status)
        for name, value in {
            "X-Repo-Commit": self.server.commit,
            "Content-Length": str(len(data)),
            **dict(headers),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The fixtures, with an id for each of FLORES-200's languages, as the catalogue's repositories hold them."""
    root, more = tmp_path_factory.mktemp("hub"), len(FLORES) - 7
    folder = root / ENCODER
    shutil.copytree(PARITY / "m2m100_encoder", folder)
    shutil.copy(PARITY / "sentencepiece.model", folder / "sentencepiece.bpe.model")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_tokens.weight"] = torch.cat([tensors["embed_tokens.weight"], torch.ones(more, 64)])
    save_file(tensors, folder / "model.safetensors")

    (root / DECODER).mkdir(parents=True)
    old = torch.load(PARITY / "text_decoder.fairseq1.pt", weights_only=True)["state_dict"]
    table = torch.cat([old.pop("output_projection.weight"), torch.ones(more, 64)])
    tensors = {f"model.decoder.{k}": v for k, v in old.items() if k.startswith("layer")}
    save_file(tensors | {"model.shared.weight": table}, root / DECODER / "model.safetensors")
    (root / DECODER / "config.json").write_text('{"decoder_attention_heads": 4}')

    (root / LLM).mkdir()
    shutil.copy(PARITY / "sonarllm_reference_checkpoint.pt", root / LLM / "pytorch_model.bin")
    shutil.copy(PARITY / "sonarllm_reference_config.json", root / LLM / "config.json")
    (root / LLM / "README.md").write_text('---\ntags:\n- x\nlicense: "mit"\n---\n# A model\nlicense: other\n')
    (root / BLASER).mkdir(parents=True)
    shutil.copy(PARITY.parent / "parity-heads/blaser_qe.pt", root / BLASER / "model.pt")
    return root


@pytest.fixture(scope="module")
def server(published):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.gated, server.asked = published, set(), []
    server.sha, server.commit, server.etag = COMMIT, COMMIT, ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, server):
    monkeypatch.setenv("SONARLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(server, "asked", [])
    return tmp_path


def test_a_head_brings_the_space_whose_vectors_it_reads(server):
    said = []
    config = model_dir.read_config(hub.pull("blaser-2.0-qe", say=said.append))
    assert config["sonar"]["fingerprint"] == model_dir.read_config(registry.find("sonar-200"))["fingerprint"]
    assert (config["kind"], config["source"]) == ("blaser", f"{BLASER}@{COMMIT}")
    assert f"blaser-2.0-qe: licence CC-BY-NC-4.0 ({BLASER})" in said


def test_a_concept_model_brings_its_space(server):
    said = []
    folder = hub.pull("sonar-llm-100m", say=said.append)
    writer = load_writer("sonar-llm-100m", choose("cpu", "float32"))
    assert writer.space.name == "sonar-200" and writer.space.tokenizer.langs == list(FLORES)
    want = load_file(PARITY / "sonarllm_expected.safetensors")
    torch.testing.assert_close(writer.net(want["input"]), want["predicted"], atol=1e-5, rtol=0)
    config = model_dir.read_config(folder)
    assert (config["licence"], config["source"]) == ("mit", f"{LLM}@{COMMIT}")
    assert said[0] == f"sonar-200: licence CC-BY-NC-4.0 ({ENCODER}, {DECODER})"
    assert f"sonar-llm-100m: licence mit ({LLM})" in said
    assert f"{DECODER}/model.safetensors: unverified, the catalogue has no hash of it" in said
    assert not [path for path in server.asked if "README" in path and "SONAR_200" in path]  # only what is needed


@pytest.mark.parametrize("what", ["sha", "commit", "etag"])
@pytest.mark.parametrize("said", ["../../../../outside", "/outside", "main", "..", "a\\..\\b"])
def test_a_hub_that_answers_a_path_writes_nothing_outside_its_cache(what, said, server, home, monkeypatch):
    if what == "etag" and said == "main":
        said = "sub/main"
    monkeypatch.setattr(server, what, said.replace("/outside", f"{home}/outside") if said[0] == "/" else said)
    with pytest.raises(UserError, match="where a commit or a file's hash is due"):
        hub.fetch(ENCODER, ["config.json"])
    made = [path for path in home.rglob("*") if path.is_file()]
    assert all(path.relative_to(home / "cache") and path.parent.name in ("refs", "trees") for path in made), made


def test_what_is_here_is_not_fetched_again(server):
    folder = hub.pull("sonar-200")
    server.asked.clear()
    assert hub.pull("sonar-200") == folder and not server.asked


def test_known_hashes_are_checked(published, monkeypatch):
    good = hashlib.sha256((published / ENCODER / "model.safetensors").read_bytes()).hexdigest()
    for hash_, outcome in ((good, None), ("0" * 64, "not the file that the catalogue knows")):
        entry = registry.catalogue()["sonar-200"] | {"sha256": {f"{ENCODER}/model.safetensors": hash_}}
        monkeypatch.setattr(registry, "catalogue", lambda entry=entry: {"sonar-200": entry})
        if outcome is None:
            assert hub.pull("sonar-200").is_dir()
            registry.remove("sonar-200")
        else:
            with pytest.raises(UserError, match=outcome):
                hub.pull("sonar-200")


def test_a_repository_in_our_layout_is_copied(published):
    made = hub.pull("sonar-200")
    shutil.copytree(made, published / "me" / "my-space", dirs_exist_ok=True)
    copied = hub.pull("hf:me/my-space@main", save_as="copy")
    assert {f.name: f.read_bytes() for f in copied.iterdir()} == {f.name: f.read_bytes() for f in made.iterdir()}
    (published / "me" / "my-space" / "tokenizer.model").write_bytes(b"other")
    (registry.models_home().parent.parent / "cache").rename(registry.models_home().parent.parent / "old")
    with pytest.raises(UserError, match=r"tokenizer\.model is not what was saved"):
        hub.pull("hf:me/my-space")
    assert not (registry.models_home() / "my-space").exists()


@pytest.mark.parametrize(
    "change", [{"files": []}, {"files": {}}, {"files": {"model.safetensors": "", "../x": ""}}, {"sonar": "x"}]
)
def test_a_config_that_lies(change, published, home):
    folder = published / "me" / home.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"kind": "sonar-llm", "files": {"model.safetensors": ""}} | change))
    with pytest.raises(UserError, match=r"impossible '(files|sonar)'|gives no hash of"):
        hub.pull(f"hf:me/{folder.name}")


def test_any_concept_model_in_a_space_that_is_here(server):
    with pytest.raises(UserError, match="sonar-200 is not on this machine; fetch it"):
        hub.pull(f"hf:{LLM}")
    assert not [path for path in server.asked if "pytorch_model.bin" in path]  # nothing large in vain
    hub.pull("sonar-200", save_as="space")
    assert hub.pull(f"hf:{LLM}", sonar="space", save_as="mine").name == "mine"


@pytest.mark.parametrize("name", ["mini", "mini-sonar"])
def test_a_model_of_the_package_is_here_already(name):
    said = []
    assert hub.pull(name, say=said.append) == registry.EMBEDDED / name
    assert said == [f"{name} is here already, it comes with the package: {registry.EMBEDDED / name}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:no/such", "no repository no/such on http.*; check the name; for a private one set HF_TOKEN"),
        (f"hf:{LLM}@v9", "has no revision 'v9'"),
        ("hf:some/gated", "some/gated is gated; accept its terms at http.*/some/gated and set HF_TOKEN"),
        (f"hf:{ENCODER}", "no model that can be pulled alone"),
        ("hf:justone", "names no repository"),
        ("hf:a/..", "can't be a"),
        ("sonar-lm-100m", "did you mean sonar-llm-100m"),
    ],
)
def test_what_can_not_be_pulled(name, message, server, monkeypatch):
    monkeypatch.setattr(server, "gated", {"some/gated"})
    with pytest.raises(UserError, match=message):
        hub.pull(name)


@pytest.mark.parametrize(
    ("card", "licence"),
    [("---\ntags: x\nlicense: 'mit'\n---\n", "mit"), ("---\ntags: x\n---\nlicense: mit\n", ""), ("license: mit", "")],
)
def test_the_licence_is_the_cards(card, licence, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert hub._licence(tmp_path) == licence


def test_a_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"can't reach http://127\.0\.0\.1:9 to fetch"):
        hub.pull("sonar-200")


def test_a_file_that_is_renamed_there(monkeypatch):
    entry = registry.catalogue()["sonar-200"] | {"encoder_file": "gone.pt"}
    monkeypatch.setattr(registry, "catalogue", lambda: {"sonar-200": entry})
    with pytest.raises(UserError, match=r"has no gone\.pt"):
        hub.pull("sonar-200")


def test_the_environment_is_honoured_and_then_no_hub_is_needed(server, home, monkeypatch):
    """HF_ENDPOINT and HF_HOME in a process of its own; then HF_HUB_OFFLINE, as huggingface_hub keeps it."""
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", "from sonarllm_cli.cli import main; main()", "models", "pull", "sonar-200"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (first.returncode, Path(first.stdout.strip()).name) == (0, "sonar-200"), first.stderr
    assert first.stderr.startswith("sonar-200: licence CC-BY-NC-4.0")
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; unset"):
        hub.pull("sonar-200", save_as="never")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
    assert hub.pull("sonar-200", save_as="again").is_dir() and not server.asked
