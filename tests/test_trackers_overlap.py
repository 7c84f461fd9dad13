"""Overlap of boxes: numbers that can be checked by hand, and what the toolkit does at a picture's edge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval.trackers import overlap

BOXES = arrays(np.float64, (5, 4), elements=st.floats(0, 1000, width=32))


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64)


@pytest.mark.parametrize(
    ("found", "truth", "share"),
    [
        ((0, 0, 10, 10), (5, 0, 10, 10), 50 / 150),
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (10, 0, 10, 10), 0),  # they touch
        ((0, 0, 10, 10), (2, 2, 5, 5), 25 / 100),
        ((3, 3, 0, 0), (3, 3, 0, 0), 0),  # both are empty
        ((5, 5, -4, 10), (5, 5, 10, 10), 0),
    ],
)
def test_iou_is_what_both_share_of_what_either_has(found: tuple[float, ...], truth: tuple[float, ...], share: float):
    assert overlap.iou(boxes(found), boxes(truth), size=None) == pytest.approx([share], abs=1e-12)


def test_a_box_that_sticks_out_on_the_left_is_moved_in_and_on_the_right_is_cut():
    clipped = overlap.clipped(boxes((-40, 10, 80, 20), (80, 10, 40, 20), (10, 90, 20, 20)), (100, 80))
    assert clipped.tolist() == [[0, 10, 80, 20], [80, 10, 20, 20], [10, 80, 20, 0]]


def test_clipping_leaves_what_it_is_given_as_it_was():
    found, truth = boxes((-40, 10, 80, 20)), boxes((0, 10, 200, 20))
    overlap.iou(found, truth, size=(100, 80))
    assert found.tolist() == [[-40, 10, 80, 20]] and truth.tolist() == [[0, 10, 200, 20]]


@given(BOXES, BOXES)
def test_iou_is_a_share_and_the_same_either_way(one: np.ndarray, other: np.ndarray):
    for size in (None, (640, 360)):
        found = overlap.iou(one, other, size=size)
        assert ((found >= 0) & (found <= 1)).all()
        assert np.array_equal(found, overlap.iou(other, one, size=size))


def test_a_box_without_a_number_overlaps_with_nothing_and_takes_the_mean_with_it():
    found = overlap.iou(boxes((np.nan, 0, 10, 10), (0, 0, 10, 10)), boxes((0, 0, 10, 10), (0, 0, 10, 10)), size=None)
    scores = overlap.scores(found)
    assert np.isnan(scores.AO) and scores.SR_50 == scores.SR_75 == 0.5
    assert overlap.success_curve(found)[99] == 0.5


def test_the_first_frame_and_hidden_ones_do_not_count():
    assert overlap.counted(np.array([8, 8, 0, 1])).tolist() == [False, True, False, True]
    assert overlap.counted(np.array([8])).tolist() == [False]


def test_success_is_above_the_threshold_not_at_it():
    scores = overlap.scores(np.array([0.5, 0.75, 0.9, 1.0]))
    assert scores == pytest.approx((0.7875, 0.75, 0.5))
    curve = overlap.success_curve(np.array([0.5, 0.75, 0.9, 1.0]))
    assert len(curve) == 101 and curve[0] == 1 and curve[100] == 0
    assert (curve[50], curve[75]) == (scores.SR_50, scores.SR_75)


def test_the_mean_of_the_success_curve_is_about_the_average_overlap():
    overlaps = np.random.default_rng(0).random(1000)
    assert overlap.success_curve(overlaps).mean() == pytest.approx(overlap.scores(overlaps).AO, abs=0.01)
