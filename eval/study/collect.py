"""Artifacts -> StudyData: read manifests and training logs."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dora import cache
from dora.training.job import read_log
from eval.benchmark import Score
from eval.covering import Covering
from eval.report.data import RunFacts
from eval.study.cells import Cell, changes
from eval.study.data import CellRow, Curve, MetricRow, StudyData
from eval.study.made import Made
from eval.study.tables import CURVES

MOST_POINTS = 100  # of a curve


def collect(
    title: str, made: Sequence[Made], *, reference: str,
    failures: Mapping[str, str], run: RunFacts,
) -> StudyData:  # fmt: skip
    """Everything that a study says."""
    first = next((one.cell for one in made if one.cell.trained), made[0].cell)
    return StudyData(
        title=title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        run=run,
        reference=reference,
        cells=tuple(_cell(one, first) for one in made),
        metrics=_metrics(made),
        failures=dict(failures),
    )


def read_curves(folder: Path) -> dict[str, Curve]:
    """What a training log has of the curves that a study compares; each from the steps that tell it."""
    lines = read_log(folder)
    found: dict[str, Curve] = {}
    for name in CURVES:
        points = [(int(line["step"]), float(line[name])) for line in lines if name in line]
        if points:
            kept = _thinned(points)
            found[name] = Curve(steps=tuple(step for step, _ in kept), values=tuple(value for _, value in kept))
    return found


def _cell(made: Made, first: Cell) -> CellRow:
    cell, checkpoint = made.cell, made.checkpoint
    manifest = cache.read_manifest(checkpoint.folder) if cell.trained else None
    return CellRow(
        variant=cell.variant, seed=cell.seed, trained=cell.trained, changed=changes(cell.recipe, first.recipe),
        fingerprint=checkpoint.fingerprint, digest=checkpoint.digest, n_steps=checkpoint.n_steps,
        n_clips=checkpoint.n_clips, seconds=manifest and manifest.total_s,
        machine=manifest and (manifest.gpu or manifest.host), commit=manifest and manifest.commit,
        curves=(read_curves(checkpoint.folder) if cell.trained else {}) | _covered(made.covering),
    )  # fmt: skip


def _covered(found: Covering | None) -> dict[str, Curve]:
    """How well the masks cover things, over the training."""
    if found is None:
        return {}
    steps = tuple(point.step for point in found.points)
    return {
        "mask_iou": Curve(steps=steps, values=tuple(point.mask_iou for point in found.points)),
        "things": Curve(steps=steps, values=tuple(point.things for point in found.points)),
        "best_overlap": Curve(steps=steps, values=tuple(point.best_overlap for point in found.points)),
    }


def _metrics(made: Sequence[Made]) -> tuple[MetricRow, ...]:
    """Headlines first, benchmarks in the order in which they were measured."""
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    first: dict[tuple[str, str], tuple[int, Score]] = {}
    for cell, _, scores, _ in made:
        for score in scores:
            for metric, value in score.metrics.items():
                key = (score.benchmark, metric)
                values.setdefault(key, {}).setdefault(cell.variant, {})[cell.seed] = value
                if key not in first or cell.seed < first[key][0]:
                    first[key] = (cell.seed, score)
    rows = [
        MetricRow(
            benchmark=benchmark, protocol=score.protocol, metric=metric, headline=metric == score.headline,
            n_samples=score.n_samples, values=values[benchmark, metric],
        )
        for (benchmark, metric), (_, score) in first.items()
    ]  # fmt: skip
    order = list(dict.fromkeys(row.benchmark for row in rows))
    return tuple(sorted(rows, key=lambda row: (not row.headline, order.index(row.benchmark))))


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of stretches, each at its last step."""
    size = math.ceil(len(points) / MOST_POINTS)
    kept: list[tuple[int, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept.append((stretch[-1][0], sum(value for _, value in stretch) / len(stretch)))
    return kept
