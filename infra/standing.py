"""A server that stays: up, down, and the pages about past runs."""

import argparse
import ipaddress
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from dora.artifacts import Machine
from infra import services
from infra.entries import COMMAND_QUEUE
from infra.rest import Prefect, answers
from infra.runs import BACK_AFTER, STOP_LIMIT_S, put_back, taken

AUTH = "PREFECT_API_AUTH_STRING"
LOG = "up.log"
DOWN_LIMIT_S = STOP_LIMIT_S + 30


def up(given: argparse.Namespace) -> int:
    """Server, pools, deployments, automations and a worker until Ctrl-C, or in the background."""
    root = Machine().root
    auth = password(given.host)
    if given.detach:
        return _detach(root, given.host)
    with services.prefect(root, standing=True, host=given.host, auth=auth) as server:
        if not server.children:
            print(f"Prefect is up already: {server.url}    (make down stops it)")
            return 0
        _welcome(server, given.host)
        try:
            _stay(server)
        finally:
            _leave(server)


def ui(given: argparse.Namespace) -> int:
    """The pages about past runs until Ctrl-C."""
    auth = password(services.LOOPBACK)
    with services.prefect(Machine().root, worker=False, standing=True, auth=auth) as server:
        if not server.children:
            print(f"Prefect is up already: {server.url}")
            return 0
        print(f"Prefect: {server.url}    (Ctrl-C stops it; to start runs from its pages: make up)", flush=True)
        _stay(server)


def down(given: argparse.Namespace) -> int:
    """End what `up` started in this root, and wait until all of it is gone; nothing else is touched."""
    root = Machine().root
    standing = services.standing_in(root)
    if not services.is_locked(root):
        print(f"nothing is up in {root}.")
        return 0
    if standing is None:
        print(f"nothing is up in {root}; a command works there and ends by itself, or by Ctrl-C.")
        return 0
    if standing["host"] != os.uname().nodename:
        raise ValueError(f"Prefect is up on {standing['host']}, and this is {os.uname().nodename}: run it there.")
    pid = standing["pid"]
    if services.start_of(pid) != standing["start"]:
        raise ValueError(f"{root} is in use, but not by process {pid}, which {services.STANDING} names. Try again.")
    _say_what_stops(standing)
    os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + DOWN_LIMIT_S
    while services.start_of(pid) == standing["start"] and not _is_zombie(pid):
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"process {pid} has not ended within {DOWN_LIMIT_S:.0f} s; run it again to go on waiting."
            )
        time.sleep(0.1)
    print("stopped.")
    return 0


def password(host: str) -> str | None:
    """The password for a server: wanted where others reach it, taken on loopback if there is one.

    Raises:
        ValueError: for an address that is none, or without a password where one is needed.
    """
    auth = os.environ.get(AUTH)
    if host == services.LOOPBACK:
        if auth and ":" not in auth:
            raise ValueError(f"expected {AUTH}=name:password, got one without a colon.")
        return auth or None
    try:
        if ipaddress.ip_address(host).is_unspecified:
            raise ValueError(f"expected the address by which others reach this machine, got {host}.")
    except ValueError as error:
        if "expected" in str(error):
            raise
        raise ValueError(f"expected an address of this machine such as 10.0.0.5, got {host!r}.") from None
    if not auth or ":" not in auth:
        raise ValueError(f"a server that others reach needs a password: export {AUTH}=name:password.")
    return auth


def _detach(root: Path, host: str) -> int:
    """Start `up` in a session of its own and wait until it stands."""
    standing = services.standing_in(root) if services.is_locked(root) else None
    if standing and services.is_within_reach(standing, root) and answers(standing["url"]):
        print(f"Prefect is up already: {standing['url']}    (make down stops it)")
        return 0
    (root / ".prefect").mkdir(parents=True, exist_ok=True)
    with (root / ".prefect" / LOG).open("wb") as log:
        command = [sys.executable, "-m", "infra.local", "up", "--host", host]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    while process.poll() is None:
        standing, said = services.standing_in(root), (root / ".prefect" / LOG).read_text()
        if standing and standing["pid"] == process.pid and said:
            print(said.replace("(Ctrl-C stops it)", "(make down stops it)"), end="")
            return 0
        time.sleep(0.1)
    print((root / ".prefect" / LOG).read_text(), file=sys.stderr, end="")
    return 2


def _welcome(server: Prefect, host: str) -> None:
    """In one piece: who detaches us passes it on as soon as it is there."""
    lines = [
        f"Prefect: {server.url}    (Ctrl-C stops it)\nIn another terminal:",
        f"  export PREFECT_API_URL={server.url}/api" + (f" {AUTH}=…" if server.auth else ""),
        f"  {Path(sys.executable).with_name('prefect')} deployment run dora/evaluate --watch",
    ]
    if host != services.LOOPBACK:
        lines.append(f"On another host that has this folder: make worker SERVER={server.url}/api")
    if old := _left_from_last_time(server):
        lines.append(f"going on with, from last time: {_names(old)}")
    print("\n".join(lines), flush=True)


def _left_from_last_time(server: Prefect) -> list[dict[str, Any]]:
    """The runs in the queue, and those that the worker, which began before us, has taken from it."""
    wanted = {
        "state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}},
        "expected_start_time": {"before_": (datetime.now(UTC) + BACK_AFTER).isoformat()},  # not what a schedule plans
        "parent_task_run_id": {"is_null_": True},
    }
    return server.call("POST", "/flow_runs/filter", {"flow_runs": wanted})


def _stay(server: Prefect) -> NoReturn:
    while True:
        server.check()
        time.sleep(1)


def _leave(server: Prefect) -> None:
    """Before the worker is stopped: what it does is saved and put back into the queue."""
    try:
        if back := put_back(server):
            print(f"back in the queue, to go on at the next start: {', '.join(back)}", flush=True)
    except (ValueError, OSError) as error:  # its processes are ended all the same
        print(f"could not stop the runs in good order: {error}", file=sys.stderr, flush=True)


def _say_what_stops(standing: dict[str, Any]) -> None:
    print(f"stopping Prefect at {standing['url']}", flush=True)
    try:
        runs = taken(Prefect(standing["url"], auth=os.environ.get(AUTH)))
    except (ValueError, OSError):  # it may be on its way out, or keep its runs to those with a password
        return
    if runs:
        print(f"under way, to save first: {_names(runs)}", flush=True)


def _names(runs: list[dict[str, Any]]) -> str:
    return ", ".join(run["name"] for run in runs if run["work_queue_name"] != COMMAND_QUEUE) or "of another command"


def _is_zombie(pid: int) -> bool:
    """Ended, and only not yet collected by whoever started it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
