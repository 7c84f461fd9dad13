"""The worker of a server on this machine: tells the server what can be run here, then runs it.

python -m infra.worker READY    # infra/services.py starts it; it creates the file READY when it can take runs
"""

import asyncio
import shlex
import sys
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from infra.services import answers, deployments

POOL = "local"
UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def work(ready: Path) -> None:
    """Wait for the server, prepare it, take runs until killed."""
    for entry in deployments().values():
        flow(entry["entrypoint"])  # imported while the server starts
    while not answers(PREFECT_API_URL.value().removesuffix("/api")):
        time.sleep(0.1)
    with get_client(sync_client=True) as client:
        bury_dead_runs(client)
        create_pool(client)
        deploy(client)
    ready.touch()
    asyncio.run(ProcessWorker(work_pool_name=POOL, create_pool_if_not_found=False).start())


def bury_dead_runs(client: SyncPrefectClient) -> None:
    """End the runs that a killed command left behind: nobody works on them, and Prefect alone would never notice."""
    past = {"before_": datetime.now(UTC)}
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}, "expected_start_time": past})
    for run in client.read_flow_runs(flow_run_filter=wanted):
        client.set_flow_run_state(run.id, Crashed(message="the process that ran it was killed"), force=True)


def create_pool(client: SyncPrefectClient) -> None:
    """The work pool, with this interpreter and this folder."""
    template = ProcessWorker.get_default_base_job_template()
    variables = template["variables"]["properties"]
    # Naming the command saves the process in which Prefect would look for one.
    variables["command"]["default"] = f"{shlex.quote(sys.executable)} -m infra.engine"
    variables["working_dir"]["default"] = str(Path.cwd())  # where machine.toml is looked for
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template), overwrite=True)


def deploy(client: SyncPrefectClient) -> None:
    """Apply every deployment of prefect.yaml, as `prefect deploy --all` does in five times the time.

    The flow is imported, not only parsed: one that does not import would be stored without parameters.
    """
    for entry in deployments().values():
        code = flow(entry["entrypoint"])
        client.create_deployment(
            flow_id=client.create_flow(code),
            name=entry["name"],
            entrypoint=entry["entrypoint"],
            description=entry["description"],
            version=entry["version"],
            tags=entry["tags"],
            parameters=entry["parameters"],
            parameter_openapi_schema=parameter_schema(code).model_dump_for_openapi(),
            enforce_parameter_schema=entry["enforce_parameter_schema"],
            work_pool_name=entry["work_pool"]["name"],
            pull_steps=[],
        )


def flow(entrypoint: str) -> Flow[..., Any]:
    """The flow at package.module.name."""
    module, _, name = entrypoint.rpartition(".")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
