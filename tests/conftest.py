"""What tests share: the parity models, imported once into a registry of their own."""

from __future__ import annotations

import json
import os
import socket
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

PARITY = Path(__file__).parent / "parity"
torch.set_num_threads(1)


def on_ranks(count, work):
    """`work()` in `count` forked processes that know each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(count):
        if not (child := os.fork()):
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


@pytest.fixture(scope="session")
def device() -> str:
    """The GPU that tests/gpu are for: without one they are skipped. `SONARLLM_TEST_DEVICE=cpu` tries every line of them
    on a processor."""
    name = os.environ.get("SONARLLM_TEST_DEVICE", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return name


@pytest.fixture
def sonarllm(capsys):
    """The command line within this process: arguments → what it printed and its exit code, as of a subprocess."""

    def run(*arguments):
        from sonarllm_cli.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in arguments])
        return SimpleNamespace(returncode=end.value.code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture(scope="session")
def expected() -> dict:
    return json.loads((PARITY / "expected.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def parity_home(tmp_path_factory, expected):
    """A registry with the space `tiny` and the concept model `tiny-llm` made from the published layouts."""
    from sonarllm_cli.weights.convert import import_sonar, import_sonar_llm

    home = tmp_path_factory.mktemp("home")
    old = os.environ.get("SONARLLM_HOME")
    os.environ["SONARLLM_HOME"] = str(home)
    import_sonar(
        "tiny",
        encoder=PARITY / "text_encoder.fairseq2.pt",
        decoder=PARITY / "text_decoder.fairseq2.pt",
        tokenizer=PARITY / "sentencepiece.model",
        langs=expected["config"]["langs"],
        heads=expected["config"]["num_heads"],
        max_tokens=expected["config"]["max_seq_len"],
    )
    import_sonar_llm(
        "tiny-llm",
        checkpoint=PARITY / "sonarllm_reference_checkpoint.pt",
        config=PARITY / "sonarllm_reference_config.json",
        sonar="tiny",
    )
    os.environ.pop("SONARLLM_HOME") if old is None else os.environ.update(SONARLLM_HOME=old)
    return home


@pytest.fixture
def home(parity_home, monkeypatch):
    monkeypatch.setenv("SONARLLM_HOME", str(parity_home))
    return parity_home


@pytest.fixture
def space(home):
    from sonarllm_cli.weights.loaded import load_space

    return load_space("tiny")


@pytest.fixture
def writer(home):
    from sonarllm_cli.weights.loaded import load_writer

    return load_writer("tiny-llm")
