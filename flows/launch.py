"""How a stage's long job is watched, and stopped with the run."""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from dora.artifacts import Machine
from dora.hosts import leading
from dora.launch import Launch, run_here
from dora.torchrun import n_processes, on_all_devices
from flows.sbatch import Spread, gpus, n_nodes
from flows.slurm import in_slurm

_stop = threading.Event()
_gpus: ContextVar[tuple[str, ...]] = ContextVar("gpus", default=())


class Stopped(BaseException):
    """The run is over while a stage still works: raised inside that stage. Not an error of the stage."""


@contextmanager
def stages_stop_with_the_run() -> Generator[None]:
    """Around a flow: when it is cancelled or terminated, tell the stages, which run in other threads."""
    _stop.clear()
    try:
        yield
    except BaseException:
        stop_stages()
        raise


def stop_stages() -> None:
    """Tell every stage of this process that the run is over."""
    _stop.set()


def raise_if_stopped() -> None:
    """Called by every stage now and then.

    Raises:
        Stopped: if the run was cancelled.
    """
    if _stop.is_set():
        raise Stopped


@contextmanager
def on_gpus(names: Sequence[str]) -> Generator[None]:
    """Jobs of stages that are submitted inside see these GPUs only; of no names, all that there are."""
    token = _gpus.set((*names,))
    try:
        yield
    finally:
        _gpus.reset(token)


def launcher(machine: Machine, spread: Spread, *, at_most: int | None = None) -> Launch:
    """How a stage's long job is started: here, with hosts that join, or as a job of Slurm; stopped with the run.

    It is no more than `at_most` processes, where this process says how many there are: who joins says it for himself.
    """
    if machine.launcher == "slurm":
        submitted = in_slurm(_with_work(machine, spread, at_most), spread)

        def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
            submitted(command, folder, _or_stop(poll))

        return launch
    if spread == "nodes" and machine.hosts.n > 1:
        led = leading(machine, one_process)
        return lambda command, folder, poll: led(command, folder, _or_stop(poll))
    return one_process if spread == "process" else on_all_devices(machine, one_process, at_most=at_most)


def n_devices(machine: Machine, *, at_most: int) -> int:
    """How many devices a pretraining works on: of all nodes, processes where they are CPUs."""
    if machine.launcher == "slurm":
        machine = _with_work(machine, "nodes", at_most)
        return machine.slurm.nodes * (machine.n_processes or gpus(machine.slurm.gres))
    return n_processes(machine) * machine.hosts.n if machine.hosts.n > 1 else n_processes(machine, at_most=at_most)


def _with_work(machine: Machine, spread: Spread, at_most: int | None) -> Machine:
    """The machine with no process on a node of Slurm that would have no part of a batch."""
    here = machine.n_processes or gpus(machine.slurm.gres)
    if at_most is None or here * n_nodes(machine.slurm, spread) <= at_most:
        return machine
    return machine.model_copy(update={"n_processes": max(1, at_most // n_nodes(machine.slurm, spread))})


def one_process(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
    """Run a job as one child, which may be torchrun; a cancelled run sends it SIGTERM and, after a grace, SIGKILL."""
    if names := _gpus.get():
        command = ["env", f"CUDA_VISIBLE_DEVICES={','.join(names)}", *command]
    run_here(command, folder, _or_stop(poll))


def _or_stop(poll: Callable[[], None]) -> Callable[[], None]:
    def poll_or_stop() -> None:
        raise_if_stopped()
        poll()

    return poll_or_stop
