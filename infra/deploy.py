"""What a server must know before runs can be submitted: work pools, deployments, automations, the shared folder."""

import secrets
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from infra.entries import COMMAND_QUEUE, deployments, pools
from infra.join import ROOT_TOKEN, ROOT_VARIABLE
from infra.rest import Prefect

AUTOMATIONS = Path(__file__).with_name("automations.yaml")


def prepare(server: Prefect, root: Path) -> None:
    """Create or renew everything; runs that are under way or queued stay as they are."""
    create_pools(server)
    deploy(server)
    automate(server)
    share(server, root)


def create_pools(server: Prefect) -> None:
    """A work pool of processes for each name in prefect.yaml, and in each a queue for the runs of commands."""
    template = ProcessWorker.get_default_base_job_template()
    variables = template["variables"]["properties"]
    # Naming the command saves the process in which Prefect would look for one. Which python, and which folder
    # (machine.toml is looked for there), is the worker's affair: its host may be another than ours.
    variables["command"]["default"] = "python -m infra.engine"
    variables["working_dir"]["default"] = "."
    there = {one["name"]: one for one in server.call("POST", "/work_pools/filter", {})}
    for name in pools():
        if name not in there:
            pool = {"name": name, "type": "process", "base_job_template": template}
            server.call("POST", "/work_pools/", pool)
        elif there[name]["base_job_template"] != template:
            server.call("PATCH", f"/work_pools/{name}", {"base_job_template": template})
        if COMMAND_QUEUE not in {one["name"] for one in server.call("POST", f"/work_pools/{name}/queues/filter", {})}:
            server.call("POST", f"/work_pools/{name}/queues", {"name": COMMAND_QUEUE})


def deploy(server: Prefect) -> None:
    """Apply every deployment of prefect.yaml, as `prefect deploy --all` does in five times the time.

    The flow is imported, not only parsed: one that does not import would be stored without parameters. A schedule
    that somebody has switched on stays on.
    """
    flows: dict[str, tuple[str, dict[str, Any]]] = {}
    active = _switched(server)
    for entry in deployments().values():
        entrypoint = entry["entrypoint"]
        if entrypoint not in flows:
            code = flow(entrypoint)
            flow_id = server.call("POST", "/flows/", {"name": code.name})["id"]
            flows[entrypoint] = flow_id, parameter_schema(code).model_dump_for_openapi()
        flow_id, schema = flows[entrypoint]
        server.call("POST", "/deployments/", _deployment(entry, active) | {
            "flow_id": flow_id, "parameter_openapi_schema": schema,
        })  # fmt: skip


def automate(server: Prefect, within_s: float | None = None) -> None:
    """Create or replace the automations of automations.yaml; `within_s` replaces how long each of them waits."""
    there = {one["name"]: one["id"] for one in server.call("POST", "/automations/filter", {})}
    for entry in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
        if within_s is not None:
            entry["trigger"]["within"] = within_s
        if entry["name"] in there:
            server.call("PUT", f"/automations/{there[entry['name']]}", entry)
        else:
            server.call("POST", "/automations/", entry)


def share(server: Prefect, root: Path) -> None:
    """Let workers that join later see whether their root is this one: the server knows what is written in it."""
    token = root / ROOT_TOKEN
    if not token.exists():
        root.mkdir(parents=True, exist_ok=True)
        token.write_text(secrets.token_hex(8))
    value = {"token": token.read_text(), "root": str(root)}
    try:
        server.call("PATCH", f"/variables/name/{ROOT_VARIABLE}", {"value": value})
    except ValueError:  # none yet
        server.call("POST", "/variables/", {"name": ROOT_VARIABLE, "value": value})


def flow(entrypoint: str) -> Flow[..., Any]:
    """The flow at package.module.name."""
    module, _, name = entrypoint.rpartition(".")
    return getattr(import_module(module), name)


def _deployment(entry: dict[str, Any], active: dict[tuple[str, str], bool]) -> dict[str, Any]:
    """An entry of prefect.yaml as the REST interface takes it."""
    same = ("name", "entrypoint", "description", "version", "tags", "parameters", "enforce_parameter_schema")
    made: dict[str, Any] = {name: entry[name] for name in same}
    made |= {"work_pool_name": entry["work_pool"]["name"], "pull_steps": [], "concurrency_limit": None}
    if limit := entry.get("concurrency_limit"):
        made["concurrency_limit"] = limit["limit"]
        made["concurrency_options"] = {"collision_strategy": limit["collision_strategy"]}
    made["schedules"] = [
        {
            "schedule": {"cron": one["cron"], "timezone": one["timezone"]}, "slug": one["slug"],
            "active": active.get((entry["name"], one["slug"]), one["active"]),
        }
        for one in entry.get("schedules", [])
    ]  # fmt: skip
    return made


def _switched(server: Prefect) -> dict[tuple[str, str], bool]:
    """Of the schedules that the server has already, by deployment and slug: whether they are on."""
    return {
        (one["name"], schedule["slug"]): schedule["active"]
        for one in server.call("POST", "/deployments/filter", {})
        for schedule in one["schedules"]
    }
