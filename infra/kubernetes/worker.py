"""What must stand in the namespace before runs can: the claim, permissions, and Prefect's worker."""

from typing import Any

from infra.kubernetes import pod
from infra.kubernetes.cluster import Cluster

WORKER = "dora-worker"
RUN = "dora-run"
HEALTH_PORT = 8080
WATCH = ["get", "list", "watch"]
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": [*WATCH, "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "pods/status", "events"], "verbs": WATCH},
]


def standing(cluster: Cluster, pool: str) -> list[dict[str, Any]]:
    """The objects to apply once. The Secret with Prefect's password is not among them: it is made by hand."""
    worker_role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": WORKER}
    worker_account = {"kind": "ServiceAccount", "name": WORKER, "namespace": cluster.namespace}
    return [
        _claim(cluster),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": pod.metadata(cluster, WORKER)},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": pod.metadata(cluster, RUN)},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": pod.metadata(cluster, WORKER),
            "rules": RULES,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": pod.metadata(cluster, WORKER),
            "roleRef": worker_role,
            "subjects": [worker_account],
        },
        _deployment(cluster, pool),
    ]


def _claim(cluster: Cluster) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": cluster.storage}},
    }
    if cluster.storage_class:
        spec["storageClassName"] = cluster.storage_class
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": pod.metadata(cluster, cluster.claim), "spec": spec,
    }  # fmt: skip


def _deployment(cluster: Cluster, pool: str) -> dict[str, Any]:
    mine = {"app.kubernetes.io/name": WORKER}
    small = {"cpu": "500m", "memory": "1Gi"}
    settings = pod.environment(cluster) | {
        # Runs get the password by reference too; otherwise it would stand in every Job.
        "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME": cluster.auth_secret,
        "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY": "auth-string",
        "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": cluster.namespace,  # it may see no other
        "PREFECT_WORKER_WEBSERVER_PORT": str(HEALTH_PORT),
    }
    probe = {"httpGet": {"path": "/health", "port": HEALTH_PORT}, "periodSeconds": 30, "timeoutSeconds": 5}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pod.metadata(cluster, WORKER),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": mine},
            "template": {
                "metadata": {"labels": pod.labels(cluster) | mine},
                "spec": {
                    "serviceAccountName": WORKER,
                    "securityContext": pod.pod_security(cluster),
                    "containers": [
                        {
                            "name": "worker",
                            "image": cluster.image,
                            "args": [
                                "prefect",
                                "worker",
                                "start",
                                "--pool",
                                pool,
                                "--type",
                                "kubernetes",
                                "--with-healthcheck",
                            ],
                            "env": [*pod.as_list(settings), pod.auth_string(cluster)],
                            "resources": {"requests": small, "limits": dict(small)},
                            "securityContext": pod.container_security(),
                            "startupProbe": probe | {"periodSeconds": 5, "failureThreshold": 60},
                            "livenessProbe": probe | {"failureThreshold": 4},
                        }
                    ],
                },
            },
        },
    }
