"""Videos and shards on a Dask cluster of processes on this host."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import Client
from footage import ffmpeg, write
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from test_flow import Run, run_flow
from test_local import read_until, start, wait_until_gone

from dora.artifacts import Dask, Machine
from dora.cache import read_manifest
from dora.config import FileVideo, Recipe, ShardsConfig
from dora.lease import process_start
from flows.order import place

# Dask leaves sockets to the garbage collector, and warns of old calls into its own libraries.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

ROOT = Path(__file__).parents[1]
ACCEPT = ("uneven", "undecodable", "frozen", "black")
FLOW = """
import sys
from dora.artifacts import Machine
from dora.config import Recipe
from flows.pipeline import dora
dora(recipe=Recipe.model_validate_json(sys.argv[1]), machine=Machine.model_validate_json(sys.argv[2]), until="shard",
     return_state=True)
"""


class Standing(NamedTuple):
    """A scheduler, and what starts one more worker of it."""

    address: str
    add_worker: Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """As one starts it by hand: a scheduler and two workers, each a process of its own."""
    folder, started = tmp_path_factory.mktemp("dask"), list["subprocess.Popen[bytes]"]()

    def command(*words: str) -> "subprocess.Popen[bytes]":
        output = (folder / f"{len(started)}.log").open("wb")
        command = [sys.executable, "-m", "dask", *words]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output))
        return started[-1]

    where = folder / "scheduler.json"
    quiet = ("--no-dashboard", "--host", "127.0.0.1")
    command("scheduler", *quiet, "--port", "0", "--scheduler-file", str(where))
    while not where.exists():
        assert started[0].poll() is None, (folder / "0.log").read_text()
        time.sleep(0.05)
    address = json.loads(where.read_text())["address"]

    def add_worker() -> "subprocess.Popen[bytes]":
        return command("worker", address, *quiet, "--nthreads", "1", "--no-nanny", "--memory-limit", "0",
                       "--local-directory", str(folder), "--preload", "flows.pipeline")  # fmt: skip

    try:
        add_worker(), add_worker()
        with Client(address) as client:
            client.wait_for_workers(2, timeout=120)
        yield Standing(address, add_worker)
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A walk of three minutes in 90 tars: seconds of work, so that Dask, which looks once a second, shares it out."""
    folder = tmp_path_factory.mktemp("film")
    write(folder / "once.mp4")
    ffmpeg("-stream_loop", "59", "-i", folder / "once.mp4", "-vf", "scale=480:-2", "-g", "31", "-preset", "ultrafast",
           folder / "walk.mp4")  # fmt: skip
    return Recipe(
        videos=(FileVideo(name="walk", path=folder / "walk.mp4", accept=ACCEPT),),
        shards=ShardsConfig(fps=10, frames_per_shard=20),
    )


