"""Markdown: the videos side by side, and what is known of the paper's own table."""

from collections.abc import Callable, Sequence

from dora.cache import human_size
from dora.data.contact_sheet import clock
from dora.data.statistics.detections import HOW
from dora.data.statistics.schema import VideoStatistics

# Table 1 of the paper compares its data set with eleven others; only its own row is known to us. Cards of the data set
# and notes about the paper say so; its other rows and values were not to be had.
PAPER = """\
## Beside the paper

Of Table 1 (arXiv:2310.08584), which sets Walking Tours beside eleven other data sets, we know its own row alone:

| | egocentric | balanced classes | annotated | videos | mean duration | resolution | pictures a second |
| --- | --- | --- | --- | ---: | ---: | --- | ---: |
| Walking Tours | yes | no | no | 10 | 1:38:00 (0:59 to 2:55) | 3840x2160 | 60 (Wildlife 30) |

The first three columns are for people to judge, not for a measurement. Figure 2 says of these videos: lightness changes
gradually, there are essentially no cuts, and many objects of many classes in a frame; its values were not to be had.
"""

Cell = Callable[[VideoStatistics], str]
_ROWS: tuple[tuple[str, Cell], ...] = (
    ("duration", lambda v: clock(v.file.duration_s)),
    ("resolution", lambda v: f"{v.file.width}x{v.file.height}"),
    ("pictures a second", lambda v: f"{v.file.fps:.4g}"),
    ("size", lambda v: f"{human_size(v.file.size_bytes)} {v.file.codec}"),
    ("damaged pictures", lambda v: f"{v.file.n_damaged} of {v.file.n_pictures:,}"),
    ("lightness L*, mean (least to most)", lambda v: (
        f"{v.summary.lightness_mean:.1f} ({v.summary.lightness_min:.1f} to {v.summary.lightness_max:.1f})"
    )),
    ("its change from sample to sample", lambda v: f"{v.summary.lightness_step:.2f}"),
    ("contrast, sd of L*", lambda v: f"{v.summary.contrast_mean:.1f}"),
    ("chroma C*", lambda v: f"{v.summary.chroma_mean:.1f}"),
    ("motion, widths a second", lambda v: _number(v.summary.motion_mean, "{:.3f}")),
    ("cuts", lambda v: _number(v.summary.n_cuts, "{:,}")),
    ("cuts an hour", lambda v: _number(v.summary.cuts_per_hour, "{:.1f}")),
    ("mean shot", lambda v: "–" if v.summary.shot_mean_s is None else clock(v.summary.shot_mean_s)),
    ("objects in a frame, mean (median, most)", lambda v: "–" if v.summary.objects_mean is None else (
        f"{v.summary.objects_mean:.1f} ({v.summary.objects_median:g}, {v.summary.objects_max})"
    )),
    ("distinct classes", lambda v: _number(v.summary.n_classes, "{}")),
    ("detector", lambda v: "none" if v.detector is None else f"{v.detector.kind} ({v.detector.file})"),
)  # fmt: skip


def table(videos: Sequence[VideoStatistics]) -> str:
    """A column a video; below it what the paper says of its own."""
    lines = [f"| | {' | '.join(video.name for video in videos)} |", f"| --- |{' ---: |' * len(videos)}"]
    lines += [f"| {name} | {' | '.join(cell(video) for video in videos)} |" for name, cell in _ROWS]
    notes = [f"Objects are not counted: {HOW}."] * any(v.detector is None for v in videos)
    detectors = {(v.detector.kind, v.detector.sha256, v.detector.min_score) for v in videos if v.detector}
    of_files = {kind for kind, *_ in detectors} == {"detections"}
    if len(detectors) > 1 and not of_files:
        notes.append("Objects were counted by several detectors: their numbers do not compare.")
    return "\n".join(["# Statistics of videos", "", *lines, "", *[f"{note}\n" for note in notes], PAPER])


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else how.format(value)
