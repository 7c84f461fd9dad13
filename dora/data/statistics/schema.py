"""statistics.json: what was measured, as values that stay readable (docs/statistics.md describes them)."""

import json
from pathlib import Path

from pydantic import Field, ValidationError

from dora.config import Frozen
from dora.data.statistics.config import SCHEMA, StatisticsConfig
from dora.data.statistics.detections import DetectorFacts


class File(Frozen):
    """What the file itself says."""

    size_bytes: int
    codec: str
    width: int = Field(description="as shown: upright, square pixels")
    height: int
    duration_s: float
    fps: float = Field(description="pictures by seconds")
    n_pictures: int
    n_damaged: int = Field(description="of them that could not be decoded whole, and were left out")


class Series(Frozen):
    """Columns of equal length, a row for each sampled picture."""

    time_s: list[float]
    lightness: list[float] = Field(description="mean CIE L* over the pixels, 0 black to 100 white")
    contrast: list[float] = Field(description="standard deviation of L* over the pixels")
    chroma: list[float] = Field(description="mean CIE C*")
    colour: list[tuple[int, int, int]] = Field(description="mean red, green, blue, 0 to 255")
    motion: list[float | None] | None = Field(
        description="mean optical flow, picture widths a second; null: at the first, and a cut"
    )
    n_objects: list[int] | None = Field(description="detections of at least min_score; null: there was no detector")
    n_new_classes: list[int] | None = Field(description="classes that no picture before it had")


class Summary(Frozen):
    """One number for each question; null where it was not asked."""

    lightness_mean: float
    lightness_min: float
    lightness_max: float
    lightness_step: float = Field(description="mean absolute difference from one sampled picture to the next")
    contrast_mean: float
    chroma_mean: float
    motion_mean: float | None
    n_cuts: int | None
    cuts_per_hour: float | None
    shot_mean_s: float | None = Field(description="duration by number of shots, which is cuts and one")
    objects_mean: float | None = Field(description="in a sampled picture")
    objects_median: float | None
    objects_max: int | None
    n_classes: int | None = Field(description="distinct, over all sampled pictures")


class VideoStatistics(Frozen):
    """One video."""

    name: str
    file: File
    summary: Summary
    cuts_s: list[float] | None = Field(description="when each shot after the first begins")
    classes: dict[str, int] | None = Field(description="sampled pictures in which a class was found; most first")
    detector: DetectorFacts | None
    series: Series


class Statistics(Frozen):
    """The whole file."""

    format: str = Field(default=SCHEMA, alias="schema")
    config: StatisticsConfig
    versions: dict[str, str] = Field(description="of the libraries whose numbers these are")
    videos: list[VideoStatistics]


def read_statistics(path: Path) -> Statistics:
    """A statistics.json, for comparison.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is none of ours, or of another version.
    """
    path = path / "statistics.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no statistics to compare with at {path}. Check the path.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). --compare takes a statistics.json.") from None
    said = content.get("schema") if isinstance(content, dict) else None
    if said != SCHEMA:
        raise ValueError(f"{path} is of schema {said!r}, expected {SCHEMA!r}: measure its videos with this version.")
    try:
        return Statistics.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is no whole statistics.json ({where}: {first['msg']}).") from None
