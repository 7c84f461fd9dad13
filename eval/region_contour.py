"""Region similarity J and contour accuracy F of video masks, as the official DAVIS 2017 evaluation computes them.

J is the Jaccard index of two masks. F matches their one-pixel boundaries within a small distance and takes the
harmonic mean of precision and recall (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675; behaviour of
github.com/davisvideochallenge/davis2017-evaluation at commit ac7c43f). Everything here is a share, not a percentage.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

VOID = 255
BOUNDARY_TOLERANCE = 0.008  # of the image diagonal: 8 px at 854 x 480
N_DECAY_BINS = 4

# The pairs of bits in a byte: the k-th object's true mask, and above it the resulting one.
OBJECTS_PER_BYTE, ALL_TRUE = 4, 0b01010101
TRUE_BITS = np.array([1, 4, 16, 64], np.uint8)
BYTES = np.arange(256)[:, None]
# Whether each of the 256 bytes has each object's true bit, its resulting one and both: to count with.
_TRUE, _RESULT = (BYTES >> np.arange(low, 8, 2) & 1 for low in (0, 1))
OF_EACH = np.stack([_TRUE, _RESULT, _TRUE & _RESULT])

Masks = TypeVar("Masks", Bool[np.ndarray, "Y X"], UInt8[np.ndarray, "Y X"])


class Statistics(NamedTuple):
    """Of one object over the frames of its sequence."""

    mean: float
    recall: float  # share of frames above 0.5
    decay: float  # mean of the first quarter minus mean of the last


class FrameScore(NamedTuple):
    """J and F of each object (labels 1, 2, ...) in one frame."""

    J: list[float]
    F: list[float]


class SequenceScore(NamedTuple):
    """J and F of each object (labels 1, 2, ...) in each evaluated frame."""

    J: Float[np.ndarray, "O T"]
    F: Float[np.ndarray, "O T"]


def region_similarity(
    truth: Bool[np.ndarray, "Y X"], result: Bool[np.ndarray, "Y X"], *, void: Bool[np.ndarray, "Y X"] | None = None
) -> float:
    """J: intersection over union, 1 if both masks are empty. Void pixels leave both."""
    if void is not None:
        truth, result = truth & ~void, result & ~void
    both = np.count_nonzero(truth & result)
    union = np.count_nonzero(truth) + np.count_nonzero(result) - both
    return both / union if union else 1.0


def boundary(mask: Masks) -> Masks:
    """Pixels that differ from their right, lower or lower-right neighbour; of packed masks, for each bit.

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
    return _frame_score(truth.view(np.uint8), result.view(np.uint8), n_objects=1, radius=radius).F[0]


def default_tolerance_px(height: int, width: int) -> int:
    """The official distance within which boundaries match, in pixels."""
    return int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(height, width)))


def statistics(per_frame: Float[np.ndarray, " T"]) -> Statistics:
    """Mean, recall and decay of one object's J or F. NaN frames are left out of means and count as a miss in recall.

    Neighbouring quarters share a frame, as in the official code, which overflows from 256 frames on; this does not.
    Decay is NaN if the first or the last quarter has nothing else.
    """
    borders = np.round(np.linspace(1, len(per_frame), N_DECAY_BINS + 1) + 1e-10).astype(int) - 1
    first, last = per_frame[: borders[1] + 1], per_frame[borders[-2] : borders[-1] + 1]
    recall = float(np.mean(per_frame > 0.5))
    return Statistics(_known_mean(per_frame), recall, _known_mean(first) - _known_mean(last))


def score_sequence(frames: Iterable[tuple[UInt8[np.ndarray, "Y X"], UInt8[np.ndarray, "y x"]]]) -> SequenceScore:
    """J and F of every object of one sequence, from its (truth, result) label maps in order.

    The first and the last frame are not evaluated. The objects are 1 to the highest label of the first true frame;
    one that a result lacks is an empty mask there. Void (255) is background in the truth, as in the official
    semi-supervised task.

    Raises:
        ValueError: if sizes differ or a result holds a label that is no object.
    """
    frames = iter(frames)
    first, _ = next(frames)
    n_objects, scores = count_objects(first), list[FrameScore]()
    for t, ((truth, result), _) in enumerate(pairwise(frames), start=1):  # the last has none after it
        require_objects(t, result, n_objects=n_objects)
        scores.append(score_frame(t, truth, result, n_objects=n_objects))
    return sequence_score(scores, n_objects=n_objects)


def count_objects(first: UInt8[np.ndarray, "Y X"]) -> int:
    """The highest label of a sequence's first true frame."""
    return int(first.max(initial=0, where=first != VOID))


def score_frame(
    t: int, truth: UInt8[np.ndarray, "Y X"], result: UInt8[np.ndarray, "y x"], *, n_objects: int
) -> FrameScore:
    """J and F of every object in frame number `t`; labels that are no object are background.

    Raises:
        ValueError: if sizes differ.
    """
    if truth.shape != result.shape:
        raise ValueError(f"frame {t}: the result is {result.shape} pixels, the ground truth {truth.shape}.")
    return _frame_score(truth, result, n_objects=n_objects, radius=default_tolerance_px(*truth.shape))


