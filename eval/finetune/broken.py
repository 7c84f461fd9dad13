"""Samples and images that cannot be read: few are named and left out, more than a share of them stop the run."""

import logging
from collections.abc import Mapping

from dora.launch import sentence

log = logging.getLogger("eval.finetune")

N_NAMED = 5


def reason(error: ValueError | OSError) -> str:
    """Why a sample is broken, on one line."""
    return " ".join(sentence(error).split())


def refuse_too_many(broken: Mapping[int, str], n: int, *, max_share: float, what: str) -> None:
    """Check how many of `n` samples are broken (number -> reason).

    Raises:
        ValueError: if they are more than `max_share` of all, naming the first ones.
    """
    if len(broken) > max_share * n:
        raise ValueError(
            f"{len(broken)} of {n} {what} cannot be read, more than the share of {max_share:g} that is accepted: "
            f"{_named(broken)}. Fetch these files again, or raise max_broken_share."
        )


def notes(broken: Mapping[int, str], n: int, *, what: str, consequence: str) -> tuple[str, ...]:
    """What has to be said beside the numbers: nothing if none is broken."""
    if not broken:
        return ()
    return (f"{len(broken)} of {n} {what} could not be read and {consequence}: {_named(broken)}",)


def warn(found: Mapping[int, str], *, what: str) -> None:
    """Log what was found just now."""
    for number, why in found.items():
        log.warning("%s %d cannot be read: %s", what, number, why)


def _named(broken: Mapping[int, str]) -> str:
    first = [broken[number] for number in sorted(broken)[:N_NAMED]]
    more = len(broken) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")
