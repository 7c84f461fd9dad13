"""The paper's Figure 2 for any videos, drawn with PIL: light, cuts, objects, classes, motion and colour over time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dora.data.statistics.canvas import Box, Canvas
from dora.data.statistics.detections import HOW
from dora.data.statistics.schema import VideoStatistics

# Okabe and Ito's, for every colour vision; dark enough for thin lines on white.
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (90, 90, 90))
_WIDTH, _PANEL, _HEIGHT, _MARGIN = 1260, 600, 250, 20
_HEAD, _LEGEND = 44, 26


class Curve(NamedTuple):
    """Values over time."""

    seconds: Sequence[float]
    values: Sequence[float]


def draw_figure(videos: Sequence[VideoStatistics]) -> Image.Image:
    """Six panels; a colour a video, the same in all of them."""
    n_legend = -(-len(videos) // 4)
    n_bars = max(0, len(videos) - 5)
    top = _HEAD + n_legend * _LEGEND
    height = top + 3 * (_HEIGHT + _MARGIN) + n_bars * 22 + _MARGIN
    canvas = Canvas(_WIDTH, height)
    canvas.text((_MARGIN, 14), "Statistics of videos", size=20)
    for number, video in enumerate(videos):
        left, line = _MARGIN + number % 4 * 300, _HEAD + number // 4 * _LEGEND
        canvas.swatch((left, line + 4), _colour(number))
        canvas.text((left + 20, line), canvas.fitting(video.name, 270, size=14), size=14)
    upper, middle = top, top + _HEIGHT + _MARGIN + n_bars * 22
    lower = middle + _HEIGHT + _MARGIN
    right = _MARGIN * 2 + _PANEL
    _curves(canvas, Box(_MARGIN, upper, _PANEL, _HEIGHT), "Lightness, mean CIE L*", videos,
            lambda v: Curve(v.series.time_s, v.series.lightness))  # fmt: skip
    _cuts(canvas, Box(right, upper, _PANEL, _HEIGHT + n_bars * 22), videos)
    _objects(canvas, Box(_MARGIN, middle, _PANEL, _HEIGHT), "Objects in a frame", videos,
             lambda v: v.series.n_objects)  # fmt: skip
    _objects(canvas, Box(right, middle, _PANEL, _HEIGHT), "Distinct classes so far", videos,
             lambda v: np.cumsum(v.series.n_new_classes).tolist() if v.series.n_new_classes else None,
             average=False)  # fmt: skip
    _motion(canvas, Box(_MARGIN, lower, _PANEL, _HEIGHT), videos)
    _strips(canvas, Box(right, lower, _PANEL, _HEIGHT), videos)
    return canvas.image()


def _curves(
    canvas: Canvas, box: Box, title: str, videos: Sequence[VideoStatistics],
    curve: Callable[[VideoStatistics], Curve | None], *, average: bool = True, from_zero: bool = False,
) -> None:  # fmt: skip
    """A line a video. Where there are more values than pixels, a pixel's are averaged."""
    found = [(number, one) for number, video in enumerate(videos) if (one := curve(video)) and len(one.values)]
    if not found:
        canvas.empty(box, title, "nothing was measured")
        return
    unit, length_s = _unit(max(one.seconds[-1] for _, one in found))
    end = max(one.seconds[-1] for _, one in found) / length_s or 1.0
    values = [value for _, one in found for value in one.values]
    plot = canvas.plot(
        box, title, x=(0, end), y=(0 if from_zero else min(values), max(values)), x_unit=unit, from_zero=from_zero
    )  # fmt: skip
    for number, one in found:
        x, y = _thinned(one, plot.n_pixels(one.seconds[-1] / length_s) // 2, average=average)
        plot.line(x / length_s, y, _colour(number))


def _objects(
    canvas: Canvas, box: Box, title: str, videos: Sequence[VideoStatistics],
    values: Callable[[VideoStatistics], Sequence[float] | None], *, average: bool = True,
) -> None:  # fmt: skip
    if all(values(video) is None for video in videos):
        canvas.empty(box, title, HOW)
        return

    def curve(video: VideoStatistics) -> Curve | None:
        found = values(video)
        return None if found is None else Curve(video.series.time_s, found)

    _curves(canvas, box, title, videos, curve, average=average, from_zero=True)


def _motion(canvas: Canvas, box: Box, videos: Sequence[VideoStatistics]) -> None:
    title = "Motion, picture widths a second"
    if all(video.series.motion is None for video in videos):
        canvas.empty(box, title, "not measured (--no-motion)")
        return

    def curve(video: VideoStatistics) -> Curve:
        moved = [(m, v) for m, v in zip(video.series.time_s, video.series.motion or (), strict=False) if v is not None]
        return Curve([m for m, _ in moved], [v for _, v in moved])

    _curves(canvas, box, title, videos, curve, from_zero=True)


def _cuts(canvas: Canvas, box: Box, videos: Sequence[VideoStatistics]) -> None:
    """A bar a video: cuts an hour, and how many there are."""
    title = "Cuts an hour (PySceneDetect)"
    if all(video.summary.cuts_per_hour is None for video in videos):
        canvas.empty(box, title, "not looked for (--no-cuts)")
        return
    bars = [
        (video.name, video.summary.cuts_per_hour or 0.0, _colour(number),
         "not looked for" if video.summary.n_cuts is None else
         f"{video.summary.cuts_per_hour:,.1f}  ({video.summary.n_cuts} in {video.file.duration_s / 60:.1f} min)")
        for number, video in enumerate(videos)
    ]  # fmt: skip
    canvas.bars(box, title, bars)


def _strips(canvas: Canvas, box: Box, videos: Sequence[VideoStatistics]) -> None:
    """Mean colour over time, each video over the whole width; ticks where it is cut."""
    strips = [
        (np.array(video.series.colour, np.uint8)[None], _colour(number),
         [time_s / video.file.duration_s for time_s in video.cuts_s or ()])
        for number, video in enumerate(videos)
    ]  # fmt: skip
    canvas.strips(box, "Mean colour from beginning to end; ticks are cuts", strips)


def _unit(seconds: float) -> tuple[str, float]:
    """What time is counted in, and how many seconds that is."""
    if seconds < 180:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _thinned(curve: Curve, n_most: int, *, average: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(curve.seconds, float), np.asarray(curve.values, float)
    if len(x) <= n_most:
        return x, y
    edges = np.linspace(0, len(x), max(2, n_most) + 1).astype(int)
    begins, sizes = edges[:-1], np.diff(edges)
    if average:
        return np.add.reduceat(x, begins) / sizes, np.add.reduceat(y, begins) / sizes
    return x[edges[1:] - 1], y[edges[1:] - 1]


def _colour(number: int) -> tuple[int, int, int]:
    return COLOURS[number % len(COLOURS)]
