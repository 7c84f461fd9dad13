"""Follow a flow run from outside: print what its stages log, until it is over."""

import shutil
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.rest import Prefect
from infra.runs import FINAL, set_state, worker_of

OURS = ("dora", "eval", "flows")
# How far a stage is, and what a job says of that itself: only some are printed. On a terminal the former replace each
# other, for they are short.
PROGRESS, OF_JOBS = "flows.progress", ("dora.pretrain.progress", "eval.finetune.progress")
QUIET = timedelta(seconds=20)
LATE = timedelta(seconds=10)  # each process sends its lines in batches, so they do not arrive in order
START_LIMIT = timedelta(seconds=15)
WAIT = timedelta(seconds=5)
LAST_WORDS_LIMIT_S = 5
WARNING = 30
NEVER = datetime.fromtimestamp(0, UTC)


class Watch:
    """The lines of one flow run, each printed once."""

    def __init__(self, server: Prefect, run_id: str):
        self.server = server
        self.run_id = run_id
        self._printed: set[str] = set()
        self._tasks: dict[str, str] = {}  # names by id, such as "pretrain miniature seed 0"
        self._since = self._told = NEVER
        self._told_of: dict[str | None, datetime] = {}  # the last line of a job's own about its progress, by its task
        self._open_line = False
        self._stopping = False
        self._waits = False

    def cancel(self) -> dict[str, Any]:
        """Ask the run to stop, print what its stages say to that, wait for its end; its final state."""
        self._stopping = True
        set_state(self.server, self.run_id, "CANCELLING")
        return self.follow()

    def follow(self) -> dict[str, Any]:
        """Print until the run is over; its final state."""
        started = time.monotonic()
        while True:
            run = self.server.call("GET", f"/flow_runs/{self.run_id}")
            state = run["state"]
            self._print_new()
            if state["type"] in FINAL:
                break
            if state["type"] == "SCHEDULED":
                self._tell_waiting(state)
            if state["type"] == "PENDING" and not worker_of(run) and self._is_lost(state):
                set_state(self.server, self.run_id, "SCHEDULED")
            # Each look costs the server a little; a run of hours may be told of a moment later.
            time.sleep(min(0.3 + (time.monotonic() - started) / 120, 3))
        give_up = time.monotonic() + LAST_WORDS_LIMIT_S
        while self.server.works() and time.monotonic() < give_up:  # its last lines come after its state
            time.sleep(0.1)
        self._print_new()
        self._end_line()
        return state

    def _is_lost(self, state: dict[str, Any]) -> bool:
        """Whether the worker has given the run up: a retried request makes it believe that another one has it."""
        age = datetime.now(UTC) - datetime.fromisoformat(state["timestamp"])
        return age > START_LIMIT and not self.server.works()

    def _tell_waiting(self, state: dict[str, Any]) -> None:
        """Once, if nobody takes the run."""
        age = datetime.now(UTC) - datetime.fromisoformat(state["timestamp"])
        if not self._waits and age > WAIT:
            self._waits = True
            of_turn = "another run of the same deployment is under way" if "Concurrency" in state["name"] else "busy"
            print(f"waiting for its turn ({of_turn}; Ctrl-C to give up)", flush=True)

    def _print_new(self) -> None:
        of_run = {"flow_run_id": {"any_": [self.run_id]}}
        wanted = of_run | {"timestamp": {"after_": (self._since - LATE).isoformat()}}
        query = {"logs": wanted, "limit": 200, "sort": "TIMESTAMP_ASC"}
        new = [line for line in self.server.call("POST", "/logs/filter", query) if line["id"] not in self._printed]
        self._learn_names({line["task_run_id"] for line in new} - {None})
        for line in new:
            self._printed.add(line["id"])
            self._since = max(self._since, datetime.fromisoformat(line["timestamp"]))
            if self._is_for_people(line):
                self._print(line)

    def _learn_names(self, ids: set[str]) -> None:
        if ids := ids - self._tasks.keys():
            query = {"task_runs": {"id": {"any_": [*ids]}}}
            self._tasks |= {task["id"]: task["name"] for task in self.server.call("POST", "/task_runs/filter", query)}

    def _print(self, line: dict[str, Any]) -> None:
        time_of_day = datetime.fromisoformat(line["timestamp"])
        text, task = line["message"], self._tasks.get(line["task_run_id"], "")
        if not text.startswith(task):  # which of a study's many
            text = f"{task}  {text}"
        text = f"{time_of_day.astimezone():%H:%M:%S}  {text}"
        if line["name"] == PROGRESS and sys.stdout.isatty():
            width = (
                shutil.get_terminal_size().columns - 1
            )  # a line that wraps could not be replaced; its end tells most
            print(f"\r\033[K{text if len(text) <= width else '…' + text[1 - width :]}", end="", flush=True)
            self._open_line = True
        elif not self._is_too_soon(line, time_of_day):
            self._told = time_of_day
            if line["name"] in OF_JOBS:
                self._told_of[line["task_run_id"]] = time_of_day
            self._end_line()
            print(text, flush=True)

    def _is_too_soon(self, line: dict[str, Any], time_of_day: datetime) -> bool:
        """Whether it is progress that need not be told yet; of each job its first line is."""
        if line["level"] >= WARNING or line["name"] not in (PROGRESS, *OF_JOBS):
            return False
        of_job = self._told_of.get(line["task_run_id"], NEVER)
        before = of_job if line["name"] in OF_JOBS else max(self._told, of_job + QUIET)  # of both the job says more
        return time_of_day <= before + QUIET

    def _end_line(self) -> None:
        if self._open_line:
            print("\r\033[K", end="", flush=True)
            self._open_line = False

    def _is_for_people(self, line: dict[str, Any]) -> bool:
        """Our own lines, and Prefect's warnings; not how it repeats a stage's message or takes a stop."""
        if line["name"].partition(".")[0] in OURS:
            return True
        return line["level"] >= WARNING and not self._stopping and not line["message"].startswith("Finished in state")
