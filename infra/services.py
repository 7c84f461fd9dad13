"""Prefect's processes as children of this one, started and stopped together: a server and its worker, or a worker.

Importing Prefect takes seconds, so only the children do; here its REST interface is enough.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dora.launch import die_with_parent
from infra.entries import deployments, pools
from infra.rest import Child, Prefect, answers
from infra.runs import OWN_WORKER

__all__ = ["Child", "Prefect", "answers", "deployments", "pools", "prefect", "standing_in", "worker_process"]

LOOPBACK = "127.0.0.1"
PORTS = range(4200, 4300)
STANDING = "standing.json"
READY = "ready"
START_LIMIT_S = 120
STOP_LIMIT_S = 5  # a worker may ignore SIGTERM
# Prefect calls home otherwise, and shows advertisements. infra/Dockerfile says the same of containers.
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
# What the server looks after every five seconds by default takes a twentieth of a core, and nobody here waits for it.
SELDOM = {
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "600",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT10S",  # silent runs are found a little later
}
# infra/automations.yaml takes a run for dead after three of these; less is not allowed.
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


@contextmanager
def prefect(
    root: Path, *, worker: bool = True, standing: bool = False, host: str = LOOPBACK, auth: str | None = None,
    only: tuple[str, str] | None = None, secret: Mapping[str, str] | None = None,
) -> Generator[Prefect]:  # fmt: skip
    """A server for the artifacts in `root`, its deployments and a worker, until the context ends.

    One command at a time serves a root: a second one uses the processes of a `standing` first one (`up`) and waits
    for the end of any other. The worker takes every run, or those of `only`, a pool and a queue, and has `secret` in
    its environment. A server asks for `auth`, name:password, if it is given.

    Raises:
        ConnectionError: if a process cannot start, with the end of its log.
        ValueError: if a worker is wanted and a server stands there without one, or out of reach on another host.
        OSError: if `root` cannot be written.
    """
    home = _home(root)
    with ExitStack() as stack:
        lock = stack.enter_context((home / "lock").open("a"))
        other = _wait_for_turn(lock, home)
        if other:
            if worker and not other["works"]:
                raise ValueError(f"Prefect's pages are open in {root} (make ui), without a worker: make down first.")
            yield Prefect(other["url"], other["worker_pid"], auth=os.environ.get("PREFECT_API_AUTH_STRING"))
            return
        for name in (READY, STANDING):
            (home / name).unlink(missing_ok=True)
        address = stack.enter_context(_free_port(host))
        url = f"http://{host}:{address.getsockname()[1]}"
        environment = _environment(home, url, auth)
        # As Prefect starts its own temporary servers; `prefect server start` would be a process more.
        app = ["uvicorn", "--factory", "infra.server:create_app", "--log-level", "warning"]
        command = [*app, "--fd", str(address.fileno())]
        with (home / "server.log").open("wb") as log:
            children = [stack.enter_context(_child("server", command, log, environment, keep=[address.fileno()]))]
        address.close()  # now the server's alone
        if worker:
            chosen, queue = only or (None, None)
            command = worker_command([chosen] if chosen else pools(), OWN_WORKER, home / READY)
            command += ["--prepare", str(root), *(["--queue", queue] if queue else [])]
            with (home / "worker.log").open("wb") as log:
                children.append(stack.enter_context(_child("worker", command, log, environment | dict(secret or {}))))
        server = Prefect(url, children[-1].process.pid, children, auth)
        _wait_until_ready(server, home / READY if worker else None)
        if standing:
            _announce(server, home / STANDING, works=worker)
            stack.callback((home / STANDING).unlink, missing_ok=True)
        yield server


def worker_command(names: Sequence[str], worker: str, ready: Path) -> list[str]:
    """A worker for these pools."""
    chosen = [word for name in names for word in ("--pool", name)]
    return ["infra.worker", *chosen, "--name", worker, "--ready", str(ready)]


@contextmanager
def worker_process(command: Sequence[str], environment: dict[str, str]) -> Generator[Child]:
    """A worker of a server elsewhere; it prints where we do."""
    with _child("worker", command, None, environment) as child:
        yield child


def standing_in(root: Path) -> dict[str, Any] | None:
    """What `up` wrote down when it started in `root`: url, worker_pid, works, its own pid and start, host."""
    with suppress(FileNotFoundError, json.JSONDecodeError):  # none, or half written
        return json.loads((root / ".prefect" / STANDING).read_text())
    return None


def is_within_reach(standing: dict[str, Any], root: Path) -> bool:
    """True, unless it is on another host's loopback; at that address here might be anybody's server.

    Raises:
        ValueError: if it is.
    """
    if standing["host"] != socket.gethostname() and f"//{LOOPBACK}:" in standing["url"]:
        raise ValueError(
            f"Prefect is up on {standing['host']} and serves {root}, but on loopback: run this there, or end it there "
            "(make down) and start it by an address that others reach (docs/running.md)."
        )
    return True


def is_locked(root: Path) -> bool:
    """Whether a command serves this root now. The kernel drops the lock when its holder dies."""
    try:
        with (root / ".prefect" / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def start_of(pid: int) -> str | None:
    """When this process began, in the kernel's own unit: a number is given to another process one day."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _announce(server: Prefect, path: Path, *, works: bool) -> None:
    mine = {"pid": os.getpid(), "start": start_of(os.getpid()), "host": socket.gethostname()}
    half = path.with_suffix(".half")
    half.write_text(json.dumps({"url": server.url, "worker_pid": server.worker_pid, "works": works} | mine))
    half.replace(path)


