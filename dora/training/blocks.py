"""What is done to a network block by block: compiled, computed twice, shared among processes.

The last block is left out: its parts are called one by one (dora/method/vit.py), so nothing that acts around a call of
it would ever act.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from dora.method.network import Network


def compile_blocks(network: Network) -> None:
    """Have torch.compile translate the blocks at their first call; before `shard_blocks`, if at all.

    Parameters and their names stay as they are.
    """
    for block in _blocks(network):
        block.compile()


def recompute_blocks(network: Network) -> None:
    """Keep a block's input for the backward pass, not what it computes from it: a third more work, far less memory."""
    network.backbone.set_grad_checkpointing(True)


def shard_blocks(network: Network, mesh: DeviceMesh) -> None:
    """Leave each process of the mesh its share of every parameter (FSDP2); the whole of a block only while it is used.

    What is no block is one more unit: it is whole while `network(work, …)` runs.
    """
    for module in [*_blocks(network), network]:
        # Also the root, whom torch would leave whole until a backward pass: a teacher has none, and would not see
        # how its parameters have moved meanwhile.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(network: Network) -> list[nn.Module]:
    return list(network.backbone.blocks[:-1])
