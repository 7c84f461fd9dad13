"""A worker process: takes runs from one or several work pools until it is killed.

    python -m infra.worker --pool cpu --pool gpu --name NAME [--queue command] [--ready FILE] [--health PORT]
    python -m infra.worker … --prepare ROOT    # the server's own: tells the server first what can be run here

infra/services.py starts it. It creates the file READY when it can take runs. One process serves all pools, because
every process that imports Prefect costs seconds and 100 MB.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_WORKER_QUERY_SECONDS
from prefect.workers.process import ProcessWorker

from dora.artifacts import Machine
from infra.deploy import flow, prepare
from infra.entries import deployments
from infra.rest import Prefect, answers
from infra.runs import bury

BUSY_QUERY_S = 15.0  # Prefect's own interval
ONE_AT_A_TIME = "gpu"  # a run of it uses all GPUs of the host, unless Slurm has them


def main() -> None:
    """Wait for the server, prepare it if it is ours, take runs until killed."""
    given = _parser().parse_args()
    # The server names the command of a run, `python -m infra.engine`; this is the python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if given.prepare:
        _prepare(given.prepare)
    here = Machine().launcher == "local"
    workers = [
        Worker(
            work_pool_name=pool, work_queues=given.queue, name=given.name, create_pool_if_not_found=False,
            limit=1 if here and pool == ONE_AT_A_TIME else None,
        )
        for pool in given.pool
    ]  # fmt: skip
    if given.health:
        serve_health(workers, given.health)
    if given.ready:
        given.ready.touch()
    asyncio.run(_work(workers))


class Worker(ProcessWorker):
    """Asks for runs all the time (PREFECT_WORKER_QUERY_SECONDS), but now and then only while a run goes on.

    What a run tells the server costs it less than these questions.
    """

    _asked_at = 0.0

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "dora"  # beside Prefect's own class, not in its place

    async def get_and_submit_flow_runs(self) -> Any:
        """Those that were found and started."""
        if is_working() and time.monotonic() - self._asked_at < BUSY_QUERY_S:
            return []
        self._asked_at = time.monotonic()
        return await super().get_and_submit_flow_runs()


def is_working() -> bool:
    """Whether this process has a run's process; only Linux says so."""
    tasks = Path("/proc/self/task").glob("*/children")
    try:
        return any(task.read_text() for task in tasks)
    except OSError:  # a thread that has just ended
        return False


def serve_health(workers: Sequence[ProcessWorker], port: int) -> ThreadingHTTPServer:
    """Answer http://127.0.0.1:PORT/health with 200 as long as every worker asks the server for runs, else with 503."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            well = all(worker.is_worker_still_polling(PREFECT_WORKER_QUERY_SECONDS.value()) for worker in workers)
            self.send_response(200 if well else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002, the base class's name

    server = ThreadingHTTPServer(("127.0.0.1", port), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _prepare(root: Path) -> None:
    for entry in deployments().values():
        flow(entry["entrypoint"])  # imported while the server starts
    url = os.environ["PREFECT_API_URL"].removesuffix("/api")
    while not answers(url):
        time.sleep(0.1)
    server = Prefect(url, auth=os.environ.get("PREFECT_API_AUTH_STRING"))
    bury(server)
    prepare(server, root)


async def _work(workers: Sequence[ProcessWorker]) -> None:
    await asyncio.gather(*(worker.start() for worker in workers))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.worker")
    parser.add_argument("--pool", action="append", required=True)
    parser.add_argument("--name", required=True, help="under which the server knows it")
    parser.add_argument("--queue", action="append", help="of the pools; all of them otherwise")
    parser.add_argument("--prepare", type=Path, metavar="ROOT", help="pools, deployments and automations first")
    parser.add_argument("--ready", type=Path, metavar="FILE", help="made when it can take runs")
    parser.add_argument("--health", type=int, metavar="PORT", help="on loopback")
    return parser


if __name__ == "__main__":
    main()
