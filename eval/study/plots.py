"""StudyData -> SVG, inline or a file of its own: every seed as a dot, every mean as a bar; how the trainings went."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from eval.report.charts import texts, ticks
from eval.report.tables import label
from eval.study.data import Curve, MetricRow, StudyData, is_clear, spread
from eval.study.tables import CURVES, values_of

COLUMNS, GAP = 3, 36  # panels side by side, and the room between them
NAMES, PANEL, ROW = 190, 230, 20  # widths of the variants' names and of a panel, height of a row
HEAD, FOOT = 40, 26
CHART, CHART_HEIGHT = 330, 190
LETTER = 6.3  # mean width at 11 px, for names that have to be cut
DASHES = ("", "6 3", "2 3", "8 3 2 3")
N_COLOURS = 7  # of plots.css
STYLE = Path(__file__).with_name("plots.css")


def dot_plot(data: StudyData) -> str:
    """A panel a benchmark, a row a variant: dots are seeds, bars their means, the dashed line is the reference's mean.

    Coloured are the variants whose every run is above every one of the reference.
    """
    rows = [row for row in data.metrics if row.headline]
    n_lines = max(1, math.ceil(len(rows) / COLUMNS))
    line = HEAD + ROW * len(data.variants) + FOOT
    width, height = NAMES + COLUMNS * (PANEL + GAP), n_lines * line
    names = _fitting(data.variants, NAMES - 10)
    parts: list[str] = []
    for i, row in enumerate(rows):
        top = i // COLUMNS * line
        if i % COLUMNS == 0:
            parts += [_text(0, top + HEAD + ROW * (j + 0.7), name) for j, name in enumerate(names)]
        parts += _panel(data, row, NAMES + i % COLUMNS * (PANEL + GAP), top)
    told = "; ".join(f"{row.benchmark}: {_in_words(data, row)}" for row in rows)
    return _svg(width, height, f"Scores of {len(data.variants)} variants. {told}", parts)


def curve_plot(data: StudyData) -> str:
    """A chart a curve of the logs, a line a variant: means over its seeds at the steps that all of them have."""
    means = {name: {v: found for v in data.variants if (found := _mean_curve(data, v, name))} for name in CURVES}
    lines = {name: found for name, found in means.items() if found}
    names = list(lines)
    shown = [variant for variant in data.variants if any(variant in lines[name] for name in names)]
    legend = 18 * math.ceil(len(shown) / COLUMNS) + 14
    width = COLUMNS * CHART
    parts: list[str] = []
    for i, name in enumerate(_fitting(shown, CHART - 44)):
        x, y = i % COLUMNS * CHART, 12 + i // COLUMNS * 18
        parts.append(f'<path class="curve {_stroke(i)}" d="M{x} {y - 4}h26"{_dash(i)}/>')
        parts.append(_text(x + 32, y, name))
    for number, name in enumerate(names):
        left, top = number % COLUMNS * CHART, legend + number // COLUMNS * CHART_HEIGHT
        parts += _chart(CURVES[name], {i: lines[name][v] for i, v in enumerate(shown) if v in lines[name]}, left, top)
    height = legend + math.ceil(len(names) / COLUMNS) * CHART_HEIGHT
    return _svg(width, height, f"{', '.join(CURVES[name] for name in names)} over training steps", parts)


def standalone(svg: str) -> str:
    """The plot as a file of its own, on a ground of its own."""
    head, rest = svg.split("><title>", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><rect class="page" width="100%" height="100%"/><title>{rest}\n'


def _panel(data: StudyData, row: MetricRow, left: float, top: float) -> Iterator[str]:
    everything = [value for variant in data.variants for value in values_of(row, variant)]
    finite = [value for value in everything if math.isfinite(value)] or [0.0]
    marks = ticks(min(finite), max(finite))
    bottom = top + HEAD + ROW * len(data.variants)

    def x(value: float) -> float:
        return round(left + (value - marks[0]) / (marks[-1] - marks[0]) * PANEL, 1)

    yield _text(left, top + 14, _cut(row.benchmark, PANEL), weight=600)
    yield _text(left, top + 28, _cut(label(row.metric), PANEL), soft=True)
    for mark, text in zip(marks, texts(marks), strict=True):
        yield f'<path class="grid" d="M{x(mark)} {top + HEAD - 4}V{bottom}"/>'
        yield _text(x(mark), bottom + 14, text, soft=True, anchor="middle")
    reference = values_of(row, data.reference)
    if reference:
        yield f'<path class="reference" d="M{x(spread(reference).mean)} {top + HEAD - 4}V{bottom}"/>'
    for j, variant in enumerate(data.variants):
        values = [value for value in values_of(row, variant) if math.isfinite(value)]
        if not values:
            continue
        y = top + HEAD + ROW * (j + 0.5)
        clear = variant != data.reference and is_clear(values, reference)
        dots = "".join(f'<circle class="dot" cx="{x(value)}" cy="{y}" r="3.5"/>' for value in values)
        mean = x(spread(values).mean)
        kind = ' class="clear"' if clear else ""
        bar = f'<rect class="bar" x="{mean - 1:.1f}" y="{y - 7}" width="2.4" height="14"/>'
        yield f"<g{kind}>{dots}{bar}</g>"


def _chart(title: str, curves: Mapping[int, Curve], left: float, top: float) -> Iterator[str]:
    values = [v for curve in curves.values() for v in curve.values if math.isfinite(v)] or [0.0]
    steps = [step for curve in curves.values() for step in curve.steps]
    y_marks, last = ticks(min(values), max(values)), max(steps)
    plot_left, plot_right = left + 44, left + CHART - 20
    plot_top, plot_bottom = top + 24, top + CHART_HEIGHT - 28

    def at(step: float, value: float) -> str:
        x = plot_left + step / max(last, 1) * (plot_right - plot_left)
        y = plot_bottom - (value - y_marks[0]) / (y_marks[-1] - y_marks[0]) * (plot_bottom - plot_top)
        return f"{x:.1f} {y:.1f}"

    yield _text(left, top + 12, title, weight=600)
    for mark, text in zip(y_marks, texts(y_marks), strict=True):
        y = at(0, mark).split()[1]
        yield f'<path class="grid" d="M{plot_left} {y}H{plot_right}"/>'
        yield _text(plot_left - 6, float(y) + 3.5, text, soft=True, anchor="end")
    x_marks = [mark for mark in ticks(0, last) if mark <= last]
    for mark, text in zip(x_marks, texts(x_marks), strict=True):
        yield _text(float(at(mark, y_marks[0]).split()[0]), plot_bottom + 16, text, soft=True, anchor="middle")
    for i, curve in curves.items():
        points = [at(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if math.isfinite(v)]
        if len(points) == 1:  # a line of no length, whose round ends make a dot
            yield f'<path class="curve point {_stroke(i)}" d="M{points[0]}h0"/>'
        elif points:
            yield f'<path class="curve {_stroke(i)}" d="M{"L".join(points)}"{_dash(i)}/>'


def _mean_curve(data: StudyData, variant: str, name: str) -> Curve | None:
    found = [cell.curves[name] for cell in data.cells if cell.variant == variant and name in cell.curves]
    if not found:
        return None
    by_step = [dict(zip(curve.steps, curve.values, strict=True)) for curve in found]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    if not steps:
        return None
    return Curve(steps=tuple(steps), values=tuple(spread([one[step] for one in by_step]).mean for step in steps))


def _in_words(data: StudyData, row: MetricRow) -> str:
    means = [(variant, values_of(row, variant)) for variant in data.variants]
    return ", ".join(f"{variant} {spread(values).mean:.1f}" for variant, values in means if values)


def _svg(width: float, height: float, told: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    style = " ".join(STYLE.read_text(encoding="utf-8").split())
    head = f'<svg class="study" {size} role="img"><title>{escape(told)}</title><style>{style}</style>'
    return f"{head}{''.join(parts)}</svg>"


def _text(x: float, y: float, text: str, *, soft: bool = False, weight: int = 400, anchor: str = "start") -> str:
    kind = ' class="soft"' if soft else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'


def _fitting(variants: Sequence[str], width: float) -> list[str]:
    """The variants' names, without the recipe that all of a grid share where a name would have to be cut."""
    shared = {name.partition(", ")[0] for name in variants if ", " in name}
    if len(shared) == 1 and any(_cut(name, width) != name for name in variants):
        variants = [name.partition(", ")[2] or name for name in variants]
    return [_cut(name, width) for name in variants]


def _cut(text: str, width: float) -> str:
    most = int(width / LETTER)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _stroke(i: int) -> str:
    return f"c{i % N_COLOURS}"


def _dash(i: int) -> str:
    dash = DASHES[i // N_COLOURS % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""
