"""The training loop: `python -m dora.training.pretrain JOB.json`, alone or under torchrun.

One step sees `clips_per_batch` clips, spread over ranks and micro-batches. Whatever the spread, loss, gradient, centre
and teacher are those of the whole batch: each part counts by its share of the clips, and centre and logged numbers
are added up over parts and ranks before they are used.
"""

import argparse
import fcntl
import logging
import math
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor

from dora.config import PretrainConfig
from dora.data.clips import Clips
from dora.data.order import own_places, steps_per_epoch
from dora.data.stream import ReadAhead, batches
from dora.data.tar_cache import tar_cache
from dora.launch import REQUEUE_EXIT_CODE, run_job
from dora.method.dora import Step, dora_step, draw_heads, updated_center
from dora.method.network import build_network
from dora.seeds import derived_seed
from dora.training.checkpoint import Means, TrainingState, load_state, save_state
from dora.training.distributed import Ranks, StopSignals, process_group, without_sync
from dora.training.job import CHECKPOINT, RESUME, Job
from dora.training.journal import Journal
from dora.training.optimizer import build_optimizer, clip_gradients, freeze_last_layer, set_rates, update_teacher
from dora.training.schedule import Schedules

log = logging.getLogger("dora.pretrain")

MEASURED = ("loss", "object_loss", "local_loss", "teacher_entropy", "mask_share")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOCK_PATIENCE_S = 60.0


