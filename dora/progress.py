"""How a long stage tells how far it is: one callable, so that a terminal, a log and Prefect can all listen."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called now and then by a stage with what is done of what there is to do."""

    def __call__(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Report `done` of `total` `unit`s ("frames", "steps"); `note` is a short fact such as a loss."""
        ...


def silent(done: float, total: float, unit: str, note: str = "") -> None:
    """Listen to nothing: the default of every stage."""
