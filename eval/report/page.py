"""ReportData -> index.html (one file that asks for nothing else), report.md and report.json."""

import base64
import io
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from eval.report import charts, tables
from eval.report.data import ClipPictures, ReportData
from eval.report.tables import Cell, Table, escape_markdown, markdown

FILM = ".mp4"


class Weight(NamedTuple):
    """How much of the pictures goes into a page."""

    most_bytes: int  # a heavier picture is made smaller
    side: int  # to so many pixels; so is one more than twice as large
    quality: int  # of JPEG, then
    film_bytes: int  # a heavier film stays a file beside the page


FULL = Weight(200_000, 1200, 80, 2_000_000)
LIGHT = Weight(15_000, 440, 55, 0)  # for a page of less than a megabyte, to be sent or kept beside code


class Picture(NamedTuple):
    """A picture inside the page; sizes in pixels."""

    uri: str
    width: int
    height: int


def write(data: ReportData, folder: Path) -> None:
    """The three forms of a report, beside the pictures that are already in `folder`."""
    (folder / "report.json").write_text(data.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown_page(data), encoding="utf-8")
    (folder / "index.html").write_text(html_page(data, folder), encoding="utf-8")


def html_page(data: ReportData, folder: Path, weight: Weight = FULL) -> str:
    """The page; `folder` holds the pictures that `data` names."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("template.html").render(
        data=data, tables=tables, plot=charts, charts=charts.charts(data.training) if data.training else (),
        learning_charts=charts.learning_charts(data.measurements),
        by_first_cell=by_first_cell, picture=lambda file: embed(folder / file, weight),  # pyright: ignore[reportUnknownLambdaType]
        is_film=is_film, film=lambda file: embed_film(folder / file, weight),  # pyright: ignore[reportUnknownLambdaType]
    )  # fmt: skip


def markdown_page(data: ReportData) -> str:
    """The same tables in Markdown, with pictures by their path in the report's folder."""

    def texts(*found: Table) -> list[str]:
        return [markdown(table) for table in found if table.rows]

    sections = {
        "Scores": texts(
            tables.failure_table(data),
            tables.score_table(data),
            tables.paper_table(data),
            *tables.breakdown_tables(data),
            tables.learning_table(data),
        ),
        "Training": texts(tables.setting_table(data), tables.curve_table(data), tables.throughput_table(data)),
        "What the teacher tracks": [_clip_markdown(*numbered) for numbered in enumerate(data.clips, start=1)],
        "Cost": texts(tables.cost_table(data), tables.measuring_cost_table(data)),
        "Lineage": texts(tables.video_table(data), tables.lineage_table(data), tables.library_table(data)),
        "Classes": texts(*tables.class_tables(data)),
        "How to repeat it": ["\n".join(f"    {command}" for command in data.run.commands)] if data.run.commands else [],
    }
    parts = [f"# {escape_markdown(data.title)}", escape_markdown(data.summary)]
    parts += [part for heading, found in sections.items() if found for part in (f"## {heading}", *found)]
    return "\n\n".join(parts) + "\n"


def embed(path: Path, weight: Weight = FULL) -> Picture:
    """A picture as a data URI; a big one smaller and as JPEG, so that the page stays light."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if len(content) > weight.most_bytes or max(image.size) > 2 * weight.side:
            small = image.convert("RGB")
            small.thumbnail((weight.side, weight.side))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=weight.quality)
            return Picture(_data_uri("image/jpeg", buffer.getvalue()), *small.size)
        return Picture(_data_uri(Image.MIME[str(image.format)], content), *image.size)


def is_film(file: str) -> bool:
    """Whether a benchmark's picture moves."""
    return file.endswith(FILM)


def embed_film(path: Path, weight: Weight = FULL) -> str | None:
    """A film as a data URI; None for one that would make the page heavy, which stays a file beside it."""
    content = path.read_bytes()
    return _data_uri("video/mp4", content) if len(content) <= weight.film_bytes else None


def _data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def by_first_cell(table: Table) -> list[tuple[Cell, list[tuple[Cell, ...]]]]:
    """Rows that share their first cell, together: one <tbody> each."""
    return [(first, [row[1:] for row in rows]) for first, rows in groupby(table.rows, key=lambda row: row[0])]


def _clip_markdown(number: int, clip: ClipPictures) -> str:
    return f"{escape_markdown(tables.clip_caption(clip))}\n\n![Clip {number}, its objects and attention]({clip.sheet})"
