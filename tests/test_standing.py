"""A server that stays: workers that join it, hosts that die, and the end of all that `up` started."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny import PRETRAIN

from dora.config import MiniatureVideo, Recipe, ShardsConfig
from infra import services
from infra.deploy import automate
from infra.local import main
from infra.rest import Prefect
from infra.runs import BACK_AFTER, set_state, worker_of
from infra.standing import password

AUTH = "team:walk"
HOST = "127.0.0.2"  # not the one for which no password is asked
SILENT_S = 50  # heartbeats come every 30 s
ENDLESS = Recipe(
    videos=(MiniatureVideo(duration_s=4, fps=6, width=160, height=90),),
    shards=ShardsConfig(fps=6, short_side=64),
    pretrain=PRETRAIN.model_copy(update={"epochs": 100_000}),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("standing") / "root"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Prefect]:
    """Brought up in the background, which gives the terminal back."""
    said = infra(root, "up", "--detach", "--host", HOST)
    assert f"Prefect: http://{HOST}:" in said and "make worker SERVER=" in said and AUTH not in said
    yield find(root)
    infra(root, "down")


def find(root: Path) -> Prefect:
    standing = services.standing_in(root)
    assert standing
    return Prefect(standing["url"], standing["worker_pid"], auth=AUTH)


def environment(root: Path) -> dict[str, str]:
    return os.environ | {"DORA_ROOT": str(root), "PREFECT_API_AUTH_STRING": AUTH}


def infra(root: Path, *arguments: str) -> str:
    """What a command says that ends well."""
    command = [sys.executable, "-m", "infra.local", *arguments]
    run = subprocess.run(command, env=environment(root), capture_output=True, text=True, check=False, timeout=200)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def submit(server: Prefect, name: str, **parameters: Any) -> str:
    deployment = server.call("GET", f"/deployments/name/dora/{name}")
    path = f"/deployments/{deployment['id']}/create_flow_run"
    return server.call("POST", path, {"parameters": parameters})["id"]


def long_walk(seed: int) -> dict[str, Any]:
    """Parameters of a run that draws frames for minutes."""
    return {
        "recipe": "demo", "suite": "miniature", "until": "acquire",
        "overrides": ["videos.0.duration_s=600", f"videos.0.seed={seed}"],
    }  # fmt: skip


def wait_until(server: Prefect, run_id: str, holds: Callable[[dict[str, Any]], bool], limit_s: float = 100) -> Any:
    give_up = time.monotonic() + limit_s
    while not holds(run := server.call("GET", f"/flow_runs/{run_id}")):
        assert time.monotonic() < give_up, run["state"]
        time.sleep(0.3)
    return run


def cancel(server: Prefect, run_id: str) -> None:
    set_state(server, run_id, "CANCELLING")
    wait_until(server, run_id, is_in("Cancelled"))


def is_in(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda run: run["state"]["name"] == name


def log_of(server: Prefect, run_id: str) -> str:
    query = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
    return "\n".join(line["message"] for line in server.call("POST", "/logs/filter", query))


def wait_until_logged(server: Prefect, run_id: str, text: str, limit_s: float = 100) -> None:
    give_up = time.monotonic() + limit_s
    while text not in log_of(server, run_id):
        assert time.monotonic() < give_up, log_of(server, run_id)
        time.sleep(0.5)


def family(pid: int) -> list[int]:
    """A process and all that it has started, each before its children."""
    children: list[int] = []
    with suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(word) for word in (task / "children").read_text().split()]
    return [pid, *(one for child in children for one in family(child))]


def wait_until_gone(pids: list[int]) -> None:
    give_up = time.monotonic() + 10
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < give_up, left
        time.sleep(0.1)


def lives(pid: int) -> bool:
    """Not so if it has ended and nobody has collected it yet."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_down_says_so_when_nothing_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DORA_ROOT", str(tmp_path))
    assert main(["down"]) == 0
    assert f"nothing is up in {tmp_path}" in capsys.readouterr().out