@pytest.fixture(scope="module")
def digests(server: None, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes out in the flow's own process."""
    root = tmp_path_factory.mktemp("threads")
    assert shard(recipe, Machine(root=root, threads=1)).state == "Completed"
    return made_in(root)


def shard(recipe: Recipe, machine: Machine, **parameters: Any) -> Run:
    return run_flow(recipe=recipe, machine=machine, until="shard", suite="miniature", **parameters)


def made_in(root: Path) -> dict[str, str]:
    """Digests of the finished videos and shards."""
    found = [path.parent for stage in ("video", "shards") for path in root.glob(f"{stage}/*/manifest.json")]
    return {f"{folder.parent.name}/{folder.name}": read_manifest(folder).digest for folder in found}


def writers(root: Path) -> dict[int, int]:
    """Who writes tars just now: pid, and when that process started."""
    found: dict[int, int] = {}
    for path in root.glob("shards/*/.claims/*/.lease"):
        try:
            owner = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if process_start(owner["pid"]) == owner["started"]:
            found[owner["pid"]] = owner["started"]
    return found


class Watching(threading.Thread):
    """Notes who writes tars, and does something once when the first tar is there and another is being written."""

    def __init__(self, root: Path, once: Callable[[set[int]], None] | None = None) -> None:
        super().__init__()
        self.root, self.once, self.seen, self.over = root, once, set[int](), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            now = set(writers(self.root))
            self.seen |= now
            if self.once and now and any(self.root.glob("shards/*/shard-*.tar")):
                self.once(now)
                self.once = None

    def __enter__(self) -> "Watching":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()


@pytest.mark.slow
def test_several_processes_make_what_the_flow_makes_alone(
    dask: Standing, recipe: Recipe, digests: dict[str, str], tmp_path: Path
):
    machine = Machine(root=tmp_path, threads=1, dask=Dask(cluster=dask.address))
    with Watching(tmp_path) as watching:
        run = shard(recipe, machine)
    assert run.state == "Completed", run.message
    assert set(run.stages) == {"acquire walk", "shard walk", "shard walk (2 of 2)"}
    assert made_in(tmp_path) == digests
    assert watching.seen and os.getpid() not in watching.seen
    assert "made shards" in run.log  # what was said there is told here
    assert not list(tmp_path.glob("shards/*/.claims"))
    for _ in range(4):  # Dask may give both tasks to one worker; the second then finds nothing left to do
        with Watching(tmp_path) as watching:
            again = shard(recipe, machine, rerun=("shard",))
        assert again.stages["acquire walk"] == "Cached" and again.stages["shard walk"] == "Completed"
        assert made_in(tmp_path) == digests
        if len(watching.seen) == 2:
            break
    assert len(watching.seen) == 2 and "tars for process" in again.log
    assert set(shard(recipe, machine).stages.values()) == {"Cached"}


@pytest.mark.slow
def test_a_worker_that_is_killed_midway_is_done_without(
    dask: Standing, recipe: Recipe, digests: dict[str, str], tmp_path: Path
):
    killed = list[int]()

    def kill_one(pids: set[int]) -> None:
        killed.append(min(pids))
        os.kill(killed[0], signal.SIGKILL)

    with Watching(tmp_path, kill_one):
        run = shard(recipe, Machine(root=tmp_path, threads=1, dask=Dask(cluster=dask.address)))
    dask.add_worker()
    assert killed
    assert run.state == "Completed", run.message
    assert made_in(tmp_path) == digests


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_over_stops_its_tasks_and_the_next_one_goes_on(
    dask: Standing, recipe: Recipe, digests: dict[str, str], tmp_path: Path, number: signal.Signals
):
    machine = Machine(root=tmp_path, threads=1, dask=Dask(cluster=dask.address))
    command = [sys.executable, "-c", FLOW, recipe.model_dump_json(), machine.model_dump_json()]
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    flow = subprocess.Popen(command, cwd=ROOT, env=environment)
    with Watching(tmp_path, lambda pids: flow.send_signal(number)):
        flow.wait(60)
    give_up = time.monotonic() + 10
    while alive := writers(tmp_path):
        assert time.monotonic() < give_up, alive
        time.sleep(0.05)
    assert not list(tmp_path.glob("shards/*/manifest.json"))
    n_tars = len(list(tmp_path.glob("shards/*/shard-*.tar")))
    assert 0 < n_tars < 45
    assert shard(recipe, machine).state == "Completed"
    assert made_in(tmp_path) == digests


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker_of_a_local_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DORA_DASK__CLUSTER", "local")
    process = start(tmp_path / "root", ["run", "acquire", "--param", 'overrides=["videos.0.duration_s=600"]'])
    read_until(process, "making video")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    wait_until_gone(tmp_path / "root")


def test_a_scheduler_that_is_not_there_is_one_sentence(server: None, recipe: Recipe, tmp_path: Path):
    import dask.config

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        run = shard(recipe, Machine(root=tmp_path, dask=Dask(cluster="tcp://127.0.0.1:1")))
    assert run.state == "Failed" and run.message.startswith("no Dask scheduler answers at tcp://127.0.0.1:1 (")


def test_a_library_that_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"Machine\.dask needs prefect-dask, .* 'dora\[dask\]'"):
        place(until="acquire", machine=Machine(root=tmp_path, dask=Dask()))
    place(until="acquire", machine=Machine(root=tmp_path))
