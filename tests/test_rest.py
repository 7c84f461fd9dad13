"""Questions to a Prefect server that is slow, busy or gone."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra import rest
from infra.rest import Prefect


class Slow(BaseHTTPRequestHandler):
    """Answers what it is asked, but the first time too late."""

    n_asked = 0

    def do_GET(self) -> None:
        type(self).n_asked += 1
        if self.n_asked == 1:
            time.sleep(0.6)
        body = json.dumps({"asked": self.n_asked}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Prefect]:
    monkeypatch.setattr(rest, "ANSWER_LIMIT_S", 0.2)
    Slow.n_asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.handle_error = lambda request, client_address: None  # it answers to whom is gone
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Prefect(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("method", "path"), [("GET", "/flow_runs/1"), ("POST", "/logs/filter")])
def test_a_question_that_is_not_answered_in_time_is_asked_again(slow: Prefect, method: str, path: str):
    assert slow.call(method, path, None if method == "GET" else {}) == {"asked": 2}


def test_what_changes_something_is_not_sent_twice(slow: Prefect):
    with pytest.raises(ConnectionError, match="does not answer"):
        slow.call("POST", "/deployments/1/create_flow_run", {})
    assert Slow.n_asked == 1


def test_patience_with_a_server_ends(slow: Prefect, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rest, "PATIENCE_S", 0)
    with pytest.raises(ConnectionError, match="does not answer"):
        slow.call("GET", "/flow_runs/1")


def test_a_server_that_is_gone_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="does not answer"):
        Prefect("http://127.0.0.1:1").call("GET", "/health")
    assert time.monotonic() - began < 10
