"""StudyData -> tables of text, which page, Markdown and LaTeX show alike."""

from collections.abc import Sequence

from dora.cache import span
from eval.report.charts import short
from eval.report.tables import NOTHING, Cell, Table, difference, label, number
from eval.study.cells import UNLEARNT
from eval.study.data import MetricRow, StudyData, is_clear, spread

CURVES = {
    "loss": "loss, nats", "teacher_entropy": "teacher entropy, nats", "online_knn": "online k-NN, %",
    "effective_rank": "directions in which [CLS] differs", "mask_share": "share of patches in a mask",
    "mask_iou": "IoU of masks and things, %", "things": "things that a clip's masks cover",
    "best_overlap": "best overlap of things with a mask, %",
}  # fmt: skip


def main_table(data: StudyData) -> Table:
    """Headlines: a row a variant, a column a benchmark."""
    headlines = [row for row in data.metrics if row.headline]
    return Table(
        "Mean ± standard deviation over seeds (of how many, where some are missing). Bold: every run is above every "
        f"one of {data.reference}. The next table says what each column is.",
        ("Variant", *(row.benchmark for row in headlines)),
        tuple(
            (Cell(variant), *(_value(row, variant, data.reference) for row in headlines)) for variant in data.variants
        ),
        numeric=tuple(range(1, 1 + len(headlines))),
    )  # fmt: skip


def protocol_table(data: StudyData) -> Table:
    """What the columns of the main table are."""
    return Table(
        "What was measured. Numbers of different protocols cannot be compared.",
        ("Benchmark", "Metric", "Protocol", "Samples"),
        tuple(
            (Cell(row.benchmark), Cell(label(row.metric)), Cell(row.protocol), Cell(f"{row.n_samples:,}"))
            for row in data.metrics
            if row.headline
        ),
        numeric=(3,),
    )


def difference_table(data: StudyData) -> Table:
    """The same less the reference's means."""
    headlines = [row for row in data.metrics if row.headline]
    return Table(
        f"Difference of the means to {data.reference}. Bold: every run is above every one of its.",
        ("Variant", *(row.benchmark for row in headlines)),
        tuple(
            (Cell(variant), *(_difference(row, variant, data.reference) for row in headlines))
            for variant in data.variants
            if variant != data.reference
        ),
        numeric=tuple(range(1, 1 + len(headlines))),
    )


def metric_table(data: StudyData) -> Table:
    """Every metric of every benchmark."""
    return Table(
        "Every metric, mean ± standard deviation.",
        ("Benchmark", "Metric", *data.variants),
        tuple(
            (Cell(row.benchmark, note=row.protocol), Cell(label(row.metric)),
             *(_value(row, variant, None) for variant in data.variants))
            for row in data.metrics
        ),
        numeric=tuple(range(2, 2 + len(data.variants))),
        title="Every metric",
    )  # fmt: skip


def variant_table(data: StudyData) -> Table:
    """What each variant is: the values it differs in, and what its trainings took."""
    rows: list[tuple[Cell, ...]] = []
    for variant in data.variants:
        cells = [cell for cell in data.cells if cell.variant == variant]
        one = cells[0]
        differs = ", ".join(f"{path} = {value}" for path, value in one.changed.items()) or "nothing"
        seconds = [cell.seconds for cell in cells if cell.seconds is not None]
        took = span(spread(seconds).mean) if seconds else NOTHING
        machines = ", ".join(dict.fromkeys(cell.machine for cell in cells if cell.machine)) or NOTHING
        rows.append(
            (Cell(variant), Cell(UNLEARNT.get(variant, differs)),
             Cell(f"{len(cells)}"), Cell(f"{one.n_steps:,}"), Cell(f"{one.n_clips:,}"), Cell(took), Cell(machines))
        )  # fmt: skip
    return Table(
        "The variants. Time is that of one pretraining, whenever and wherever it was made.",
        ("Variant", "Differs from the first in", "Seeds", "Steps", "Clips", "Pretraining", "Machine"),
        tuple(rows),
        numeric=(2, 3, 4, 5),
    )


def curve_table(data: StudyData) -> Table:
    """Where each curve ends, as it is drawn, mean over seeds."""
    names = [name for name in CURVES if any(name in cell.curves for cell in data.cells)]
    rows: list[tuple[Cell, ...]] = []
    for variant in data.variants:
        cells = [cell for cell in data.cells if cell.variant == variant and cell.trained]
        ends = [[cell.curves[name].values[-1] for cell in cells if name in cell.curves] for name in names]
        if any(ends):
            rows.append((Cell(variant), *(Cell(short(spread(end).mean) if end else NOTHING) for end in ends)))
    return Table(
        "How the trainings end: means of the last hundredth of their logs, or of the last line, and over seeds.",
        ("Variant", *(CURVES[name] for name in names)),
        tuple(rows),
        numeric=tuple(range(1, 1 + len(names))),
    )


def failure_table(data: StudyData) -> Table:
    """What has no score."""
    rows = tuple((Cell(name), Cell(reason)) for name, reason in data.failures.items())
    return Table("What failed; the rest is not affected.", ("What", "Why"), rows)


def lineage_table(data: StudyData) -> Table:
    """Which checkpoint each cell is, and by which code."""
    return Table(
        "The encoders. The fingerprint says what was asked for (16 digits name the folder), the digest what came out.",
        ("Variant", "Seed", "Fingerprint", "Digest", "Code"),
        tuple(
            (Cell(cell.variant), Cell(f"{cell.seed}"), Cell(cell.fingerprint[:16], code=True),
             Cell(cell.digest[:16], code=True), Cell(cell.commit or "not recorded"))
            for cell in data.cells
        ),
        numeric=(1,),
    )  # fmt: skip


def values_of(row: MetricRow, variant: str) -> Sequence[float]:
    """One a seed."""
    return list(row.values.get(variant, {}).values())


def _value(row: MetricRow, variant: str, reference: str | None) -> Cell:
    values = values_of(row, variant)
    if not values:
        return Cell(NOTHING, muted=True)
    found = spread(values)
    deviation = "" if found.deviation is None else f" ± {number(found.deviation, row.metric)}"
    n_seeds = len({seed for values in row.values.values() for seed in values})
    missing = f" ({found.n} of {n_seeds})" if found.n < n_seeds else ""
    clear = reference is not None and variant != reference and is_clear(values, values_of(row, reference))
    return Cell(f"{number(found.mean, row.metric)}{deviation}{missing}", strong=clear)


def _difference(row: MetricRow, variant: str, reference: str) -> Cell:
    values, others = values_of(row, variant), values_of(row, reference)
    if not values or not others:
        return Cell(NOTHING, muted=True)
    apart = spread(values).mean - spread(others).mean
    return Cell(difference(apart, row.metric), strong=is_clear(values, others))
