"""Runs whose worker goes away: those of the past, and those that are under way when it is stopped.

A server's database outlives its processes. The rule at the next start, while nothing of it works yet:

    taken by the server's own worker, or by none      its processes died with the server: Crashed
    taken by a worker that joined from elsewhere      may well be alive, so it is left alone; if it is not, its signs
                                                      of life have ceased and an automation ends it
    queued by a command that waited for it            nobody waits any more: Crashed
    queued otherwise                                  stays in the queue

Who stops a worker in good order has its runs save their state and puts them back into the queue.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from dora.launch import GRACE_S
from infra.entries import COMMAND_QUEUE
from infra.rest import Prefect

OWN_WORKER = "local"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
TAKEN = ["PENDING", "RUNNING", "CANCELLING"]
STOP_LIMIT_S = GRACE_S + 15
# Who starts a run is told of the last minute's events: sooner, it would be cancelled by what has stopped it. Workers
# also look ten seconds ahead, and the one that is being stopped must be gone.
BACK_AFTER = timedelta(seconds=75)


def worker_of(run: dict[str, Any]) -> str | None:
    """The name of the worker that took it."""
    return run["labels"].get("prefect.worker.name")


def set_state(server: Prefect, run_id: str, kind: str, **more: Any) -> None:
    """Whatever state the run is in."""
    server.call("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": kind} | more, "force": True})


def taken(server: Prefect, worker: str | None = None) -> list[dict[str, Any]]:
    """The runs that a worker has, or that this one has; a run within another one is the other's affair."""
    wanted = {"state": {"type": {"any_": TAKEN}}, "parent_task_run_id": {"is_null_": True}}
    runs = server.call("POST", "/flow_runs/filter", {"flow_runs": wanted})
    return [run for run in runs if run["deployment_id"] and worker in (None, worker_of(run))]


def bury(server: Prefect) -> None:
    """Apply the rule above."""
    queued = {"state": {"type": {"any_": ["SCHEDULED"]}}, "work_queue_name": {"any_": [COMMAND_QUEUE]}}
    dead = [run for run in taken(server) if worker_of(run) in (None, OWN_WORKER)]
    _crash(server, dead + server.call("POST", "/flow_runs/filter", {"flow_runs": queued}))


def end_runs_of(server: Prefect, worker: str) -> None:
    """Of a worker that is dead: its runs' processes died with it."""
    _crash(server, taken(server, worker))


def _crash(server: Prefect, runs: Iterable[dict[str, Any]]) -> None:
    for run in runs:
        set_state(server, run["id"], "CRASHED", message="the process that ran it was killed; run again to go on")


def put_back(server: Prefect, worker: str | None = None) -> list[str]:
    """Stop the runs that are under way, here or with this worker, once they have saved; the names of those put back.

    A run that a command waits for is not put back: the command is told that it was cancelled.
    """
    runs = taken(server, worker)
    for run in runs:
        set_state(server, run["id"], "CANCELLING")
    ended = _ends(server, [run["id"] for run in runs])
    back = [run for run in ended if run["state"]["type"] == "CANCELLED" and run["work_queue_name"] != COMMAND_QUEUE]
    for run in back:
        details = {"scheduled_time": (datetime.now(UTC) + BACK_AFTER).isoformat()}
        message = "its worker was stopped; it goes on when another takes it"
        set_state(server, run["id"], "SCHEDULED", name="AwaitingRetry", message=message, state_details=details)
    return [run["name"] for run in back]


def _ends(server: Prefect, ids: Iterable[str]) -> list[dict[str, Any]]:
    """The runs, each as it is when it is over, or when the time is."""
    give_up = time.monotonic() + STOP_LIMIT_S
    ended: list[dict[str, Any]] = []
    for run_id in ids:
        while (run := server.call("GET", f"/flow_runs/{run_id}"))["state"]["type"] not in FINAL:
            if time.monotonic() > give_up:
                break
            time.sleep(0.3)
        ended.append(run)
    return ended
