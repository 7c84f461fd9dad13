"""A Prefect server and a worker as children of this process: started together, stopped together.

Importing Prefect takes seconds, so only the children do; here its REST interface is enough.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from dora.launch import die_with_parent

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
PORTS = range(4200, 4300)
STANDING = "standing.json"
READY = "ready"
START_LIMIT_S = 120
STOP_LIMIT_S = 5
ANSWER_LIMIT_S = 30
BUSY = (429, 503)  # its database was locked for a moment, and the request was not carried out
BUSY_LIMIT_S = 30
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback


class Child(NamedTuple):
    """A process that was started here, and the file that has its output."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def check(self) -> None:
        """Raise ConnectionError, with the end of the log, if the process is gone."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            end = f"Prefect's {self.name} ended (exit {self.process.returncode}); run again to go on."
            raise ConnectionError(f"{end} The end of {self.log}:\n{tail}")


class Prefect(NamedTuple):
    """A server that answers, and its worker."""

    url: str
    worker_pid: int
    children: Sequence[Child] = ()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the REST interface answers, as JSON.

        Raises:
            ValueError: with Prefect's explanation, for a request that it refuses.
            ConnectionError: if it is gone.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api{path}", data, headers, method=method)
        give_up_at = time.monotonic() + BUSY_LIMIT_S
        while True:
            self.check()
            try:
                with DIRECT.open(request, timeout=ANSWER_LIMIT_S) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or time.monotonic() > give_up_at:
                    raise ValueError(f"Prefect refused {path}: {_detail(error)}") from None
            except OSError as error:
                self.check()
                raise ConnectionError(f"the Prefect server at {self.url} does not answer: {error}.") from None
            time.sleep(0.5)

    def check(self) -> None:
        """Raise ConnectionError if a process behind it is gone."""
        for child in self.children:
            child.check()

    def works(self) -> bool:
        """Whether the worker has a flow's process, which outlives the flow's final state by a second."""
        try:
            return bool(Path(f"/proc/{self.worker_pid}/task/{self.worker_pid}/children").read_text())
        except FileNotFoundError:
            return False


@contextmanager
def prefect(root: Path, *, worker: bool = True, standing: bool = False) -> Generator[Prefect]:
    """A server for the artifacts in `root`, its deployments and a worker, until the context ends.

    One command at a time serves a root: a second one uses the processes of a `standing` first one (`up`) and waits
    for the end of any other.

    Raises:
        ConnectionError: if a process cannot start, with the end of its log.
        OSError: if `root` cannot be written.
    """
    home = _home(root)
    with ExitStack() as stack:
        lock = stack.enter_context((home / "lock").open("a"))
        other = _wait_for_turn(lock, home)
        if other:
            yield Prefect(**other)
            return
        for name in (READY, STANDING):
            (home / name).unlink(missing_ok=True)
        address = stack.enter_context(_free_port())
        url = f"http://127.0.0.1:{address.getsockname()[1]}"
        environment = _environment(home, url)
        # As Prefect starts its own temporary servers; `prefect server start` would be a process more.
        app = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning"]
        command = [*app, "--fd", str(address.fileno())]
        children = [stack.enter_context(_child("server", command, home, environment, keep=[address.fileno()]))]
        address.close()  # now the server's alone
        if worker:
            command = ["infra.worker", str(home / READY)]
            children.append(stack.enter_context(_child("worker", command, home, environment)))
        server = Prefect(url, children[-1].process.pid, children)
        _wait_until_ready(server, home / READY if worker else None)
        if standing:
            (home / STANDING).write_text(json.dumps({"url": url, "worker_pid": server.worker_pid}))
            stack.callback((home / STANDING).unlink, missing_ok=True)
        yield server


def deployments() -> dict[str, dict[str, Any]]:
    """The entries of prefect.yaml by name."""
    return {entry["name"]: entry for entry in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}


def answers(url: str) -> bool:
    """Whether a Prefect server is up at this address."""
    try:
        with DIRECT.open(f"{url}/api/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


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
            with suppress(FileNotFoundError, json.JSONDecodeError):  # none, or half written
                standing = json.loads((home / STANDING).read_text())
                if answers(standing["url"]):
                    return standing
            if not waiting:
                print(f"another run works in {home.parent}; waiting for its end (Ctrl-C to give up)", flush=True)
            waiting = True
            time.sleep(0.5)
        else:
            return None


def _environment(home: Path, url: str) -> dict[str, str]:
    # Without the user's own PREFECT_* variables, which may point to another server.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return mine | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
    }


def _free_port() -> socket.socket:
    """A socket that listens already: a port only found free could be another command's a moment later."""
    for port in PORTS:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener
    raise ConnectionError(f"no free port from {PORTS.start} to {PORTS.stop - 1} on 127.0.0.1.")


@contextmanager
def _child(
    name: str, module: Sequence[str], home: Path, environment: dict[str, str], keep: Sequence[int] = ()
) -> Generator[Child]:
    """A process in its own session; it gets SIGKILL should we die without a chance to stop it."""
    path = home / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=keep, start_new_session=True, preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )  # fmt: skip
    try:
        yield Child(name, process, path)
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


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return text or str(error)
