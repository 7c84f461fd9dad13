"""The loop that trains on labels, for every benchmark that fine-tunes or probes.

An iteration sees `batch_size` samples, spread over ranks and micro-batches; each part counts by its share of them, so
that gradients are those of the whole batch. What an iteration measured is looked at while the next one is being
computed.

A run that was killed and goes on sees the same samples, draws and rates as one that was not. On a CPU its weights are
the same bytes; on a GPU they are where the model's kernels add up in a fixed order, which torch's gradients of bilinear
upsampling and of roi_align do not: there they are the same to rounding.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from dora.artifacts import Machine
from dora.launch import Interrupted
from dora.progress import Progress, silent
from dora.training.checkpoint import Means
from dora.training.distributed import Ranks
from eval.finetune import broken
from eval.finetune.batch_norm import n_batch_norms, synchronize
from eval.finetune.batches import Batches, micro_batches
from eval.finetune.journal import Journal
from eval.finetune.memory import memory_explained
from eval.finetune.state import MODEL, State, finish, load_model, load_state, newest_state, remove_states, save_state
from eval.finetune.step import STOP, Lesson, Measured, settle, take_iteration, wrapped
from eval.finetune.task import Spent, Task
from eval.finetune.team import Team
from eval.finetune.training import Training

log = logging.getLogger("eval.finetune")


def finetune(
    task: Task, training: Training, machine: Machine, out: Path, team: Team, progress: Progress = silent
) -> Spent:
    """Train `task.model` in place to the end, going on where an earlier run in `out` was; `out` has model.safetensors.

    Where that is there already, the model is filled with it. All ranks call it together.

    Raises:
        Interrupted: if asked to stop; the state is saved.
        ValueError: if the batch cannot be shared by the processes, too many samples are broken, a loss is not finite,
            the GPU's memory is too small, or `out` has a training of other values.
        OSError: if `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    ranks = team.ranks
    sizes = micro_batches(training.batch_size, machine.micro_batch, ranks)
    if min(sizes) * ranks.world_size < task.least_at_once:
        raise ValueError(
            f"the model's batch norm needs {task.least_at_once} samples at once, but gets {min(sizes)} from each of "
            f"{ranks.world_size} processes. Raise Machine.micro_batch (DORA_MICRO_BATCH) or the batch."
        )
    task.model.train()
    synchronize(task.model, ranks)
    state = _beginning(task, training, ranks)
    if ranks.decided_by_first((out / MODEL).exists):
        notes = load_model(out / MODEL, task.model, state.training)
        if ranks.rank == 0:
            remove_states(out)
        return Spent(team.cost(), notes)
    newest = ranks.decided_by_first(lambda: newest_state(out))
    if newest is not None:
        load_state(newest, state)
        log.info("going on after iteration %d of %d", state.iteration, training.iterations)
    with memory_explained(max(sizes)):
        _take_iterations(task, training, machine, out, team, progress, state, sizes)
    notes = _notes(task, training, state, sizes, ranks)
    if ranks.rank == 0:
        finish(out, state, notes)
    team.wait_for_all()
    return Spent(team.cost(), notes)


def _beginning(task: Task, training: Training, ranks: Ranks) -> State:
    known = training.model_dump(mode="json", include=set(Training.model_fields)) | {"n_samples": task.n_samples}
    return State(
        training=known,
        model=task.model,
        optimizer=(task.optimizer or _adamw)([dict(group) for group in task.groups]),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=training.precision == "fp16"),
    )


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, fused=True)


def _take_iterations(
    task: Task, training: Training, machine: Machine, out: Path, team: Team, progress: Progress, state: State,
    sizes: Sequence[int],
) -> None:  # fmt: skip
    """From the state's iteration to the last one.

    Raises:
        Interrupted: if asked to stop before it; the state is saved.
        ValueError: if it makes no sense to go on.
    """
    ranks, first, n = team.ranks, state.iteration, training.iterations
    lesson = wrapped(Lesson(task), ranks)
    with ExitStack() as until_the_end:
        batches = Batches(task, training, sizes=sizes, first=first, n_workers=machine.n_workers, ranks=ranks)
        until_the_end.enter_context(closing(batches))
        journal = Journal(out, team, progress, first=first, iterations=n, batch_size=training.batch_size)
        until_the_end.enter_context(closing(journal))
        unsettled: list[Measured] = []
        saved_at = time.monotonic()
        for iteration in range(first, n):
            _set_rates(state, task, iteration)
            is_save_due = ranks.rank == 0 and time.monotonic() - saved_at > machine.save_every_s
            unsettled.append(take_iteration(lesson, batches, training, state, save=is_save_due, team=team))
            team.tell(state.iteration)
            if task.after is not None:
                task.after(state.iteration)

            is_last = state.iteration == n
            is_log_due = state.iteration % machine.log_every_steps == 0 or is_last
            asked: set[str] = set()
            while len(unsettled) > (0 if is_log_due or asked else 1):
                asked |= settle(unsettled.pop(0), state, task, training, ranks)
            means = state.since_log.values() if state.since_log.n else {}
            journal.tell(state.iteration, means)
            if is_log_due:
                lr = max(group["lr"] for group in state.optimizer.param_groups)  # of the top layer
                journal.line(state.iteration, means, lr=lr, waited_s=batches.wait_s)
                state.since_log = Means()
            if asked and not is_last:
                if ranks.rank == 0:
                    save_state(out, state, keep_last=machine.keep_last)
                saved_at = time.monotonic()
            if STOP in asked and not is_last:
                team.wait_for_all()  # torchrun ends all processes when the first one ends
                log.info("asked to stop: saved iteration %d of %d, run again to go on", state.iteration, n)
                raise Interrupted


def _set_rates(state: State, task: Task, iteration: int) -> None:
    factor = task.lr_factor(iteration)
    for group, peak in zip(state.optimizer.param_groups, task.groups, strict=True):
        group["lr"] = peak["lr"] * factor


def _notes(task: Task, training: Training, state: State, sizes: Sequence[int], ranks: Ranks) -> tuple[str, ...]:
    notes = broken.notes(
        state.broken, task.n_samples, what="training samples", consequence="others were learnt from in their place"
    )
    if len(sizes) > 1 and n_batch_norms(task.model):
        at_once = max(sizes) * ranks.world_size
        notes += (
            f"batch norm saw {at_once} samples at once in training, not the batch of {training.batch_size} "
            "(Machine.micro_batch)",
        )
    return notes
