"""What is to be known of a Kubernetes cluster, as typed values; what they are used for stands in pod.py."""

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from dora.config import Frozen

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names (RFC 1123 labels) and
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity, without exponents.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Folder = Annotated[str, StringConstraints(pattern=r"^/.*[^/]$")]
# A tag or a digest must be named: "latest" is another image tomorrow.
Image = Annotated[str, StringConstraints(pattern=re.compile(r"^[^@\s]+(:[\w][\w.-]*|@sha256:[0-9a-f]{64})$"))]


class Toleration(Frozen):
    """Lets pods onto nodes with a taint, such as those that are kept for GPUs or may be taken away."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = Field(default=None, description="for Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default="NoSchedule", description="null: every effect"
    )


class Cluster(Frozen):
    """Where pods of this project run and what they ask for. None of it changes a number of a benchmark."""

    image: Image = Field(description="made of infra/Dockerfile and pushed where the cluster can pull it; with its tag")
    namespace: Name = "dora"
    api: str = Field(
        default="http://prefect-server:4200/api", description="address of Prefect's server as seen from a pod"
    )
    auth_secret: Name = Field(
        default="prefect-auth", description="Secret whose `auth-string` is what Prefect's server asks for"
    )
    claim: Name = Field(default="dora-data", description="PersistentVolumeClaim, ReadWriteMany for several nodes")
    storage: Quantity = Field(default="2Ti", description="size to claim")
    storage_class: str | None = Field(default=None, description="null: the cluster's default")
    folder: Folder = Field(default="/data", description="where the claim is mounted; machine.toml is looked for there")
    gpus: int = Field(default=1, ge=0, description="of a pod")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="what the device plugin calls a GPU")
    cpu: Quantity = Field(default="8", description="cores of a pod")
    memory: Quantity = Field(default="64Gi", description="of a pod; its shared memory counts")
    shared_memory: Quantity = Field(
        default="16Gi", description="/dev/shm, for loader processes and NCCL; Kubernetes gives 64 MiB"
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels of the nodes that may be taken")
    tolerations: tuple[Toleration, ...] = Field(
        default=(Toleration(key="nvidia.com/gpu"),), description="taints that are no hindrance"
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="of every Job, e.g. kueue.x-k8s.io/queue-name: gpus"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="of every container, e.g. NCCL_SOCKET_IFNAME: eth0"
    )
    user: int = Field(default=10001, ge=1, description="id of user and group; the claim's files belong to the group")
