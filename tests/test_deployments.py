"""prefect.yaml: what it says, what a server stores of it, what it refuses."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from prefect.utilities.callables import parameter_schema

from dora.config import MiniatureVideo, PretrainConfig, Recipe, ShardsConfig
from flows.pipeline import dora
from infra import services
from infra.deploy import automate, deploy
from infra.entries import deployments
from infra.local import PLACES
from infra.rest import Prefect
from infra.runs import bury, end_runs_of

ROOT = Path(__file__).parents[1]
STORED = ("entrypoint", "parameters", "parameter_openapi_schema", "enforce_parameter_schema", "tags", "version",
          "description", "work_pool_name", "pull_steps", "path", "concurrency_options")  # fmt: skip


@pytest.fixture(scope="module")
def abroad() -> Iterator[socket.socket]:
    """Where every request goes that is not for this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        yield listener


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, abroad: socket.socket) -> Iterator[Prefect]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{abroad.getsockname()[1]}")
            patch.delenv(name.upper(), raising=False)
        patch.delenv("no_proxy", raising=False)
        with services.prefect(tmp_path_factory.mktemp("root")) as server:
            yield server


def stored(server: Prefect) -> dict[str, dict[str, Any]]:
    return {name: server.call("GET", f"/deployments/name/dora/{name}") for name in deployments()}


def schedules(deployment: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    return [
        (one["slug"], one["schedule"]["cron"], one["schedule"]["timezone"], one["active"])
        for one in deployment["schedules"]
    ]


def prefect(server: Prefect, home: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Prefect's own command, as a user types it."""
    return subprocess.run(
        [Path(sys.executable).with_name("prefect"), "--no-prompt", *words], cwd=home, check=False, text=True,
        capture_output=True, env=os.environ | services.client_environment(home, server.url) | {"COLUMNS": "400"},
    )  # fmt: skip


def test_the_deployments_that_the_readme_names_are_there():
    assert {"demo", "full-benchmark", "acquire", "pretrain", "evaluate"} <= set(deployments())


def test_what_trains_or_measures_wants_a_gpu_and_is_tagged_so():
    pools = {name: entry["work_pool"]["name"] for name, entry in deployments().items()}
    assert {pools[name] for name in ("demo", "acquire")} == {"cpu"}
    assert {pools[name] for name in ("full-benchmark", "pretrain", "evaluate")} == {"gpu"}
    assert all(entry["tags"] == ["dora", pools[name]] for name, entry in deployments().items())


@pytest.mark.parametrize("name", deployments())
def test_the_parameters_of_a_deployment_are_an_order(name: str):
    entry = deployments()[name]
    read = PLACES[entry["entrypoint"]]
    if name == "full-benchmark":  # nothing of it is on a bare machine
        with pytest.raises(FileNotFoundError, match="DORA_DATASETS__DAVIS"):
            read(**entry["parameters"])
    else:
        read(**entry["parameters"])


def test_the_flow_imports_without_a_tensor_library():
    code = "import sys, flows.pipeline; print(*{'torch', 'timm', 'torchvision', 'cv2'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_every_parameter_has_a_description_and_names_are_choices():
    schema = parameter_schema(dora).model_dump_for_openapi()
    assert all(one["description"] for one in schema["properties"].values()), schema["properties"]
    name, whole = schema["properties"]["recipe"]["anyOf"]
    assert "demo" in name["enum"] and "venice" in name["enum"]
    assert "Recipe" in whole["$ref"]
    assert {"videos", "shards", "pretrain"} <= set(schema["definitions"]["Recipe"]["properties"])
    assert schema["properties"]["suite"]["enum"] == ["paper", "short", "miniature", "learning"]
    assert "davis" in schema["properties"]["rerun"]["description"]


@pytest.mark.slow
def test_the_server_stores_parameters_and_their_schema(server: Prefect):
    for name, deployment in stored(server).items():
        assert deployment["parameters"] == deployments()[name]["parameters"]
        assert deployment["enforce_parameter_schema"]


@pytest.mark.slow
def test_the_stored_form_has_every_field_of_a_recipe(server: Prefect):
    """With its type, its choices, its default and its description: what the page of the UI shows."""
    schema = server.call("GET", "/deployments/name/dora/full-benchmark")["parameter_openapi_schema"]
    assert set(schema["properties"]) >= {"recipe", "overrides", "suite", "videos", "checkpoint", "rerun", "until"}
    assert set(schema["definitions"]["Recipe"]["properties"]) == set(Recipe.model_fields)
    for model in (PretrainConfig, ShardsConfig, MiniatureVideo):
        form = schema["definitions"][model.__name__]["properties"]
        for name, field in model.model_fields.items():
            assert form[name].get("description") == field.description
            if isinstance(field.default, int | float | str | bool):
                assert form[name]["default"] == field.default
            if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) > 1:
                assert form[name]["enum"] == list(get_args(field.annotation))
    assert schema["definitions"]["PretrainConfig"]["properties"]["epochs"]["type"] == "integer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"until": "evaluation"}, "until"),
        ({"suite": "papers"}, "suite"),
        ({"rerun": "evaluate"}, "rerun"),
        ({"recipe": "dmo"}, "recipe"),
        ({"recipe": {"videos": [{"kind": "miniature", "seed": -1}]}}, r"recipe.videos\[0\]"),
        ({"recipe": {"pretrain": {"epochs": -1}}}, "recipe.pretrain.epochs.*-1 is less than the minimum of 1"),
        ({"machine": {"threads": -4}}, "machine.threads"),
    ],
)
def test_a_wrong_value_is_refused_at_submission(server: Prefect, parameters: dict[str, Any], names: str):
    demo = server.call("GET", "/deployments/name/dora/demo")
    with pytest.raises(ValueError, match=names):
        server.call("POST", f"/deployments/{demo['id']}/create_flow_run", {"parameters": parameters})


