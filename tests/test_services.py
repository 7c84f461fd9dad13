"""The little of Prefect's REST interface that the command which starts it needs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.services import Prefect


@contextmanager
def server(*codes: int) -> Iterator[Prefect]:
    """Answers with these status codes in turn, then with the last one for ever."""
    waiting = list(codes)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(waiting.pop(0) if len(waiting) > 1 else waiting[0])
            self.end_headers()
            self.wfile.write(b'{"detail": "so it is"}')

        def log_message(self, *_: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield Prefect(f"http://127.0.0.1:{http.server_port}", worker_pid=0)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_a_server_whose_database_is_locked_is_asked_again():
    with server(503, 503, 200) as prefect:
        assert prefect.call("GET", "/x") == {"detail": "so it is"}


def test_a_refusal_is_told_with_prefects_own_words():
    with server(409) as prefect, pytest.raises(ValueError, match="Prefect refused /x: so it is"):
        prefect.call("GET", "/x")
