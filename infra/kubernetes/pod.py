"""What the pods of runs and of trainings have in common."""

from typing import Any

from dora.launch import GRACE_S
from infra.kubernetes.cluster import Cluster

DATA, SHARED_MEMORY = "data", "shared-memory"
# Training saves its state within GRACE_S; then Prefect still tells its server.
TERMINATION_GRACE_S = round(GRACE_S) + 30
WRITABLE_HOME = "/tmp"  # with any user id; caches of torch.compile, matplotlib and Prefect go below


def metadata(cluster: Cluster, name: str) -> dict[str, Any]:
    """Of an object of ours."""
    return {"name": name, "namespace": cluster.namespace, "labels": labels(cluster)}


def labels(cluster: Cluster) -> dict[str, str]:
    """Of every object of ours, so that one selector finds them all."""
    return {"app.kubernetes.io/part-of": "dora"} | cluster.labels


def environment(cluster: Cluster) -> dict[str, str]:
    """Variables of every container, without secrets."""
    ours = {
        "DORA_ROOT": f"{cluster.folder}/artifacts",
        "HOME": WRITABLE_HOME,
        "PREFECT_HOME": f"{WRITABLE_HOME}/prefect",
        "PREFECT_API_URL": cluster.api,
    }
    return ours | cluster.environment


def as_list(variables: dict[str, str]) -> list[dict[str, Any]]:
    """Variables as a container has them."""
    return [{"name": name, "value": value} for name, value in variables.items()]


def auth_string(cluster: Cluster) -> dict[str, Any]:
    """The variable with which Prefect's server lets a container in, read from the Secret by Kubernetes itself."""
    reference = {"name": cluster.auth_secret, "key": "auth-string"}
    return {"name": "PREFECT_API_AUTH_STRING", "valueFrom": {"secretKeyRef": reference}}


def resources(cluster: Cluster) -> dict[str, Any]:
    """Requests and limits alike, so that a pod is the last to be evicted (quality of service: Guaranteed)."""
    amounts: dict[str, Any] = {"cpu": cluster.cpu, "memory": cluster.memory}
    if cluster.gpus:
        amounts[cluster.gpu_resource] = cluster.gpus
    return {"requests": amounts, "limits": dict(amounts)}


def pod_security(cluster: Cluster) -> dict[str, Any]:
    """No root; new files on the volume belong to a group that every pod is in. "Restricted" in Kubernetes' words."""
    return {
        "runAsNonRoot": True,
        "runAsUser": cluster.user,
        "runAsGroup": cluster.user,
        "fsGroup": cluster.user,
        "fsGroupChangePolicy": "OnRootMismatch",  # else every start walks through millions of files
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Nothing that a training needs is a privilege."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def mounts(cluster: Cluster) -> list[dict[str, Any]]:
    """The data, and shared memory."""
    return [{"name": DATA, "mountPath": cluster.folder}, {"name": SHARED_MEMORY, "mountPath": "/dev/shm"}]


def volumes(claim: str, shared_memory: str) -> list[dict[str, Any]]:
    """For `mounts`."""
    return [
        {"name": DATA, "persistentVolumeClaim": {"claimName": claim}},
        {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]


def tolerations(cluster: Cluster) -> list[dict[str, Any]]:
    """As a pod has them."""
    return [one.model_dump(exclude_none=True) for one in cluster.tolerations]