def _home(root: Path) -> Path:
    home = root / ".prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "lock").touch()
    except OSError as error:
        raise type(error)(
            f"cannot write to {root}: {error.strerror}. "
            "Give the folder write permission, or set DORA_ROOT to another one."
        ) from None
    return home


def _wait_for_turn(lock: IO[str], home: Path) -> dict[str, Any] | None:
    """Take the lock, or say where the standing server is that holds it."""
    waiting = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when its holder dies
        except BlockingIOError:
            standing = standing_in(home.parent)
            if standing and is_within_reach(standing, home.parent) and answers(standing["url"]):
                return standing
            if not waiting:
                print(f"another run works in {home.parent}; waiting for its end (Ctrl-C to give up)", flush=True)
            waiting = True
            time.sleep(0.5)
        else:
            return None


def _environment(home: Path, url: str, auth: str | None) -> dict[str, str]:
    # Without the user's own PREFECT_* variables, which may point to another server.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if auth:
        mine |= {"PREFECT_API_AUTH_STRING": auth, "PREFECT_SERVER_API_AUTH_STRING": auth}
    return mine | SELDOM | client_environment(home, url) | {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
    }  # fmt: skip


def client_environment(home: Path, url: str) -> dict[str, str]:
    """What a worker and its runs must know, wherever their server is."""
    host = url.removeprefix("http://").removeprefix("https://").partition(":")[0]
    return {
        **QUIET,
        **HEARTBEAT,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), host])),  # a proxy does not know it
    }


def _free_port(host: str) -> socket.socket:
    """A socket that listens already: a port only found free could be another command's a moment later."""
    for port in PORTS:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise ConnectionError(f"cannot listen at {host}: {error.strerror or error}.") from None
        else:
            return listener
    raise ConnectionError(f"no free port from {PORTS.start} to {PORTS.stop - 1} on {host}.")


@contextmanager
def _child(
    name: str, module: Sequence[str], log: IO[bytes] | None, environment: dict[str, str], keep: Sequence[int] = ()
) -> Generator[Child]:
    """A process in its own session; it gets SIGKILL should we die without a chance to stop it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        pass_fds=keep, start_new_session=True, preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )  # fmt: skip
    try:
        yield Child(name, process, Path(log.name) if log else None)
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: Prefect, ready: Path | None) -> None:
    give_up = time.monotonic() + START_LIMIT_S
    while not (ready.exists() if ready else answers(server.url)):
        server.check()
        if time.monotonic() > give_up:
            logs = " and ".join(str(child.log) for child in server.children)
            raise ConnectionError(f"Prefect is not ready after {START_LIMIT_S} s; its output is in {logs}.")
        time.sleep(0.05)
