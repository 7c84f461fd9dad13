"""Which class was taken for which, pixel by pixel, and the measures of semantic segmentation that follow from it.

IoU of a class is the area where prediction and annotation agree on it, divided by the area that either gives it; Acc
divides by the annotated area alone. mIoU and mAcc are means over the classes that have such an area: a class that is
neither annotated nor predicted in any image has no IoU and is left out (mmsegmentation's `nanmean`). Areas are added
up over all images first, as the field does, so that large images count more. Pixels annotated `VOID` count nowhere,
whatever is predicted there.

mmsegmentation's IoUMetric gives the same areas (tests/test_confusion.py), but adds them up in float32, which counts
exactly to 16.7 million pixels a class only; ours are integers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

VOID = 255  # annotated as none of the classes

Confusion = Int[np.ndarray, "K K"]  # pixels: annotated class, predicted class
Entry = list[int]  # annotated class, predicted class, pixels


class Areas(NamedTuple):
    """Pixels of each class."""

    intersection: Int[np.ndarray, "K"]
    union: Int[np.ndarray, "K"]
    predicted: Int[np.ndarray, "K"]
    annotated: Int[np.ndarray, "K"]


def confusion(predicted: UInt8[np.ndarray, "Y X"], annotated: UInt8[np.ndarray, "Y X"], *, n_classes: int) -> Confusion:
    """How many pixels of each class were taken for each.

    Raises:
        ValueError: for a class that there is not.
    """
    counted = annotated != VOID
    rows, columns = annotated[counted], predicted[counted]
    for what, labels in (("annotated", rows), ("predicted", columns)):
        if labels.size and labels.max() >= n_classes:
            raise ValueError(f"a pixel is {what} as class {labels.max()}, expected 0 … {n_classes - 1}.")
    pairs = rows.astype(np.intp) * n_classes + columns
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def entries(matrix: Confusion) -> list[Entry]:
    """What is not zero, as JSON can hold it."""
    rows, columns = np.nonzero(matrix)
    counts = matrix[rows, columns]
    return [list(entry) for entry in zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True)]


def added_up(images: Iterable[Sequence[Entry]], *, n_classes: int) -> Confusion:
    """The matrix of all images together, from the entries of each."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    for image in images:
        for row, column, count in image:
            matrix[row, column] += count
    return matrix


def areas(matrix: Confusion) -> Areas:
    """Areas of each class."""
    intersection, predicted, annotated = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return Areas(intersection, predicted + annotated - intersection, predicted, annotated)


def measures(matrix: Confusion) -> dict[str, float]:
    """`mIoU`, `mAcc` and `aAcc`, in percent.

    Raises:
        ValueError: if no pixel counts.
    """
    if not matrix.any():
        raise ValueError("no annotated pixel in all of the images: nothing can be measured.")
    all_right = float(matrix.trace() / matrix.sum())
    return {
        "mIoU": 100 * float(np.nanmean(_IoU(matrix))), "mAcc": 100 * float(np.nanmean(_Acc(matrix))),
        "aAcc": 100 * all_right,
    }  # fmt: skip


def pixel_accuracy(matrix: Confusion) -> float | None:
    """Percentage of right pixels; None where none counts."""
    return 100 * float(matrix.trace() / matrix.sum()) if matrix.any() else None


def table(matrix: Confusion, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: IoU and Acc in percent (null: no such area), areas, and what it was most taken for."""
    found, IoU, Acc = areas(matrix), _IoU(matrix), _Acc(matrix)
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    return [
        {
            "name": name, "IoU": _percent(IoU[k]), "Acc": _percent(Acc[k]),
            "annotated_pixels": int(found.annotated[k]), "predicted_pixels": int(found.predicted[k]),
            "most_taken_for": names[int(wrong[k].argmax())] if wrong[k].any() else None,
        }
        for k, name in enumerate(names)
    ]  # fmt: skip


def write_table(path: Path, tables: Mapping[str, list[dict[str, Any]]] | list[dict[str, Any]]) -> None:
    """The rows as JSON."""
    path.write_text(json.dumps(tables, indent=1))


def _IoU(matrix: Confusion) -> Float[np.ndarray, "K"]:
    found = areas(matrix)
    return _ratio(found.intersection, found.union)


def _Acc(matrix: Confusion) -> Float[np.ndarray, "K"]:
    found = areas(matrix)
    return _ratio(found.intersection, found.annotated)


def _ratio(part: Int[np.ndarray, "K"], whole: Int[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """NaN where the whole is nothing."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else 100 * float(share)
