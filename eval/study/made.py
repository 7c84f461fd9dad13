"""One cell of a study when it is finished."""

from collections.abc import Sequence
from typing import NamedTuple

from dora.artifacts import Checkpoint
from eval.benchmark import Score
from eval.covering import Covering
from eval.study.cells import Cell


class Made(NamedTuple):
    """An encoder, and all that was measured of it."""

    cell: Cell
    checkpoint: Checkpoint
    scores: Sequence[Score]
    covering: Covering | None = None  # None: what its footage shows is not known
