import numpy as np
from jaxtyping import Float, Int32


def paint(points: Float[np.ndarray, "P V 2"], *, width: int, height: int) -> Int32[np.ndarray, "Y X"]:
    """For every pixel the index of the last polygon that covers its centre, -1 where none does.

    `points` are (x, y) in pixels of convex polygons, either way round; a polygon of fewer than V corners repeats one.
    All polygons are filled at once: each edge that runs down the screen bounds its rows on one side, each edge that
    runs up on the other, so a row's span is known without sorting or looping.
    """
    x, y = points[..., 0], points[..., 1]
    x_next, y_next = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    clockwise = (x * y_next - x_next * y).sum(axis=1) > 0
    first, last = _rows(y.min(axis=1), height), _rows(y.max(axis=1), height)
    start = np.cumsum(last - first) - (last - first)  # of each polygon's rows in `bounds`
    edge_first, edge_last = _rows(np.minimum(y, y_next), height), _rows(np.maximum(y, y_next), height)

    polygon, corner = np.nonzero(edge_last > edge_first)
    n_rows = (edge_last - edge_first)[polygon, corner]
    row, edge = _ranges(edge_first[polygon, corner], n_rows)
    polygon, corner = polygon[edge], corner[edge]
    slope = (x_next - x)[polygon, corner] / (y_next - y)[polygon, corner]
    crossing = x[polygon, corner] + (row + 0.5 - y[polygon, corner]) * slope
    is_right = (y_next > y)[polygon, corner] == clockwise[polygon]
    bounds = np.zeros((2, int((last - first).sum())), np.int32)
    bounds[is_right.astype(np.int32), start[polygon] + row - first[polygon]] = np.clip(
        np.ceil(crossing - 0.5), 0, width
    )

    span_row, span_polygon = _ranges(first, last - first)
    column, span = _ranges(bounds[0], np.maximum(bounds[1] - bounds[0], 0))
    covered = np.full(height * width, -1, np.int32)
    covered[span_row[span] * width + column] = span_polygon[span]  # numpy keeps the last of equal indices: the nearest
    return covered.reshape(height, width)


def _rows(y: np.ndarray, height: int) -> np.ndarray:
    return np.clip(np.ceil(y - 0.5), 0, height).astype(np.int32)


def _ranges(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ranges start … start+length-1; also say which range each number is from."""
    owner = np.repeat(np.arange(len(length), dtype=np.int32), length)
    first = (np.cumsum(length) - length).astype(np.int32)
    return np.arange(len(owner), dtype=np.int32) + (start - first)[owner], owner
