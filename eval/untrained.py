"""Networks that have learnt nothing, to measure beside one that has."""

import hashlib
from collections.abc import Sequence

from dora.artifacts import Checkpoint, Machine
from dora.config import BackboneConfig


def untrained(backbone: BackboneConfig, machine: Machine, *, seeds: Sequence[int]) -> list[Checkpoint]:
    """Files with networks of an architecture, initialised at random, in root/untrained."""
    import torch

    from dora.method.vit import build_vit
    from eval.network_file import write_network

    digits = hashlib.sha256(backbone.model_dump_json().encode()).hexdigest()[:16]
    files: list[Checkpoint] = []
    for seed in seeds:
        torch.manual_seed(seed)
        vit = build_vit(backbone, drop_path=False)
        path = machine.root / "untrained" / f"{digits}-seed-{seed}.safetensors"
        files.append(write_network(path, vit, backbone, machine))
    return files
