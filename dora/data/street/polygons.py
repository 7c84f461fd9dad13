"""Polygons become pixels, all at once."""

import numpy as np
from jaxtyping import Float32, Int32


def paint(points: Float32[np.ndarray, "2 V P"], *, width: int, height: int) -> Int32[np.ndarray, "Y X"]:
    """For every pixel the index of the last polygon that covers its centre, -1 where none does.

    `points` are x and y in pixels of the V corners of P convex polygons, either way round; a polygon of fewer corners
    repeats one. All are filled at once: each edge that runs down the screen bounds its rows on one side, each edge
    that runs up on the other, so a row's span is known without sorting or looping.
    """
    (x, y), (x_next, y_next) = points, np.roll(points, -1, axis=1)
    clockwise = (x * y_next - x_next * y).sum(axis=0) > 0
    first, last = _rows(y.min(axis=0), height), _rows(y.max(axis=0), height)
    start = np.cumsum(last - first, dtype=np.int32) - (last - first) - first  # start + row: place in `bounds`
    edge_first, edge_last = _rows(np.minimum(y, y_next), height), _rows(np.maximum(y, y_next), height)

    edges = np.flatnonzero(edge_last > edge_first)
    polygon = edges % points.shape[2]
    at_x, at_y, to_y = x.ravel()[edges], y.ravel()[edges], y_next.ravel()[edges]
    slope = (x_next.ravel()[edges] - at_x) / (to_y - at_y)
    right = (to_y > at_y) == clockwise[polygon]
    n_bounds = int((last - first).sum())
    edge_first, n_rows = edge_first.ravel()[edges], (edge_last - edge_first).ravel()[edges]
    row = _ranges(edge_first, n_rows)
    crossing = np.repeat(at_x + (np.float32(0.5) - at_y) * slope, n_rows) + row * np.repeat(slope, n_rows)
    bounds = np.zeros(2 * n_bounds, np.int32)
    bounds[np.repeat(start[polygon] + right * n_bounds, n_rows) + row] = np.clip(
        np.ceil(crossing - np.float32(0.5)), 0, width
    )

    left, length = bounds[:n_bounds], np.maximum(bounds[n_bounds:] - bounds[:n_bounds], 0)
    pixel = _ranges(_ranges(first, last - first) * width + left, length)
    covered = np.full(height * width, -1, np.int32)
    # Of equal indices numpy keeps the last, which is the nearest.
    covered[pixel] = np.repeat(np.repeat(np.arange(points.shape[2], dtype=np.int32), last - first), length)
    return covered.reshape(height, width)


def _rows(y: np.ndarray, height: int) -> np.ndarray:
    return np.clip(np.ceil(y - np.float32(0.5)), 0, height).astype(np.int32)


def _ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Concatenate the ranges start … start+length-1."""
    before = np.cumsum(length) - length
    return np.arange(int(length.sum())) + np.repeat(start - before, length)
