"""Who is killed takes along those that it started: ranks, and workers that segment. What it had locked is free."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from test_loop import changed, newest
from test_train import corpus, sonar  # noqa: F401

from sonarllm_cli import parent
from sonarllm_cli.learn.checkpoint import claimed
from sonarllm_cli.learn.recipe import to_toml

ALONE = {name: value for name, value in os.environ.items() if name not in (parent.LAUNCHER, parent.TORCHRUN)}
SEGMENTING = """
import sys, time
from pathlib import Path
from sonarllm_cli import parent
from sonarllm_cli.data import corpus
from sonarllm_cli.learn.checkpoint import claimed

def work(items, lang):
    print("began", flush=True)
    time.sleep(600)

if sys.argv[2] == "watch":
    parent._killed_by_the_system = lambda: False
with claimed(Path(sys.argv[1])):
    list(corpus._spread(work, list(range(2000)), ""))
"""


@contextlib.contextmanager
def killed(command, **options):
    """A process, killed by SIGKILL at the end; all that have its stdout open must then end by themselves."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **options)
    try:
        yield process
        process.kill()
        process.communicate(timeout=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_ranks_end_with_their_launcher_and_the_run_goes_on(corpus, tmp_path):  # noqa: F811
    settings = changed(sonar(corpus, steps=100_000, accumulate=2), run={"save_every": 1})
    (tmp_path / "r.toml").write_text(to_toml(settings.as_dict()))
    command = [sys.executable, "-m", "sonarllm_cli", "train", "--threads", "1", "--nproc", "2"]
    quiet = {"cwd": tmp_path, "stderr": subprocess.DEVNULL}
    with killed([*command, "r.toml", "-o", "r"], **quiet) as launcher:
        while not newest(tmp_path / "r"):
            assert launcher.poll() is None
            time.sleep(0.05)
    with claimed(tmp_path / "r"):
        steps = newest(tmp_path / "r") + 2
    subprocess.run([*command, "r", "--resume", "--set", f"optim.steps={steps}"], check=True, **quiet)
    assert newest(tmp_path / "r") == steps


@pytest.mark.skipif(sys.platform == "win32", reason="no process is told there")
@pytest.mark.parametrize("by", ["system", "watch"])
def test_workers_that_segment_end_with_their_run(tmp_path, by):
    with killed([sys.executable, "-c", SEGMENTING, str(tmp_path / "r"), by]) as run:
        assert run.stdout.readline() == b"began\n"
    with claimed(tmp_path / "r"):
        pass


@pytest.mark.parametrize("told", [parent.LAUNCHER, parent.TORCHRUN])
def test_a_process_ends_with_a_launcher_that_it_is_told_of(told):
    rank = "import time; from sonarllm_cli.parent import *; end_with_launcher(); print('began', flush=True); "
    start = f"os.environ[{told!r}] = str(os.getpid()); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    launch = [sys.executable, "-c", f"import os, subprocess, sys; {start}", f"{rank} time.sleep(600)"]
    with killed(launch, env=ALONE) as launcher:
        assert launcher.stdout.readline() == b"began\n"


def test_any_other_goes_on_without_its_parent():
    rank = "import os, time; from sonarllm_cli.parent import *; end_with_launcher(); print(os.getppid(), flush=True)"
    wait = "first = os.getppid()\nwhile os.getppid() == first: time.sleep(0.01)\nprint('goes on')"
    start = "subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    launch = [sys.executable, "-c", f"import subprocess, sys; {start}.wait()", f"{rank}\n{wait}"]
    process = subprocess.Popen(launch, stdout=subprocess.PIPE, env=ALONE)
    assert int(process.stdout.readline()) == process.pid
    process.kill()
    assert process.communicate(timeout=20)[0] == b"goes on\n"


def test_whose_parent_was_gone_before_ends_at_once():
    code = "import os; from sonarllm_cli.parent import end_with; end_with(os.getpid()); print('goes on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
