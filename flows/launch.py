"""How a stage's long job is watched, and stopped with the run."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from dora.launch import run_here

_stop = threading.Event()


class Stopped(BaseException):
    """The run is over while a stage still works: raised inside that stage. Not an error of the stage."""


@contextmanager
def stages_stop_with_the_run() -> Generator[None]:
    """Around a flow: when it is cancelled or terminated, tell the stages, which run in other threads."""
    _stop.clear()
    try:
        yield
    except BaseException:
        _stop.set()
        raise


def raise_if_stopped() -> None:
    """Called by every stage now and then.

    Raises:
        Stopped: if the run was cancelled.
    """
    if _stop.is_set():
        raise Stopped


def one_process(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
    """Run a job as one child, which may be torchrun; a cancelled run sends it SIGTERM and, after a grace, SIGKILL."""

    def poll_or_stop() -> None:
        raise_if_stopped()
        poll()

    run_here(command, folder, poll_or_stop)
