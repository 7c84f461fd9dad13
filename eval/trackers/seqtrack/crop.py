"""The square around a box that the network sees, and coordinates in it and back.

As SeqTrack has it (microsoft/VideoX SeqTrack, lib/train/data/processing_utils.py and lib/test/tracker/seqtrack.py).
Boxes are x, y, w, h in pixels, x and y of the upper left corner.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8

MOST_PIXELS = 1 << 30  # of a square, whose part outside the image takes no memory; more is a broken annotation


class Window(NamedTuple):
    """A square in an image, partly outside of it perhaps; `center_x`, `center_y` are the box's, exactly."""

    left: int
    top: int
    side: int
    center_x: float
    center_y: float


def window(box: Float[np.ndarray, "4"], *, area_factor: float) -> Window:
    """The square around the middle of `box`, its side `area_factor` times that of a square of the box's area.

    Raises:
        ValueError: for a box that is empty, not finite, or far larger than any picture.
    """
    x, y, width, height = (float(value) for value in box)
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"expected a box of finite numbers with w and h above 0, got {[x, y, width, height]}")
    side = math.ceil(math.sqrt(width * height) * area_factor)
    if side * side > MOST_PIXELS or max(abs(x), abs(y)) > MOST_PIXELS:
        raise ValueError(
            f"the box {[x, y, width, height]} asks for a crop of {side} x {side} pixels, more than is sane"
        )
    center_x, center_y = x + width / 2, y + height / 2
    return Window(round(center_x - side / 2), round(center_y - side / 2), side, center_x, center_y)


def cut(pixels: UInt8[np.ndarray, "Y X 3"], window: Window, *, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """What is in the window, black outside of the image, scaled to `size` by OpenCV's bilinear."""
    height, width = pixels.shape[:2]
    x1, x2 = (min(max(x, 0), width) for x in (window.left, window.left + window.side))
    y1, y2 = (min(max(y, 0), height) for y in (window.top, window.top + window.side))
    if (x2 - x1, y2 - y1) == (window.side, window.side):
        square = pixels[y1:y2, x1:x2]
    else:
        square = np.zeros((window.side, window.side, 3), np.uint8)
        square[y1 - window.top : y2 - window.top, x1 - window.left : x2 - window.left] = pixels[y1:y2, x1:x2]
    return np.asarray(cv2.resize(square, (size, size)), dtype=np.uint8)


def to_crop(box: Float[np.ndarray, "4"], window: Window, *, size: int) -> Float[np.ndarray, "4"]:
    """cx, cy, w, h of a box in the window's crop, as shares of its side, the box cut to what is inside.

    Its side counts size - 1 pixels, from the middle of the first to that of the last.
    """
    scale = size / window.side
    x, y, width, height = (float(value) for value in box)
    cx = ((size - 1) / 2 + (x + width / 2 - window.center_x) * scale) / (size - 1)
    cy = ((size - 1) / 2 + (y + height / 2 - window.center_y) * scale) / (size - 1)
    half = np.array([width, height]) * scale / (size - 1) / 2
    low, high = (np.clip(np.array([cx, cy]) + sign * half, 0, 1) for sign in (-1, 1))
    return np.concatenate([(low + high) / 2, high - low])


def from_crop(
    box: Float[np.ndarray, "4"], window: Window, *, size: int, counted: int
) -> Float64[np.ndarray, "4"]:  # fmt: skip
    """The box x, y, w, h in the image, of cx, cy, w, h in shares of the crop's side, which counts `counted` pixels.

    With size - 1 it is the inverse of `to_crop`. The published tracker counts all, so that it sees boxes larger by
    size / (size - 1) than it has learnt them, about the crop's middle; 0.4 % of 256.
    """
    scale = size / window.side
    cx, cy, width, height = (float(value) * counted / scale for value in box)
    half = counted / 2 / scale
    cx, cy = cx + window.center_x - half, cy + window.center_y - half
    return np.array([cx - width / 2, cy - height / 2, width, height], np.float64)


def inside(box: Float[np.ndarray, "4"], height: int, width: int, *, margin: float) -> Float64[np.ndarray, "4"]:
    """The part of a box in an image of that size, of which `margin` pixels at least are inside, each way."""
    x, y, w, h = (float(value) for value in box)
    x1, x2 = min(max(x, 0.0), width - margin), min(max(x + w, margin), width)
    y1, y2 = min(max(y, 0.0), height - margin), min(max(y + h, margin), height)
    return np.array([x1, y1, max(margin, x2 - x1), max(margin, y2 - y1)], np.float64)
