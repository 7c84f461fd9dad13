"""SeqTrack's crops and words: the geometry as the protocol writes it, and back again."""

import math

import numpy as np
import pytest
from jaxtyping import Float, UInt8

from eval.trackers.seqtrack import tokens
from eval.trackers.seqtrack.crop import Window, cut, from_crop, inside, to_crop, window

RNG = np.random.default_rng(0)
N_BOXES = 2000


def looked_up(pixels: UInt8[np.ndarray, "Y X 3"], around: Window, size: int) -> Float[np.ndarray, "size size 3"]:
    """Each pixel of the crop by itself: bilinear between the four around its middle, black outside of the image."""
    height, width = pixels.shape[:2]

    def at(y: int, x: int) -> np.ndarray:
        y, x = (min(max(value, 0), around.side - 1) for value in (y, x))  # the square's own edge is repeated
        y, x = y + around.top, x + around.left
        return pixels[y, x].astype(float) if 0 <= y < height and 0 <= x < width else np.zeros(3)

    crop = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            y, x = ((value + 0.5) * around.side / size - 0.5 for value in (row, column))
            y0, x0 = math.floor(y), math.floor(x)
            v, u = y - y0, x - x0
            crop[row, column] = (
                (1 - v) * ((1 - u) * at(y0, x0) + u * at(y0, x0 + 1))
                + v * ((1 - u) * at(y0 + 1, x0) + u * at(y0 + 1, x0 + 1))
            )  # fmt: skip
    return crop


@pytest.mark.parametrize(
    "box",
    [(20, 10, 12, 9), (20.4, 10.7, 5, 9.5), (-3, -2, 14, 10), (50, 30, 30, 40), (0, 0, 60, 40), (200, 200, 10, 10),
     (30, 20, 1, 1), (30, 20, 0.2, 0.2)],
)  # fmt: skip
@pytest.mark.parametrize("size", [16, 33])
def test_a_crop_is_what_a_look_at_each_pixel_gives(box: tuple[float, ...], size: int):
    pixels = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    around = window(np.array(box, float), area_factor=4.0)
    assert around.side == math.ceil(4 * math.sqrt(box[2] * box[3]))
    assert np.abs(cut(pixels, around, size=size) - looked_up(pixels, around, size)).max() <= 1


def test_a_crop_of_a_box_far_outside_is_black():
    assert not cut(np.full((9, 9, 3), 255, np.uint8), window(np.array([500.0, 500, 4, 4]), area_factor=4), size=8).any()


def test_the_middle_of_the_window_is_the_middle_of_the_crop_and_a_side_is_in_pixels_of_it():
    box = np.array([100.0, 50, 40, 10])
    around = window(box, area_factor=4.0)
    assert around == Window(left=80, top=15, side=80, center_x=120.0, center_y=55.0)
    # 80 px become 256: a scale of 3.2, over 255 px between the first pixel's middle and the last one's.
    assert to_crop(box, around, size=256) == pytest.approx([0.5, 0.5, 40 * 3.2 / 255, 10 * 3.2 / 255])
    moved = to_crop(box + np.array([10, -5, 0, 0]), around, size=256)
    assert moved[:2] == pytest.approx([0.5 + 10 * 3.2 / 255, 0.5 - 5 * 3.2 / 255])


def test_a_box_that_sticks_out_of_the_crop_is_cut():
    around = window(np.array([0.0, 0, 10, 10]), area_factor=4.0)
    cx, cy, w, h = to_crop(np.array([15.0, 0, 100, 10]), around, size=256)
    assert cx + w / 2 == pytest.approx(1) and (cy, h) == pytest.approx((0.5, 10 * 6.4 / 255))


def test_a_box_comes_back_from_the_crop_larger_by_one_pixel_in_size():
    for _ in range(100):
        box = np.concatenate([RNG.uniform(0, 100, 2), RNG.uniform(5, 50, 2)])
        around = window(box + np.array([1, 2, 3, 4]), area_factor=4.0)
        seen = to_crop(box, around, size=256)
        np.testing.assert_allclose(from_crop(seen, around, size=256, counted=255), box, atol=1e-9)
        back = from_crop(seen, around, size=256, counted=256)
        center = np.array([around.center_x, around.center_y])
        grown = np.concatenate([center + (box[:2] - center) * 256 / 255, box[2:] * 256 / 255])
        np.testing.assert_allclose(back, grown, atol=1e-9)


def test_a_box_keeps_a_margin_inside_the_image():
    np.testing.assert_array_equal(inside(np.array([-50.0, 5, 30, 10]), 100, 200, margin=10), [0, 5, 10, 10])
    np.testing.assert_array_equal(inside(np.array([300.0, 95, 30, 2]), 100, 200, margin=10), [190, 90, 10, 10])
    np.testing.assert_array_equal(inside(np.array([20.0, 30, 40, 50]), 100, 200, margin=10), [20, 30, 40, 50])
    np.testing.assert_array_equal(inside(np.array([-9.0, -9, 999, 999]), 100, 200, margin=10), [0, 0, 200, 100])


@pytest.mark.parametrize("box", [(1, 2, 0, 5), (1, 2, 5, -1), (1, 2, math.nan, 4), (math.inf, 2, 3, 4)])
def test_an_empty_box_has_no_window(box: tuple[float, ...]):
    with pytest.raises(ValueError, match="expected a box of finite numbers with w and h above 0"):
        window(np.array(box, float), area_factor=4)


def test_a_box_of_a_broken_annotation_asks_for_no_memory():
    with pytest.raises(ValueError, match=r"asks for a crop of .* pixels, more than is sane"):
        window(np.array([0.0, 0, 1e6, 1e6]), area_factor=4)


@pytest.mark.parametrize("n_bins", [2, 32, 4000])
def test_words_tell_a_box_within_half_a_bin(n_bins: int):
    shares = np.concatenate([RNG.uniform(0, 1, (N_BOXES, 4)), np.zeros((1, 4)), np.ones((1, 4))])
    worst = 0.0
    for one in shares:
        said = tokens.words(one, n_bins=n_bins)
        assert said.min() >= 0 and said.max() < n_bins
        worst = max(worst, float(np.abs(tokens.shares(said, n_bins=n_bins) - one).max()))
    assert worst <= 0.5 / (n_bins - 1) + 1e-12


def test_words_are_the_published_ones():
    said = tokens.words(np.array([0.0, 0.49999, 0.5, 1.0]), n_bins=4000)
    assert said.tolist() == [int(share * 3999) for share in (0.0, 0.49999, 0.5, 1.0)] == [0, 1999, 1999, 3999]
    assert (tokens.end(4000), tokens.start(4000), tokens.n_words(4000)) == (4000, 4001, 4002)
    with pytest.raises(ValueError, match="expected coordinates from 0 to 1"):
        tokens.words(np.array([0.0, 0.0, 1.1, 0.0]), n_bins=4000)


def test_a_box_survives_crop_words_and_back_within_half_a_bin_of_the_crop():
    for _ in range(200):
        box = np.concatenate([RNG.uniform(0, 100, 2), RNG.uniform(5, 50, 2)])
        around = window(box, area_factor=4.0)
        said = tokens.words(to_crop(box, around, size=256), n_bins=4000)
        back = from_crop(tokens.shares(said, n_bins=4000), around, size=256, counted=255)
        half_a_bin = around.side * 255 / 256 / 3999 / 2
        assert np.abs(back[2:] - box[2:]).max() <= half_a_bin + 1e-9
        assert np.abs(back[:2] + back[2:] / 2 - box[:2] - box[2:] / 2).max() <= half_a_bin + 1e-9
