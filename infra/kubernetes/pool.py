"""The base job template of a work pool of type `kubernetes`: every flow run becomes a Job of one pod."""

import copy
from typing import Any

from prefect_kubernetes import KubernetesWorker

from infra.kubernetes import pod
from infra.kubernetes.cluster import Cluster

KEPT_S = 24 * 3600  # finished Jobs, and with them their pods' output


def base_job_template(cluster: Cluster) -> dict[str, Any]:
    """Prefect's own template with GPUs, shared memory, the claim, node selector and tolerations as variables.

    A deployment, or one run, replaces any of them: `--job-variable gpus=8`.
    """
    template = copy.deepcopy(KubernetesWorker.get_default_base_job_template())
    _fill(template["variables"]["properties"], cluster)
    template["variables"]["properties"] |= _variables(cluster)
    manifest = template["job_configuration"]["job_manifest"]
    manifest["metadata"]["labels"] = "{{ labels }}"
    # Prefect's template has a Job's fields in the pod's spec, which Kubernetes refuses or drops.
    manifest["spec"] = {
        "backoffLimit": "{{ backoff_limit }}",
        "completions": 1,
        "parallelism": 1,
        "ttlSecondsAfterFinished": "{{ finished_job_ttl }}",
        "template": {"metadata": {"labels": pod.labels(cluster)}, "spec": _pod(cluster)},
    }
    return template


def _pod(cluster: Cluster) -> dict[str, Any]:
    amounts = {"cpu": "{{ cpu_request }}", "memory": "{{ memory_request }}", cluster.gpu_resource: "{{ gpus }}"}
    return {
        "restartPolicy": "Never",  # a new pod is Prefect's decision: it knows what the run was told
        "terminationGracePeriodSeconds": pod.TERMINATION_GRACE_S,
        "serviceAccountName": "{{ service_account_name }}",
        "automountServiceAccountToken": False,
        "nodeSelector": "{{ node_selector }}",
        "tolerations": "{{ tolerations }}",
        "securityContext": pod.pod_security(cluster),
        "containers": [
            {
                "name": "prefect-job",
                "image": "{{ image }}",
                "imagePullPolicy": "{{ image_pull_policy }}",
                "args": "{{ command }}",  # the image's entry point stays: it passes signals on
                "workingDir": "{{ folder }}",
                "env": "{{ env }}",
                "resources": {"requests": amounts, "limits": dict(amounts)},
                "securityContext": pod.container_security(),
                "volumeMounts": [
                    {"name": pod.DATA, "mountPath": "{{ folder }}"},
                    {"name": pod.SHARED_MEMORY, "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": pod.volumes("{{ claim }}", "{{ shared_memory }}"),
    }


def _fill(properties: dict[str, Any], cluster: Cluster) -> None:
    """Give Prefect's own variables this cluster's values."""
    defaults = {
        "namespace": cluster.namespace,
        "image": cluster.image,
        "env": pod.environment(cluster),
        "labels": pod.labels(cluster),
        "cpu_request": cluster.cpu,
        "memory_request": cluster.memory,
        "finished_job_ttl": KEPT_S,
        "service_account_name": "dora-run",
        # A pod that waits for a GPU, or pulls the image for the first time, is not lost.
        "pod_watch_timeout_seconds": 24 * 3600,
    }
    for name, value in defaults.items():
        properties[name]["default"] = value
    for name in ("cpu_limit", "memory_limit"):  # requests and limits alike: one variable for both
        del properties[name]


def _variables(cluster: Cluster) -> dict[str, Any]:
    """Variables that Prefect's template lacks, described as Cluster's fields are."""
    values: dict[str, tuple[str, Any]] = {
        "gpus": ("integer", cluster.gpus),
        "claim": ("string", cluster.claim),
        "folder": ("string", cluster.folder),
        "shared_memory": ("string", cluster.shared_memory),
        "node_selector": ("object", cluster.node_selector),
        "tolerations": ("array", pod.tolerations(cluster)),
    }
    fields = type(cluster).model_fields
    made: dict[str, Any] = {
        name: {
            "type": kind, "default": default, "description": fields[name].description,
            "title": name.replace("_", " ").capitalize(),
        }
        for name, (kind, default) in values.items()
    }  # fmt: skip
    made["gpus"] |= {"title": "GPUs", "minimum": 0}
    made["node_selector"]["additionalProperties"] = {"type": "string"}
    made["tolerations"]["items"] = {"type": "object"}
    return made
