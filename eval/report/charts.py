"""Training -> line charts as numbers to draw: the template turns them into inline SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eval.report.data import Measurement, Training

WIDTH, HEIGHT = 320, 170  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 24  # room around the plot
TINY = 1e-300  # nothing, on an axis
CURVES = (  # title, unit, factor, key in the log -> name of the line
    ("Loss", "nats", 1, {"loss": "total", "object_loss": "objects", "local_loss": "crops"}),
    ("Learning rate", "", 1, {"lr": "learning rate"}),
    ("Teacher entropy", "nats", 1, {"teacher_entropy": "entropy"}),
    ("Share of patches in a mask", "%", 100, {"mask_share": "share"}),
    ("Speed", "clips a second", 1, {"clips_per_s": "speed"}),
    ("Time spent waiting for data", "%", 100, {"data_wait_share": "share"}),
)


class Tick(NamedTuple):
    """A mark on an axis: its place in the chart and its text."""

    at: float
    text: str


class Line(NamedTuple):
    """One curve; `path` is SVG's."""

    name: str
    path: str
    first: float
    last: float


class Chart(NamedTuple):
    """One small chart."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def charts(training: Training) -> tuple[Chart, ...]:
    """A chart for every group of curves that the log has."""
    return tuple(
        _chart(title, unit, training.steps, {name: [v * factor for v in training.curves[key]] for key, name in found})
        for title, unit, factor, names in CURVES
        if (found := [(key, name) for key, name in names.items() if key in training.curves])
    )


def learning_charts(measurements: Sequence[Measurement]) -> tuple[Chart, ...]:
    """The loss of each benchmark that learns from labels, named by its protocol."""
    return tuple(
        _chart(f"Loss of {one.protocol}", "", one.training.steps, {"loss": one.training.curves["loss"]})
        for one in measurements
        if one.training
    )


def ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About `n` round values (1, 2 or 5 times a power of ten) from at most `low` to at least `high`."""
    largest = max(abs(low), abs(high))
    if largest < TINY:
        low, high = -1.0, 1.0
    elif high - low <= 1e-9 * largest:  # rounding apart: a curve that stays where it is
        low, high = low - largest / 2, high + largest / 2
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """Three digits: 7.41, 0.00025 as 2.5e-4, 12,300."""
    return _digits(value, 3)


def texts(marks: Sequence[float]) -> list[str]:
    """What an axis says at its marks: as `short`, with as many digits more as tell them apart."""
    found: list[str] = []
    for n in range(3, 17):
        found = [_digits(mark, n) for mark in marks]
        if len(set(found)) == len(marks):
            break
    return found


def _digits(value: float, n: int) -> str:
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 0.001:
        mantissa, exponent = f"{value:.{n - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    rounded = f"{value:.{n}g}"
    return f"{value:,.{max(0, n - 4)}f}" if abs(float(rounded)) >= 1000 else rounded


def _chart(title: str, unit: str, steps: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Chart:
    finite = [value for values in curves.values() for value in values if math.isfinite(value)] or [0.0]
    y_marks = ticks(min(finite), max(finite))
    x_low, x_high = steps[0], max(steps[-1], steps[0] + 1)
    x_marks = [mark for mark in ticks(x_low, x_high) if x_low <= mark <= x_high and mark == int(mark)]

    def x(step: float) -> float:
        return round(LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        share = (value - y_marks[0]) / (y_marks[-1] - y_marks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def path(values: Sequence[float]) -> str:
        """An SVG path, interrupted where a value is not finite."""
        parts: list[str] = []
        drawing = False
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value):
                parts.append(f"{'L' if drawing else 'M'}{x(step):g} {y(value):g}")
            drawing = math.isfinite(value)
        return " ".join(parts)

    return Chart(
        title,
        unit,
        tuple(Line(name, path(values), values[0], values[-1]) for name, values in curves.items()),
        tuple(map(Tick, map(x, x_marks), texts(x_marks))),
        tuple(map(Tick, map(y, y_marks), texts(y_marks))),
    )
