"""A worker on this machine for a server elsewhere."""

import argparse
import os
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from dora.artifacts import Machine
from infra import services
from infra.entries import pools
from infra.rest import Prefect, answers
from infra.runs import end_runs_of, put_back

ROOT_TOKEN = ".root"
ROOT_VARIABLE = "dora_root"
ANSWER_LIMIT_S = 30


def worker(given: argparse.Namespace) -> NoReturn:
    """Check that the server, its pools and the folder are what they must be; then take runs until Ctrl-C."""
    root = Machine().root
    chosen = given.pool or pools()
    server = connect(given.server)
    check_pools(server, chosen)
    if not given.own_root:
        check_root(server, root)
    warn_of_versions(server)
    name = f"{socket.gethostname()}-{os.getpid()}"
    home = root / ".prefect" / socket.gethostname()
    home.mkdir(parents=True, exist_ok=True)
    ready = home / f"{os.getpid()}.ready"
    command = services.worker_command(chosen, name, ready) + (["--health", str(given.health)] if given.health else [])
    environment = {"PREFECT_WORKER_QUERY_SECONDS": "5"} | os.environ | services.client_environment(home, server.url)
    print(f"{name} joins {server.url} for runs of {' and '.join(chosen)}", flush=True)
    while True:
        try:
            with services.worker_process(command, environment) as child:
                _take_runs(server, child, name, ready)
        finally:
            ready.unlink(missing_ok=True)
        _wait_for(server)
        end_runs_of(server, name)


def connect(address: str | None) -> Prefect:
    """The server at http://HOST:4200/api, which answers and lets us in.

    Raises:
        ValueError: if no address is given.
        ConnectionError: if nobody answers there.
        PermissionError: if it wants a password, or another one.
    """
    if not address:
        raise ValueError("expected the server's address: --server http://HOST:4200/api, or export PREFECT_API_URL.")
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"expected an address such as http://HOST:4200/api, got {address!r}.")
    url = address.rstrip("/").removesuffix("/api")
    give_up = time.monotonic() + ANSWER_LIMIT_S
    while not answers(url):
        if time.monotonic() > give_up:
            raise ConnectionError(f"no Prefect server answers at {url}. Is it up, and does it listen on that address?")
        time.sleep(1)
    server = Prefect(url, auth=os.environ.get("PREFECT_API_AUTH_STRING"))
    server.call("GET", "/admin/version")
    return server


def check_pools(server: Prefect, wanted: list[str]) -> None:
    """Raise ValueError if the server does not know these pools, or no deployment of ours."""
    there = [pool["name"] for pool in server.call("POST", "/work_pools/filter", {})]
    if missing := sorted(set(wanted) - set(there)):
        known = (
            f"It has {', '.join(there)}." if there else "It has none: `make up` or `python -m infra.team` makes them."
        )
        raise ValueError(f"the server at {server.url} has no work pool {', '.join(missing)}. {known}")


def check_root(server: Prefect, root: Path) -> None:
    """Raise ValueError unless `root` is the very folder that the server's own workers use."""
    token = root / ROOT_TOKEN
    try:
        theirs = server.call("GET", f"/variables/name/{ROOT_VARIABLE}")["value"]
    except ValueError:
        raise ValueError(
            f"the server at {server.url} was not prepared by `make up` or `python -m infra.team`."
        ) from None
    if token.exists() and token.read_text() == theirs["token"]:
        return
    raise ValueError(
        f"{root} is not the folder of the server's other workers, which is {theirs['root']} there. Mount that one here "
        "and set DORA_ROOT to it. With --own-root this machine keeps artifacts of its own, and makes all it needs anew."
    )


def warn_of_versions(server: Prefect) -> None:
    """Print a line if the server's Prefect is another release than ours."""
    theirs, ours = server.call("GET", "/admin/version"), version("prefect")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        print(f"warning: the server runs Prefect {theirs}, this machine {ours}.", file=sys.stderr)


def _take_runs(server: Prefect, child: services.Child, name: str, ready: Path) -> None:
    """Until we are told to stop, which puts its runs back, or until it has ended by itself."""
    while not ready.exists():
        child.check()
        time.sleep(0.1)
    print(f"{name} takes runs (Ctrl-C stops it)", flush=True)
    try:
        code = child.process.wait()
    except (KeyboardInterrupt, SystemExit):
        _leave(server, name)
        raise
    print(
        f"the worker ended (exit {code}); another one is started when the server answers", file=sys.stderr, flush=True
    )


def _wait_for(server: Prefect) -> None:
    while not answers(server.url):
        time.sleep(2)


def _leave(server: Prefect, name: str) -> None:
    """Before the worker is stopped: its runs save and go back into the queue, for others."""
    try:
        if back := put_back(server, name):
            print(f"back in the queue: {', '.join(back)}", flush=True)
    except (ValueError, OSError) as error:  # its processes are ended all the same
        print(f"could not stop the runs in good order: {error}", file=sys.stderr, flush=True)
