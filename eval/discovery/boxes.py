"""Boxes in pixels, (left, top, right, bottom) with the last two excluded, and parts of a grid of patches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32

Box = tuple[float, float, float, float]


class Parts(NamedTuple):
    """4-connected parts of a mask; 0 is what lies outside."""

    labels: Int32[np.ndarray, "h w"]
    sizes: list[int]  # of label 0, 1, … in cells
    cells: list[tuple[int, int, int, int]]  # left, top, width and height of each


def parts_of(mask: Bool[np.ndarray, "h w"]) -> Parts:
    """The parts, numbered in the order in which a reader comes upon them."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    _, first = np.unique(labels, return_index=True)
    order = [0, *(1 + np.argsort(first[1:] if len(first) == n else first, kind="stable")).tolist()]
    renamed = np.empty(n, np.int32)
    renamed[order] = np.arange(n, dtype=np.int32)
    rows = stats[order].tolist()
    return Parts(
        renamed[np.asarray(labels, np.intp)], [row[cv2.CC_STAT_AREA] for row in rows], [(*row[:4],) for row in rows]
    )


def box_of(cells: tuple[int, int, int, int], patch: int, size: tuple[int, int] | None) -> Box:
    """The pixels of a rectangle of cells (left, top, width, height), cut to an image of `size` (height, width)."""
    left, top, width, height = cells
    right, bottom = patch * (left + width), patch * (top + height)
    if size is not None:
        right, bottom = min(right, size[1]), min(bottom, size[0])
    return float(patch * left), float(patch * top), float(right), float(bottom)


def overlaps(box: Sequence[float], others: Sequence[Any] | np.ndarray) -> Float[np.ndarray, " K"]:
    """Intersection over union with each of K boxes; LOST's own adds 1e-7 to heights, which is left out."""
    a, b = np.asarray(box, dtype=np.float64), np.asarray(others, dtype=np.float64).reshape(-1, 4)
    sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    return shared / ((a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared)
