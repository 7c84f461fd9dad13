"""A training's log while it grows -> one picture of its curves, as SVG.

Lines are read as they come: a look at a log of a week costs what was written since the last one.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from xml.sax.saxutils import escape

from eval.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, texts, ticks

HEAD, TITLE = 26, 20  # room above the charts, and above each of them
MOST_POINTS = 300  # of a line; neighbours are averaged
COLOURS = ("#0a6c93", "#c2660a", "#2b8a5a")
DASHES = ("", ' stroke-dasharray="5 3"', ' stroke-dasharray="1.5 3"')
GROUPS: tuple[tuple[str, float, Mapping[str, str]], ...] = (  # title, factor, key in the log -> name of the line
    ("Loss", 1, {"loss": "total", "object_loss": "objects", "local_loss": "crops"}),
    ("Teacher entropy, nats", 1, {"teacher_entropy": "entropy"}),
    ("Online k-NN, %", 1, {"online_knn": "top-1", "online_knn_chance": "chance"}),
    ("Directions in which [CLS] differs", 1, {"effective_rank": "effective rank"}),
    ("Learning rate", 1, {"lr": "learning rate"}),
    ("Clips a second", 1, {"clips_per_s": "clips"}),
    ("Samples a second", 1, {"samples_per_s": "samples"}),
    ("Time spent waiting for data, %", 100, {"data_wait_share": "share"}),
)
KEYS = {"step"} | {key for _, _, names in GROUPS for key in names}
Point = tuple[float, float]


class LiveLog:
    """The numbers of a log.jsonl that somebody else writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def read(self) -> bool:
        """Take what is new; whether anything is. A log that a resumed training has cut is read anew."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return False
        if stat.st_size < self._offset or (self._inode and stat.st_ino != self._inode):
            self._begin()
        self._inode = stat.st_ino
        if stat.st_size == self._offset:
            return False
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]  # the last line may still be on its way
        self._offset += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            self._take(json.loads(line))
        return bool(whole)

    def svg(self, title: str) -> str:
        """The charts of what the log has, two beside each other, below a title."""
        groups = [(name, list(self._lines(factor, names))) for name, factor, names in GROUPS]
        drawn = [(name, lines) for name, lines in groups if lines]
        height = HEAD + -(-len(drawn) // 2) * (HEIGHT + TITLE)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH * 1.4:g}" height="{height * 1.4:g}" '
            f'viewBox="0 0 {2 * WIDTH} {height}" font-family="sans-serif" font-size="10.5" fill="#5b656d">',
            f'<rect width="{2 * WIDTH}" height="{height}" fill="#fcfcfa"/>',
            f'<text x="10" y="18" font-size="12" fill="#1c2125">{escape(title)}</text>',
        ]
        for number, (name, lines) in enumerate(drawn):
            x, y = number % 2 * WIDTH, HEAD + number // 2 * (HEIGHT + TITLE)
            parts += [f'<g transform="translate({x} {y})">', *_legend(name, lines), *_chart(lines), "</g>"]
        return "\n".join([*parts, "</svg>"])

    def last(self, key: str) -> float | None:
        """The newest value of that name."""
        return self._curves[key][-1][1] if key in self._curves else None

    def _begin(self) -> None:
        self._curves: dict[str, list[Point]] = {}
        self._offset = self._inode = 0

    def _take(self, line: Mapping[str, float]) -> None:
        for key in KEYS & line.keys():
            self._curves.setdefault(key, []).append((line["step"], line[key]))

    def _lines(self, factor: float, names: Mapping[str, str]) -> Iterator[tuple[str, list[Point]]]:
        for key, name in names.items():
            if found := [(step, factor * value) for step, value in self._curves.get(key, ()) if math.isfinite(value)]:
                yield name, thinned(found)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most so many points: each the last step and the mean value of as many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _legend(name: str, lines: Sequence[tuple[str, list[Point]]]) -> Iterator[str]:
    yield f'<text x="{LEFT}" y="14" fill="#1c2125">{escape(name)}</text>'
    x = WIDTH - RIGHT
    for number in reversed(range(len(lines))) if len(lines) > 1 else ():
        text = lines[number][0]
        yield f'<text x="{x:.1f}" y="14" text-anchor="end">{escape(text)}</text>'
        x -= 5.2 * len(text) + 6
        yield f'<path d="M{x - 16:.1f} 10H{x:.1f}" stroke="{COLOURS[number]}" stroke-width="2"{DASHES[number]}/>'
        x -= 24


def _chart(lines: Sequence[tuple[str, list[Point]]]) -> Iterator[str]:
    values = [value for _, points in lines for _, value in points]
    steps = [step for _, points in lines for step, _ in points]
    y_marks, low, high = ticks(min(values), max(values)), min(steps), max(max(steps), min(steps) + 1)
    yield f'<g transform="translate(0 {TITLE})">'

    def x(step: float) -> float:
        return round(LEFT + (step - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y_marks[0]) / (y_marks[-1] - y_marks[0]) * (HEIGHT - TOP - BOTTOM), 1)

    for mark, text in zip(y_marks, texts(y_marks), strict=True):
        yield f'<path d="M{LEFT} {y(mark)}H{WIDTH - RIGHT}" stroke="#e3e5e4"/>'
        yield f'<text x="{LEFT - 6}" y="{y(mark) + 3.5}" text-anchor="end">{text}</text>'
    x_marks = [mark for mark in ticks(low, high) if low <= mark <= high and mark == int(mark)]
    for mark, text in zip(x_marks, texts(x_marks), strict=True):
        anchor = "end" if x(mark) > WIDTH - 4 * RIGHT else "middle"
        yield f'<text x="{x(mark)}" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>'
    for number, (_, points) in reversed(list(enumerate(lines))):
        path = "L".join(f"{x(step):g} {y(value):g}" for step, value in points)
        dot = f'<circle cx="{x(points[0][0]):g}" cy="{y(points[0][1]):g}" r="2" fill="{COLOURS[number]}"/>'
        yield f'<path d="M{path}" fill="none" stroke="{COLOURS[number]}" stroke-width="1.7"{DASHES[number]}/>'
        yield dot if len(points) == 1 else ""
    yield "</g>"
