"""A network that no training made, as a checkpoint file that benchmarks measure like any other."""

from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from dora.artifacts import Checkpoint, Machine
from dora.config import BackboneConfig
from dora.lease import Lease
from dora.training.checkpoint import FORMAT
from dora.training.tensor_file import write_tensors
from eval.benchmark import checkpoint_from_file


def write_network(path: Path, vit: VisionTransformer, backbone: BackboneConfig, machine: Machine) -> Checkpoint:
    """The file at `path`, whose network is of this architecture. Runs that share a root may write it at once.

    Raises:
        OSError: if there is no space or no right to write.
    """
    tensors = {f"teacher.backbone.{name}": value for name, value in vit.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lease(path.parent, timeout_s=machine.lease_timeout_s):
        write_tensors(path, tensors, {"format": FORMAT, "step": 0, "config": {"backbone": backbone.model_dump()}})
        return checkpoint_from_file(path)
