"""A Prefect server seen through its REST interface: what the commands that start, join and stop things need of it.

Importing Prefect takes seconds; this takes none.
"""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

ANSWER_LIMIT_S = 30
BUSY = (429, 503)  # its database was locked for a moment, and the request was not carried out
BUSY_LIMIT_S = 30
PATIENCE_S = 300  # with a server that lives but is starved by a machine's other work
UNAUTHORIZED = 401
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback


class Child(NamedTuple):
    """A process that was started here, and the file that has its output."""

    name: str
    process: "Popen[bytes]"
    log: Path | None  # null: it prints where we do

    def check(self) -> None:
        """Raise ConnectionError, with the end of the log, if the process is gone."""
        if self.process.poll() is not None:
            end = f"Prefect's {self.name} ended (exit {self.process.returncode}); run again to go on."
            if self.log is None:
                raise ConnectionError(end)
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise ConnectionError(f"{end} The end of {self.log}:\n{tail}")


class Prefect(NamedTuple):
    """A server that answers, and the processes here that belong to it."""

    url: str
    worker_pid: int = 0
    children: Sequence[Child] = ()
    auth: str | None = None  # name:password

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the REST interface answers, as JSON; None for an answer without content.

        Raises:
            PermissionError: if it wants a password, or another one.
            ValueError: with Prefect's explanation, for a request that it refuses.
            ConnectionError: if it is gone.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | authorization(self.auth)
        request = urllib.request.Request(f"{self.url}/api{path}", data, headers, method=method)
        began = time.monotonic()
        give_up_at = began + BUSY_LIMIT_S
        while True:
            self.check()
            try:
                with DIRECT.open(request, timeout=ANSWER_LIMIT_S) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code == UNAUTHORIZED:
                    raise PermissionError(_refused(self.url, self.auth)) from None
                if error.code not in BUSY or time.monotonic() > give_up_at:
                    raise ValueError(f"Prefect refused {path}: {_detail(error)}") from None
            except (OSError, HTTPException, json.JSONDecodeError) as error:
                self.check()
                # A question may be asked again; what changes something may have been done without an answer.
                asks = method == "GET" or path.endswith("/filter")
                if asks and _is_late(error) and time.monotonic() < began + PATIENCE_S:
                    continue
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


def _is_late(error: Exception) -> bool:
    """Whether no answer came in time; a connection that is refused or breaks off is another thing."""
    return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)


def authorization(auth: str | None) -> dict[str, str]:
    """The header with which a server lets a request in."""
    return {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}


def answers(url: str) -> bool:
    """Whether a Prefect server is up at this address; its health is told without a password."""
    try:
        with DIRECT.open(f"{url}/api/health", timeout=2) as answer:
            return answer.status == 200
    except (OSError, HTTPException):
        return False


def _refused(url: str, auth: str | None) -> str:
    given = "another password than the one given" if auth else "a password"
    return f"the Prefect server at {url} wants {given}. Export PREFECT_API_AUTH_STRING=name:password."


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return text or str(error)
