"""Kubernetes manifests: rendered as Prefect's worker renders them, judged by Kubernetes' published schemas."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.settings.models.worker import WorkerWebserverSettings
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from dora.launch import GRACE_S
from infra import services
from infra.kubernetes.__main__ import main
from infra.kubernetes.cluster import Cluster, Toleration
from infra.kubernetes.pool import base_job_template
from infra.kubernetes.training import training
from infra.kubernetes.worker import standing

EXAMPLE = Path(__file__).parents[1] / "infra" / "kubernetes" / "cluster.yaml"
CLUSTER = Cluster(
    image="registry.example.org/dora:1", gpus=8, cpu="64", memory="512Gi", shared_memory="64Gi",
    node_selector={"gpu": "h100"}, tolerations=(Toleration(key="nvidia.com/gpu"), Toleration(key="spot", effect=None)),
    labels={"kueue.x-k8s.io/queue-name": "gpus"}, environment={"NCCL_DEBUG": "WARN"},
)  # fmt: skip
RUN_ID = uuid.UUID(int=1)
JOB = PurePosixPath("/data/artifacts/checkpoint/77e1/.job.json")
# The oldest that is still supported by its makers, and the newest whose schemas there are.
VERSIONS = ["1.34", "1.37"]


def judge(manifest: dict[str, Any]) -> None:
    """Strict: a field that Kubernetes does not know is an error too."""
    for version in VERSIONS:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def rendered(template: dict[str, Any], run_id: uuid.UUID = RUN_ID, **variables: Any) -> dict[str, Any]:
    """The Job that the worker would create for a flow run, by its own code."""
    flow_run = FlowRun(id=run_id, flow_id=uuid.UUID(int=2), name="quiet-heron")
    # Without a client Prefect would start a server, to ask for blocks that the template does not name.
    nobody = PrefectClient("http://127.0.0.1:9/api")
    filled = KubernetesWorkerJobConfiguration.from_template_and_values(template, variables, client=nobody)
    configuration = asyncio.run(filled)
    configuration.prepare_for_flow_run(flow_run)
    return configuration.job_manifest


def pod_of(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its pod's spec, and the one container in it."""
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


