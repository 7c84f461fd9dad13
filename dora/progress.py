"""How a long stage tells how far it is: one callable, so that a terminal, a log and Prefect can all listen."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called now and then by a stage with what is done of what there is to do."""

    def __call__(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Report `done` of `total` `unit`s ("frames", "steps"); `note` is a short fact such as a loss."""
        ...


def silent(done: float, total: float, unit: str, note: str = "") -> None:
    """Listen to nothing: the default of every stage."""


@contextmanager
def progress_bar() -> Generator[Progress]:
    """Listen with a bar and an ETA on a terminal, a new bar for each unit; elsewhere say nothing."""
    from tqdm import tqdm

    bars: dict[str, tqdm[Any]] = {}

    def listen(done: float, total: float, unit: str, note: str = "") -> None:
        bar = bars.get(unit) or bars.setdefault(unit, tqdm(total=total, unit=f" {unit}", disable=None, leave=False))
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            bars.pop(unit).close()  # the same unit may come again, of another file

    try:
        yield listen
    finally:
        for bar in bars.values():
            bar.close()
