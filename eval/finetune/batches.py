"""The micro-batches of one process, from any iteration on."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import cycle, islice

from dora.data.loader import in_order
from dora.data.stream import ReadAhead
from dora.training.distributed import Ranks
from eval.finetune.samples import Drawn, drawing, own_positions
from eval.finetune.task import Task
from eval.finetune.training import Training


def micro_batches(batch_size: int, micro_batch: int, ranks: Ranks) -> list[int]:
    """How many samples this rank takes at once, until its share of the batch is done; as often as the other ranks.

    Raises:
        ValueError: if a rank would have no sample, or fewer micro-batches than others.
    """
    if ranks.world_size > batch_size:
        raise ValueError(
            f"{ranks.world_size} processes share a batch of {batch_size} samples. Lower Machine.n_processes "
            f"(DORA_N_PROCESSES) to {batch_size} at most, or raise batch_size."
        )
    n_own = len(range(ranks.rank, batch_size, ranks.world_size))
    n_least, n_most = batch_size // ranks.world_size, -(-batch_size // ranks.world_size)
    n_parts = -(-n_most // (micro_batch or n_most))
    if n_parts > n_least:  # batch norm's exchanges wait for every rank in each part
        raise ValueError(
            f"{ranks.world_size} processes share a batch of {batch_size} samples unevenly: some would take {n_parts} "
            f"micro-batches, others {n_least}. Raise Machine.micro_batch (DORA_MICRO_BATCH), or set "
            "Machine.n_processes to a divisor of the batch."
        )
    return [len(range(part, n_own, n_parts)) for part in range(n_parts)]


class Batches:
    """Micro-batches of one rank, from iteration `first` on; `wait_s` is how long the consumer had to wait for them.

    Loader processes are read from in a thread, ahead. Without them a sample is read when it is needed, and not before:
    its draws and dropout's are of the same global generators.
    """

    def __init__(
        self, task: Task, training: Training, *, sizes: Sequence[int], first: int, n_workers: int, ranks: Ranks
    ) -> None:
        self.sizes = sizes
        positions = own_positions(
            training.batch_size, first=first, iterations=training.iterations, rank=ranks.rank,
            world_size=ranks.world_size,
        )  # fmt: skip
        self._wait_s, self._ahead = 0.0, None
        with ExitStack() as opened:
            draw = drawing(task, seed=training.seed)
            samples = opened.enter_context(in_order(draw, positions, n_workers=n_workers))
            self._parts = _grouped(samples, sizes)
            if n_workers:
                self._ahead = opened.enter_context(closing(ReadAhead(self._parts, depth=2)))
            self._opened = opened.pop_all()

    def __next__(self) -> list[Drawn]:
        if self._ahead is not None:
            return next(self._ahead)
        started = time.perf_counter()
        part = next(self._parts)
        self._wait_s += time.perf_counter() - started
        return part

    @property
    def wait_s(self) -> float:
        """Seconds until now."""
        return self._ahead.wait_s if self._ahead is not None else self._wait_s

    def close(self) -> None:
        """End the loader processes; what was read ahead is dropped."""
        self._opened.close()


def _grouped(samples: Iterator[Drawn], sizes: Sequence[int]) -> Iterator[list[Drawn]]:
    for size in cycle(sizes):
        part = list(islice(samples, size))
        if not part:
            return
        yield part
