"""Several reports -> one table: each metric of each protocol, a column a report. Other protocols are other rows."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from eval.paper import IMAGENET, ONE_TOUR, PaperNumber
from eval.report.data import Part, ReportData, ScoreRow
from eval.report.tables import NOTHING, UNVERIFIED, Cell, Table, difference, label, number


class ComparedMetric(Part):
    """One metric by one protocol."""

    benchmark: str
    protocol: str
    metric: str
    headline: bool
    values: tuple[float | None, ...] = Field(description="one a report, in their order; null: it has none")
    paper: tuple[PaperNumber, ...] = Field(description="of the same protocol; others are not comparable")


class Comparison(Part):
    """What `python -m eval.report A B --format json` prints."""

    schema_version: Literal[1] = 1
    reports: tuple[str, ...]
    metrics: tuple[ComparedMetric, ...]


def compare(reports: Sequence[tuple[str, ReportData]]) -> Comparison:
    """The metrics of at least two reports, each with a name; headlines first, in the order of the first reports.

    Raises:
        ValueError: for fewer than two, or two of one name.
    """
    names = [name for name, _ in reports]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected several reports of different names to compare, got {', '.join(names) or 'none'}.")
    rows: dict[tuple[str, str, str], ScoreRow] = {}
    for _, data in reports:
        for row in data.scores:
            rows.setdefault((row.benchmark, row.protocol, row.metric), row)
    found = [
        ComparedMetric(
            benchmark=row.benchmark, protocol=row.protocol, metric=row.metric, headline=row.headline,
            values=tuple(_value(data, row) for _, data in reports),
            paper=tuple(one for one in row.paper if row.paper_protocol and not one.caution),
        )
        for row in rows.values()
    ]  # fmt: skip
    return Comparison(reports=tuple(names), metrics=tuple(sorted(found, key=lambda row: not row.headline)))


def comparison_table(comparison: Comparison, *, headlines_only: bool = False) -> Table:
    """Values, and below each its difference to the first report's. Bold: the row's best."""
    first, *others = comparison.reports
    return Table(
        f"Scores by the same protocols; in brackets the difference to {first}. Bold: the highest of a headline. "
        f"{UNVERIFIED} unverified.",
        ("Benchmark", "Metric", first, *others, "Paper, same protocol"),
        tuple(
            (Cell(row.benchmark, note=row.protocol), Cell(label(row.metric)), *_cells(row), Cell(_paper(row)))
            for row in comparison.metrics
            if row.headline or not headlines_only
        ),
        numeric=tuple(range(2, 2 + len(comparison.reports))),
    )


def _value(data: ReportData, wanted: ScoreRow) -> float | None:
    same = (wanted.benchmark, wanted.protocol, wanted.metric)
    return next((row.value for row in data.scores if (row.benchmark, row.protocol, row.metric) == same), None)


def _cells(row: ComparedMetric) -> list[Cell]:
    there = [value for value in row.values if value is not None]
    first = row.values[0]
    cells: list[Cell] = []
    for place, value in enumerate(row.values):
        if value is None:
            cells.append(Cell(NOTHING, muted=True))
            continue
        note = difference(value - first, row.metric) if place and first is not None else ""
        best = row.headline and len(there) > 1 and value == max(there)
        cells.append(Cell(number(value, row.metric), note=note, strong=best))
    return cells


def _paper(row: ComparedMetric) -> str:
    chosen = [one for one in row.paper if (one.method, one.pretraining) in (("DoRA", ONE_TOUR), ("DINO", IMAGENET))]
    told = [f"{one.method} {number(one.value)}{'' if one.verified else UNVERIFIED}" for one in chosen]
    return ", ".join(told) or NOTHING
