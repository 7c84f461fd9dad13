"""A real browser without a window, told what to do over Chrome's DevTools protocol on loopback."""

import json
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_LIMIT_S, LOAD_LIMIT_S = 60, 60
DOMAINS = ("Page", "Network", "Log", "Runtime", "Accessibility", "DOM")


def program() -> str | None:
    """The browser, None if this machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page, and everything that the browser has told about it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._sent = socket, 0
        self.events: list[dict[str, Any]] = []
        for domain in DOMAINS:
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        """Ask for something and wait for the answer."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=LOAD_LIMIT_S))
            if message.get("id") == self._sent:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, path: Path) -> None:
        """Load a file and wait until it is shown."""
        self.events.clear()
        self.do("Page.navigate", url=path.as_uri())
        give_up = time.monotonic() + LOAD_LIMIT_S
        while not self.told("Page.loadEventFired") and time.monotonic() < give_up:
            self.evaluate("1")
            time.sleep(0.05)
        assert self.told("Page.loadEventFired")

    def told(self, method: str) -> list[dict[str, Any]]:
        """What the browser said by this name since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page."""
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@contextmanager
def browser() -> Generator[Tab]:
    """A fresh browser with one empty tab, until the context ends."""
    found = program()
    assert found, "no browser"
    with TemporaryDirectory() as profile:
        command = [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_address(Path(profile)), max_size=None, proxy=None) as socket:
                    yield Tab(socket)
            finally:
                process.terminate()
                process.wait(30)


def _address(profile: Path) -> str:
    """The first tab's socket. The browser writes its port into its profile."""
    import urllib.request

    told = profile / "DevToolsActivePort"
    give_up = time.monotonic() + START_LIMIT_S
    while time.monotonic() < give_up:
        if told.is_file() and "\n" in told.read_text():
            port = told.read_text().splitlines()[0]
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
                if pages := [one for one in json.load(answer) if one["type"] == "page"]:
                    return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise TimeoutError(f"the browser did not say its port in {START_LIMIT_S} s")
