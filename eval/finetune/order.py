"""Which training sample comes when: a pure function of seed and position, the same for any number of processes."""

from collections.abc import Callable

import numpy as np

from dora.data.order import starts_at


def shuffled(n_samples: int, *, seed: int) -> Callable[[int], int]:
    """Which sample is at a position of the endless stream: each pass has every sample once, in an order of its own."""

    def sample_at(position: int) -> int:
        return int(starts_at(np.array([position]), n_samples, seed=seed)[0])

    return sample_at
