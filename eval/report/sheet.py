"""All strips of a clip on one labelled picture, for a README, an issue or anything else that shows a single file."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dora.drawing import Row, draw_rows
from eval.report.data import Strip


def draw_sheet(strips: Sequence[Strip], folder: Path) -> Image.Image:
    """The strips below each other. `folder` is the report's."""
    return draw_rows([_row(strip, folder) for strip in strips])


def _row(strip: Strip, folder: Path) -> Row:
    with Image.open(folder / strip.file) as image:
        return Row(strip.label, image.copy(), strip.columns)
