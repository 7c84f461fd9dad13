"""Rows of a mapped file by their turn in the endless stream, many at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from dora.data.order import starts_at
from eval.frozen.probe import Heads

ROWS_AT_MOST = 64


class Rows(NamedTuple):
    """Some features in a row, and their labels."""

    features: Float32[np.ndarray, "n F"]
    labels: Int64[np.ndarray, " n"]


def rows_at_once(batch_size: int) -> int:
    """The most rows of which a batch is a multiple: singly, a hundred passes over a million would take hours.

    To the loop these are one sample, also in the log's samples_per_s; and no more processes can share a batch than it
    has of them.
    """
    return max(n for n in range(1, ROWS_AT_MOST + 1) if batch_size % n == 0)


def reader(
    features: Float32[np.ndarray, "N L D"], labels: Sequence[int], *, at_once: int, seed: int
) -> Callable[[int], Rows]:
    """Reads the rows of `at_once` positions; which they are is the same as if each were a sample of its own.

    The order is that of eval/finetune/order.py: each pass has every row once.
    """
    all_labels = np.array(labels)

    def read(turn: int) -> Rows:
        index = starts_at(np.arange(turn * at_once, (turn + 1) * at_once), len(features), seed=seed)
        return Rows(features[index].reshape(at_once, -1), all_labels[index])

    return read


def losses(heads: Heads, samples: list[Rows]) -> dict[str, Tensor]:
    """Cross-entropy of each head."""
    device = next(heads.parameters()).device
    features, labels = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in zip(*samples, strict=True))
    return heads.losses(features, labels)
