"""StudyData: what a study says, as values. study.json is this model; page, Markdown and LaTeX come from it alone.

The schema is stable: while `schema_version` is the same, fields are added, never renamed or given another meaning.
A number that is NaN or infinite is written as the string "NaN", "Infinity" or "-Infinity".
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from eval.report.data import Part, RunFacts

SCORES, CURVES = "scores.svg", "curves.svg"  # the plots beside it


class Curve(Part):
    """One value over a training; not every step has one."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


class CellRow(Part):
    """One encoder: how it was made."""

    variant: str
    seed: int
    trained: bool
    changed: dict[str, Any] = Field(description="path in the recipe -> value, where it differs from the first cell's")
    fingerprint: str
    digest: str
    n_steps: int
    n_clips: int
    seconds: float | None = Field(description="of its pretraining; null: it had none")
    machine: str | None = Field(description="GPU or host that it learnt on")
    commit: str | None
    curves: dict[str, Curve] = Field(description="loss, teacher_entropy, online_knn, … as far as its log has them")


class MetricRow(Part):
    """One metric of one benchmark over the whole study."""

    benchmark: str
    protocol: str = Field(description="of seed 0; another seed of what trains on labels has digits of its own")
    metric: str
    headline: bool
    n_samples: int
    values: dict[str, dict[int, float]] = Field(description="variant -> seed -> value; what failed is left out")


class StudyData(Part):
    """Everything that a study says."""

    schema_version: Literal[1] = 1
    title: str
    created: str
    run: RunFacts
    reference: str = Field(description="the variant that the others are compared with")
    cells: tuple[CellRow, ...]
    metrics: tuple[MetricRow, ...]
    failures: dict[str, str] = Field(description="cell, or cell and benchmark -> why there is no score")

    @property
    def variants(self) -> tuple[str, ...]:
        """In the order of the study."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))


class Spread(NamedTuple):
    """Runs that differ in nothing but their seed."""

    mean: float
    deviation: float | None  # of the sample; one run has none
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value; NaN if one is not finite."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan if len(values) > 1 else None, len(values))
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def is_clear(values: Sequence[float], others: Sequence[float]) -> bool:
    """Whether each value is above each of the others; of three and three, luck does so once in twenty times."""
    return bool(values) and bool(others) and min(values) > max(others)
