"""The tracker that learns nothing: boxes from masks and back, and a thing that moves, grows, hides or leaves."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from jaxtyping import Float64
from timm.models.vision_transformer import VisionTransformer

from dora.config import BackboneConfig
from dora.method.vit import build_vit
from eval.trackers import overlap
from eval.trackers.nearest import NearestNeighbourTracker, Square, covered, cut, near, shape_of, square_around

torch.set_num_threads(1)
SIZE = (72, 96)
BOX = np.array([20.0, 24.0, 18.0, 22.0])
NUMBERS = {
    "grid": 16, "area_factor": 3.0, "n_last_frames": 2, "top_k": 3, "radius": 6, "temperature": 0.1, "threshold": 0.5,
    "most_growth": 1.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    config = BackboneConfig(
        architecture="vit_tiny_patch16_224", image_size=32, patch_size=4, embed_dim=48, depth=2, num_heads=3
    )
    return build_vit(config, drop_path=False).eval().requires_grad_(False)


def tracker(vit: VisionTransformer, **changed: float) -> NearestNeighbourTracker:
    return NearestNeighbourTracker(vit, **(NUMBERS | changed))  # pyright: ignore[reportArgumentType]


def film(boxes: Float64[np.ndarray, "T 4"]) -> Iterator[np.ndarray]:
    """A patterned thing before a street of smooth noise; in a box without an area there is nothing."""
    import cv2

    draw = np.random.default_rng(0)
    street = cv2.resize(draw.integers(0, 130, (9, 12, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    thing = draw.integers(90, 255, (5, 4, 3), dtype=np.uint8)
    for box in boxes:
        frame, (x, y, w, h) = street.copy(), box.round().astype(int)
        if w > 0 and h > 0:
            shown = cv2.resize(thing, (w, h), interpolation=cv2.INTER_NEAREST)
            left, top = max(-x, 0), max(-y, 0)
            part = frame[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
            part[:] = shown[top : top + part.shape[0], left : left + part.shape[1]]
        yield frame


def followed(tracker: NearestNeighbourTracker, boxes: Float64[np.ndarray, "T 4"]) -> Float64[np.ndarray, "T 4"]:
    frames = film(boxes)
    tracker.start(next(frames), boxes[0])
    return np.stack([boxes[0], *(tracker.follow(frame) for frame in frames)])


def moved(*, by: tuple[float, float] = (0, 0), growth: float = 1.0, n: int = 10) -> Float64[np.ndarray, "n 4"]:
    """BOX as it moves by so many pixels a frame and grows about its middle."""
    steps = np.arange(n)[:, None]
    sides = BOX[2:] * growth**steps
    return np.concatenate([BOX[:2] + BOX[2:] / 2 + steps * np.array(by) - sides / 2, sides], axis=1)


def test_a_patch_is_covered_by_the_share_of_it_that_the_box_covers():
    mask = covered(np.array([15.0, 10.0, 10.0, 5.0]), Square(10, 10, 20), 2)
    assert mask.tolist() == [[0.25, 0.25], [0.0, 0.0]]
    assert covered(np.array([0.0, 0.0, 100.0, 100.0]), Square(-10, 90, 20), 2).tolist() == [[0, 1], [0, 0]]


def test_a_square_is_cut_out_as_it_is_and_filled_where_the_frame_ends():
    frame = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(cut(frame, Square(5, 4, 10), 10), frame[4:14, 5:15])
    crop = cut(frame, Square(-5, -5, 10), 10)
    assert np.array_equal(crop[5:, 5:], frame[:5, :5]) and (crop[:5] == (124, 116, 104)).all()
    assert (cut(frame, Square(100, 100, 7), 14) == (124, 116, 104)).all()


def test_a_square_is_about_the_middle_and_never_too_small():
    assert square_around(np.array([10.0, 20.0, 8.0, 2.0]), 3.0) == Square(8, 15, 12)
    assert square_around(np.array([10.0, 20.0, 0.1, 0.1]), 3.0).side == 12


def test_a_masks_shape_is_its_middle_and_spread():
    mask = np.zeros((8, 8))
    mask[2:4, 1:5] = 1
    shape = shape_of(mask, threshold=0.5)
    assert shape is not None and shape.center.tolist() == [3, 3]
    # Of an even spread over n patches: sqrt(n^2 / 12).
    assert shape.spread == pytest.approx([4 / 12**0.5, 2 / 12**0.5])
    mask[7, 7] = 1  # a piece of less mass, and what is faint, do not count
    mask[:, 5] += 0.4
    again = shape_of(mask, threshold=0.5)
    assert again is not None and np.array_equal(again, shape)
    assert shape_of(np.full((8, 8), 0.01), threshold=0.5) is None


def test_near_is_a_square_of_rows_and_columns():
    assert near(3, 1)[0].reshape(3, 3).tolist() == [[True, True, False], [True, True, False], [False, False, False]]


def test_the_same_frame_again_gives_the_very_same_box(vit: VisionTransformer):
    ours = tracker(vit, top_k=1)
    assert followed(ours, moved(n=4)) == pytest.approx(moved(n=4), abs=1e-6)


@pytest.mark.parametrize(
    ("by", "growth"), [((3, 0), 1), ((2, 2), 1), ((0, 0), 1.06), ((1, 0), 0.95)], ids=["right", "down", "near", "far"]
)
def test_a_thing_is_followed_far_better_than_by_a_still_box(
    vit: VisionTransformer, by: tuple[float, float], growth: float
):
    truth = moved(by=by, growth=growth)
    found = followed(tracker(vit), truth)
    ours = overlap.iou(found, truth, size=SIZE[::-1])[1:].mean()
    still = overlap.iou(np.repeat(truth[:1], len(truth), 0), truth, size=SIZE[::-1])[1:].mean()
    assert ours > 0.65 and ours > still + 0.1, (ours, still)


def test_what_it_says_depends_on_this_video_alone(vit: VisionTransformer):
    ours, truth = tracker(vit), moved(by=(3, 0))
    first = followed(ours, truth)
    followed(ours, moved(by=(-1, 2)))
    assert np.array_equal(followed(ours, truth), first)
    assert np.array_equal(followed(tracker(vit), truth), first)


@pytest.mark.parametrize(
    "box",
    [(20, 24, 0.01, 0.01), (0, 0, 96, 72), (-10, 60, 30, 40), (0, 30, 96, 2), (500, 500, 20, 20), (95, 71, 1, 1)],
    ids=["tiny", "all", "corner", "long", "outside", "last pixel"],
)
def test_odd_boxes_give_finite_boxes_with_an_area(vit: VisionTransformer, box: tuple[float, ...]):
    found = followed(tracker(vit), np.repeat([box], 4, axis=0).astype(np.float64))
    assert np.isfinite(found).all() and (found[:, 2:] > 0).all()


def test_a_side_grows_by_no_more_than_it_may(vit: VisionTransformer):
    found = followed(tracker(vit, most_growth=1.02), moved(growth=1.1, n=6))
    assert (found[1:, 2:] / found[:-1, 2:]).max() <= 1.02 + 1e-9


def test_a_thing_that_leaves_is_waited_for_inside_the_picture(vit: VisionTransformer):
    found = followed(tracker(vit), moved(by=(-6, 0), n=12))
    middles = found[:, :2] + found[:, 2:] / 2
    assert (middles >= 0).all() and (middles <= SIZE[::-1]).all()
