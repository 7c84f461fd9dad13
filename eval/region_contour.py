"""Region similarity J and contour accuracy F of video masks, as the official DAVIS 2017 evaluation computes them.

J is the Jaccard index of two masks. F matches their one-pixel boundaries within a small distance and takes the
harmonic mean of precision and recall (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675; behaviour of
github.com/davisvideochallenge/davis2017-evaluation at commit ac7c43f). Everything here is a share, not a percentage.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

VOID = 255
BOUNDARY_TOLERANCE = 0.008  # of the image diagonal: 8 px at 854 x 480
N_DECAY_BINS = 4


class Statistics(NamedTuple):
    """Of one object over the frames of its sequence."""

    mean: float
    recall: float  # share of frames above 0.5
    decay: float  # mean of the first quarter minus mean of the last


class SequenceScore(NamedTuple):
    """J and F of each object (labels 1, 2, ...) in each evaluated frame."""

    J: Float[np.ndarray, "O T"]
    F: Float[np.ndarray, "O T"]


def region_similarity(
    truth: Bool[np.ndarray, "Y X"], result: Bool[np.ndarray, "Y X"], *, void: Bool[np.ndarray, "Y X"] | None = None
) -> float:
    """J: intersection over union, 1 if both masks are empty. Void pixels leave both."""
    valid = True if void is None else ~void
    union = np.count_nonzero((truth | result) & valid)
    return np.count_nonzero(truth & result & valid) / union if union else 1.0


def boundary(mask: Bool[np.ndarray, "Y X"]) -> Bool[np.ndarray, "Y X"]:
    """Pixels that differ from their right, lower or lower-right neighbour.

    Where a mask meets the image border there is no boundary, so that a full mask has none.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def contour_accuracy(
    truth: Bool[np.ndarray, "Y X"], result: Bool[np.ndarray, "Y X"], *,
    tolerance_px: int | None = None, void: Bool[np.ndarray, "Y X"] | None = None,
) -> float:  # fmt: skip
    """F: harmonic mean of the shares of boundary pixels that lie within `tolerance_px` of the other boundary.

    1 if both boundaries are empty, 0 if one is. Void pixels are background in both masks.
    """
    radius = default_tolerance_px(*truth.shape) if tolerance_px is None else tolerance_px
    if void is not None:
        truth, result = truth & ~void, result & ~void
    edges = np.stack([boundary(truth), boundary(result)])
    n_truth, n_result = np.count_nonzero(edges[0]), np.count_nonzero(edges[1])
    if not n_truth or not n_result:
        return float(n_truth == n_result)
    edges = _cropped(edges)
    near = [_dilated(edge, radius) for edge in edges]
    precision = np.count_nonzero(edges[1] & near[0]) / n_result
    recall = np.count_nonzero(edges[0] & near[1]) / n_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def default_tolerance_px(height: int, width: int) -> int:
    """The official distance within which boundaries match, in pixels."""
    return int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(height, width)))


def statistics(per_frame: Float[np.ndarray, " T"]) -> Statistics:
    """Mean, recall and decay of one object's J or F. NaN frames are left out of means and count as a miss in recall.

    Neighbouring quarters share a frame, as in the official code, which overflows above 256 frames; this does not.
    """
    borders = np.round(np.linspace(1, len(per_frame), N_DECAY_BINS + 1) + 1e-10).astype(int) - 1
    first, last = per_frame[: borders[1] + 1], per_frame[borders[-2] : borders[-1] + 1]
    recall = float(np.mean(per_frame > 0.5))
    return Statistics(float(np.nanmean(per_frame)), recall, float(np.nanmean(first) - np.nanmean(last)))


def score_sequence(frames: Iterable[tuple[UInt8[np.ndarray, "Y X"], UInt8[np.ndarray, "y x"]]]) -> SequenceScore:
    """J and F of every object of one sequence, from its (truth, result) label maps in order.

    The first and the last frame are not evaluated. The objects are 1 to the highest label of the first true frame;
    one that a result lacks is an empty mask there. Void (255) is background in the truth, as in the official
    semi-supervised task.

    Raises:
        ValueError: if sizes differ or a result holds a label that is no object.
    """
    n_objects, J, F = 0, list[list[float]](), list[list[float]]()
    for t, (truth, result) in enumerate(frames):
        if truth.shape != result.shape:
            raise ValueError(f"frame {t}: the result is {result.shape} pixels, the ground truth {truth.shape}.")
        truth = np.where(truth == VOID, np.uint8(0), truth)
        n_objects = n_objects if t else int(truth.max())
        if int(result.max()) > n_objects:
            raise ValueError(f"frame {t}: the result has label {result.max()}, the objects end at {n_objects}.")
        masks = [(truth == label, result == label) for label in range(1, n_objects + 1)]
        J.append([region_similarity(*pair) for pair in masks])
        F.append([contour_accuracy(*pair) for pair in masks])
    evaluated = slice(1, max(len(J) - 1, 1))
    return SequenceScore(*(np.array(values[evaluated]).reshape(-1, n_objects).T for values in (J, F)))


def object_statistics(scores: Mapping[str, SequenceScore]) -> dict[str, tuple[Statistics, Statistics]]:
    """Statistics of J and of F for each object, named "<sequence>_<label>" as the official tool names them.

    A sequence of one or two frames has none that is evaluated and does not appear.
    """
    return {
        f"{name}_{o + 1}": (statistics(J), statistics(F))
        for name, score in scores.items()
        for o, (J, F) in enumerate(zip(score.J, score.F, strict=True))
        if J.size
    }


def summary(objects: Mapping[str, tuple[Statistics, Statistics]]) -> dict[str, float]:
    """The official table's row: means over all objects, whatever sequence they are in.

    Raises:
        ValueError: if there is no object at all.
    """
    if not objects:
        raise ValueError("no object to score: J and F need a labelled sequence of at least three frames.")
    J, F = (Statistics(*np.mean([both[which] for both in objects.values()], axis=0).tolist()) for which in (0, 1))
    return {
        "J_and_F_mean": (J.mean + F.mean) / 2,
        "J_mean": J.mean, "J_recall": J.recall, "J_decay": J.decay,
        "F_mean": F.mean, "F_recall": F.recall, "F_decay": F.decay,
    }  # fmt: skip


def _dilated(edge: Bool[np.ndarray, "Y X"], radius: int) -> Bool[np.ndarray, "Y X"]:
    """Pixels within `radius` of an edge pixel."""
    offsets = np.arange(-radius, radius + 1)
    # An exact disk; OpenCV's own ellipse is not one.
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(edge.astype(np.uint8), disk).astype(bool)


def _cropped(edges: Bool[np.ndarray, "2 Y X"]) -> Bool[np.ndarray, "2 y x"]:
    """Both edge maps cut to the box that holds every edge: what is counted lies on edges, so nothing changes."""
    rows, columns = np.flatnonzero(edges.any(axis=(0, 2))), np.flatnonzero(edges.any(axis=(0, 1)))
    return edges[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
