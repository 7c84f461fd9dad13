"""How well boxes overlap with the truth: IoU, AO, SR and the success curve as GOT-10k's toolkit computes them.

AO is the mean IoU over the frames of all sequences together, so that a long sequence counts more than a short one. A
sequence's first frame does not count, nor do frames in which the thing is hidden (cover 0). Behaviour of
got-10k/toolkit at commit 956e728 (tests/golden/got10k.json).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

THRESHOLDS = np.linspace(0, 1, 101)
EPSILON = np.finfo(np.float64).eps  # two empty boxes have IoU 0


class Scores(NamedTuple):
    """Shares, 0 to 1; NaN if no frame counts."""

    AO: float
    SR_50: float
    SR_75: float


def clipped(boxes: Float64[np.ndarray, "T 4"], size: tuple[int, int]) -> Float64[np.ndarray, "T 4"]:
    """The boxes inside a picture of that width and height, as the toolkit moves them there.

    The corner first, then the sides to what is left: a box that sticks out on the left or above is moved in and keeps
    its sides, where one would expect it to be cut. Published numbers have seen this.
    """
    corner = np.clip(boxes[:, :2], 0, np.array(size, np.float64))
    sides = np.clip(boxes[:, 2:], 0, np.array(size, np.float64) - corner)
    return np.concatenate([corner, sides], axis=1)


def iou(
    boxes: Float64[np.ndarray, "T 4"], truth: Float64[np.ndarray, "T 4"], *, size: tuple[int, int] | None
) -> Float64[np.ndarray, "T"]:
    """Intersection over union, box by box; both `clipped` to the picture's width and height, if given.

    NaN where a number of either box is.
    """
    if size is not None:
        boxes, truth = clipped(boxes, size), clipped(truth, size)
    begin = np.maximum(boxes[:, :2], truth[:, :2])
    end = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    intersection = np.maximum(end - begin, 0).prod(axis=1)
    union = boxes[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - intersection
    return np.clip(intersection / (union + EPSILON), 0, 1)


def counted(cover: Int64[np.ndarray, "T"]) -> Bool[np.ndarray, "T"]:
    """Which frames of a sequence count: those in which something of the thing is seen, but for the first."""
    counts = cover > 0
    counts[:1] = False
    return counts


def scores(overlaps: Float64[np.ndarray, "T"]) -> Scores:
    """AO and SR of the frames that count."""
    if not overlaps.size:
        return Scores(np.nan, np.nan, np.nan)
    return Scores(float(overlaps.mean()), *(float((overlaps > least).mean()) for least in (0.5, 0.75)))


def success_curve(overlaps: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "101"]:
    """Share of the frames whose IoU is above each of THRESHOLDS; NaN is above none."""
    return (overlaps[:, None] > THRESHOLDS).mean(axis=0) if overlaps.size else np.full(len(THRESHOLDS), np.nan)


def center_error(boxes: Float64[np.ndarray, "T 4"], truth: Float64[np.ndarray, "T 4"]) -> Float64[np.ndarray, "T"]:
    """Distance of the centres in pixels.

    The toolkit counts pixels, so that a box of w pixels has its centre (w - 1) / 2 from its first; it cancels where the
    sides are equal.
    """
    centers, true_centers = (box[:, :2] + (box[:, 2:] - 1) / 2 for box in (boxes, truth))
    return np.sqrt(np.square(centers - true_centers).sum(axis=1))
