"""How good each head is after each epoch: a small file an epoch, which also tells the best of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from dora.config import Frozen

FOLDER = "epochs"


class Measured(Frozen):
    """One head after one epoch, in percent."""

    top1: float
    top5: float
    shown: tuple[int, ...]  # the classes that it gives to the photos of the sheet


class Epoch(Frozen):
    """All heads after one epoch, by name."""

    epoch: int  # counted from 1
    heads: dict[str, Measured]


class Best(NamedTuple):
    """A head, and the epoch after which it was measured."""

    head: str
    epoch: int
    measured: Measured


def write_epoch(out: Path, epoch: Epoch) -> None:
    """Write the epoch's file; it is there as a whole or not at all."""
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{epoch.epoch:04d}.json"
    temporary = folder / f".{path.name}.tmp"
    temporary.write_text(epoch.model_dump_json() + "\n")
    temporary.replace(path)


def read_epochs(out: Path, n_epochs: int) -> list[Epoch]:
    """All that were written, in order.

    Raises:
        ValueError: if one is missing or unreadable.
    """
    found: list[Epoch] = []
    for number in range(1, n_epochs + 1):
        path = out / FOLDER / f"{number:04d}.json"
        try:
            found.append(Epoch.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            raise ValueError(f"{path} is missing or damaged. Remove {out} and measure again.") from None
    return found


def best(epochs: Sequence[Epoch], head: str | None = None) -> Best:
    """The highest top-1 of `head`, or of any; the highest top-5 of equal ones, then the earliest epoch."""
    candidates = [
        Best(name, epoch.epoch, measured)
        for epoch in epochs
        for name, measured in epoch.heads.items()
        if head in (None, name)
    ]
    return max(candidates, key=lambda one: (one.measured.top1, one.measured.top5))
