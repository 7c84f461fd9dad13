"""Two hosts for real: a server on one, a worker on each, and a training across both (infra/netns/hosts.py)."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_local import read_until, wait_until_gone
from test_pretrain import ROOT
from tiny import PRETRAIN

from dora.artifacts import Machine
from dora.cache import read_manifest
from dora.config import MiniatureVideo, Recipe, ShardsConfig
from dora.data.shards import shard
from dora.data.video import acquire
from dora.hosts import MEETING, SEATS, Meeting, card_towards, join
from dora.launch import LaunchError
from dora.lease import Lease, process_space
from dora.torchrun import on_all_devices
from dora.training.stage import pretrain
from infra.netns.hosts import Host, two_hosts

pytestmark = pytest.mark.slow

AUTH = "team:0a1b2c"
RECIPE = Recipe(
    videos=(MiniatureVideo(duration_s=4, fps=6, width=160, height=90),),
    shards=ShardsConfig(fps=6, short_side=64),
    pretrain=PRETRAIN.model_copy(update={"epochs": 1}),
)
# Runs on a host: starts runs of dora/pretrain with these parameters all at once, waits, prints how they ended.
SUBMIT = """
import json, sys, time
from infra.rest import Prefect
server = Prefect("http://10.77.0.1:4200", auth=sys.argv[1])
deployment = server.call("GET", "/deployments/name/dora/pretrain")["id"]
started = [server.call("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": one})["id"]
           for one in json.loads(sys.argv[2])]
runs = []
for one in started:
    while True:
        run = server.call("GET", f"/flow_runs/{one}")
        if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            break
        time.sleep(0.3)
    runs.append({"state": run["state"]["type"], "message": run["state"]["message"]})
print(json.dumps(runs))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    try:
        with two_hosts() as hosts:
            yield hosts
    except OSError as error:
        pytest.skip(f"no two hosts to test with: {error}")


@contextmanager
def running(host: Host, root: Path, *words: str, until: str, **environment: str) -> Iterator[None]:
    """A command on a host, for as long as the context, once it has said something."""
    process = subprocess.Popen(
        host.command(sys.executable, "-m", *words), cwd=root.parent, env=environment_of(root, environment),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        if until:
            read_until(process, until)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def environment_of(root: Path, more: Mapping[str, str]) -> dict[str, str]:
    mine = {
        "DORA_ROOT": str(root), "DORA_DEVICE": "cpu", "DORA_N_PROCESSES": "1", "DORA_THREADS": "1",
        "DORA_LEASE_TIMEOUT_S": "10", "PREFECT_API_AUTH_STRING": AUTH, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return os.environ | mine | more


def submit(host: Host, parameters: list[dict[str, Any]]) -> list[dict[str, str]]:
    command = host.command(sys.executable, "-c", SUBMIT, AUTH, json.dumps(parameters))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    return json.loads(done.stdout)


def test_a_worker_on_each_host_takes_a_run_and_both_train_together(hosts: tuple[Host, Host], tmp_path: Path):
    root, (first, second) = tmp_path / "root", hosts
    here = Machine(root=tmp_path / "alone", device="cpu", threads=1, n_processes=2)
    alone = pretrain([shard(acquire(RECIPE.videos[0], here), RECIPE.shards, here)], RECIPE.pretrain, here,
                     launch=on_all_devices(here))  # fmt: skip
    recipe = RECIPE.model_dump(mode="json")
    with ExitStack() as stack:
        together = {"DORA_HOSTS__N": "2"}
        stack.enter_context(
            running(first, root, "infra.local", "up", "--host", first.address, until="make worker SERVER=",
                    **together, DORA_HOSTS__ADDRESS=first.address)
        )  # fmt: skip
        stack.enter_context(
            running(second, root, "infra.local", "worker", "--server", f"http://{first.address}:4200/api",
                    until="takes runs", **together, DORA_HOSTS__ADDRESS=second.address)
        )  # fmt: skip
        # A worker takes one run of the pool gpu at a time: while one host makes a long video, the other must come.
        others = [MiniatureVideo(name=name, seed=7, duration_s=60, fps=6, width=160, height=90) for name in "ab"]
        runs = submit(second, [{"recipe": recipe | {"videos": [video.model_dump(mode="json")]}, "until": "shard"}
                               for video in others])  # fmt: skip
        assert [run["state"] for run in runs] == ["COMPLETED"] * 2, runs
        made = [read_manifest(path.parent) for path in root.glob("shards/*/manifest.json")]
        assert {manifest.host for manifest in made} == {first.name, second.name}
        for host in hosts:  # who leads is whose worker takes the run; the other one joins
            stack.enter_context(running(host, root, "dora", "pretrain", "join", until=""))
        (run,) = submit(second, [{"recipe": recipe, "until": "pretrain"}])
        assert run["state"] == "COMPLETED", run
    wait_until_gone(root)
    (manifest,) = root.glob("checkpoint/*/manifest.json")
    assert read_manifest(manifest.parent).digest == alone.digest
    assert not [path.name for path in manifest.parent.glob(".[ms]*")]


@pytest.mark.parametrize("same", [True, False])
def test_hosts_of_one_name_meet_and_a_host_does_not_meet_itself(tmp_path: Path, same: bool):
    machine, folder = Machine(root=tmp_path), tmp_path / "checkpoint" / "9ab3"
    folder.mkdir(parents=True)
    meeting = Meeting(
        id="today", host=platform.node(), space=process_space() if same else "another boot", n_hosts=2,
        address="127.0.0.1", port=29500, module=("-m", "nothing"),
    )  # fmt: skip
    (folder / MEETING).write_text(meeting.model_dump_json())
    with Lease(folder, timeout_s=60):
        if same:
            assert join(machine) is None
            return
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(join, machine)
            while not joined.done() and not list(folder.glob(f"{SEATS}/today/1/.lease")):
                time.sleep(0.01)
            (folder / MEETING).unlink()
            with pytest.raises(LaunchError, match=r"the host that leads .* has stopped"):
                joined.result(30)


def test_the_card_towards_an_address_is_found():
    assert card_towards("127.0.0.1") == "lo"
    assert card_towards("not an address") is None
