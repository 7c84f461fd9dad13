"""Axes, lines, bars and words on a picture: no more of a plotting library than six panels need."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, GRID, PAPER, PANEL = (33, 38, 45), (98, 106, 115), (226, 230, 234), (255, 255, 255), (250, 251, 252)
_SCALE = 2  # drawn so much larger, and kept so: lines are smooth and letters sharp when the page is scaled
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 34, 30  # room around a plot

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Box(NamedTuple):
    """A panel's place."""

    left: float
    top: float
    width: float
    height: float


class Plot(NamedTuple):
    """Axes that lines are drawn on."""

    canvas: "Canvas"
    box: Box
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where values lie."""
        box = self.box
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return box.left + across * box.width, box.top + (1 - up) * box.height

    def n_pixels(self, x: float) -> int:
        """From the axis to here."""
        return max(2, round((x - self.x[0]) / (self.x[1] - self.x[0]) * self.box.width))

    def line(self, x: np.ndarray, y: np.ndarray, colour: Colour) -> None:
        """A curve; a single value is a dot."""
        points = [self.at(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        self.canvas.curve(points, colour)


class Canvas:
    """A white page."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * _SCALE, height * _SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def image(self) -> Image.Image:
        """The page."""
        return self._image

    def text(
        self, place: tuple[float, float], text: str, *, size: int = 13, colour: Colour = INK, anchor: str = "la"
    ) -> None:
        """A line of words."""
        self._draw.text(_scaled(place), text, colour, _font(size), anchor=anchor)

    def fitting(self, text: str, width: float, *, size: int) -> str:
        """As much of the text as fits."""
        font, kept = _font(size), text
        while kept and font.getlength(kept + "…" * (kept != text)) > width * _SCALE:
            kept = kept[:-1]
        return kept + "…" * (kept != text)

    def swatch(self, place: tuple[float, float], colour: Colour) -> None:
        """A small square of a colour."""
        self._rectangle(place[0], place[1], 12, 12, colour)

    def curve(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """A line through points."""
        if len(points) == 1:
            x, y = points[0]
            self._draw.ellipse((*_scaled((x - 2, y - 2)), *_scaled((x + 2, y + 2))), fill=colour)
        self._draw.line([_scaled(point) for point in points], fill=colour, width=round(1.6 * _SCALE), joint="curve")

    def plot(
        self, box: Box, title: str, *, x: tuple[float, float], y: tuple[float, float], x_unit: str, from_zero: bool
    ) -> Plot:
        """A panel with axes that hold these ranges, at round values."""
        self._panel(box, title)
        inner = Box(box.left + _LEFT, box.top + _TOP, box.width - _LEFT - _RIGHT, box.height - _TOP - _BOTTOM)
        marks = ticks(0.0 if from_zero else y[0], max(y[1], 1e-9 if from_zero else y[1]))
        plot = Plot(self, inner, x, (marks[0], marks[-1]))
        for mark in marks:
            left, at = plot.at(x[0], mark)
            self._draw.line([_scaled((left, at)), _scaled((left + inner.width, at))], fill=GRID, width=_SCALE)
            self.text((left - 6, at), _short(mark), size=12, colour=FAINT, anchor="rm")
        marks = [mark for mark in ticks(*x) if x[0] <= mark <= x[1]]
        for mark in marks:
            at, bottom = plot.at(mark, plot.y[0])
            label = f"{_short(mark)} {x_unit}" if mark == marks[-1] else _short(mark)
            self._draw.line([_scaled((at, bottom)), _scaled((at, bottom + 4))], fill=FAINT, width=_SCALE)
            self.text((at, bottom + 6), label, size=12, colour=FAINT, anchor="ma")
        return plot

    def bars(self, box: Box, title: str, bars: Sequence[tuple[str, float, Colour, str]]) -> None:
        """Horizontal bars with names and their values in words."""
        self._panel(box, title)
        most = max(value for _, value, _, _ in bars) or 1.0
        row = min(40.0, (box.height - _TOP - 8) / len(bars))
        left, room = box.left + 150, box.width - 150 - 190
        for number, (name, value, colour, words) in enumerate(bars):
            top = box.top + _TOP + number * row
            self.text((left - 8, top + row / 2), self.fitting(name, 132, size=12), size=12, colour=FAINT, anchor="rm")
            length = room * value / most
            self._rectangle(left, top + row * 0.2, max(1.0, length), row * 0.6, colour)
            self.text((left + length + 8, top + row / 2), words, size=12, anchor="lm")

    def strips(self, box: Box, title: str, strips: Sequence[tuple[np.ndarray, Colour, Sequence[float]]]) -> None:
        """Rows of colours over the whole width, marked at shares of it."""
        self._panel(box, title)
        row = min(56.0, (box.height - _TOP - 8) / len(strips))
        left, width = box.left + 28, box.width - 40
        for number, (colours, own, marks) in enumerate(strips):
            top = box.top + _TOP + number * row
            size = max(1, round(width * _SCALE)), max(1, round(row * 0.72 * _SCALE))
            strip = Image.fromarray(colours).resize(size, Image.Resampling.BOX)
            x, y = _scaled((left, top + row * 0.18))
            self._image.paste(strip, (round(x), round(y)))
            self._rectangle(box.left + 10, top + row * 0.18, 8, row * 0.72, own)
            for mark in marks:
                self._rectangle(left + mark * width, top, 1, row * 0.16, INK)

    def empty(self, box: Box, title: str, reason: str) -> None:
        """A panel without a plot, and why."""
        self._panel(box, title)
        lines, words = [""], reason.split()
        for word in words:
            longer = f"{lines[-1]} {word}".strip()
            fits = _font(13).getlength(longer) <= (box.width - 60) * _SCALE
            lines = [*lines[:-1], longer] if fits else [*lines, word]
        top = box.top + box.height / 2 - len(lines) * 10
        for number, line in enumerate(lines):
            self.text((box.left + box.width / 2, top + number * 20), line, colour=FAINT, anchor="ma")

    def _panel(self, box: Box, title: str) -> None:
        self._rectangle(*box, PANEL)
        self.text((box.left + 10, box.top + 8), title, size=15)

    def _rectangle(self, left: float, top: float, width: float, height: float, colour: Colour) -> None:
        x, y = _scaled((left, top))
        right, bottom = _scaled((left + width, top + height))
        self._draw.rectangle((x, y, max(x, right - 1), max(y, bottom - 1)), fill=colour)


def ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About `n` round values (1, 2 or 5 times a power of ten) from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - 1, low + 1
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [n * step for n in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 9):.4g}"


def _font(size: int) -> Font:
    return ImageFont.load_default(size * _SCALE)


def _scaled(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] * _SCALE, place[1] * _SCALE
