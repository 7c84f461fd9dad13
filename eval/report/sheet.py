"""All strips of a clip on one labelled picture, for a README, an issue or anything else that shows a single file."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eval.report.data import Strip

WIDTH, LABELS, HEADER, GAP = 960, 190, 24, 4  # pixels: of a row of pictures, of the labels, of column names, between
INK, PAPER = (40, 46, 52), (255, 255, 255)


def draw_sheet(strips: Sequence[Strip], folder: Path) -> Image.Image:
    """The strips below each other; names of columns wherever they change. Pictures of one clip are equally large.

    `folder` is the report's. A row of more pictures than the first strip has is made as wide as that.
    """
    tile_width = WIDTH / len(strips[0].columns)
    rows = [_row(strip, folder, tile_width) for strip in strips]
    headed = [True, *(strip.columns != above.columns for above, strip in pairwise(strips))]
    heights = [row.height + GAP + HEADER * with_names for row, with_names in zip(rows, headed, strict=True)]
    sheet = Image.new("RGB", (LABELS + WIDTH, sum(heights)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for strip, row, with_names, bottom in zip(strips, rows, headed, accumulate(heights), strict=True):
        top = bottom - GAP - row.height
        sheet.paste(row, (LABELS, top))
        draw.text((8, top + row.height // 2), strip.label, INK, font, anchor="lm")
        for number, name in enumerate(strip.columns if with_names else ()):
            left = LABELS + number * row.width // len(strip.columns)
            draw.text((left, top - 6), name, INK, font, anchor="ls")
    return sheet


def _row(strip: Strip, folder: Path, tile_width: float) -> Image.Image:
    """The strip's file at the sheet's scale, with gaps between its pictures."""
    n_tiles = len(strip.columns)
    with Image.open(folder / strip.file) as image:
        width = round(min(n_tiles * tile_width, WIDTH))
        row = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    for number in range(1, n_tiles + 1):
        right = number * width // n_tiles
        row.paste(PAPER, (right - GAP, 0, right, row.height))
    return row
