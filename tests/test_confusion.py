"""Areas and measures of segmentation: checked by hand, and against mmsegmentation's."""

import numpy as np
import pytest
import torch

from eval import openmm
from eval.dense.confusion import VOID, added_up, areas, confusion, entries, measures, pixel_accuracy, table

A, B, C = 0, 1, 2


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


ANNOTATED = labels([A, A, B, VOID], [A, B, B, VOID])
PREDICTED = labels([A, B, B, C], [A, B, A, A])


def test_areas_of_eight_pixels_are_those_counted_by_hand():
    matrix = confusion(PREDICTED, ANNOTATED, n_classes=4)
    assert matrix[:2, :2].tolist() == [[2, 1], [1, 2]] and matrix.sum() == 6
    found = areas(matrix)
    assert found.intersection.tolist() == [2, 2, 0, 0]
    assert found.union.tolist() == [4, 4, 0, 0]
    assert found.predicted.tolist() == found.annotated.tolist() == [3, 3, 0, 0]
    # Classes 2 and 3 are in no pixel that counts: the mean is over the two others.
    assert measures(matrix) == pytest.approx({"mIoU": 50, "mAcc": 200 / 3, "aAcc": 400 / 6})


def test_a_class_that_is_only_predicted_has_an_IoU_of_0_but_no_Acc():
    matrix = confusion(labels([A, A, A, C]), labels([A, A, A, A]), n_classes=3)
    assert measures(matrix) == pytest.approx({"mIoU": (75 + 0) / 2, "mAcc": 75, "aAcc": 75})
    rows = table(matrix, ("a", "b", "c"))
    assert [row["IoU"] for row in rows] == [75, None, 0]
    assert [row["Acc"] for row in rows] == [75, None, None]
    assert [row["most_taken_for"] for row in rows] == ["c", None, None]
    assert rows[0]["annotated_pixels"] == 4 and rows[2]["predicted_pixels"] == 1


def test_areas_are_added_up_over_images_before_they_are_divided():
    large, small = np.full((10, 10), A, np.uint8), np.full((1, 10), A, np.uint8)
    images = [entries(confusion(image, image, n_classes=2)) for image in (large, large)]
    images.append(entries(confusion(np.full_like(small, B), small, n_classes=2)))
    assert images[0] == [[A, A, 100]] and images[2] == [[A, B, 10]]
    matrix = added_up(images, n_classes=2)
    assert measures(matrix)["aAcc"] == pytest.approx(100 * 200 / 210)
    assert pixel_accuracy(matrix) == measures(matrix)["aAcc"]


def test_nothing_annotated_is_no_number():
    matrix = confusion(PREDICTED, np.full_like(ANNOTATED, VOID), n_classes=3)
    assert pixel_accuracy(matrix) is None
    with pytest.raises(ValueError, match="no annotated pixel"):
        measures(matrix)


def test_a_class_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"predicted as class 2, expected 0 … 1"):
        confusion(labels([A, C]), labels([A, A]), n_classes=2)
    with pytest.raises(ValueError, match=r"annotated as class 2, expected 0 … 1"):
        confusion(labels([A, A]), labels([A, C]), n_classes=2)


@pytest.mark.parametrize("seed", range(3))
def test_areas_and_measures_equal_mmsegmentations(seed: int):
    openmm.require()
    from mmseg.evaluation.metrics import IoUMetric

    draw = np.random.default_rng(seed)
    classes = np.array([0, 1, 7, 93, 149, VOID], np.uint8)  # most of the 150 are in no image
    theirs, ours = [], []
    for size in ((33, 57), (64, 20), (1, 5)):
        annotated, predicted = draw.choice(classes, size), draw.choice(classes[:-1], size)
        predicted[0] = annotated[0]
        predicted[predicted == VOID] = 12
        matrix = confusion(predicted, annotated, n_classes=150)
        ours.append(entries(matrix))
        tensors = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(annotated.astype(np.int64))
        theirs.append(IoUMetric.intersect_and_union(*tensors, 150, VOID))
        for mine, other in zip(areas(matrix), theirs[-1], strict=True):
            assert mine.tolist() == other.tolist()
    matrix = added_up(ours, n_classes=150)
    summed = IoUMetric.total_area_to_metrics(*(sum(each) for each in zip(*theirs, strict=True)), ["mIoU"])
    measured = measures(matrix)
    assert measured["mIoU"] == pytest.approx(100 * np.nanmean(summed["IoU"]), rel=1e-6)
    assert measured["mAcc"] == pytest.approx(100 * np.nanmean(summed["Acc"]), rel=1e-6)
    assert measured["aAcc"] == pytest.approx(100 * summed["aAcc"], rel=1e-6)
    rows = table(matrix, [str(k) for k in range(150)])
    np.testing.assert_allclose(
        [np.nan if row["IoU"] is None else row["IoU"] for row in rows], 100 * summed["IoU"], rtol=1e-6
    )
