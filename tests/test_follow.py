"""What a terminal or a file is told of a run that goes on in other processes: which lines, of what, how often."""

import json
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.rest import Prefect
from infra.watch import Watch

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
TRAINING, MEASURING = "pretrain miniature seed 0", "evaluate davis: miniature seed 0"


def line(
    seconds: float, message: str, *, name: str = "dora.cache", level: int = 20, task: str | None = TRAINING
) -> Any:
    return {
        "id": f"{seconds} {message}", "timestamp": (START + timedelta(seconds=seconds)).isoformat(),
        "name": name, "level": level, "message": message, "task_run_id": task,
    }  # fmt: skip


@contextmanager
def server(lines: list[Any]) -> Generator[Prefect]:
    """A run that is over, with these lines; tasks are known by their names."""
    answers: dict[str, Any] = {
        "/api/flow_runs/run": {"state": {"type": "COMPLETED", "name": "Completed"}},
        "/api/logs/filter": lines,
        "/api/task_runs/filter": [{"id": name, "name": name} for name in (TRAINING, MEASURING)],
    }

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002, the base class's name

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield Prefect(f"http://127.0.0.1:{http.server_port}")
        http.shutdown()


def told(lines: list[Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with server(lines) as prefect:
        assert Watch(prefect, "run").follow()["type"] == "COMPLETED"
    return [text[len("12:00:00  ") :] for text in capsys.readouterr().out.splitlines()]


def test_a_line_says_of_what_it_is_once(capsys: pytest.CaptureFixture[str]):
    lines = [
        line(0, "encoder 1 of 3: miniature seed 0", name="flows.study", task=None),
        line(1, "making checkpoint 8fff8446"),
        line(2, f"{TRAINING}: no space left", level=40),
        line(3, "making score-davis cd89a81b", task=MEASURING),
        line(4, "of a task that is not known yet", task="another"),
        line(5, "Finished in state Completed()", name="prefect.task_runs"),
    ]
    assert told(lines, capsys) == [
        "encoder 1 of 3: miniature seed 0",
        f"{TRAINING}  making checkpoint 8fff8446",
        f"{TRAINING}: no space left",
        f"{MEASURING}  making score-davis cd89a81b",
        "of a task that is not known yet",
    ]


def steps(name: str) -> list[Any]:
    return [line(5.0 * number, f"step {number}", name=name) for number in range(10)]


@pytest.mark.parametrize("name", ["dora.pretrain.progress", "eval.finetune.progress", "flows.progress"])
def test_in_a_file_progress_is_told_every_twenty_seconds_and_warnings_always(
    name: str, capsys: pytest.CaptureFixture[str]
):
    warning = line(46, "slow disk", name=name, level=30)
    assert told([*steps(name), warning], capsys) == [
        f"{TRAINING}  {said}" for said in ("step 0", "step 5", "slow disk")
    ]


def test_a_jobs_first_line_of_progress_is_told_at_once_whatever_others_say(capsys: pytest.CaptureFixture[str]):
    lines = [line(0, "making checkpoint 8fff8446")]
    lines += [line(n, f"step {n}", name="dora.pretrain.progress") for n in (2, 4)]
    lines += [line(n, f"iteration {n}", name="eval.finetune.progress", task=MEASURING) for n in (5, 6)]
    lines += [line(n, f"stage {n}", name="flows.progress") for n in (7, 30, 43)]
    said = [text.rpartition("  ")[2] for text in told(lines, capsys)]
    assert said == ["making checkpoint 8fff8446", "step 2", "iteration 5", "stage 43"]  # whose job was silent since 2


def test_on_a_terminal_a_stages_progress_stays_in_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    with server([*steps("flows.progress"), line(60, "made it")]) as prefect:
        Watch(prefect, "run").follow()
    said = capsys.readouterr().out
    replaced = said.split("\r\033[K")[1:11]
    assert {len(text) for text in replaced} == {40 - 1} and replaced[-1] == f"…:45  {TRAINING}  step 9"
    assert said.count("\r\033[K") == 11 and said.count("\n") == 1 and said.endswith(f"{TRAINING}  made it\n")