def test_down_ends_no_process_that_only_has_the_number_of_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DORA_ROOT", str(tmp_path))
    home = tmp_path / ".prefect"
    home.mkdir()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        with (home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            told = {"url": "http://127.0.0.1:1", "worker_pid": 1, "works": True, "pid": stranger.pid, "start": "1"}
            (home / "standing.json").write_text(json.dumps(told | {"host": os.uname().nodename}))
            assert main(["down"]) == 2
            assert "is in use, but not by process" in capsys.readouterr().err
            (home / "standing.json").write_text(json.dumps(told | {"host": "elsewhere"}))
            assert main(["down"]) == 2
            assert "Prefect is up on elsewhere" in capsys.readouterr().err
            (home / "standing.json").unlink()
            assert main(["down"]) == 0
            assert "a command works there" in capsys.readouterr().out
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("command", ["up", "ui"])
def test_a_server_on_another_hosts_loopback_is_not_looked_for_here(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DORA_ROOT", str(tmp_path))
    home = tmp_path / ".prefect"
    home.mkdir()
    told = {"url": "http://127.0.0.1:4200", "worker_pid": 1, "works": True, "pid": 1, "start": "1", "host": "elsewhere"}
    (home / "standing.json").write_text(json.dumps(told))
    with (home / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([command]) == 2
    assert f"Prefect is up on elsewhere and serves {tmp_path}, but on loopback" in capsys.readouterr().err


def test_a_password_is_taken_on_loopback_and_needed_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    assert password("127.0.0.1") is None
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH)
    assert password("127.0.0.1") == password("10.0.0.5") == AUTH
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "walk")
    with pytest.raises(ValueError, match="expected PREFECT_API_AUTH_STRING=name:password"):
        password("127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--host", "10.0.0.5"], "needs a password: export PREFECT_API_AUTH_STRING"),
        (["up", "--host", "0.0.0.0"], "the address by which others reach this machine"),
        (["up", "--host", "laptop"], "an address of this machine such as"),
        (["worker"], "expected the server's address"),
        (["worker", "--server", "laptop:4200"], "expected an address such as http://HOST:4200/api"),
    ],
)
def test_an_address_that_cannot_be_is_refused(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DORA_ROOT", str(tmp_path / "root"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and not (tmp_path / "root").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("auth", "own_folder", "says"),
    [
        (None, False, "wants a password. Export PREFECT_API_AUTH_STRING=name:password"),
        ("team:run", False, "wants another password than the one given"),
        (AUTH, True, "is not the folder of the server's other workers"),
    ],
)
def test_a_worker_that_does_not_belong_is_told_why(
    server: Prefect, auth: str | None, own_folder: bool, says: str, root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setenv("DORA_ROOT", str(tmp_path if own_folder else root))
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    if auth:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", auth)
    assert main(["worker", "--server", f"{server.url}/api", "--pool", "gpu"]) == 2
    said = capsys.readouterr().err
    assert says in said and "walk" not in said


@pytest.mark.slow
def test_a_second_up_says_that_prefect_is_up(server: Prefect, root: Path):
    assert f"Prefect is up already: {server.url}" in infra(root, "up")
    assert f"Prefect is up already: {server.url}" in infra(root, "up", "--detach", "--host", HOST)


@pytest.mark.slow
def test_a_worker_that_joined_is_started_again_when_it_dies_and_ends_with_its_command(server: Prefect, root: Path):
    command = [sys.executable, "-m", "infra.local", "worker", "--server", f"{server.url}/api", "--pool", "cpu"]
    joined = subprocess.Popen(command, env=environment(root), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert joined.stdout
    try:
        first = next(line for line in joined.stdout if "takes runs" in line)
        _, worker = family(joined.pid)
        os.kill(worker, signal.SIGKILL)
        assert next(line for line in joined.stdout if "takes runs" in line) == first
        processes = family(joined.pid)
        assert len(processes) == 2 and worker not in processes
        joined.terminate()
        assert joined.wait(30) == 143
        wait_until_gone(processes)
    finally:
        joined.kill()
        joined.wait()
        joined.stdout.close()


@pytest.mark.slow
def test_a_host_that_dies_holds_no_turn_for_ever(server: Prefect, root: Path):
    """Another worker has joined, takes a run, and dies with all its processes: the next run's turn comes."""
    automate(server, SILENT_S)
    lost = server.call("GET", "/deployments/name/dora/demo")["id"]
    lost = server.call("POST", f"/deployments/{lost}/create_flow_run", {"state": {"type": "PENDING"}})["id"]
    own = submit(server, "pretrain", **long_walk(1))  # the server's own worker has no GPU left
    wait_until(server, own, is_in("Running"))
    command = [sys.executable, "-m", "infra.local", "worker", "--server", f"{server.url}/api", "--pool", "gpu"]
    joined = subprocess.Popen(command, env=environment(root), start_new_session=True)
    try:
        first = submit(server, "full-benchmark", **long_walk(2))
        run = wait_until(server, first, is_in("Running"))
        assert (worker_of(run) or "").endswith(f"-{joined.pid}")
        wait_until_logged(server, first, "making video")
        host = family(joined.pid)
        assert len(host) >= 3  # command, worker, flow
    finally:
        for pid in family(joined.pid):
            os.kill(pid, signal.SIGKILL)
        joined.wait()
    wait_until_gone(host)
    cancel(server, own)
    second = submit(server, "full-benchmark", **long_walk(3))
    wait_until(server, second, is_in("AwaitingConcurrencySlot"))
    assert server.call("GET", f"/flow_runs/{first}")["state"]["name"] == "Running"  # so it would stay
    run = wait_until(server, first, is_in("Crashed"), SILENT_S + 40)
    assert "no sign of life" in run["state"]["message"]
    wait_until(server, second, is_in("Running"))
    assert worker_of(server.call("GET", f"/flow_runs/{second}")) == "local"
    assert "did not start it" in wait_until(server, lost, is_in("Crashed"))["state"]["message"]
    cancel(server, second)


@pytest.mark.slow
def test_down_lets_a_training_save_and_up_goes_on_with_it(server: Prefect, root: Path):
    machine = {"root": str(root), "device": "cpu", "threads": 1}
    recipe = ENDLESS.model_dump(mode="json")
    run_id = submit(server, "pretrain", recipe=recipe, machine=machine, until="pretrain")
    wait_until_logged(server, run_id, "step ")
    standing = services.standing_in(root)
    assert standing
    processes = family(standing["pid"])
    assert len(processes) >= 5  # command, server, worker, flow, training
    name = server.call("GET", f"/flow_runs/{run_id}")["name"]
    said = infra(root, "down")
    wait_until_gone(processes)
    assert f"under way, to save first: {name}" in said and said.endswith("stopped.\n")
    assert infra(root, "down") == f"nothing is up in {root}.\n"
    said = infra(root, "up", "--detach", "--host", HOST)
    assert f"going on with, from last time: {name}" in said
    again = find(root)
    wait_until_logged(again, run_id, "going on after step", BACK_AFTER.total_seconds() + 100)
    step = re.search(r"going on after step (\d+)", log_of(again, run_id))
    assert step and int(step[1]) > 0  # of the state that it saved when it was stopped: none other was due yet
    cancel(again, run_id)
