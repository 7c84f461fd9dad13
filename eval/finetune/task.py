"""What is learnt, and what learning it took."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from eval.benchmark import Cost
from eval.finetune.training import Training

__all__ = ["Spent", "Task", "Training"]


@dataclass(frozen=True)
class Task:
    """A model, its samples, its losses, and how fast it learns."""

    model: nn.Module
    """On the device. What is trained has requires_grad; alike on all ranks (seed torch before building it)."""

    loss: Callable[[nn.Module, list[Any]], dict[str, Tensor]]
    """Scalars of a micro-batch of samples, the same names each time. Those that have "loss" in their name are added up
    and descended; all are logged, and their sum as "loss". Means over samples, so that a batch may be split."""

    read: Callable[[int], Any]
    """A training sample by its number, on the CPU; in a loader process if the machine has some. `random`, `np.random`
    and torch are seeded before each call. It raises ValueError or OSError, with the file's name, for a broken one."""

    n_samples: int

    groups: list[dict[str, Any]]
    """For the optimizer: params, lr (its peak), weight_decay."""

    lr_factor: Callable[[int], float]
    """What every group's lr is multiplied with in an iteration, counted from 0 (eval/finetune/rates.py)."""

    order: Callable[[int], int] | None = None
    """Which sample is at a position of the endless stream; None: pass after pass, each shuffled anew."""

    least_at_once: int = 1
    """Samples of all ranks together that the model has to see at once; 2 where a batch norm follows global pooling."""

    optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None
    """Made of the groups; None: AdamW. The tensors that it remembers of each weight are kept in a state."""

    after: Callable[[int], None] | None = None
    """Called with the number of iterations done, on every rank, before a state of them is saved: a run that was killed
    calls it again with the same weights, and none is ever left out. It leaves the model as it finds it, tells the team
    equally often on every rank (Team.tell), and may use torch's generators: each iteration seeds them."""


class Spent(NamedTuple):
    """What the run took until now, and what has to be said beside its numbers."""

    cost: Cost
    notes: tuple[str, ...]
