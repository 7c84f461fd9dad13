"""Which benchmarks are run together, and on what data."""

from collections.abc import Callable

from dora.config import Frozen
from dora.data.miniature import World
from eval import benchmark
from eval.benchmark import MINIATURE_WORLD


class Entry(Frozen):
    """One benchmark of a suite."""

    benchmark: str
    world: World | None = None  # of its miniature data set; none: the real one
    overrides: tuple[str, ...] = ()  # of the benchmark's Config, such as "k=[20]"


class Suite(Frozen):
    """Benchmarks whose scores make one report."""

    name: str
    entries: tuple[Entry, ...]


def paper() -> Suite:
    """Every benchmark on its real data set, under the paper's protocol."""
    return Suite(name="paper", entries=tuple(Entry(benchmark=name) for name in benchmark.names()))


def miniature() -> Suite:
    """Every benchmark on a rendered toy data set in the real layout: seconds on two CPU cores, no download."""
    entries = tuple(Entry(benchmark=name, world=MINIATURE_WORLD) for name in benchmark.names())
    return Suite(name="miniature", entries=entries)


SUITES: dict[str, Callable[[], Suite]] = {suite.__name__: suite for suite in (paper, miniature)}


def names() -> list[str]:
    """Names that `load` knows."""
    return list(SUITES)


def load(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}. Known: {', '.join(SUITES)}.")
    return SUITES[name]()
