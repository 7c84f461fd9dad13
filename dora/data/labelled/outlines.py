"""The outlines of a mask, exact to the pixel."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

_Corner = tuple[int, int]  # x, y: of pixels, so 0 … width and 0 … height
_Direction = tuple[int, int]


class Loop(NamedTuple):
    """A closed line along the edges of pixels."""

    points: list[int]  # x, y, x, y, … of the corners where it turns
    is_outer: bool  # around pixels of the mask; else around a hole in it


def outlines(mask: Bool[np.ndarray, "Y X"]) -> list[Loop]:
    """Every outline of the mask; pixels that touch at a corner alone are outlined apart."""
    ways = _edges(mask)
    loops: list[Loop] = []
    while ways:
        loops.append(_walk(ways))
    return loops


def polygons(mask: Bool[np.ndarray, "Y X"]) -> list[list[int]]:
    """Outlines, x, y, x, y, …, that cover just the mask: where there is a hole, the mask is cut along its top."""
    loops = outlines(mask)
    hole = next((loop for loop in loops if not loop.is_outer), None)
    if hole is None:
        return [loop.points for loop in loops]
    above, below = mask.copy(), mask.copy()
    row = min(hole.points[1::2])
    above[row:] = below[:row] = False
    return polygons(above) + polygons(below)


def _edges(mask: Bool[np.ndarray, "Y X"]) -> dict[_Corner, list[_Direction]]:
    """For each corner the directions in which an edge leaves it, with the mask to the right of who walks there."""
    ways: dict[_Corner, list[_Direction]] = defaultdict(list)
    inside = np.pad(mask, 1)
    enters, leaves = inside[1:] & ~inside[:-1], inside[:-1] & ~inside[1:]  # going down
    for corners, (dx, dy), (at_x, at_y) in (
        (enters, (1, 0), (-1, 0)), (leaves, (-1, 0), (0, 0)),
        ((inside[:, 1:] & ~inside[:, :-1]), (0, -1), (0, 0)), ((inside[:, :-1] & ~inside[:, 1:]), (0, 1), (0, -1)),
    ):  # fmt: skip
        for y, x in np.argwhere(corners).tolist():
            ways[x + at_x, y + at_y].append((dx, dy))
    return ways


def _walk(ways: dict[_Corner, list[_Direction]]) -> Loop:
    """Take one loop out of `ways`, begun at its upper left corner."""
    x, y = start = min(ways)
    direction = before = ways[start][0]
    points, twice_the_area = [x, y], 0
    while True:
        leaving = ways[x, y]
        # Where two pixels touch at a corner, the turn to the right stays with the same pixel.
        direction = leaving[0] if len(leaving) == 1 else (-before[1], before[0])
        leaving.remove(direction)
        if not leaving:
            del ways[x, y]
        if direction != before:
            points += [x, y]
        twice_the_area += x * direction[1] - y * direction[0]
        x, y, before = x + direction[0], y + direction[1], direction
        if (x, y) == start:
            return Loop(points, is_outer=twice_the_area > 0)
