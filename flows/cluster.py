"""A Dask cluster that acquires and shards: found or started, and left again; what its workers need to know.

What travels to a worker and back are small values of our own and Prefect's, pickled by Dask. Who reaches a scheduler's
port can have its workers run anything, so ours listen on loopback, or ask for a certificate (Slurm).
"""

import asyncio
import logging
import shlex
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.states import Crashed

from dora.artifacts import Dask, Machine
from flows.ends import Future

STOP_LIMIT_S = 10.0
POLL_S = 0.1
NO_PAGES = "127.0.0.1:0"  # Dask's own, at a port of which nobody is told


class Place(NamedTuple):
    """Somewhere that tasks are done."""

    runner: Any  # a task runner of Prefect that has been started
    machine: Machine  # as one worker is to take it
    n_workers: int = 1


@contextmanager
def workers(machine: Machine) -> Generator[Place]:
    """The cluster that Machine.dask names. Leaving it by an error, such as a cancelled run's, stops what it does.

    Raises:
        ConnectionError: if no scheduler answers at the address.
        ValueError: if Slurm does not take the workers' jobs.
    """
    from prefect_dask import DaskTaskRunner

    dask = machine.dask
    assert dask
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with _settings(dask, machine) as settings, DaskTaskRunner(**settings) as runner:
        try:
            client = runner.client
        except OSError as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {dask.cluster} ({error}). Start one (docs/hosts.md), or leave dask out."
            ) from None
        is_ours = dask.cluster in ("local", "slurm")
        threads: Any = client.nthreads()
        n_workers = dask.n_workers if is_ours else max(1, sum(threads.values()))
        try:
            yield Place(runner, _there(dask, machine), n_workers)
        except BaseException:
            client.cancel([_of_dask(client, key) for key in list(client.futures)], force=True)
            raise
        finally:
            client.run(_say_the_last, on_error="ignore")


def settle(futures: Sequence[Future]) -> None:
    """Wait for all. A task whose workers died one after the other, of which nobody else would tell, has crashed."""
    for future in futures:
        future.wait()
        of_dask: Any = getattr(future, "wrapped_future", None)
        if getattr(of_dask, "status", None) in ("error", "lost"):
            message = f"its Dask workers died again and again: {of_dask.exception()}"
            with get_client(sync_client=True) as client:
                client.set_task_run_state(future.task_run_id, Crashed(message=message), force=True)


def asked_to_stop() -> Callable[[], bool]:
    """Whether the Dask task that this thread is doing is no longer wanted: its run was cancelled, or is dead."""
    worker = sys.modules.get("distributed.worker")
    key = getattr(worker.thread_state, "key", None) if worker else None
    if worker is None or key is None:
        return lambda: False
    tasks = worker.get_worker().state.tasks

    def asked() -> bool:
        task = tasks.get(key)
        return task is None or task.state == "cancelled"

    return asked


def is_worker() -> bool:
    """Whether this thread does a task of Dask's: in another process than the flow."""
    worker = sys.modules.get("distributed.worker")
    return bool(worker) and hasattr(worker.thread_state, "key")


@contextmanager
def _settings(dask: Dask, machine: Machine) -> Generator[dict[str, Any]]:
    """Of Prefect's task runner."""
    if dask.cluster == "local":
        yield {
            "cluster_class": "distributed.LocalCluster",
            "cluster_kwargs": {
                "n_workers": dask.n_workers, "threads_per_worker": 1, "memory_limit": 0, "host": "127.0.0.1",
                "dashboard_address": NO_PAGES,
            },
        }  # fmt: skip
    elif dask.cluster != "slurm":
        yield {"address": dask.cluster}
    else:
        folder = machine.root / ".dask"
        folder.mkdir(parents=True, exist_ok=True)
        # Certificates that are made for this run alone; only their owner may read them.
        with TemporaryDirectory(dir=folder) as keys:
            yield {
                "cluster_class": "dask_jobqueue.SLURMCluster",
                "cluster_kwargs": of_slurm(dask, machine, folder, keys),
            }


def of_slurm(dask: Dask, machine: Machine, folder: Path, keys: str) -> dict[str, Any]:
    """A job for each worker: what dask_jobqueue's cluster in Slurm is told."""
    slurm = machine.slurm
    prologue = [*slurm.setup, *(f"export {name}={quote(value)}" for name, value in slurm.environment.items())]
    directives = [*([f"--qos={slurm.qos}"] if slurm.qos else []), *slurm.options]
    return {
        "n_workers": dask.n_workers, "cores": 1, "processes": 1, "job_cpu": dask.cpus, "memory": dask.memory,
        "queue": dask.partition or slurm.partition, "account": slurm.account, "walltime": dask.time or slurm.time,
        "job_extra_directives": [*map(quote, directives)], "job_script_prologue": prologue,
        "python": shlex.join([*slurm.within, slurm.python or sys.executable]), "log_directory": str(folder),
        "local_directory": "/tmp",
        "job_name": "dora-dask", "interface": dask.interface, "security": True, "protocol": "tls://",
        "shared_temp_directory": keys, "worker_extra_args": ["--memory-limit", "0"],
        "scheduler_options": {"dashboard_address": NO_PAGES},
    }  # fmt: skip


def _there(dask: Dask, machine: Machine) -> Machine:
    """The machine as a worker is to take it: its share of a host's cores, of the network."""
    threads = {"local": max(1, machine.n_cores // dask.n_workers), "slurm": dask.cpus}.get(dask.cluster, 0)
    return machine.model_copy(update={"threads": machine.threads or threads, "dask": None})


def _of_dask(client: Any, key: Any) -> Any:
    from distributed import Future as OfDask

    return OfDask(key, client)


async def _say_the_last(dask_worker: Any) -> None:
    """On a worker: wait for the end of what was cancelled, then send Prefect what is still to be told."""
    give_up = time.monotonic() + STOP_LIMIT_S
    while dask_worker.active_threads and time.monotonic() < give_up:
        await asyncio.sleep(POLL_S)
    await asyncio.to_thread(_flush)


def _flush() -> None:
    APILogHandler().flush()
    EventsWorker.drain_all(timeout=STOP_LIMIT_S)