@pytest.mark.slow
def test_prefects_own_command_refuses_a_wrong_value_with_its_path(server: Prefect, tmp_path: Path):
    asked = ["--param", 'recipe={"pretrain": {"epochs": -1}}']
    run = prefect(server, tmp_path, "deployment", "run", "dora/full-benchmark", *asked)
    assert run.returncode == 1
    said = run.stdout + run.stderr
    assert "recipe.pretrain.epochs" in said and "-1 is less than the minimum of 1" in said and "Traceback" not in said
    run = prefect(server, tmp_path, "deployment", "run", "dora/demo", "--param", 'machine={"threads": -4}')
    assert run.returncode == 1
    assert "machine.threads" in run.stdout + run.stderr
    assert server.call("POST", "/flow_runs/filter", {}) == []  # nothing was submitted


@pytest.mark.slow
def test_prefects_own_command_deploys_the_same(server: Prefect, tmp_path: Path):
    ours = stored(server)
    run = prefect(server, tmp_path, "deploy", "--all", "--prefect-file", ROOT / "infra" / "prefect.yaml")
    assert run.returncode == 0, run.stdout
    theirs = stored(server)
    for name in ours:
        assert {key: theirs[name][key] for key in STORED} == {key: ours[name][key] for key in STORED}
        assert schedules(theirs[name]) == schedules(ours[name])
        limits = [(one[name]["global_concurrency_limit"] or {}).get("limit") for one in (ours, theirs)]
        assert limits == [deployments()[name].get("concurrency_limit", {}).get("limit")] * 2
    assert schedules(theirs["full-benchmark"]) == [("weekly", "0 2 * * 0", "UTC", False)]
    assert theirs["full-benchmark"]["concurrency_options"]["collision_strategy"] == "ENQUEUE"


@pytest.mark.slow
def test_a_schedule_that_was_switched_on_stays_on_when_prefect_is_started_again(server: Prefect):
    deployment = server.call("GET", "/deployments/name/dora/full-benchmark")
    (weekly,) = deployment["schedules"]
    server.call("PATCH", f"/deployments/{deployment['id']}/schedules/{weekly['id']}", {"active": True})
    deploy(server)
    assert schedules(stored(server)["full-benchmark"])[0][-1]
    server.call("PATCH", f"/deployments/{deployment['id']}", {"schedules": []})


@pytest.mark.slow
def test_a_server_that_starts_again_ends_the_runs_that_must_be_dead(server: Prefect):
    demo = server.call("GET", "/deployments/name/dora/demo")["id"]
    later = {"scheduled_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}

    def find(state: str, worker: str | None = None, queue: str = "default") -> str:
        """A run as the last server left it."""
        asked = {"state": {"type": state, "state_details": later}, "work_queue_name": queue}
        labels = {"labels": {"prefect.worker.name": worker} if worker else {}}
        return server.call("POST", f"/deployments/{demo}/create_flow_run", asked | labels)["id"]

    dead = [find("RUNNING", "local"), find("CANCELLING", "local"), find("PENDING"), find("SCHEDULED", queue="command")]
    others = [find("RUNNING", "elsewhere-7"), find("SCHEDULED")]
    bury(server)
    ends = [server.call("GET", f"/flow_runs/{run}")["state"]["type"] for run in dead + others]
    assert ends == ["CRASHED"] * 4 + ["RUNNING", "SCHEDULED"]
    end_runs_of(server, "elsewhere-7")
    assert server.call("GET", f"/flow_runs/{others[0]}")["state"]["type"] == "CRASHED"
    server.call("DELETE", f"/flow_runs/{others[1]}")


@pytest.mark.slow
def test_automations_are_made_once_and_renewed(server: Prefect):
    automate(server)
    automations = {one["name"]: one for one in server.call("POST", "/automations/filter", {})}
    assert set(automations) == {"crash-silent-runs", "crash-runs-that-never-began"}
    assert all(one["enabled"] and one["actions"][0]["state"] == "CRASHED" for one in automations.values())
    # Two may be lost or late.
    assert automations["crash-silent-runs"]["trigger"]["within"] == 3 * int(*services.HEARTBEAT.values())


@pytest.mark.slow
def test_nothing_that_was_started_here_has_called_abroad(server: Prefect, abroad: socket.socket):
    """The last test of this file, so that server and worker had a while."""
    with pytest.raises(TimeoutError):
        abroad.accept()
