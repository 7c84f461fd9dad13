"""J and F by hand: small masks, counted pixels; the dilation against the definition of a distance."""

import numpy as np
import pytest

from eval.region_contour import (
    SequenceScore,
    boundary,
    contour_accuracy,
    default_tolerance_px,
    object_statistics,
    region_similarity,
    score_frame,
    score_sequence,
    statistics,
    summary,
)


def square(top: int, left: int, side: int, *, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_half_overlapping_squares_have_a_third_of_their_union_in_common():
    assert region_similarity(square(5, 5, 10), square(5, 10, 10)) == pytest.approx(50 / 150)


def test_void_pixels_leave_intersection_and_union():
    truth, result, void = square(0, 0, 4), square(0, 2, 4), square(0, 2, 2)
    assert region_similarity(truth, result, void=void) == pytest.approx(4 / 20)


def test_boundary_of_a_pixel_is_the_four_that_look_right_and_down_at_it():
    mask = np.zeros((4, 4), bool)
    mask[2, 2] = True
    assert np.argwhere(boundary(mask)).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_a_full_mask_has_no_boundary():
    assert not boundary(np.ones((5, 7), bool)).any()


def test_contour_accuracy_equals_naive_distances_between_boundary_pixels():
    rng = np.random.default_rng(0)
    for radius in (0, 1, 2, 5):
        truth, result = (square(*rng.integers(0, 12, 2), 15) ^ (rng.random((40, 50)) > 0.995) for _ in range(2))
        ours, theirs = np.argwhere(boundary(result)), np.argwhere(boundary(truth))
        near = ((ours[:, None] - theirs) ** 2).sum(-1) <= radius**2
        precision, recall = near.any(1).mean(), near.any(0).mean()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert contour_accuracy(truth, result, tolerance_px=radius) == pytest.approx(expected)


def test_many_objects_at_once_equal_each_alone_wherever_they_lie():
    rng = np.random.default_rng(0)
    truth, result = np.zeros((60, 90), np.uint8), np.zeros((60, 90), np.uint8)
    for label in range(1, 10):
        top, left = rng.integers(-5, 50), rng.integers(-5, 80)
        for labels, shift in ((truth, 0), (result, label % 3)):
            labels[max(top + shift, 0) : top + 20, max(left, 0) : left + 25] = label
    result[result == 4] = 0  # one is lost
    truth[rng.random(truth.shape) > 0.99] = 255
    score = score_frame(0, truth, result, n_objects=9)
    for label in range(1, 10):
        alone = truth == label, result == label
        assert score.J[label - 1] == region_similarity(*alone)
        assert score.F[label - 1] == contour_accuracy(*alone)
    assert score.J[3] == score.F[3] == 0 and len(set(score.F)) > 5


@pytest.mark.parametrize(("truth", "result", "F"), [(0, 0, 1.0), (0, 9, 0.0), (9, 0, 0.0), (9, 9, 1.0)])
def test_contour_accuracy_of_empty_masks(truth: int, result: int, F: float):
    assert contour_accuracy(square(3, 3, truth), square(3, 3, result)) == F


def test_tolerance_is_eight_pixels_at_480p():
    assert default_tolerance_px(480, 854) == 8


def test_decay_is_first_quarter_minus_last():
    falling = np.linspace(1, 0, 9)
    assert statistics(falling) == pytest.approx((0.5, 4 / 9, (1 + 0.875 + 0.75) / 3 - (0.25 + 0.125) / 3))


def test_a_nan_frame_is_left_out_of_the_mean_and_missed_in_the_recall():
    mean, recall, _ = statistics(np.array([0.8, np.nan, 0.6, 0.4]))
    assert (mean, recall) == pytest.approx((0.6, 0.5))


@pytest.mark.parametrize("per_frame", [[np.nan, np.nan, 0.5, 0.5, 0.5], [0.5, np.nan], [np.nan] * 3])
def test_decay_is_nan_where_a_quarter_has_no_frame_that_counts(per_frame: list[float]):
    assert np.isnan(statistics(np.array(per_frame)).decay)


def test_decay_of_more_than_256_frames_does_not_overflow():
    assert statistics(np.repeat([1.0, 0.0], 400)).decay == 1.0


def test_an_object_that_the_result_lacks_is_an_empty_mask():
    truth = square(5, 5, 10).astype(np.uint8) + 2 * square(20, 20, 10).astype(np.uint8)
    only_first = np.where(truth == 1, truth, np.uint8(0))
    score = score_sequence([(truth, only_first)] * 4)
    assert score.J.tolist() == [[1, 1], [0, 0]]
    assert score.F.tolist() == [[1, 1], [0, 0]]


def test_void_is_background_in_the_truth():
    truth = square(5, 5, 10).astype(np.uint8)
    with_void = np.where(square(20, 20, 5), np.uint8(255), truth)
    assert score_sequence([(with_void, truth)] * 3).J.tolist() == [[1.0]]


def test_first_and_last_frame_are_not_evaluated():
    truth, empty = square(5, 5, 10).astype(np.uint8), np.zeros((40, 50), np.uint8)
    assert score_sequence([(truth, truth), (truth, empty), (truth, truth)]).J.tolist() == [[0.0]]


@pytest.mark.parametrize("n_frames", [1, 2])
def test_a_sequence_of_one_or_two_frames_has_no_score_and_does_not_count(n_frames: int):
    frame = square(5, 5, 10).astype(np.uint8)
    short, usual = (score_sequence([(frame, frame)] * n) for n in (n_frames, 5))
    assert list(object_statistics({"short": short, "usual": usual})) == ["usual_1"]
    with pytest.raises(ValueError, match="at least three frames"):
        summary(object_statistics({"short": short}))


def test_a_label_that_is_no_object_is_refused():
    frame = square(5, 5, 10).astype(np.uint8)
    with pytest.raises(ValueError, match="frame 1: the result has label 3, the objects end at 1"):
        score_sequence([(frame, frame), (frame, 3 * frame), (frame, frame)])


def test_no_label_of_the_first_or_the_last_frame_matters():
    frame, other = square(5, 5, 10).astype(np.uint8), np.full((40, 50), 255, np.uint8)
    assert score_sequence([(frame, other), (frame, frame), (frame, other)]).J.tolist() == [[1.0]]


def test_a_sequence_that_begins_without_objects_has_none():
    nothing = np.zeros((40, 50), np.uint8)
    score = score_sequence([(nothing, nothing)] * 4)
    assert score.J.shape == score.F.shape == (0, 2) and object_statistics({"empty": score}) == {}


def test_masks_of_another_size_are_refused():
    frame = square(5, 5, 10).astype(np.uint8)
    with pytest.raises(ValueError, match=r"the result is \(20, 25\) pixels, the ground truth \(40, 50\)"):
        score_sequence([(frame, frame), (frame, frame[::2, ::2]), (frame, frame)])


def test_objects_count_alike_whatever_sequence_they_are_in():
    one, two = np.full((1, 3), 0.2), np.full((2, 5), 0.8)
    row = summary(object_statistics({"a": SequenceScore(one, one), "b": SequenceScore(two, two)}))
    assert row["J_and_F_mean"] == row["J_mean"] == pytest.approx((0.2 + 0.8 + 0.8) / 3)
    assert row["F_recall"] == pytest.approx(2 / 3)
