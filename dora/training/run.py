"""A training before its first step: what stays the same until the end, the state to go on from, the clips to come."""

import fcntl
import logging
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dora.artifacts import Machine
from dora.config import PretrainConfig
from dora.data.augment import Views
from dora.data.clips import Clips
from dora.data.order import own_places, steps_per_epoch
from dora.data.stream import ReadAhead, batches
from dora.data.tar_cache import tar_cache
from dora.method.network import build_network
from dora.method.objective import Objective
from dora.method.objectives import build
from dora.training.begin import first_student
from dora.training.blocks import compile_blocks, recompute_blocks
from dora.training.checkpoint import TrainingState, load_state
from dora.training.distributed import Ranks, process_group
from dora.training.job import CHECKPOINT, Job
from dora.training.journal import Journal
from dora.training.keeper import Keeper
from dora.training.lookout import Lookout
from dora.training.optimizer import build_optimizer
from dora.training.peers import Peers
from dora.training.schedule import Schedules

log = logging.getLogger("dora.pretrain")

LOCK_PATIENCE_S = 60.0
N_READERS = 4  # threads, where there are no loader processes


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    job: Job
    ranks: Ranks
    clips: Clips
    objective: Objective
    schedules: Schedules
    sizes: list[int]  # of this rank's micro-batches
    n_steps_per_epoch: int
    n_steps: int
    keeper: Keeper
    peers: Peers
    lookout: Lookout
    should_stop: Callable[[], bool]


@contextmanager
def running(job: Job, should_stop: Callable[[], bool]) -> Generator[Run]:
    """All that a training needs, in the company of the other ranks.

    Raises:
        ValueError: if the clips are too few for a batch, or the machine's values do not fit.
        OSError: if another run is training in the folder, or it cannot be written.
    """
    config, machine = job.config, job.machine
    clips = Clips(job.shards, config.clip, tar_cache(machine))
    n_steps_per_epoch = steps_per_epoch(len(clips), config)
    n_steps = config.epochs * n_steps_per_epoch
    warmup = config.optimizer.warmup_epochs
    with ExitStack() as until_the_end:
        ranks = until_the_end.enter_context(process_group(machine.device, machine.peer_timeout_s))
        if ranks.rank == 0 and warmup >= config.epochs:
            log.warning(
                "the learning rate warms up for %d epochs, and there are only %d: it never falls, and no alarm of a "
                "collapse can ring. Raise epochs or lower optimizer.warmup_epochs.", warmup, config.epochs,
            )  # fmt: skip
        sizes = micro_batches(config, machine, ranks)
        until_the_end.enter_context(only_writer(job.folder, ranks))
        yield Run(
            job=job, ranks=ranks, clips=clips, objective=build(config), schedules=Schedules(config, n_steps_per_epoch),
            sizes=sizes, n_steps_per_epoch=n_steps_per_epoch, n_steps=n_steps, should_stop=should_stop,
            keeper=until_the_end.enter_context(closing(Keeper(job.folder, keep_last=machine.keep_last, ranks=ranks))),
            peers=until_the_end.enter_context(Peers(job.folder, ranks, timeout_s=machine.peer_timeout_s)),
            lookout=Lookout(job.shards, config, machine, n_steps=n_steps, ranks=ranks),
        )  # fmt: skip


