"""Labelled rows of small pictures, in panels side by side: the sheets, and each picture of the films."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, BAND = (33, 38, 45), (98, 106, 115), (255, 255, 255), (232, 236, 240)
_MARGIN, _GAP, _PANEL_GAP, _TITLE, _LINE, _HEADER, _BAND = 14, 4, 22, 32, 22, 24, 30  # pixels
_LABEL_SIZE, _TITLE_SIZE = 15, 19  # of letters
TITLE_ROOM = _MARGIN + _TITLE + 6  # above a sheet without title and lines

Tile = UInt8[np.ndarray, "y x 3"]


class Label(NamedTuple):
    """What a row shows, its colour beside it, and a fact about it in a second line."""

    text: str
    note: str = ""
    colour: tuple[int, int, int] | None = None


class Panel(NamedTuple):
    """Rows of pictures of one size; all panels of a sheet have the same rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Tile]]


def draw_sheet(
    title: str, lines: Sequence[str], labels: Sequence[Label], panels: Sequence[Panel], *, tile_width: int
) -> Image.Image:
    """Title, lines that say what it is, and the panels; pictures are scaled to `tile_width`."""
    height, width = panels[0].rows[0][0].shape[:2]
    tile = tile_width, max(1, round(height * tile_width / width))
    font, large = ImageFont.load_default(_LABEL_SIZE), ImageFont.load_default(_TITLE_SIZE)
    left = _MARGIN + _widest(labels, font) + 12
    widths = [
        max(len(panel.columns) * (tile[0] + _GAP) - _GAP, round(font.getlength(panel.title)) + 16) for panel in panels
    ]
    top = _MARGIN + _TITLE + len(lines) * _LINE + 6
    first = top + _BAND * any(panel.title for panel in panels) + _HEADER
    full = left + sum(widths) + _PANEL_GAP * (len(panels) - 1) + _MARGIN
    full = max(full, _MARGIN * 2 + round(max(large.getlength(title), *map(font.getlength, ["", *lines]))))
    sheet = Image.new("RGB", (full, first + len(labels) * (tile[1] + _GAP) + _MARGIN - _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, INK, large)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + _TITLE + number * _LINE), line, FAINT, font)
    for number, label in enumerate(labels):
        _write_label(draw, label, first + number * (tile[1] + _GAP), tile[1], font)
    for panel, panel_width in zip(panels, widths, strict=True):
        _place(sheet, draw, panel, (left, top, first), panel_width, tile, font)
        left += panel_width + _PANEL_GAP
    return sheet


def _widest(labels: Sequence[Label], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    texts = [text for label in labels for text in (label.text, label.note)]
    return 14 + round(max(font.getlength(text) for text in texts))


def _write_label(
    draw: ImageDraw.ImageDraw, label: Label, top: int, height: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    middle = top + height // 2
    if label.colour:
        draw.rectangle((_MARGIN, top + 2, _MARGIN + 5, top + height - 3), fill=label.colour)
    place = _MARGIN + 14
    if label.note:
        draw.text((place, middle - 10), label.text, INK, font, anchor="lm")
        draw.text((place, middle + 10), label.note, FAINT, font, anchor="lm")
    else:
        draw.text((place, middle), label.text, INK, font, anchor="lm")


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, corner: tuple[int, int, int], width: int,
    tile: tuple[int, int], font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:  # fmt: skip
    left, top, first = corner
    if panel.title:
        draw.rectangle((left, top, left + width - 1, top + _BAND - 5), fill=BAND)
        draw.text((left + 8, top + _BAND // 2 - 2), panel.title, INK, font, anchor="lm")
    for number, name in enumerate(panel.columns):
        draw.text((left + number * (tile[0] + _GAP), first - 6), name, FAINT, font, anchor="ls")
    for r, row in enumerate(panel.rows):
        for c, pixels in enumerate(row):
            image = Image.fromarray(pixels)
            image = image if image.size == tile else image.resize(tile, Image.Resampling.LANCZOS)
            sheet.paste(image, (left + c * (tile[0] + _GAP), first + r * (tile[1] + _GAP)))
