"""What DoRA, DINO and iBOT have in common: a teacher's lesson, which the student takes task by task.

A step is linear in its clips, or in the groups of them that are seen together (`clips_together`): loss, numbers and
centre of a batch are the means over its micro-batches, weighted by their clips. Whoever writes an objective keeps it
so, and gradient accumulation stays exact.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dora.config import IbotConfig, LossConfig
from dora.data.augment import Views
from dora.method.network import Network


class Moment(NamedTuple):
    """When in a training a step is: what its schedules and draws depend on."""

    step: int
    epoch: int


def teacher_temperature(config: LossConfig | IbotConfig, epoch: int) -> float:
    """Linear over the warm-up epochs, both ends included, then constant: DINO's schedule."""
    start, end = config.warmup_teacher_temperature, config.teacher_temperature
    n_warmup = config.warmup_teacher_temperature_epochs
    return end if epoch >= n_warmup else start + (end - start) * epoch / max(n_warmup - 1, 1)


class Loss(NamedTuple):
    """What the student lost in one task. Numbers of one name add up over a lesson's tasks."""

    loss: Float[Tensor, ""]  # with its weight in the step's loss; carries the gradient
    numbers: Mapping[str, Float[Tensor, ""]]  # for the log, without gradient


Task = Callable[[nn.Module], Loss]


class Lesson(NamedTuple):
    """What the teacher makes of a micro-batch.

    The step's loss is the sum over `tasks`. Each is called with the student, a Network or a wrapper of one (DDP,
    FSDP), and calls that once; its gradient is taken before the next task is called, so that no two keep their
    activations at a time.
    """

    tasks: list[Task]
    means: Mapping[str, Float[Tensor, "_K"]]  # the teacher's mean logits, for each centre
    direction: Float[Tensor, "D"]  # `mean_direction` of the teacher's [CLS] tokens, which tells a collapse
    numbers: Mapping[str, Float[Tensor, ""]]  # for the log
    masks: Bool[Tensor, "O T B h w"] | None = None  # DoRA's


@runtime_checkable
class Objective(Protocol):
    """Built from a PretrainConfig; holds no state that a step changes."""

    centers: Mapping[str, int]  # name -> number of prototypes
    center_momentum: Mapping[str, float]

    def teach(
        self, teacher: Network, views: Views, centers: Mapping[str, Float[Tensor, "_K"]], moment: Moment
    ) -> Lesson:
        """Let the teacher look at a micro-batch."""
        ...


def mean_direction(cls: Float[Tensor, "R D"]) -> Float[Tensor, "D"]:
    """The mean of the tokens at length 1. Its own length is 1 if all are alike and 0 if they point everywhere."""
    return torch.nn.functional.normalize(cls.float(), dim=-1).mean(0)


def update_center_(center: Float[Tensor, "K"], mean: Float[Tensor, "K"], momentum: float) -> None:
    """Move the running mean of the teacher's logits; `mean` is over all tokens, clips and ranks of a step."""
    center.lerp_(mean.to(center.dtype), 1 - momentum)