def micro_batches(config: PretrainConfig, machine: Machine, ranks: Ranks) -> list[int]:
    """How many clips this rank takes at once, until its share of the batch is done.

    Raises:
        ValueError: if a rank would get no clip, or the recipe's masks or loss would depend on the split.
    """
    together = config.clips_together
    n_groups = config.processes_at_most
    why = "tracking.threshold_clips, loss.koleo_clips"
    if ranks.world_size > n_groups:
        of = f", {together} of which have to be in one process ({why})" if together > 1 else ""
        raise ValueError(
            f"{ranks.world_size} processes share a batch of {config.clips_per_batch} clips{of}. Lower "
            f"Machine.n_processes (DORA_N_PROCESSES={n_groups}; 0 is one a GPU), or "
            f"{'lower these values' if together > 1 else 'raise pretrain.clips_per_batch'}."
        )
    if 0 < machine.micro_batch < together:
        raise ValueError(
            f"the recipe compares {together} clips with one another ({why}), but a process would see "
            f"{machine.micro_batch} at once. Set Machine.micro_batch to 0 or at least {together}, lower these values, "
            "or take tracking.threshold 'map' and loss.koleo_weight 0."
        )
    n_own, n_least = len(range(ranks.rank, n_groups, ranks.world_size)), n_groups // ranks.world_size
    n_most = -(-n_groups // ranks.world_size)
    at_once = (machine.micro_batch or together * n_most) // together
    n_parts = -(-n_most // at_once)  # of whom has most; the others have as many, as FSDP exchanges weights in each
    if machine.parallel == "fsdp" and n_least < n_parts:
        raise ValueError(
            f"with Machine.parallel fsdp all processes have as many micro-batches ({n_parts}), but one of "
            f"{ranks.world_size} would have only {n_least * together} of {config.clips_per_batch} clips. Raise "
            "Machine.micro_batch, or let the processes share the clips evenly."
        )
    sizes = [together * len(range(part, n_own, n_parts)) for part in range(n_parts)]
    return [size for size in sizes if size]


def newest_state(run: Run) -> tuple[TrainingState, nn.Module]:
    """Where an earlier run in the folder was, or step 0; and the student as the loop calls it."""
    state, student = new_state(run.job.config, run.objective, run.ranks, run.job.machine)
    finished = run.job.folder / CHECKPOINT
    if finished.exists():
        load_state(finished, state)
    elif not run.keeper.newest(state):
        run.keeper.save(state)  # something to roll back to
        return state, student
    log.info("going on after step %d", state.step)
    return state, student


def new_state(
    config: PretrainConfig, objective: Objective, ranks: Ranks, machine: Machine
) -> tuple[TrainingState, nn.Module]:
    """Step 0, and the student as the loop calls it: on several ranks that may be a wrapper of the state's.

    The first student, a teacher equal to it, centres of zeros.
    """
    student = first_student(config)
    teacher = build_network(config, drop_path=False)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    for network in (student, teacher):
        network.to(ranks.device)
        if machine.recompute:
            recompute_blocks(network)
        if machine.compile:
            compile_blocks(network)
    called = ranks.wrap(student, machine.parallel)
    ranks.wrap(teacher, machine.parallel)
    state = TrainingState(
        config=config,
        student=student,
        teacher=teacher,
        optimizer=build_optimizer(student),
        # Half precision has too few small numbers for unscaled gradients.
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16"),
        centers={name: torch.zeros(size, device=ranks.device) for name, size in objective.centers.items()},
    )
    return state, called


@contextmanager
def read_ahead(run: Run, state: TrainingState) -> Generator[ReadAhead[Views]]:
    """Micro-batches of this rank, from the state's step on."""
    config, machine, ranks = run.job.config, run.job.machine, run.ranks
    places = own_places(
        len(run.clips), config, first_step=state.step, n_steps=run.n_steps, rank=ranks.rank,
        world_size=ranks.world_size, shift=state.shift,
    )  # fmt: skip
    # Loader processes are forked here, not by the thread that reads ahead: they die with who has started them.
    with (
        batches(
            run.clips, places, run.sizes, config, device=ranks.device, n_workers=machine.n_workers,
            n_threads=reading_threads(machine, ranks.device), augment=machine.augment,
        ) as views,
        closing(ReadAhead(views, depth=2, device=ranks.device)) as ahead,
    ):  # fmt: skip
        yield ahead


def reading_threads(machine: Machine, device: torch.device) -> int:
    """How many threads decode clips where no loader process does: a few for a GPU, none where cores compute already.

    They do on a CPU, and wherever a clip's reader augments it.
    """
    if device.type != "cuda" or machine.augment == "workers":
        return 0
    return min(N_READERS, machine.n_cores - 1)


def journal_of(run: Run, state: TrainingState) -> Journal:
    """The log, from the state's step on."""
    return Journal(run.job.folder, run.job.config, first_step=state.step, n_steps=run.n_steps, ranks=run.ranks)


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
