"""One training process or several under torchrun: who am I, what do all ranks' numbers add up to, must we stop."""

import logging
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Literal, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dora.launch import die_with_parent
from dora.method.network import Network
from dora.training.blocks import shard_blocks

log = logging.getLogger("dora.distributed")

T = TypeVar("T")

# torch's own patience is longer: where it ends, NCCL aborts the process, and nobody says why (dora/training/peers.py).
EXTRA_PATIENCE_S = 15.0
GLOO_REST_S = 0.1


class Ranks(NamedTuple):
    """One process among all processes of the run: the one that holds this value."""

    rank: int
    world_size: int
    device: torch.device

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by the sum over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def decided_by_first(self, decide: Callable[[], T]) -> T:
        """What `decide` returns or raises (ValueError, OSError) on rank 0, on every rank."""
        if self.world_size == 1:
            return decide()
        decision: list[tuple[T | None, ValueError | OSError | None]] = [(None, None)]
        if self.rank == 0:
            try:
                decision = [(decide(), None)]
            except (ValueError, OSError) as error:
                decision = [(None, error)]
        dist.broadcast_object_list(decision, device=self.device)
        ((value, error),) = decision
        if error is not None:
            raise error
        return cast(T, value)

    def wrap(self, network: Network, parallel: Literal["ddp", "fsdp"]) -> nn.Module:
        """The network whose gradients are averaged over all ranks after each backward; call it in the network's place.

        fsdp shares the network's own parameters out among the ranks: build the optimiser and load weights after it.
        """
        if self.world_size == 1:
            return network
        if parallel == "fsdp":
            shard_blocks(network, init_device_mesh(self.device.type, (self.world_size,)))
            return network
        if not any(parameter.requires_grad for parameter in network.parameters()):
            return network  # a teacher: its copies on all ranks move alike
        on_cuda = self.device.type == "cuda"
        return DistributedDataParallel(network, device_ids=[self.device] if on_cuda else None)


@contextmanager
def without_sync(network: nn.Module) -> Generator[None]:
    """In this block gradients only pile up on each rank: for all of a step's backward passes but the last."""
    if isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    elif isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            network.set_requires_gradient_sync(True)
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which each rank has a share, put together; all ranks take part. Another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The share that this rank has of a tensor, in place; of another one, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_as(tensor: Tensor, model: Tensor) -> Tensor:
    """A copy of a whole tensor where and how `model` is kept; every rank has the whole and takes its share."""
    tensor = tensor.to(model.device)
    if isinstance(model, DTensor):
        tensor = distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)
    return tensor.clone()


@contextmanager
def process_group(device: Literal["auto", "cpu", "cuda"], timeout_s: float) -> Generator[Ranks]:
    """Join the other processes if torchrun started this one; alone otherwise.

    Who waits for another rank much longer than `timeout_s` gives up.

    Raises:
        ValueError: if cuda is asked for and there is none, or fewer GPUs than processes on this host.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    n_gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not n_gpus:
        raise ValueError("Machine.device is cuda, but torch sees no GPU here. Set it to auto or cpu.")
    if n_gpus and local_rank >= n_gpus:
        raise ValueError(
            f"process {local_rank} has no GPU of its own, as this host has {n_gpus}. "
            f"Lower Machine.n_processes to {n_gpus}."
        )
    here = torch.device("cuda", local_rank) if n_gpus else torch.device("cpu")
    if n_gpus:
        torch.cuda.set_device(here)
    if "RANK" not in os.environ:
        yield Ranks(0, 1, here)
        return
    die_with_parent()  # a torchrun that is killed would leave its ranks training
    dist.init_process_group(
        "nccl" if n_gpus else "gloo", device_id=here if n_gpus else None,
        timeout=timedelta(seconds=timeout_s + EXTRA_PATIENCE_S),
    )  # fmt: skip
    try:
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), here)
        if ranks.rank:
            logging.getLogger("dora").setLevel(logging.WARNING)
        yield ranks
    finally:
        dist.destroy_process_group()
        # What wraps networks keeps gloo's threads alive. One that lets go of the last exchange's Python objects only
        # when the interpreter ends would abort the process.
        time.sleep(0 if n_gpus else GLOO_REST_S)


class StopSignals:
    """Remembers SIGTERM and SIGUSR1 (Slurm's warning before the end) instead of dying of them."""

    def __init__(self) -> None:
        self._received = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._remember)

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = True
