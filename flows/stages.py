"""One thin Prefect task a stage: what to call, what its run is named, how its end is told. No work is done here.

Prefect's own result cache is off: dora.cache knows what can be reused, and a reused artifact ends as `Cached`.
"""

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import FailedRun
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run, task_run
from prefect.states import Completed, State

from dora.artifacts import Artifact, Checkpoint, Machine, Shards, Video
from dora.cache import for_run, span
from dora.config import PretrainConfig, Recipe, ShardsConfig, VideoConfig
from dora.data import shards as sharding
from dora.data import video as videos
from dora.launch import LaunchError
from dora.lease import raise_if_lost, while_waiting
from dora.progress import Progress
from dora.training import stage as training
from eval import benchmark
from eval import report as reporting
from eval.benchmark import Score
from eval.report import Report, RunFacts
from eval.suites import Entry
from flows import cluster, retries, shown
from flows.launch import Stopped, launcher, raise_if_stopped
from flows.live import Live
from flows.sbatch import Spread
from flows.shown import Board

log = logging.getLogger("flows.stages")
progress_log = logging.getLogger("flows.progress")

LOGGERS = ("dora", "eval", "flows")
# A stage of minutes is told of every few seconds, one of days once a minute: each time costs the server some work.
PROGRESS_EVERY_S, PROGRESS_SHARE, PROGRESS_AT_MOST_S = 5.0, 1 / 20, 60.0

A = TypeVar("A", bound=Artifact)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Prefect adds to a failure which a stage or the flow has told as its state."""
    return not record.exc_info or not (record.exc_info[1] is None or isinstance(record.exc_info[1], FailedRun))


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_is_news)


@task(task_run_name="acquire {config.name}", cache_policy=NO_CACHE, persist_result=False, **retries.OPTIONS)
def acquire(config: VideoConfig, machine: Machine, *, index: int, rerun: bool) -> State[Video]:
    """One video of the recipe."""
    return finish(
        f"acquire {config.name}",
        lambda told: videos.acquire(config, machine, index=index, rerun=rerun, progress=told),
    )


@task(task_run_name="shard {video.name}", cache_policy=NO_CACHE, persist_result=False, **retries.OPTIONS)
def shard(video: Video, config: ShardsConfig, machine: Machine, *, rerun: bool) -> State[Shards]:
    """One video's frames."""
    return finish(
        f"shard {video.name}", lambda told: sharding.shard(video, config, machine, rerun=rerun, progress=told)
    )


@task(
    task_run_name="pretrain {config.backbone.architecture}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **retries.OPTIONS,
)
def pretrain(shards: Sequence[Shards], config: PretrainConfig, machine: Machine, *, rerun: bool) -> State[Checkpoint]:
    """The encoder, from all videos."""
    name = f"pretrain {config.backbone.architecture}"
    launch = Live(name, Board()).watching(launcher(machine, "nodes", at_most=config.processes_at_most))
    return finish(
        name,
        lambda told: training.pretrain(shards, config, machine, rerun=rerun, progress=told, launch=launch),
    )


@task(task_run_name="evaluate {entry.benchmark}", cache_policy=NO_CACHE, persist_result=False, **retries.OPTIONS)
def evaluate(checkpoint: Checkpoint, entry: Entry, machine: Machine, *, rerun: bool) -> State[Score]:
    """One benchmark, on the real data set or on a miniature one that is rendered first."""

    def measure(told: Progress) -> Score:
        name, dataset = entry.benchmark, entry.dataset(machine)
        config = benchmark.configure(name, dataset, entry.overrides, preset=entry.preset)
        board = Board()
        spread: Spread = "node" if benchmark.is_parallel(name) else "process"
        at_most = benchmark.processes_at_most(name, config)
        launch = Live(name, board).watching(launcher(machine, spread, at_most=at_most))
        made = benchmark.score(
            checkpoint, name, config, machine, dataset=dataset, rerun=rerun, progress=told, launch=launch
        )
        shown.score(board, made)
        return made

    return finish(f"evaluate {entry.benchmark}", measure)


@task(task_run_name="report", cache_policy=NO_CACHE, persist_result=False, **retries.OPTIONS)
def report(
    recipe: Recipe, videos: Sequence[Video], shards: Sequence[Shards], checkpoint: Checkpoint, scores: Sequence[Score],
    machine: Machine, *, failures: Mapping[str, str], run: RunFacts, rerun: bool,
) -> State[Report]:  # fmt: skip
    """The page about everything above, and its essence as Prefect artifacts."""

    def write(told: Progress) -> Report:
        made = reporting.report(
            recipe, videos, shards, checkpoint, scores, machine, failures=failures, run=run, rerun=rerun, progress=told
        )
        shown.report(Board(), made, scores)
        return made

    return finish("report", write)


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
        self.began = self.started = self.told = time.monotonic()
        self.is_shown = False
        self.first: float | None = None
        self.board = Board()
        self.asked_to_stop = cluster.asked_to_stop()

    def __call__(self, done: float, total: float, unit: str, note: str = "") -> None:
        """As dora.progress.Progress; every few seconds at most.

        Raises:
            Stopped: if the run was cancelled.
            LeaseLost: if another has taken over what this stage makes.
        """
        raise_if_stopped()
        raise_if_lost()
        if self.asked_to_stop():
            raise Stopped
        now = time.monotonic()
        if self.first is None or done < self.first:  # a resumed stage starts in the middle, the next part anew
            self.first, self.started = done, now
        every_s = min(max(PROGRESS_EVERY_S, PROGRESS_SHARE * (now - self.began)), PROGRESS_AT_MOST_S)
        if now - self.told < every_s:
            return
        self.told = now
        speed = (done - self.first) / (now - self.started) if now > self.started else 0.0
        left = f"{span((total - done) / speed)} left" if speed else ""
        text = "  ".join(filter(None, [f"{done:g}/{total:g} {unit}", note, left]))
        progress_log.info("%s  %s", self.name, text)
        self.board.show(
            "progress", "progress", min(100 * done / total, 100.0) if total else 0.0, f"{self.name}  {text}"
        )
        self.is_shown = True

    def finish(self) -> None:
        """Fill the bar of a stage that has ended well."""
        if self.is_shown:
            self.board.show("progress", "progress", 100.0, f"{self.name}  done")


def finish(name: str, stage: Callable[[Progress], A]) -> State[A]:
    """Run a stage and say in Prefect's words how it ended.

    An error that the user can mend is one message in log and state. Anything else is our mistake and keeps its
    traceback, as Prefect shows it.
    """
    progress = RunProgress(task_run.get_name() or name)
    # A run that waits for another's lease can be stopped too.
    waiting = while_waiting(lambda folder, owner: progress(0, 1, "", f"waiting for {owner}"))
    try:
        with logged_in_prefect() if cluster.is_worker() else nullcontext(), waiting, for_run(flow_run.get_id()):
            artifact = stage(progress)
    except (ValueError, OSError, LaunchError) as error:
        left = retries.tries_left() if retries.may_pass(error) else 0
        if left:
            log.warning("%s: %s\nThat may pass: it is tried again by itself, up to %d times.", name, error, left)
        else:
            log.error("%s: %s", name, error)
        log.debug("%s", name, exc_info=True)
        return retries.failed(f"{name}: {error}", error)
    progress.finish()
    if artifact.reused:
        return Completed(name="Cached", message=f"reused {artifact.folder}", data=artifact)
    return Completed(message=f"made {artifact.folder}", data=artifact)
