"""The training loop: `python -m dora.training.pretrain JOB.json`, alone or under torchrun."""

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dora.launch import REQUEUE_EXIT_CODE, run_job
from dora.method.objective import Moment
from dora.seeds import derived_seed
from dora.training.checkpoint import Means, TrainingState
from dora.training.distributed import StopSignals, own_part
from dora.training.job import CHECKPOINT, Job
from dora.training.journal import Journal
from dora.training.nonfinite import after_nonfinite, dump, nonfinite_names, nothing_learnt
from dora.training.run import Run, journal_of, newest_state, read_ahead, running
from dora.training.step import backward, clipped_norm, floats, set_step_rates, update

log = logging.getLogger("dora.pretrain")


class RolledBack(Exception):
    """Steps up to this one were not finite: go on from the newest saved state, with other clips."""

    def __init__(self, state: TrainingState) -> None:
        super().__init__(f"not finite up to step {state.step}")
        self.step, self.shift, self.n_rollbacks = state.step, state.shift, state.n_rollbacks


def train(job: Job, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Train to the end, going on where an earlier run in the folder was; False if asked to stop before the end.

    Raises:
        ValueError: if the clips are too few for a batch, the machine's values do not fit, or losses stay not finite.
        OSError: if another run is training in the folder, or it cannot be written.
    """
    if job.machine.threads:
        torch.set_num_threads(job.machine.threads)
    with running(job, should_stop) as run:
        state, student = newest_state(run)
        while True:
            try:
                return take_steps(run, state, student)
            except RolledBack as back:
                go_back(run, state, back)
            except torch.OutOfMemoryError as error:
                at_once = job.machine.micro_batch or "all"
                raise ValueError(
                    f"the GPU's memory is too small for {at_once} clips at once. Set Machine.micro_batch "
                    f"(DORA_MICRO_BATCH) to fewer; what is learnt stays the same. ({str(error).splitlines()[0]})"
                ) from None


def take_steps(run: Run, state: TrainingState, student: nn.Module) -> bool:
    """From the state's step to the last one; False if asked to stop before it.

    Raises:
        RolledBack: after more steps in a row that were not finite than the recipe bears.
        ValueError: if none of the last epoch was finite.
    """
    config, machine, ranks = run.job.config, run.job.machine, run.ranks
    with ExitStack() as until_the_end:
        stream = until_the_end.enter_context(read_ahead(run, state))
        journal = until_the_end.enter_context(closing(journal_of(run, state)))
        saved_at = time.monotonic()
        for step in range(state.step, run.n_steps):
            moment = Moment(step, epoch=step // run.n_steps_per_epoch)
            torch.manual_seed(derived_seed(config.seed, "drop path", step, ranks.rank))
            rates = set_step_rates(state, run.schedules)
            is_save_due = ranks.rank == 0 and time.monotonic() - saved_at > machine.save_every_s
            batch = backward(
                state, student, run.objective, stream, len(run.sizes), moment=moment, ranks=ranks,
                asks={"stop": run.should_stop(), "save": is_save_due}, when_read=partial(run.peers.tell, step),
            )  # fmt: skip
            numbers = floats(batch.numbers | {"gradient_norm": clipped_norm(state)})
            stop, save = bool(numbers.pop("stop")), bool(numbers.pop("save"))

            if step % run.n_steps_per_epoch == 0:
                state.in_epoch = Means()
            if may_update(numbers, state.scaler):
                update(state, run.objective, batch, epoch=moment.epoch, teacher_momentum=rates["teacher_momentum"])
                state.n_skipped = 0
            else:
                skip(run, state, numbers | rates, journal)
            if all(map(math.isfinite, numbers.values())):
                state.since_log, state.in_epoch = state.since_log.plus(numbers), state.in_epoch.plus(numbers)
            state.optimizer.zero_grad(set_to_none=True)
            state.step = step + 1
            run.peers.tell(state.step)
            journal.tell(state.step, numbers["loss"])

            is_last, is_look_due = state.step == run.n_steps, run.lookout.is_due(state.step)
            seen = look(run, state, journal) if is_look_due else {}
            means = state.in_epoch if is_last and not state.since_log.n else state.since_log  # the log ends with it
            if is_last and not means.n:
                raise ValueError(nothing_learnt(config))
            if (state.step % machine.log_every_steps == 0 or is_look_due or is_last) and means.n:
                epoch_loss = (state.in_epoch if state.in_epoch.n else means).values()["loss"]
                norms = {f"{name}_center_norm": center.norm().item() for name, center in state.centers.items()}
                now = {"epoch": moment.epoch, "epoch_loss": epoch_loss} | norms | rates | seen
                journal.line(state.step, means.values() | now, waited_s=stream.wait_s)
                state.since_log = Means()
            if config.keep_every_epochs and state.step % (config.keep_every_epochs * run.n_steps_per_epoch) == 0:
                run.keeper.keep_epoch(state, moment.epoch + 1)
            if (stop or save) and not is_last:
                run.keeper.save(state)
                saved_at = time.monotonic()
            if stop and not is_last:
                log.info("asked to stop: saved step %d of %d, run again to go on", state.step, run.n_steps)
                return False
    run.keeper.finish(run.job.folder / CHECKPOINT, state)
    return True


def look(run: Run, state: TrainingState, journal: Journal) -> dict[str, float]:
    """What the teacher is worth just now, in numbers and in a picture."""
    sight = run.lookout.look(state.teacher, title=f"step {state.step} of {run.n_steps}")
    run.peers.tell(state.step)
    if sight is None:
        return {}
    journal.sheet(state.step, sight.sheet)
    return sight.numbers


def may_update(numbers: Mapping[str, float], scaler: torch.amp.GradScaler) -> bool:
    """Whether loss and gradient are finite. An fp16 gradient overflows now and then: the scaler sees to that."""
    overflow_is_usual = scaler.is_enabled() and scaler.get_scale() > 1
    return math.isfinite(numbers["loss"]) and (math.isfinite(numbers["gradient_norm"]) or overflow_is_usual)


def go_back(run: Run, state: TrainingState, back: RolledBack) -> None:
    """Bring the state to the newest saved one, with the stream of clips moved on.

    What was seen from the saved step to the bad one has no second turn: the same clips would do the same again.
    """
    state.optimizer.zero_grad(set_to_none=True)
    run.keeper.newest(state)
    state.shift = back.shift + (back.step + 1 - state.step) * run.job.config.clips_per_batch
    state.n_rollbacks = back.n_rollbacks + 1
    with closing(journal_of(run, state)) as journal:
        times = f"{state.n_rollbacks} of {run.job.config.watch.max_rollbacks} times"
        journal.warn(state.step, f"rolled back from step {back.step + 1} ({times}), and going on with other clips")


def skip(run: Run, state: TrainingState, numbers: Mapping[str, float], journal: Journal) -> None:
    """Leave everything as it was before the step, and keep what it saw.

    Raises:
        RolledBack: if too many steps in a row were not finite.
        ValueError: if rolling back does not help.
    """
    job, step = run.job, state.step
    if run.ranks.rank == 0:
        trained = ((name, parameter.grad) for name, parameter in state.student.named_parameters())
        gradients = ((name, None if gradient is None else own_part(gradient)) for name, gradient in trained)
        dump(
            job.folder, step, numbers, run.clips, job.config, shift=state.shift, device=run.ranks.device,
            names=nonfinite_names(gradients),
        )  # fmt: skip
    state.scaler.update()
    what = after_nonfinite(step + 1, numbers, job.config, n_skipped=state.n_skipped, n_rollbacks=state.n_rollbacks)
    if what == "roll back":
        raise RolledBack(state)
    state.n_skipped += 1
    journal.warn(
        step + 1,
        f"the loss is {numbers['loss']:g} and the gradient's norm {numbers['gradient_norm']:g}: the step is skipped, "
        "weights, teacher and centre stay as they are. What it saw is in nonfinite/.",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job in the named file; returns the exit code (2: the user can mend it, 75: saved, run again)."""
    parser = argparse.ArgumentParser(prog="python -m dora.training.pretrain", description="Pretrain as a job says.")
    parser.add_argument("job", type=Path, help="JSON of a Job (dora/training/job.py)")
    path: Path = parser.parse_args(arguments).job

    def work() -> int:
        job = Job.model_validate_json(path.read_text())
        return 0 if train(job, StopSignals()) else REQUEUE_EXIT_CODE

    return run_job(path.absolute().parent, work)


if __name__ == "__main__":
    sys.exit(main())
