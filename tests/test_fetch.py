"""Speech encoders, MuTox and LASER2 by their address: a server of our own, on loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.flow.embed import load_speech
from sonarllm_cli.weights import fetch as fetching
from sonarllm_cli.weights import hub, model_dir, registry

HERE = Path(__file__).parent
FILE = HERE / "parity-speech" / "speech_encoder.fairseq1.pt"
OTHERS = {"/mutox.pt": HERE / "parity-heads/mutox.pt", "/laser2.pt": HERE / "parity-heads/laser2.pt"}
OTHERS["/laser2.spm"] = HERE / "parity/sentencepiece.model"


class Files(BaseHTTPRequestHandler):
    """Serves `data` as spenc.xyz.pt, from where it is asked; breaks off after `breaks` bytes. And the `OTHERS`."""

    def do_GET(self):
        server = self.server
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        server.asked.append(first)
        if self.path in OTHERS:
            data = OTHERS[self.path].read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            return self.wfile.write(data)
        if not self.path.endswith("spenc.xyz.pt"):
            return self.send_error(404)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(server.data) - first))
        self.end_headers()
        self.wfile.write(server.data[first : server.breaks or None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.data, server.breaks, server.asked = FILE.read_bytes(), 0, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}/spenc.xyz.pt"


def test_a_speech_encoder_is_pulled_licence_first(home, url, monkeypatch):
    entry = registry.catalogue()["sonar-speech-eng"] | {"url": url, "sonar": "tiny", "lang": "deu_Latn"}
    monkeypatch.setitem(registry.catalogue(), "sonar-speech-xyz", entry)
    said: list[str] = []
    hub.pull("sonar-speech-xyz", say=said.append)
    try:
        assert "licence not stated" in said[1] and "unverified" in said[2]
        heard = load_speech("sonar-speech-xyz")
        assert heard.lang == "deu_Latn" and heard.space == "tiny" and heard.fingerprint
        assert not any((home / "fetched").iterdir())
    finally:
        registry.remove("sonar-speech-xyz")


@pytest.mark.parametrize("name", ["mutox", "laser2"])
def test_mutox_and_laser2_are_pulled_licence_first(home, url, monkeypatch, name):
    entry = dict(registry.catalogue()[name])
    entry |= {key: url.replace("spenc.xyz.pt", Path(entry[key]).name) for key in ("url", "tokenizer") if key in entry}
    entry |= {"sonar": "tiny"} if "sonar" in entry else {}
    monkeypatch.setitem(registry.catalogue(), name, entry | {"sha256": {f"{name}.pt": "0" * 64}})
    with pytest.raises(UserError, match="not the file that the catalogue knows"):
        hub.pull(name, say=lambda _: None)
    monkeypatch.setitem(registry.catalogue(), name, entry)
    said: list[str] = []
    config = model_dir.read_config(hub.pull(name, say=said.append))
    try:
        unverified = [line for line in said if "unverified" in line]
        assert len(unverified) == len({"url", "tokenizer"} & entry.keys())
        assert sum("licence not stated; ask its authors" in line for line in said) == 1
        assert config["kind"] == name and entry["url"] in config["source"] and "SHA-256" in config["source"]
        assert config.get("sonar", {}).get("name") == entry.get("sonar")
        assert not any((home / "fetched").iterdir())
    finally:
        registry.remove(name)


def test_what_broke_off_goes_on(server, url, tmp_path):
    server.breaks = 1_000
    with pytest.raises(RunError, match="broke off after 1,000"):
        fetching.fetch_file(url, tmp_path)
    server.breaks = 0
    assert fetching.fetch_file(url, tmp_path).read_bytes() == server.data and server.asked == [0, 1_000]
    assert fetching.fetch_file(url, tmp_path).exists() and len(server.asked) == 2


def test_what_is_not_there_is_told(url, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="404"):
        fetching.fetch_file(url.replace("xyz", "abc"), tmp_path)
    with pytest.raises(RunError, match="can't fetch"):
        fetching.fetch_file("http://127.0.0.1:9/spenc.xyz.pt", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetching.fetch_file(url.replace("xyz", "abc"), tmp_path)


def test_every_language_is_in_the_catalogue():
    speech = {name: e for name, e in registry.catalogue().items() if e["kind"] == "sonar-speech"}
    assert len(speech) == 58 and [e["licence"] for e in speech.values()].count("MIT") == 21
    assert speech["sonar-speech-eng"]["url"].endswith("/spenc.eng.pt") and not speech["sonar-speech-eng"]["licence"]
    assert speech["sonar-speech-cmn"]["lang"] == "zho_Hans" and "v5ap.cmn" in speech["sonar-speech-cmn"]["url"]
