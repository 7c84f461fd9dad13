"""Contact sheets: what a benchmark's numbers look like, as JPEGs for the report."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

GAP, CAPTION = 4, 14  # pixels
RIGHT, WRONG = (40, 160, 60), (205, 50, 40)


def overlay(
    image: UInt8[np.ndarray, "Y X 3"], labels: UInt8[np.ndarray, "Y X"], palette: Sequence[int]
) -> UInt8[np.ndarray, "Y X 3"]:
    """The image with every label but 0 tinted in its colour, and outlined."""
    colours = np.array(palette, dtype=np.uint8).reshape(-1, 3)[labels]
    labelled = (labels > 0)[..., None]
    tinted = np.where(labelled, image // 2 + colours // 2, image)
    outline = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))[..., None] > 0
    return np.where(outline & labelled, colours, tinted)


def framed(image: UInt8[np.ndarray, "Y X 3"], colour: tuple[int, int, int]) -> UInt8[np.ndarray, "Y X 3"]:
    """The image with a coloured border, drawn over its edge."""
    width = max(2, min(image.shape[:2]) // 24)
    inner = image[width:-width, width:-width]
    bordered = np.empty_like(image)
    bordered[:] = colour
    bordered[width:-width, width:-width] = inner
    return bordered


def evenly(n_items: int, n_wanted: int) -> list[int]:
    """At most `n_wanted` positions spread over 0 .. n_items - 1, ends included."""
    return sorted({round(position) for position in np.linspace(0, n_items - 1, min(n_items, n_wanted))})


def write_sheet(
    path: Path, rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "_ _ 3"]]]], *, cell_height: int
) -> None:
    """Captioned rows of images, each scaled to `cell_height`, as one JPEG."""
    scaled = [(caption, [_to_height(image, cell_height) for image in images]) for caption, images in rows]
    width = max(sum(image.shape[1] + GAP for image in images) for _, images in scaled) + GAP
    row_height = cell_height + CAPTION + GAP
    sheet = Image.new("RGB", (width, len(rows) * row_height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (caption, images) in enumerate(scaled):
        left, top = GAP, GAP + r * row_height
        draw.text((left, top), caption, fill="black")
        for image in images:
            sheet.paste(Image.fromarray(image), (left, top + CAPTION))
            left += image.shape[1] + GAP
    sheet.save(path, quality=88)


def _to_height(image: UInt8[np.ndarray, "Y X 3"], height: int) -> UInt8[np.ndarray, "y x 3"]:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