def train(job: Job, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Train to the end, going on where an earlier run in the folder was; False if asked to stop before the end.

    Raises:
        ValueError: if the clips are too few for a batch, the machine's values do not fit, or the loss is not finite.
        OSError: if another run is training in the folder, or it cannot be written.
    """
    config, machine = job.config, job.machine
    clips = Clips(job.shards, config.clip, tar_cache(machine))
    n_steps_per_epoch = steps_per_epoch(len(clips), config)
    n_steps = config.epochs * n_steps_per_epoch
    schedules = Schedules(config, n_steps_per_epoch)
    if machine.threads:
        torch.set_num_threads(machine.threads)

    with ExitStack() as until_the_end:
        ranks = until_the_end.enter_context(process_group(machine.device))
        until_the_end.enter_context(only_writer(job.folder, ranks))
        sizes = micro_batches(config, machine.micro_batch, ranks)
        state = new_state(config, ranks.device)
        resume(state, job.folder)
        student, optimizer, scaler = ranks.wrap(state.student), state.optimizer, state.scaler
        places = own_places(
            len(clips), config, first_step=state.step, n_steps=n_steps, rank=ranks.rank, world_size=ranks.world_size
        )
        views = batches(
            clips, places, sizes, config, device=ranks.device, n_workers=machine.n_workers, augment=machine.augment
        )
        stream = until_the_end.enter_context(closing(ReadAhead(views, depth=2)))
        journal = Journal(job.folder, first_step=state.step, n_steps=n_steps, batch=config.clips_per_batch, ranks=ranks)
        until_the_end.enter_context(closing(journal))
        saved_at = time.monotonic()

        for step in range(state.step, n_steps):
            epoch = step // n_steps_per_epoch
            torch.manual_seed(derived_seed(config.seed, "drop path", step, ranks.rank))
            set_rates(optimizer, lr=schedules.lr(step), weight_decay=schedules.weight_decay(step))
            heads = draw_heads(n_heads(state), config.tracking.n_objects, seed=config.seed, step=step)
            totals = torch.zeros(config.head.n_prototypes + len(MEASURED) + 1, device=ranks.device)

            for part, size in enumerate(sizes, start=1):
                share = size / config.clips_per_batch
                with nullcontext() if part == len(sizes) else without_sync(student):
                    with torch.autocast(ranks.device.type, DTYPES[config.precision], config.precision != "fp32"):
                        found = dora_step(
                            student, state.teacher, next(stream), center=state.center,
                            teacher_temperature=schedules.teacher_temperature(epoch), head_indices=heads,
                            tracking=config.tracking, loss=config.loss,
                        )  # fmt: skip
                    # DDP divides the gradients' sum by the number of ranks; we want the plain sum of the shares.
                    scaler.scale(found.loss * (share * ranks.world_size)).backward()
                totals[:-1] += share * numbers_of(found)

            totals[-1] = should_stop()
            ranks.sum_(totals)  # the step's only exchange beside the gradients
            teacher_mean, measured, n_asked_to_stop = totals.split([config.head.n_prototypes, len(MEASURED), 1])
            numbers: dict[str, float] = dict(zip(MEASURED, measured.tolist(), strict=True))
            require_finite(numbers["loss"], step, config)

            scaler.unscale_(optimizer)
            clip_gradients(state.student.parameters(), config.optimizer.clip_grad_norm)
            freeze_last_layer(state.student, epoch=epoch, n_epochs=config.optimizer.freeze_last_layer_epochs)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            update_teacher(state.teacher, state.student, schedules.teacher_momentum(step))
            state.center = updated_center(state.center, teacher_mean, config.loss.center_momentum)

            state.step = step + 1
            state.since_log = state.since_log.plus(numbers)
            state.in_epoch = (state.in_epoch if step % n_steps_per_epoch else Means()).plus(numbers)
            journal.tell(state.step, numbers["loss"])
            if state.step % machine.log_every_steps == 0 or state.step == n_steps:
                rates = {
                    "lr": schedules.lr(step),
                    "weight_decay": schedules.weight_decay(step),
                    "teacher_momentum": schedules.teacher_momentum(step),
                }
                epoch_loss = state.in_epoch.values()["loss"]
                values = {"epoch": epoch} | state.since_log.values() | {"epoch_loss": epoch_loss} | rates
                journal.line(state.step, values, waited_s=stream.wait_s)
                state.since_log = Means()
            stop = bool(n_asked_to_stop) and state.step < n_steps
            if ranks.rank == 0 and (stop or time.monotonic() - saved_at > machine.save_every_s):
                save_state(job.folder / RESUME, state)
                saved_at = time.monotonic()
            if stop:
                log.info("asked to stop: saved step %d of %d, run again to go on", state.step, n_steps)
                return False

        if ranks.rank == 0 and not (job.folder / CHECKPOINT).exists():
            save_state(job.folder / CHECKPOINT, state)
            (job.folder / RESUME).unlink(missing_ok=True)
    return True


def micro_batches(config: PretrainConfig, micro_batch: int, ranks: Ranks) -> list[int]:
    """How many clips this rank takes at once, until its share of the batch is done.

    Raises:
        ValueError: if a rank would get no clip, or the recipe's masks would depend on the split.
    """
    if ranks.world_size > config.clips_per_batch:
        raise ValueError(
            f"{ranks.world_size} processes share a batch of {config.clips_per_batch} clips. "
            "Lower Machine.n_processes or raise pretrain.clips_per_batch."
        )
    own = len(range(ranks.rank, config.clips_per_batch, ranks.world_size))
    size = min(micro_batch or own, own)
    if config.tracking.threshold == "batch" and size < config.clips_per_batch:
        raise ValueError(
            f"tracking.threshold 'batch' compares all {config.clips_per_batch} clips of a batch with one another, but "
            f"a process would see {size} at once. Set Machine.micro_batch to 0 and n_processes to 1, lower "
            "pretrain.clips_per_batch, or take threshold 'map'."
        )
    return [min(size, own - start) for start in range(0, own, size)]


def new_state(config: PretrainConfig, device: torch.device) -> TrainingState:
    """Step 0: a student drawn from the recipe's seed, a teacher equal to it, a centre of zeros."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    student = build_network(config.backbone, config.head, drop_path=True).to(device)
    teacher = build_network(config.backbone, config.head, drop_path=False).to(device)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    return TrainingState(
        config=config,
        student=student,
        teacher=teacher,
        optimizer=build_optimizer(student),
        # Half precision has too few small numbers for unscaled gradients.
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        center=torch.zeros(config.head.n_prototypes, device=device),
    )


def resume(state: TrainingState, folder: Path) -> None:
    """Bring `state` to where an earlier run in the folder was, if there was one."""
    for path in (folder / CHECKPOINT, folder / RESUME):
        if path.exists():
            load_state(path, state)
            log.info("going on after step %d", state.step)
            return


def n_heads(state: TrainingState) -> int:
    """Attention heads of the teacher's last block."""
    block = cast(Block, state.teacher.backbone.blocks[-1])
    return cast(Attention, block.attn).num_heads


def numbers_of(found: Step) -> Float[Tensor, "_"]:
    """The teacher's mean logits, for the centre, and what MEASURED names."""
    teacher_mean = found.teacher_logits.float().mean((0, 1))
    mask_share = found.masks.float().mean()
    measured = (found.loss.detach(), found.object_loss, found.local_loss, found.teacher_entropy, mask_share)
    return torch.cat([teacher_mean, torch.stack([number.float() for number in measured])])


def require_finite(loss: float, step: int, config: PretrainConfig) -> None:
    """Stop before such a loss reaches the weights; the last saved state is from before it."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at step {step}. To run again would repeat it: lower optimizer.lr_per_256 "
            f"({config.optimizer.lr_per_256:g}), lengthen optimizer.warmup_epochs ({config.optimizer.warmup_epochs}), "
            f"or take precision bf16 or fp32 (it is {config.precision})."
        )


@contextmanager
def only_writer(folder: Path, ranks: Ranks) -> Generator[None]:
    """Keep other runs out of the folder. One that was just killed may take a moment to go."""
    with (folder / ".lock").open("a") as file:
        give_up_at = time.monotonic() + LOCK_PATIENCE_S
        while ranks.rank == 0:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise BlockingIOError(
                        f"another run is training in {folder}. Wait for its end or stop it."
                    ) from None
                time.sleep(0.2)
        ranks.sum_(torch.zeros(1, device=ranks.device))  # the others read nothing there before rank 0 has the lock
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job in the named file; returns the exit code (2: the user can mend it, 75: saved, run again)."""
    parser = argparse.ArgumentParser(prog="python -m dora.training.pretrain", description="Pretrain as a job says.")
    parser.add_argument("job", type=Path, help="JSON of a Job (dora/training/job.py)")
    job = Job.model_validate_json(parser.parse_args(arguments).job.read_text())

    def work() -> int:
        try:
            return 0 if train(job, StopSignals()) else REQUEUE_EXIT_CODE
        except torch.OutOfMemoryError as error:
            at_once = job.machine.micro_batch or "all"
            raise ValueError(
                f"the GPU's memory is too small for {at_once} clips at once. Set Machine.micro_batch "
                f"(DORA_MICRO_BATCH) to fewer; what is learnt stays the same. ({str(error).splitlines()[0]})"
            ) from None

    return run_job(job.folder, work)


if __name__ == "__main__":
    sys.exit(main())