def require_objects(t: int, result: UInt8[np.ndarray, "Y X"], *, n_objects: int) -> None:
    """Refuse a label that is no object, as the official tool does in the frames that are evaluated.

    Raises:
        ValueError: if frame number `t` of the result has one.
    """
    if int(result.max()) > n_objects:
        raise ValueError(f"frame {t}: the result has label {result.max()}, the objects end at {n_objects}.")


def sequence_score(evaluated: Sequence[FrameScore], *, n_objects: int) -> SequenceScore:
    """What `score_frame` says of the evaluated frames, all but the first and the last, gathered by object."""
    shape = (len(evaluated), n_objects)
    J, F = (np.array(scores, float).reshape(shape).T for scores in ([f.J for f in evaluated], [f.F for f in evaluated]))
    return SequenceScore(J, F)


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


def _known_mean(per_frame: Float[np.ndarray, " T"]) -> float:
    known = per_frame[~np.isnan(per_frame)]
    return float(known.mean()) if known.size else math.nan


def _frame_score(
    truth: UInt8[np.ndarray, "Y X"], result: UInt8[np.ndarray, "Y X"], *, n_objects: int, radius: int
) -> FrameScore:
    """J and F of all objects, four at a time: in a byte each has a bit for its true and one for its resulting mask."""
    truth, result = _cropped(truth, result)
    score = FrameScore([], [])
    for first in range(1, n_objects + 1, OBJECTS_PER_BYTE):
        n = min(OBJECTS_PER_BYTE, n_objects + 1 - first)
        codes = np.zeros(256, np.uint8)
        codes[first : first + n] = TRUE_BITS[:n]
        packed = np.bitwise_or(cv2.LUT(truth, codes), cv2.LUT(result, codes << 1))
        edges = boundary(packed)
        where = np.flatnonzero(edges != 0)
        on_edge, close = edges.ravel()[where], _dilated(edges, radius).ravel()[where]
        near_the_other = (close & ALL_TRUE) << 1 | close >> 1 & ALL_TRUE
        areas, lengths, matched = (
            (_histogram(pixels) @ OF_EACH).T.tolist()[:n] for pixels in (packed, on_edge, on_edge & near_the_other)
        )
        score.J.extend(_jaccard(*counts) for counts in areas)
        score.F.extend(_harmonic_mean(*all_of[:2], *near[:2]) for all_of, near in zip(lengths, matched, strict=True))
    return score


def _jaccard(n_truth: int, n_result: int, n_both: int) -> float:
    union = n_truth + n_result - n_both
    return float(n_both / union) if union else 1.0


def _harmonic_mean(n_truth: int, n_result: int, n_truth_matched: int, n_result_matched: int) -> float:
    """Of the shares that are matched."""
    if not n_truth or not n_result:
        return float(n_truth == n_result)
    precision, recall = float(n_result_matched / n_result), float(n_truth_matched / n_truth)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _histogram(packed: UInt8[np.ndarray, "*any"]) -> Int64[np.ndarray, "256"]:
    """How many pixels have each byte; exact below 2^24 of them, as OpenCV counts in float32."""
    if not packed.size:
        return np.zeros(256, np.int64)
    return cv2.calcHist([packed.reshape(len(packed), -1)], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def _dilated(edges: UInt8[np.ndarray, "Y X"], radius: int) -> UInt8[np.ndarray, "Y X"]:
    """Bits of all pixels within `radius`: the disk's rows are intervals, which grow from the shortest to the longest.

    All is done in one dimension. Between a row's end and the next one's beginning there are `radius` empty pixels, so
    that none reaches into another row.
    """
    height, width = edges.shape
    stride = width + radius
    n, margin = height * stride, radius * stride + radius
    spread_out, grown, near = (
        np.zeros(n + 2 * margin, np.uint8),
        np.zeros(n + 2 * margin, np.uint8),
        np.zeros(n, np.uint8),
    )
    spread_out[margin : margin + n].reshape(height, stride)[:, :width] = edges
    inside = grown[margin : margin + n]
    half_widths = [math.isqrt(radius**2 - row**2) for row in range(radius + 1)]
    for half_width in range(radius + 1):
        for start in {margin - half_width, margin + half_width}:
            inside |= spread_out[start : start + n]
        for row in (row for row in range(radius + 1) if half_widths[row] == half_width):
            for start in {margin - row * stride, margin + row * stride}:
                near |= grown[start : start + n]
    return near.reshape(height, stride)[:, :width]


def _cropped(
    truth: UInt8[np.ndarray, "Y X"], result: UInt8[np.ndarray, "Y X"]
) -> tuple[UInt8[np.ndarray, "y x"], UInt8[np.ndarray, "y x"]]:
    """Both label maps cut to the box that holds what they label and one more pixel all around, where there is one.

    Nothing changes: all boundaries lie in it, and the neighbours that decide about them.
    """
    left, top, width, height = cv2.boundingRect(np.bitwise_or(truth, result))
    box = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
    return truth[box], result[box]
