"""One iteration: the whole batch's gradients, a step, and the numbers, which arrive while the next one runs."""

import math
import os
import sys
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dora.seeds import derived_seed
from dora.training.distributed import Ranks, without_sync
from eval.finetune import broken
from eval.finetune.batches import Batches
from eval.finetune.samples import seed_all
from eval.finetune.state import State
from eval.finetune.task import Task
from eval.finetune.team import Team
from eval.finetune.training import Training

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# fp16's scale begins at 2^16 and is halved by each: after so many it is not the scale's fault.
MAX_SKIPPED = 20
# Beside the losses in what ranks exchange: above 0 if any rank asks for it, or has found a broken sample.
STOP, SAVE, BROKEN = ".stop", ".save", ".broken"


class Lesson(nn.Module):
    """What is wrapped for several ranks: a micro-batch's loss, and all its numbers."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._loss = task.model, task.loss

    def forward(self, samples: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to descend, and every number to log, detached."""
        numbers = self._loss(self.model, samples)
        losses = [value.float() for name, value in numbers.items() if "loss" in name]
        if not losses:
            raise ValueError(f"expected a number with 'loss' in its name, got {', '.join(numbers) or 'none at all'}")
        total = torch.stack(losses).sum()
        return total, {name: value.detach() for name, value in (numbers | {"loss": total}).items()}


def wrapped(lesson: Lesson, ranks: Ranks) -> nn.Module:
    """The lesson, its gradients averaged over all ranks after each backward."""
    if ranks.world_size == 1:
        return lesson
    # Looking for unused parameters takes about a millisecond. It bears losses that leave some out, and it keeps DDP
    # from sorting its buckets anew after the first iteration: a resumed run's sums would be rounded otherwise.
    _say_nothing_of_unused_parameters(ranks)
    return DistributedDataParallel(
        lesson, forward_sync_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
    )


def _say_nothing_of_unused_parameters(ranks: Ranks) -> None:
    """Have DDP give its advice against looking for them, which it does once a process, where nobody reads it."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        tiny = nn.Linear(1, 1, device=ranks.device)
        DistributedDataParallel(tiny, find_unused_parameters=True)(torch.zeros(1, 1, device=ranks.device))
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


class Measured(NamedTuple):
    """An iteration's numbers on their way from the device, the same on every rank, and what this rank found broken."""

    iteration: int
    names: tuple[str, ...]
    values: Tensor
    arrived: torch.Event | None
    broken: dict[int, str]

    def numbers(self) -> dict[str, float]:
        """The numbers, once they are here."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))


def take_iteration(
    lesson: nn.Module, batches: Batches, training: Training, state: State, *, save: bool, team: Team
) -> Measured:
    """Learn from one batch; `save` asks for a state to be saved."""
    ranks, iteration = team.ranks, state.iteration
    found: dict[int, str] = {}
    totals: dict[str, Tensor] = {}
    autocast = torch.autocast(ranks.device.type, DTYPES[training.precision], training.precision != "fp32")
    for part in range(len(batches.sizes)):
        drawn = next(batches)
        if part == 0:
            team.tell(iteration)  # before any rank waits for another
        for one in drawn:
            found |= one.broken
        share = len(drawn) / training.batch_size
        seed_all(derived_seed(training.seed, "dropout", iteration, ranks.rank, part), device_too=True)
        with nullcontext() if part == len(batches.sizes) - 1 else without_sync(lesson):
            with autocast:
                loss, numbers = lesson([one.sample for one in drawn])
            # Gradients are averaged over the ranks; we want the plain sum of the shares.
            state.scaler.scale(loss * (share * ranks.world_size)).backward()
        for name, value in numbers.items():
            value = share * value.float()
            totals[name] = totals[name] + value if name in totals else value
    names = sorted(totals)
    asks = torch.tensor([float(team.should_stop()), float(save), float(len(found))], device=ranks.device)
    values = torch.cat([torch.stack([totals[name] for name in names]), asks])
    ranks.sum_(values)
    names += [STOP, SAVE, BROKEN]
    if training.clip_grad_norm:
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), training.clip_grad_norm)
        names, values = [*names, "gradient_norm"], torch.cat([values, norm.reshape(1)])
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.iteration = iteration + 1
    return _sent(state.iteration, tuple(names), values, found)


def settle(measured: Measured, state: State, task: Task, training: Training, ranks: Ranks) -> set[str]:
    """Take note of what an iteration measured; returns what was asked for in it. All ranks do the same.

    Raises:
        ValueError: if a loss is not finite, or too many samples are broken.
    """
    numbers = measured.numbers()
    asked = {ask for ask in (STOP, SAVE) if numbers.pop(ask) > 0}
    if numbers.pop(BROKEN) > 0:
        _count_broken(measured.broken, state, task, training, ranks)
    odd = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not odd:
        state.since_log, state.n_skipped = state.since_log.plus(numbers), 0
    elif training.precision == "fp16" and state.n_skipped < MAX_SKIPPED:
        state.n_skipped += 1  # the scaler has left the weights as they were
    else:
        named = ", ".join(f"{name} is {numbers[name]:g}" for name in odd)
        often = f", and was not for {state.n_skipped + 1} iterations" if state.n_skipped else ""
        others = " or precision bf16 or fp32" if training.precision == "fp16" else ""
        others = others or (" or precision fp32" if training.precision == "bf16" else "")
        raise ValueError(
            f"iteration {measured.iteration} of {training.iterations}: {named}, not a finite number{often}. "
            f"Try a lower lr, a longer warm-up{others}, or clip_grad_norm."
        )
    return asked


def _sent(iteration: int, names: tuple[str, ...], values: Tensor, found: dict[int, str]) -> Measured:
    if values.device.type != "cuda":
        return Measured(iteration, names, values, None, found)
    here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    here.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return Measured(iteration, names, here, arrived, found)


def _count_broken(found: dict[int, str], state: State, task: Task, training: Training, ranks: Ranks) -> None:
    of_all: list[dict[int, str]] = [found]
    if ranks.world_size > 1:
        of_all = [{} for _ in range(ranks.world_size)]
        dist.all_gather_object(of_all, found)
    new: dict[int, str] = {}
    for one in of_all:
        new |= {index: why for index, why in one.items() if index not in state.broken}
    if ranks.rank == 0:
        broken.warn(new, what="training sample")
    state.broken |= new
    broken.refuse_too_many(state.broken, task.n_samples, max_share=training.max_broken_share, what="training samples")
