"""What orchestration costs: a run in which nothing is to be made, looking artifacts up, and an hour's training.

The encoder and the benchmarks are as small as in the tests: what is measured is everything around them.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import Measurement, seconds
from tiny import PRETRAIN

from dora import cache, inventory
from dora.artifacts import Machine
from dora.config import MiniatureVideo, Recipe, ShardsConfig
from infra import services
from infra.services import Prefect

ROOT = Path(__file__).parents[1]
N_ARTIFACTS = 1000
# Of a training that goes on. Progress is told more and more seldom; over the whole hour more seldom still.
SETTLED_S, WINDOW_S, N_WINDOWS = 240, 30, 5
ROUNDS = 5
HOUR_S = 3600
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

TINY = Recipe(
    videos=(MiniatureVideo(duration_s=4, fps=6, width=160, height=90),),
    shards=ShardsConfig(fps=6, short_side=64),
    pretrain=PRETRAIN.model_copy(update={"epochs": 1}),
)


def cache_lookup_1000_s() -> Measurement:
    """One thousand artifacts, each asked for and found whole."""
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(root=Path(name))

        def make(folder: Path) -> dict[str, Any]:
            for file in ("log.jsonl", "checkpoint.safetensors"):
                (folder / file).write_bytes(os.urandom(1000))
            return {"n": 1}

        def look_up() -> None:
            for number in range(N_ARTIFACTS):
                assert cache.build(machine, "thing", 1, {"number": number}, {}, make).reused

        for number in range(N_ARTIFACTS):
            cache.build(machine, "thing", 1, {"number": number}, {}, make)
        return seconds(look_up)


def cache_list_1000_s() -> Measurement:
    """`dora cache list` of as many."""
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(root=Path(name))
        for number in range(N_ARTIFACTS):
            cache.build(machine, "thing", 1, {"number": number}, {}, lambda folder: {"n": 1})
        return seconds(lambda: list(inventory.table(machine.root)))


def cached_run_s() -> Measurement:
    """From submission to its final state: the demo, all stages and benchmarks, with everything in the cache.

    The first call fills the cache if it is empty, as `demo_cached_s` does.
    """
    with _serving(Path(os.environ.get("DORA_ROOT", ROOT / "artifacts"))) as (server, machine):
        wanted = {"machine": machine.model_dump(mode="json")}
        _run(server, "demo", wanted)

        def again() -> None:
            _run(server, "demo", wanted)

        return seconds(again, rounds=ROUNDS)


def orchestration_overhead() -> Measurement:
    """Percent that an hour's training takes longer: what server, worker and flow take from it on all its cores,
    and the time before and after it.
    """
    with _serving() as (server, machine):
        wanted = {
            "recipe": TINY.model_dump(mode="json"),
            "machine": machine.model_dump(mode="json"),
            "until": "pretrain",
        }
        _run(server, "pretrain", wanted)
        around_s = statistics.median(_timed(server, wanted) for _ in range(3))
        # A step takes milliseconds here: as many lines and pictures an hour as of one whose steps take a second.
        seldom = machine.model_copy(update={"log_every_steps": 1000, "watch_every_steps": 20_000})
        long = {**wanted, "machine": seldom.model_dump(mode="json"), "overrides": ["pretrain.epochs=100000"]}
        run = _submit(server, "pretrain", long)
        time.sleep(SETTLED_S)
        shares = [_cpu_share(server) for _ in range(N_WINDOWS)]
        server.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
        _wait(server, run)
    cores = os.cpu_count() or 1
    percent = [100 * (share / cores + around_s / HOUR_S) for share in shares]
    print(f"  server, worker, flow: {HOUR_S * statistics.median(shares):.1f} CPU s an hour; {around_s:.1f} s around it")
    return Measurement(statistics.median(percent), "%", percent)


@contextmanager
def _serving(root: Path | None = None) -> Generator[tuple[Prefect, Machine]]:
    """A server and a worker of their own, as `make up` starts them; with a root of their own, unless one is given."""
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(root=root) if root else Machine(root=Path(name), device="cpu", threads=1)
        with services.prefect(machine.root) as server:
            yield server, machine


def _run(server: Prefect, name: str, parameters: dict[str, Any]) -> None:
    state = _wait(server, _submit(server, name, parameters))
    assert state["type"] == "COMPLETED", state


def _timed(server: Prefect, parameters: dict[str, Any]) -> float:
    started = time.perf_counter()
    _run(server, "pretrain", parameters)
    return time.perf_counter() - started


def _submit(server: Prefect, name: str, parameters: dict[str, Any]) -> str:
    deployment = server.call("GET", f"/deployments/name/dora/{name}")
    return server.call("POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]


def _wait(server: Prefect, run: str) -> dict[str, Any]:
    while True:
        state = server.call("GET", f"/flow_runs/{run}")["state"]
        if state["type"] in FINAL:
            return state
        time.sleep(0.1)


def _cpu_share(server: Prefect) -> float:
    """Of one core, over a window: all processes of Prefect's, and not the training that the flow has started."""
    before, started = _cpu_s(server), time.monotonic()
    time.sleep(WINDOW_S)
    after = _cpu_s(server)
    return sum(after[pid] - before.get(pid, 0) for pid in after) / (time.monotonic() - started)


def _cpu_s(server: Prefect) -> dict[int, float]:
    spent: dict[int, float] = {}
    for child in server.children:
        waiting = [child.process.pid]
        while waiting:
            pid = waiting.pop()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"dora.training.pretrain" in command:
                continue
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            spent[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return spent


BENCHES = {
    "cache_lookup_1000_s": cache_lookup_1000_s,
    "cache_list_1000_s": cache_list_1000_s,
    "cached_run_s": cached_run_s,
    "orchestration_overhead": orchestration_overhead,
}
