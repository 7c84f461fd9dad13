"""Which benchmarks are run together, and on what data. Those that are on request are in no suite."""

from collections.abc import Callable

from pydantic import Field, model_validator

from dora.artifacts import Machine
from dora.config import Frozen
from dora.data.miniature import World
from eval import benchmark
from eval.benchmark import MINIATURE_WORLD, Dataset


class Entry(Frozen):
    """One benchmark of a suite."""

    benchmark: str
    world: World | None = None  # of its miniature data set; none: the real one
    times: int = Field(default=1, ge=1)  # as large as the smallest miniature
    preset: str | None = None  # on the real data set, one of the benchmark's PRESETS; none: the paper's protocol
    overrides: tuple[str, ...] = ()  # of the benchmark's Config, such as "k=[20]"

    @model_validator(mode="after")
    def _has_one_protocol(self) -> "Entry":
        if self.world and self.preset:
            raise ValueError(
                f"{self.benchmark}: a preset is of the real data set, and a miniature has its own values. "
                "Leave out world or preset"
            )
        if self.times > 1 and not self.world:
            raise ValueError(f"{self.benchmark}: only a miniature can be larger, got times={self.times} and no world")
        return self

    def dataset(self, machine: Machine) -> Dataset | None:
        """The miniature data set, rendered or reused; None for the real one."""
        if not self.world:
            return None
        return benchmark.build_dataset(self.benchmark, self.world, machine, times=self.times)


class Suite(Frozen):
    """Benchmarks whose scores make one report."""

    name: str
    entries: tuple[Entry, ...]


def held() -> list[str]:
    """Every benchmark but those that are measured on request."""
    return [name for name in benchmark.names() if not benchmark.is_on_request(name)]


def paper() -> Suite:
    """Every benchmark on its real data set, under the paper's protocol."""
    return Suite(name="paper", entries=tuple(Entry(benchmark=name) for name in held()))


def short() -> Suite:
    """Every benchmark on its real data set: by its preset "short" where it has one, else by the paper's protocol."""
    entries = tuple(
        Entry(benchmark=name, preset="short" if "short" in benchmark.presets(name) else None) for name in held()
    )
    return Suite(name="short", entries=entries)


def miniature() -> Suite:
    """Every benchmark on a rendered toy data set in the real layout: seconds on two CPU cores, no download."""
    return Suite(name="miniature", entries=_toys(times=1))


def learning() -> Suite:
    """miniature() with four times as many samples, its heads trained as much longer: for encoders that differ little.

    Of k-NN's photos, which train nothing, there are sixteen times as many: of 384 queries one standard error is 2
    points, as much as encoders differ by; of 1,536 it is 1. Of depth's pictures there are eight times as many, 384 to
    learn from. ADE20K's linear heads take 480 steps, not 120: encoders that differ in a ridge regression on their
    patches differ there too (docs/learning-tried.md).
    """
    return Suite(name="learning", entries=_toys(times=4, imagenet_knn=16, depth=8))


def _toys(*, times: int, **others: int) -> tuple[Entry, ...]:
    """Miniatures so many times as large, those of `others` so many times as they say."""
    return tuple(Entry(benchmark=name, world=MINIATURE_WORLD, times=others.get(name, times)) for name in held())


SUITES: dict[str, Callable[[], Suite]] = {suite.__name__: suite for suite in (paper, short, miniature, learning)}


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
