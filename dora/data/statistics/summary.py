"""From a pass over a video to its numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dora.data.statistics.config import StatisticsConfig
from dora.data.statistics.cuts import cuts
from dora.data.statistics.detections import DetectorFacts
from dora.data.statistics.schema import Series, Summary, VideoStatistics
from dora.data.statistics.survey import Surveyed

Counts = Sequence[Mapping[str, int]]


def summarise(
    name: str, found: Surveyed, config: StatisticsConfig, *, counts: Counts | None, detector: DetectorFacts | None
) -> VideoStatistics:
    """One video's statistics; `counts` are the objects of each sampled picture that could be decoded."""
    begins = cuts(found.jumps, found.file.n_pictures, config) if config.cuts else None
    cuts_s = (
        None if begins is None else [round(found.timeline.seconds(int(found.timeline.times[n])), 4) for n in begins]
    )
    series = _series(found.samples, counts, config)
    return VideoStatistics(
        name=name, file=found.file, summary=_summary(series, cuts_s, counts, found.file.duration_s), cuts_s=cuts_s,
        classes=None if counts is None else _classes(counts), detector=detector, series=series,
    )  # fmt: skip


def _series(samples: Sequence[dict[str, Any]], counts: Counts | None, config: StatisticsConfig) -> Series:
    known: set[str] = set()
    n_new: list[int] = []
    for count in counts or ():
        n_new.append(len(count.keys() - known))
        known |= count.keys()
    columns: dict[str, Any] = {
        key: [sample[key] for sample in samples] for key in ("time_s", "lightness", "contrast", "chroma", "colour")
    }
    return Series(
        **columns, motion=[sample["motion"] for sample in samples] if config.motion else None,
        n_objects=None if counts is None else [sum(count.values()) for count in counts],
        n_new_classes=None if counts is None else n_new,
    )  # fmt: skip


def _classes(counts: Counts) -> dict[str, int]:
    found = Counter(name for count in counts for name in count)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _summary(series: Series, cuts_s: Sequence[float] | None, counts: Counts | None, duration_s: float) -> Summary:
    steps = [abs(after - before) for before, after in pairwise(series.lightness)]
    moved = [value for value in series.motion or () if value is not None]
    objects = series.n_objects
    return Summary(
        lightness_mean=_mean(series.lightness), lightness_min=min(series.lightness),
        lightness_max=max(series.lightness), lightness_step=_mean(steps or [0.0]),
        contrast_mean=_mean(series.contrast), chroma_mean=_mean(series.chroma),
        motion_mean=_mean(moved) if moved else None,
        n_cuts=None if cuts_s is None else len(cuts_s),
        cuts_per_hour=None if cuts_s is None else round(len(cuts_s) / duration_s * 3600, 4),
        shot_mean_s=None if cuts_s is None else round(duration_s / (len(cuts_s) + 1), 4),
        objects_mean=_mean(objects) if objects else None,
        objects_median=float(np.median(objects)) if objects else None,
        objects_max=max(objects) if objects else None,
        n_classes=None if counts is None else len({name for count in counts for name in count}),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
