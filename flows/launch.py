"""How a stage's long job is started on this machine, watched and stopped."""

import os
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from dora.artifacts import Machine
from dora.launch import GRACE_S, Launch, run_here

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
    """Run a job as one child; a cancelled run sends it SIGTERM and, after a grace, SIGKILL."""

    def poll_or_stop() -> None:
        raise_if_stopped()
        poll()

    run_here(command, folder, poll_or_stop)


def on_all_devices(machine: Machine) -> Launch:
    """How a training command is started here: under torchrun if it is to be several processes."""
    n = n_processes(machine)
    if n == 1:
        return one_process

    def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        python, *module = command
        torchrun = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
        # Torchrun's own half a minute may be too short to save a big training state.
        torchrun.append(f"--shutdown-timeout={GRACE_S - 5:.0f}")
        # Left alone, torchrun gives each of several processes one thread, and says so in every log.
        threads = machine.threads or max(1, (os.cpu_count() or 1) // n)
        one_process(["env", f"OMP_NUM_THREADS={threads}", *torchrun, *module], folder, poll)

    return launch


def n_processes(machine: Machine) -> int:
    """Training processes on this host: the machine's number, or one a visible GPU, or one."""
    if machine.n_processes:
        return machine.n_processes
    if machine.device == "cpu":
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([device for device in visible.split(",") if device.strip()]))
    try:  # torch would count them too, after seconds of importing
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 1
    return max(1, len(listing.splitlines()))
