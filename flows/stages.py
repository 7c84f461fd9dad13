"""One thin Prefect task a stage: what to call, what its run is named, how its end is told. No work is done here.

Prefect's own result cache is off: dora.cache knows what can be reused, and a reused artifact ends as `Cached`.
"""

import base64
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import FailedRun
from prefect.logging.handlers import APILogHandler
from prefect.states import Completed, Failed, State

from dora.artifacts import Artifact, Checkpoint, Machine, Shards, Video
from dora.cache import span
from dora.config import PretrainConfig, Recipe, ShardsConfig, VideoConfig
from dora.data import shards as sharding
from dora.data import video as videos
from dora.launch import LaunchError
from dora.progress import Progress
from dora.training import stage as training
from eval import benchmark
from eval import report as reporting
from eval.benchmark import Score
from eval.report import Report, RunFacts
from eval.suites import Entry
from flows.launch import launcher, raise_if_stopped

log = logging.getLogger("flows.stages")
progress_log = logging.getLogger("flows.progress")

LOGGERS = ("dora", "eval", "flows")
PROGRESS_EVERY_S = 5
MAX_PICTURE_BYTES = 500_000  # it travels to the Prefect server inside a URL

A = TypeVar("A", bound=Artifact)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Prefect adds to a failure which a stage or the flow has told as its state."""
    return not record.exc_info or not (record.exc_info[1] is None or isinstance(record.exc_info[1], FailedRun))


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_is_news)


@task(task_run_name="acquire {config.name}", cache_policy=NO_CACHE, persist_result=False)
def acquire(config: VideoConfig, machine: Machine, *, index: int, rerun: bool) -> State[Video]:
    """One video of the recipe."""
    return _finish(
        f"acquire {config.name}",
        lambda told: videos.acquire(config, machine, index=index, rerun=rerun, progress=told),
    )


@task(task_run_name="shard {video.name}", cache_policy=NO_CACHE, persist_result=False)
def shard(video: Video, config: ShardsConfig, machine: Machine, *, rerun: bool) -> State[Shards]:
    """One video's frames."""
    return _finish(
        f"shard {video.name}", lambda told: sharding.shard(video, config, machine, rerun=rerun, progress=told)
    )


@task(task_run_name="pretrain {config.backbone.architecture}", cache_policy=NO_CACHE, persist_result=False)
def pretrain(shards: Sequence[Shards], config: PretrainConfig, machine: Machine, *, rerun: bool) -> State[Checkpoint]:
    """The encoder, from all videos."""
    launch = launcher(machine, "nodes")
    return _finish(
        f"pretrain {config.backbone.architecture}",
        lambda told: training.pretrain(shards, config, machine, rerun=rerun, progress=told, launch=launch),
    )


@task(task_run_name="evaluate {entry.benchmark}", cache_policy=NO_CACHE, persist_result=False)
def evaluate(checkpoint: Checkpoint, entry: Entry, machine: Machine, *, rerun: bool) -> State[Score]:
    """One benchmark, on the real data set or on a miniature one that is rendered first."""

    def measure(told: Progress) -> Score:
        name, dataset = entry.benchmark, None
        if entry.world:
            dataset = benchmark.build_dataset(name, entry.world, machine)
        config = benchmark.configure(name, dataset, entry.overrides, preset=entry.preset)
        launch = launcher(machine, "node" if benchmark.is_parallel(name) else "process")
        return benchmark.score(
            checkpoint, name, config, machine, dataset=dataset, rerun=rerun, progress=told, launch=launch
        )

    return _finish(f"evaluate {entry.benchmark}", measure)


@task(task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def report(
    recipe: Recipe, videos: Sequence[Video], shards: Sequence[Shards], checkpoint: Checkpoint, scores: Sequence[Score],
    machine: Machine, *, failures: Mapping[str, str], run: RunFacts, rerun: bool,
) -> State[Report]:  # fmt: skip
    """The page about everything above, and its essence as Prefect artifacts."""

    def write(told: Progress) -> Report:
        made = reporting.report(
            recipe, videos, shards, checkpoint, scores, machine, failures=failures, run=run, rerun=rerun, progress=told
        )
        _show(made, scores)
        return made

    return _finish("report", write)


@contextmanager
def logged_in_prefect() -> Generator[None]:
    """Around a flow: what our loggers say also stands in the run's log."""
    handler = APILogHandler()
    # A record from outside a run (a heartbeat's thread) has no run to be shown in.
    handler.addFilter(lambda record: bool(FlowRunContext.get() or TaskRunContext.get()))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)


class RunProgress:
    """Tells the run's log, and a Prefect progress artifact, how far a stage is and how long it still takes."""

    def __init__(self, name: str):
        self.name = name
        self.started = self.told = time.monotonic()
        self.first: float | None = None
        self.artifact: UUID | None = None

    def __call__(self, done: float, total: float, unit: str, note: str = "") -> None:
        """As dora.progress.Progress; every few seconds at most.

        Raises:
            Stopped: if the run was cancelled.
        """
        raise_if_stopped()
        now = time.monotonic()
        if self.first is None or done < self.first:  # a resumed stage starts in the middle, the next part anew
            self.first, self.started = done, now
        if now - self.told < PROGRESS_EVERY_S:
            return
        self.told = now
        speed = (done - self.first) / (now - self.started) if now > self.started else 0.0
        left = f"{span((total - done) / speed)} left" if speed else ""
        text = "  ".join(filter(None, [f"{done:g}/{total:g} {unit}", note, left]))
        progress_log.info("%s  %s", self.name, text)
        percent = 100 * done / total
        if self.artifact is None:
            self.artifact = cast(UUID, create_progress_artifact(percent, description=f"{self.name}  {text}"))
        else:
            update_progress_artifact(self.artifact, percent, description=f"{self.name}  {text}")

    def finish(self) -> None:
        """Fill the bar of a stage that has ended well."""
        if self.artifact:
            update_progress_artifact(self.artifact, 100.0, description=f"{self.name}  done")


def _finish(name: str, stage: Callable[[Progress], A]) -> State[A]:
    """Run a stage and say in Prefect's words how it ended.

    An error that the user can mend is one message in log and state. Anything else is our mistake and keeps its
    traceback, as Prefect shows it.
    """
    progress = RunProgress(name)
    try:
        artifact = stage(progress)
    except (ValueError, OSError, LaunchError) as error:
        log.error("%s: %s", name, error)
        log.debug("%s", name, exc_info=True)
        return Failed(message=f"{name}: {error}")
    progress.finish()
    if artifact.reused:
        return Completed(name="Cached", message=f"reused {artifact.folder}", data=artifact)
    return Completed(message=f"made {artifact.folder}", data=artifact)


def _show(made: Report, scores: Sequence[Score]) -> None:
    create_link_artifact(made.path.as_uri(), link_text=str(made.path), key="report", description="open it in a browser")
    table = [
        {
            "benchmark": score.benchmark, "protocol": score.protocol, "samples": score.n_samples, "metric": metric,
            "value": f"{value:.2f}",
        }
        for score in scores
        for metric, value in sorted(score.metrics.items(), key=lambda item: item[0] != score.headline)
    ]  # fmt: skip
    create_table_artifact(table, key="scores")
    picture = _sheet(made.folder)
    if picture:
        data = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(f"data:image/jpeg;base64,{data}", key="contact-sheet")


def _sheet(folder: Path) -> Path | None:
    """The first of the report's tracking sheets, if there is one and it is small enough."""
    sheets = sorted(folder.glob("*.jpg"))
    return sheets[0] if sheets and sheets[0].stat().st_size <= MAX_PICTURE_BYTES else None
