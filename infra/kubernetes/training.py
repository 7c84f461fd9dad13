"""A pretraining on several nodes: an indexed Job with a torchrun in each pod, and the Service by which they meet."""

from pathlib import PurePosixPath
from typing import Any

from infra.kubernetes import pod
from infra.kubernetes.cluster import Cluster

PORT = 29500  # torchrun's own choice
PYTHON = "/opt/venv/bin/python"  # infra/Dockerfile
RANK = "batch.kubernetes.io/job-completion-index"  # an annotation of every pod of an indexed Job
WAIT_S = 3600  # for the other pods, of which some may wait for a node; torchrun's own 600 s are soon over
# A pod that is taken away ends the others' pods too: they cannot go on alone.
FAILURES_PER_NODE = 10


def training(cluster: Cluster, name: str, job: PurePosixPath, n_nodes: int) -> list[dict[str, Any]]:
    """Service and Job that train what `job` says, the `.job.json` of a checkpoint's folder on the claim.

    Pods start in any order: torchrun waits for the first one. If one is lost, all start again and go on from the
    newest state. What a node's loss costs is not counted when Kubernetes itself took the node.

    Raises:
        ValueError: for a job that is not on the claim, or without GPUs or nodes.
    """
    if not job.is_relative_to(cluster.folder) or ".." in job.parts:
        raise ValueError(f"job must lie below {cluster.folder}, where pods see the claim, but is {job}.")
    if n_nodes < 1 or cluster.gpus < 1:
        raise ValueError(f"a training needs nodes and GPUs, but got {n_nodes} nodes with {cluster.gpus} GPUs each.")
    return [_service(cluster, name), _job(cluster, name, job, n_nodes)]


def _service(cluster: Cluster, name: str) -> dict[str, Any]:
    """Headless: it only gives the Job's pods names, before they are ready too."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pod.metadata(cluster, name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": name},
            "ports": [{"name": "torchrun", "port": PORT}],
        },
    }


def _job(cluster: Cluster, name: str, job: PurePosixPath, n_nodes: int) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": pod.metadata(cluster, name),
        "spec": {
            "completionMode": "Indexed",
            "completions": n_nodes,
            "parallelism": n_nodes,
            "backoffLimit": FAILURES_PER_NODE * n_nodes,
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {"metadata": {"labels": pod.labels(cluster)}, "spec": _pod(cluster, name, job, n_nodes)},
        },
    }


def _pod(cluster: Cluster, name: str, job: PurePosixPath, n_nodes: int) -> dict[str, Any]:
    torchrun = [
        PYTHON, "-m", "torch.distributed.run", f"--nnodes={n_nodes}", "--node-rank=$(NODE_RANK)",
        f"--nproc-per-node={cluster.gpus}", "--rdzv-backend=static", f"--master-addr={name}-0.{name}",
        f"--master-port={PORT}", f"--rdzv-conf=timeout={WAIT_S}", f"--shutdown-timeout={pod.TERMINATION_GRACE_S - 10}",
    ]  # fmt: skip
    rank = {"name": "NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{RANK}']"}}}
    return {
        "subdomain": name,  # with it a pod of an indexed Job is called NAME-INDEX.NAME
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pod.TERMINATION_GRACE_S,
        "automountServiceAccountToken": False,
        "nodeSelector": cluster.node_selector,
        "tolerations": pod.tolerations(cluster),
        "securityContext": pod.pod_security(cluster),
        "containers": [
            {
                "name": "training",
                "image": cluster.image,
                "args": [*torchrun, "-m", "dora.training.pretrain", str(job)],
                "workingDir": cluster.folder,
                "env": [rank, *pod.as_list(pod.environment(cluster))],
                "ports": [{"name": "torchrun", "containerPort": PORT}],
                "resources": pod.resources(cluster),
                "securityContext": pod.container_security(),
                "volumeMounts": pod.mounts(cluster),
            }
        ],
        "volumes": pod.volumes(cluster.claim, cluster.shared_memory),
    }
