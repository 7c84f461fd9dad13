"""prefect.yaml: what it says, what a server stores of it, what it refuses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema

from flows.order import place
from flows.pipeline import dora
from infra import services
from infra.services import Prefect, deployments

ROOT = Path(__file__).parents[1]
STORED = ("entrypoint", "parameters", "parameter_openapi_schema", "enforce_parameter_schema", "tags", "version",
          "description", "work_pool_name", "pull_steps", "path")  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with services.prefect(tmp_path_factory.mktemp("root")) as server:
        yield server


def stored(server: Prefect) -> dict[str, dict[str, Any]]:
    return {name: server.call("GET", f"/deployments/name/dora/{name}") for name in deployments()}


def test_the_deployments_are_those_that_the_readme_names():
    assert set(deployments()) == {"demo", "full-benchmark", "acquire", "pretrain", "evaluate"}


@pytest.mark.parametrize("name", deployments())
def test_the_parameters_of_a_deployment_are_an_order(name: str):
    parameters = deployments()[name]["parameters"]
    if name == "full-benchmark":  # nothing of it is on a bare machine
        with pytest.raises(FileNotFoundError, match="DORA_DATASETS__DAVIS"):
            place(**parameters)
    else:
        place(**parameters)


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
    assert schema["properties"]["suite"]["enum"] == ["paper", "short", "miniature"]
    assert "davis" in schema["properties"]["rerun"]["description"]


@pytest.mark.slow
def test_the_server_stores_schema_and_parameters(server: Prefect):
    for name, deployment in stored(server).items():
        assert deployment["parameters"] == deployments()[name]["parameters"]
        assert set(deployment["parameter_openapi_schema"]["properties"]) == {
            "recipe", "overrides", "suite", "videos", "checkpoint", "rerun", "until", "machine",
        }  # fmt: skip
        assert "PretrainConfig" in deployment["parameter_openapi_schema"]["definitions"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"until": "evaluation"}, "until"),
        ({"suite": "papers"}, "suite"),
        ({"rerun": "evaluate"}, "rerun"),
        ({"recipe": "dmo"}, "recipe"),
        ({"recipe": {"videos": [{"kind": "miniature", "seed": -1}]}}, "recipe"),
    ],
)
def test_a_wrong_value_is_refused_at_submission(server: Prefect, parameters: dict[str, Any], names: str):
    demo = server.call("GET", "/deployments/name/dora/demo")
    with pytest.raises(ValueError, match=names):
        server.call("POST", f"/deployments/{demo['id']}/create_flow_run", {"parameters": parameters})


@pytest.mark.slow
def test_prefects_own_command_deploys_the_same(server: Prefect, tmp_path: Path):
    ours = stored(server)
    command = [Path(sys.executable).with_name("prefect"), "--no-prompt", "deploy", "--all"]
    subprocess.run(
        [*command, "--prefect-file", ROOT / "infra" / "prefect.yaml"], cwd=tmp_path, check=True, capture_output=True,
        env=os.environ | {"PREFECT_API_URL": f"{server.url}/api", "PREFECT_HOME": str(tmp_path), "DO_NOT_TRACK": "1"},
    )  # fmt: skip
    theirs = stored(server)
    for name in ours:
        assert {key: theirs[name][key] for key in STORED} == {key: ours[name][key] for key in STORED}