def test_a_flow_run_becomes_a_job_that_kubernetes_knows():
    job = rendered(base_job_template(CLUSTER))
    judge(job)
    spec, container = pod_of(job)
    assert container["image"] == CLUSTER.image
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"] == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": 8}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert [one["key"] for one in spec["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert {one["name"]: one["mountPath"] for one in container["volumeMounts"]} == {
        "data": "/data", "shared-memory": "/dev/shm",
    }  # fmt: skip
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}} in spec["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "dora-data"}} in spec["volumes"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["metadata"]["labels"]["prefect.io/flow-run-id"] == str(RUN_ID)
    assert "{{" not in json.dumps(job)


def test_a_pod_is_told_where_things_are_and_nothing_of_the_host_that_rendered_it():
    with temporary_settings({PREFECT_HOME: "/on/the/laptop", PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        _, container = pod_of(rendered(base_job_template(CLUSTER)))
    told = variables_of(container)
    assert told["DORA_ROOT"] == "/data/artifacts" and told["NCCL_DEBUG"] == "WARN"
    assert told["PREFECT_API_URL"] == CLUSTER.api and told["PREFECT_HOME"] == "/tmp/prefect"
    assert "laptop" not in json.dumps(container) and "127.0.0.1" not in json.dumps(container)
    # With it a pod that is taken away puts its run back into the queue.
    assert told["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


def test_the_worker_is_told_what_prefect_understands(monkeypatch: pytest.MonkeyPatch):
    """By its own settings: where the password of runs is, and that it may see one namespace only."""
    _, container = pod_of(standing(CLUSTER, "kubernetes")[-1])
    for name, value in variables_of(container).items():
        monkeypatch.setenv(name, value)
    settings = KubernetesSettings()
    assert settings.worker.api_auth_string_secret_name == CLUSTER.auth_secret
    assert settings.worker.api_auth_string_secret_key == "auth-string"
    assert settings.observer.namespaces == {CLUSTER.namespace}
    assert WorkerWebserverSettings().port == container["livenessProbe"]["httpGet"]["port"]


def test_a_deployment_changes_single_variables():
    job = rendered(
        base_job_template(CLUSTER), gpus=0, cpu_request="4", node_selector={}, env={"DORA_DEVICE": "cpu"},
        claim="scratch", image="dora:2",
    )  # fmt: skip
    judge(job)
    spec, container = pod_of(job)
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "512Gi", "nvidia.com/gpu": 0}
    assert not spec["nodeSelector"] and container["image"] == "dora:2"
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "scratch"
    told = variables_of(container)
    assert told["DORA_DEVICE"] == "cpu" and told["DORA_ROOT"] == "/data/artifacts"


def test_the_pools_form_refuses_what_is_no_number_of_gpus():
    schema = base_job_template(CLUSTER)["variables"]
    Draft202012Validator.check_schema(schema)
    form = Draft202012Validator(schema)
    assert form.is_valid({"gpus": 2, "tolerations": [{"key": "spot"}]})
    assert not form.is_valid({"gpus": -1}) and not form.is_valid({"gpus": "all"})
    assert not form.is_valid({"node_selector": {"gpu": 1}})
    assert all(one.get("description") for one in schema["properties"].values())


@pytest.mark.parametrize("n_nodes", [1, 2, 16])
def test_a_training_on_several_nodes_meets_at_its_first_pod(n_nodes: int):
    service, job = training(CLUSTER, "venice", JOB, n_nodes)
    judge(service)
    judge(job)
    spec, container = pod_of(job)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == n_nodes
    assert job["spec"]["completionMode"] == "Indexed"
    assert f"--nnodes={n_nodes}" in container["args"] and "--nproc-per-node=8" in container["args"]
    assert container["args"][-2:] == ["dora.training.pretrain", str(JOB)]
    # A pod of an indexed Job is NAME-INDEX, and has that name below the Service that is its subdomain.
    assert spec["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert f"--master-addr={job['metadata']['name']}-0.{spec['subdomain']}" in container["args"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
    # Kubernetes itself puts a variable of this container in the place of $(…).
    assert "--node-rank=$(NODE_RANK)" in container["args"] and container["env"][0]["name"] == "NODE_RANK"


def test_all_that_stands_in_the_namespace_is_known_to_kubernetes():
    manifests = standing(CLUSTER, "kubernetes")
    for manifest in manifests:
        judge(manifest)
    kinds = [manifest["kind"] for manifest in manifests]
    assert kinds == ["PersistentVolumeClaim", "ServiceAccount", "ServiceAccount", "Role", "RoleBinding", "Deployment"]
    _, container = pod_of(manifests[-1])
    (password,) = [one for one in container["env"] if one["name"] == "PREFECT_API_AUTH_STRING"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "prefect-auth", "key": "auth-string"}


def test_no_pod_is_root_or_has_less_time_to_stop_than_a_training_takes_to_save():
    deployment = standing(CLUSTER, "kubernetes")[-1]
    jobs = [rendered(base_job_template(CLUSTER)), training(CLUSTER, "venice", JOB, 2)[1]]
    for manifest in [deployment, *jobs]:
        spec, container = pod_of(manifest)
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["fsGroup"] == CLUSTER.user
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all(pod_of(job)[0]["terminationGracePeriodSeconds"] > GRACE_S for job in jobs)


def test_the_judge_finds_what_prefects_own_template_has_in_the_wrong_place():
    """So a misspelt field of ours would be found too."""
    job = training(CLUSTER, "venice", JOB, 2)[1]
    job["spec"]["template"]["spec"]["completions"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="completions"):
        judge(job)


@pytest.mark.parametrize("arguments", [["standing"], ["pool"], ["training", str(JOB), "--nodes", "4"]])
def test_the_command_prints_manifests_of_the_example(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*arguments, "--cluster", str(EXAMPLE)]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    if arguments == ["pool"]:
        printed = [rendered(printed[0])]
    for manifest in printed:
        judge(manifest)


@pytest.mark.parametrize(
    ("values", "arguments", "says"),
    [
        ({"gpu": 8}, ["standing"], "gpu: Extra inputs are not permitted"),
        ({"gpus": -1}, ["standing"], "gpus: Input should be greater than or equal to 0"),
        ({"memory": "lots"}, ["standing"], "memory: "),
        ({"image": "dora"}, ["standing"], "image: "),
        ({"namespace": "Our_Lab"}, ["standing"], "namespace: "),
        ({}, ["training", "/elsewhere/.job.json", "--nodes", "2"], "job must lie below /data"),
        ({}, ["training", "/data/../etc/.job.json", "--nodes", "2"], "job must lie below /data"),
        ({}, ["training", str(JOB), "--nodes", "0"], "a training needs nodes"),
        ({}, ["training", str(JOB), "--nodes", "2", "--name", "Venice walk"], "should match pattern"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_path(
    values: dict[str, Any], arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"image": "dora:1"} | values))
    assert main([*arguments, "--cluster", str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and says in said.err and not said.out


def test_a_cluster_without_values_is_told_where_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["standing", "--cluster", str(tmp_path / "none.yaml")]) == 2
    assert "Begin with infra/kubernetes/cluster.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_whose_pod_is_taken_away_goes_back_into_the_queue(tmp_path: Path):
    """The pod's own command with its own variables, but for those that name places in the cluster."""
    with services.prefect(tmp_path / "root", worker=False) as server:
        api = {"PREFECT_API_URL": f"{server.url}/api"}
        subprocess.run([sys.executable, "-m", "infra.team"], env=os.environ | api, cwd=tmp_path, check=True)
        demo = server.call("GET", "/deployments/name/dora/demo")
        asked = {"parameters": {"until": "acquire", "overrides": ["videos.0.duration_s=600"]}}
        run = server.call("POST", f"/deployments/{demo['id']}/create_flow_run", asked)
        _, container = pod_of(rendered(base_job_template(CLUSTER), uuid.UUID(run["id"])))
        here = api | {"DORA_ROOT": str(tmp_path), "PREFECT_HOME": str(tmp_path), "HOME": str(tmp_path)}
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        output = tmp_path / "output"
        with output.open("w") as file:
            pod = subprocess.Popen(
                container["args"], env=os.environ | variables_of(container) | here | path, cwd=tmp_path,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            while "making video" not in output.read_text():
                assert pod.poll() is None, output.read_text()
                time.sleep(0.2)
            pod.terminate()
            assert pod.wait(60) == 0, output.read_text()
        finally:
            pod.kill()
            pod.wait()
        assert server.call("GET", f"/flow_runs/{run['id']}")["state"]["name"] == "AwaitingRetry"
