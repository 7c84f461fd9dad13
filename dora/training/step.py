"""One training step: gradients and numbers of a whole batch, then the update.

A step sees `clips_per_batch` clips, spread over ranks and micro-batches. Whatever the spread, loss, gradient, centres
and teacher are those of the whole batch: each part counts by its share of the clips, and what is added up is added up
over parts and ranks before it is used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dora.data.augment import Views
from dora.method.objective import Moment, Objective, update_center_
from dora.training.checkpoint import TrainingState
from dora.training.distributed import Ranks, without_sync
from dora.training.optimizer import clip_gradients, freeze_last_layer, set_rates, update_teacher
from dora.training.schedule import Schedules

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Batch(NamedTuple):
    """What a whole batch comes to, the same on every rank; its gradients lie in the student."""

    means: Mapping[str, Float[Tensor, "_K"]]  # the teacher's mean logits, for each centre
    numbers: dict[str, Float[Tensor, ""]]


class Totals:
    """Sums over the parts of a batch, each part counting by its share of the clips."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, share: float, values: Mapping[str, Tensor]) -> None:
        """Add a part's values."""
        for name, value in values.items():
            before = self._sums.get(name)
            self._sums[name] = share * value.detach().float() + (0 if before is None else before)

    def over_ranks(self, ranks: Ranks) -> dict[str, Tensor]:
        """The sums over all ranks, in one exchange."""
        names = sorted(self._sums)
        flat = torch.cat([self._sums[name].reshape(-1) for name in names])
        ranks.sum_(flat)
        parts = flat.split([self._sums[name].numel() for name in names])
        return {name: part.view_as(self._sums[name]) for name, part in zip(names, parts, strict=True)}


def backward(
    state: TrainingState, student: nn.Module, objective: Objective, parts: Iterator[Views], n_parts: int, *,
    moment: Moment, ranks: Ranks, asks: Mapping[str, bool], when_read: Callable[[], None],
) -> Batch:  # fmt: skip
    """The batch's gradients, from this rank's micro-batches; `student` is the state's, or a wrapper of it.

    What any rank asks for is among the numbers, above 0, on all of them. `when_read` is called once the first clips
    are there, before any rank waits for another.
    """
    config, totals = state.config, Totals()
    autocast = torch.autocast(ranks.device.type, DTYPES[config.precision], config.precision != "fp32")
    for part in range(n_parts):
        views = next(parts)
        if part == 0:
            when_read()
        share = views.global_views.shape[1] / config.clips_per_batch
        with autocast:
            lesson = objective.teach(state.teacher, views, state.centers, moment)
        totals.add(share, {f"means/{name}": mean for name, mean in lesson.means.items()})
        totals.add(share, {**lesson.numbers, "direction": lesson.direction})
        for number, task in enumerate(lesson.tasks, start=1):
            is_last = part == n_parts - 1 and number == len(lesson.tasks)
            with nullcontext() if is_last else without_sync(student):
                with autocast:
                    loss, numbers = task(student)
                # Gradients are averaged over the ranks; we want the plain sum of the shares.
                state.scaler.scale(loss * (share * ranks.world_size)).backward()
            totals.add(share, {**numbers, "loss": loss})
    totals.add(1.0, {name: torch.tensor(float(asked), device=ranks.device) for name, asked in asks.items()})
    sums = totals.over_ranks(ranks)
    # Tokens of length 1 have a mean of length 1 if they are all alike.
    sums["feature_spread"] = 1 - sums.pop("direction").square().sum()
    means = {name: sums.pop(f"means/{name}") for name in objective.centers}
    return Batch(means, sums)


def floats(numbers: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers, fetched from the device in one go."""
    return dict(zip(numbers, torch.stack([*numbers.values()]).tolist(), strict=True))


def set_step_rates(state: TrainingState, schedules: Schedules) -> dict[str, float]:
    """Set this step's learning rate and weight decay; these and the teacher's momentum, for the log."""
    step = state.step
    rates = {
        "lr": schedules.lr(step),
        "weight_decay": schedules.weight_decay(step),
        "teacher_momentum": schedules.teacher_momentum(step),
    }
    set_rates(state.optimizer, lr=rates["lr"], weight_decay=rates["weight_decay"])
    return rates


def clipped_norm(state: TrainingState) -> Float[Tensor, ""]:
    """Clip the gradients; the norm that all of them had together."""
    config = state.config
    state.scaler.unscale_(state.optimizer)
    return clip_gradients(state.student.parameters(), config.optimizer.clip_grad_norm, by=config.optimizer.clip_grad)


def update(state: TrainingState, objective: Objective, batch: Batch, *, epoch: int, teacher_momentum: float) -> None:
    """Move student, teacher and centres, in DINO's order."""
    config = state.config
    freeze_last_layer(state.student, epoch=epoch, n_epochs=config.optimizer.freeze_last_layer_epochs)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    update_teacher(state.teacher, state.student, teacher_momentum)
    for name, center in state.centers.items():
        update_center_(center, batch.means[name], objective.center_momentum[name])
