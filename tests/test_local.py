"""`python -m infra.local`: what it refuses, what it starts, and that nothing of it stays."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dora.artifacts import Machine
from infra.local import PROXY, as_parameter, main

# As short a run as there is: a second of video.
TINY = ["run", "acquire", "--param", 'overrides=["videos.0.duration_s=2","videos.0.fps=6"]', "--param", "until=shard"]
# Long enough to be interrupted.
LONG = ["run", "acquire", "--param", 'overrides=["videos.0.duration_s=600"]']


def start(root: Path, arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "infra.local", *arguments], env=os.environ | {"DORA_ROOT": str(root)}, cwd=root.parent,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test runner may ignore it
    )  # fmt: skip


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    said = ""
    assert process.stdout
    while text not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def serving(root: Path) -> dict[int, str]:
    """Process ids and command lines of all living processes that work for this root."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, UnicodeDecodeError):
            if f"DORA_ROOT={root}\0" in (folder / "environ").read_text():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def wait_until_gone(root: Path) -> None:
    give_up = time.monotonic() + 20
    while left := serving(root):
        assert time.monotonic() < give_up, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "benchmark"], "unknown deployment 'benchmark'. Known: demo, full-benchmark"),
        (["run", "demo", "--param", "recipe=dmo"], "unknown recipe 'dmo'. Known: demo"),
        (["run", "demo", "--param", "suite=papers"], "unknown suite 'papers'"),
        (["run", "demo", "--param", "benchmarks=[]"], "benchmarks: Unexpected keyword argument"),
        (["run", "demo", "--param", "recipe"], "expected NAME=VALUE"),
        (["run", "learning", "--param", "variants=[demo]"], "expected JSON, got '[demo]'. A shell takes quotes away"),
        (["run", "demo", "--param", 'overrides=["pretrain.epoch=3"]'], "Did you mean epochs?"),
        (["run", "full-benchmark"], "DORA_DATASETS__DAVIS"),
        (["demo", "--video", "no.mp4"], "no video at"),
        (["demo", "--video", "empty.mp4"], "is empty"),
        (["demo", "--video", "text.mp4"], "is no video"),
        (["demo", "--video", "venice", "zurich", "--video", "text.mp4"], "is no video"),
        (["demo", "--video", "venice zurich no.mp4"], "no.mp4"),
        (["run", "acquire", "--param", 'videos=["no.txt"]'], "no list of videos"),
    ],
)
def test_a_mistake_is_refused_before_anything_starts(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a walk through Venice")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DORA_ROOT", str(tmp_path / "root"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and "Traceback" not in said
    assert not (tmp_path / "root").exists()


def test_a_machine_file_that_is_wrong_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "machine.toml").write_text("n_gpus = 8\n")
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    assert "n_gpus" in capsys.readouterr().err


def test_a_run_is_asked_for_without_what_is_secret_which_its_worker_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PROXY, "http://me:secret@proxy:3128")
    machine = Machine.model_validate({"root": tmp_path, "network": {"retries": 3, "rate_limit": 1e6}})
    asked = as_parameter(machine)
    assert "secret" not in json.dumps(asked) and "***" not in json.dumps(asked)
    assert Machine.model_validate(asked) == machine  # in a worker, which has the variable
    assert machine.network.proxy and machine.network.retries == 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: a new database costs ten seconds."""
    return tmp_path_factory.mktemp("local") / "root"


@pytest.mark.slow
def test_a_run_is_shown_and_the_next_one_reuses_it(root: Path):
    for word in ("made", "reused"):
        process = start(root, TINY)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
        assert f"{word} video" in said and f"{word} shards" in said and "acquire done in" in said
        wait_until_gone(root)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_however_it_ends_nothing_of_it_stays(root: Path, number: int, status: int):
    process = start(root, LONG)
    read_until(process, "making video")
    assert any("infra.engine" in command for command in serving(root).values())
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
    wait_until_gone(root)


@pytest.mark.slow
def test_a_killed_worker_and_flow_are_told_and_the_next_run_goes_on(root: Path):
    process = start(root, LONG)
    read_until(process, "making video")
    for pid, command in serving(root).items():
        if "infra.worker" in command or "infra.engine" in command:
            os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "worker ended (exit -9); run again to go on" in said
    wait_until_gone(root)
    again = start(root, LONG)
    said = read_until(again, "making video")
    assert "taking over" in said
    again.kill()
    again.communicate(timeout=60)
    wait_until_gone(root)
