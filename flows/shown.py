"""What a run shows on Prefect's pages: tables, pictures and links, each an artifact that is replaced in place.

To show something never fails a stage: where the server does not answer, the next try is a minute later.
"""

import base64
import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Completed, State

from dora.artifacts import Artifact, Checkpoint
from dora.cache import human_size, read_manifest, size_bytes, span
from eval.benchmark import Score
from eval.report import Report
from flows.plan import Plan

log = logging.getLogger("flows.shown")

MAX_PICTURE_BYTES = 500_000  # it travels to the Prefect server inside a URL
PATIENCE_S = 60.0
Kind = Literal["markdown", "table", "image", "link", "progress"]


class Board:
    """The artifacts of one run of the flow or of a stage, by key."""

    def __init__(self) -> None:
        self._ids: dict[str, UUID] = {}
        self._shown: dict[str, bytes] = {}
        self._wait_until = 0.0

    def show(self, kind: Kind, key: str, data: Any, description: str | None = None) -> None:
        """Create the artifact, or replace what it shows; what has not changed is not sent again."""
        text = json.dumps([data, description])
        digest = hashlib.sha256(text.encode()).digest()
        if self._shown.get(key) == digest or time.monotonic() < self._wait_until:
            return
        stored = json.dumps(data) if kind == "table" else data
        try:
            self._send(kind, key, stored, description)
            self._shown[key] = digest
        except Exception as error:  # of httpx, of Prefect, of a socket
            self._wait_until = time.monotonic() + PATIENCE_S
            log.warning("cannot show %s on Prefect's pages just now: %s", key, error or type(error).__name__)

    def _send(self, kind: Kind, key: str, data: Any, description: str | None) -> None:
        of_task, of_flow = TaskRunContext.get(), FlowRunContext.get()
        client = get_client(sync_client=True)  # the run's own, inside a run
        if key in self._ids:
            client.update_artifact(self._ids[key], ArtifactUpdate(data=data, description=description))
            return
        task_run, flow_run = of_task and of_task.task_run, of_flow and of_flow.flow_run
        asked = ArtifactCreate(
            type=kind, key=None if kind == "progress" else key, data=data, description=description,
            task_run_id=task_run.id if task_run else None,
            flow_run_id=flow_run.id if flow_run else task_run.flow_run_id if task_run else None,
        )  # fmt: skip
        self._ids[key] = client.create_artifact(asked).id


def plan(planned: Plan) -> State[Any]:
    """A dry run's outcome, for people and for programs: in its log, as artifacts, and as its value."""
    for line in planned.lines():
        log.info("%s", line)
    board = Board()
    board.show("markdown", "plan", "\n".join(_markdown(planned)), planned.summary)
    rows = [step.model_dump(mode="json") for step in planned.steps]
    board.show("table", "plan-steps", rows, "the same, to be read by programs")
    return Completed(message=f"nothing was made. {planned.summary}", data=planned.model_dump(mode="json"))


def score(board: Board, made: Score) -> None:
    """One benchmark's numbers, the one that the field quotes first."""
    took = f"{made.n_samples:,} samples, {span(made.seconds)}"
    told = f"**{made.headline} {made.metrics[made.headline]:.2f}** ({made.protocol}; {took})"
    board.show("table", f"score-{made.benchmark.replace('_', '-')}", _rows([made]), told)


def report(board: Board, made: Report, scores: Sequence[Score]) -> None:
    """The way to the page, all numbers in one table, and the first picture of what the teacher tracks."""
    board.show("link", "report", f"[{made.path}]({made.path.as_uri()})", "open it in a browser")
    board.show("table", "scores", _rows(scores))
    if sheet := next(iter(sorted(made.folder.glob("*.jpg"))), None):
        board.show("image", "contact-sheet", data_url(sheet.read_bytes(), "jpeg"))


def costs(artifacts: Sequence[Artifact], *, n_devices: int) -> None:
    """What everything took; device-hours of this run's training, on `n_devices`, and of benchmarks that count them."""
    rows = [_cost(one, n_devices) for one in artifacts]
    new = sum(row["seconds"] for row in rows if row["in this run"] == "made")
    spent = sum(row["device-hours"] or 0 for row in rows if row["in this run"] == "made")
    on_disk = human_size(1e9 * sum(row["GB"] for row in rows))
    told = f"{span(new)} of work in this run, {spent:.3g} device-hours of training and measuring; {on_disk} on disk"
    Board().show("table", "cost", rows, told)


def data_url(picture: bytes, kind: str) -> str:
    """An image as a browser takes it, made smaller first if it is a large JPEG."""
    for width in (1600, 1200, 800, 400):
        if len(picture) * 4 / 3 < MAX_PICTURE_BYTES or kind != "jpeg":
            break
        picture = _shrunk(picture, width)
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _shrunk(jpeg: bytes, width: int) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(jpeg))
    image.thumbnail((width, 10 * width))
    smaller = io.BytesIO()
    image.save(smaller, "JPEG", quality=80)
    return smaller.getvalue()


def _markdown(planned: Plan) -> Iterator[str]:
    rows = planned.rows()
    yield f"**Nothing was made.** {planned.summary}.\n"
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(value.replace('|', '/').replace(chr(10), ' ') for value in row.values())} |"


def _rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": one.benchmark, "protocol": one.protocol, "samples": one.n_samples, "metric": metric,
            "value": f"{value:.2f}",
        }
        for one in scores
        for metric, value in sorted(one.metrics.items(), key=lambda item: item[0] != one.headline)
    ]  # fmt: skip


def _cost(one: Artifact, n_devices: int) -> dict[str, Any]:
    made = read_manifest(one.folder)
    name = f"{one.folder.parent.name} {getattr(one, 'name', '')}".strip()
    if made is None:  # a checkpoint file that is no artifact, or one that was just removed
        nothing = {"seconds": 0.0, "device-hours": None, "kWh": None, "GB": 0.0, "machine": ""}
        return {"stage": name, **nothing, "in this run": "given"}
    hours = energy = None
    if isinstance(one, Score) and one.cost:
        hours, energy = one.cost.device_hours, one.cost.energy_kwh
    elif isinstance(one, Checkpoint) and not one.reused:
        hours, energy = n_devices * made.facts["seconds"] / 3600, made.facts.get("energy_kwh")
    return {
        "stage": name, "seconds": made.seconds, "device-hours": hours and round(hours, 4),
        "kWh": energy and round(energy, 4), "GB": round(size_bytes(made) / 1e9, 4),
        "machine": made.gpu or f"CPU, {made.host}", "in this run": "reused" if one.reused else "made",
    }  # fmt: skip
