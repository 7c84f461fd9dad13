"""Training samples by their position in the endless stream, the broken ones replaced by others."""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from dora.seeds import derived_seed
from eval.finetune.broken import reason
from eval.finetune.order import shuffled
from eval.finetune.task import Task

MAX_ATTEMPTS = 10


class Drawn(NamedTuple):
    """A position's sample, and which were broken that should have stood there: number -> reason."""

    sample: Any
    broken: dict[int, str]


def drawing(task: Task, *, seed: int) -> Callable[[int], Drawn]:
    """What reads a position's sample. Pure: whoever reads it, and whenever, gets the same one."""
    order = task.order or shuffled(task.n_samples, seed=seed)

    def draw(position: int) -> Drawn:
        broken: dict[int, str] = {}
        index = order(position)
        for attempt in range(MAX_ATTEMPTS):
            seed_all(derived_seed(seed, "sample", position, attempt), device_too=False)
            try:
                return Drawn(task.read(index), broken)
            except (ValueError, OSError) as error:
                broken[index] = reason(error)
            index = derived_seed(seed, "instead", position, attempt) % task.n_samples
        raise ValueError(
            f"none of {len(broken)} training samples tried one after the other can be read, the first: "
            f"{next(iter(broken.values()))}. Fetch the data set again."
        )

    return draw


def own_positions(batch_size: int, *, first: int, iterations: int, rank: int, world_size: int) -> Iterator[int]:
    """The positions that `rank` reads from iteration `first` on: of each batch every `world_size`-th."""
    for iteration in range(first, iterations):
        yield from range(iteration * batch_size + rank, (iteration + 1) * batch_size, world_size)


def seed_all(seed: int, *, device_too: bool) -> None:
    """Seed `random`, `np.random` and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device_too:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
