"""One training process or several under torchrun: who am I, what do all ranks' numbers add up to, must we stop."""

import logging
import os
import signal
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dora.launch import die_with_parent

log = logging.getLogger("dora.distributed")


class Ranks(NamedTuple):
    """One process among all processes of the run: the one that holds this value."""

    rank: int
    world_size: int
    device: torch.device

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by the sum over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over all ranks after each backward."""
        if self.world_size == 1:
            return network
        on_cuda = self.device.type == "cuda"
        return DistributedDataParallel(network, device_ids=[self.device] if on_cuda else None)


def without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """In this block gradients only pile up on each rank: for all micro-batches of a step but the last."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def process_group(device: Literal["auto", "cpu", "cuda"]) -> Generator[Ranks]:
    """Join the other processes if torchrun started this one; alone otherwise.

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
    dist.init_process_group("nccl" if n_gpus else "gloo", device_id=here if n_gpus else None)
    try:
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), here)
        if ranks.rank:
            logging.getLogger("dora").setLevel(logging.WARNING)
        yield ranks
    finally:
        dist.destroy_process_group()


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
