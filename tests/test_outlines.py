"""Outlines and polygons of masks, decoded again by pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from dora.data.labelled.outlines import outlines, polygons

# pycocotools 2.0.11 still speaks numpy 1's protocol for arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def test_outlines_are_exact_to_the_pixel_whatever_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 16, 2)) < rng.choice([0.2, 0.5, 0.8])
        height, width = mask.shape
        drawn = np.zeros(mask.shape, int)
        for loop in outlines(mask):
            filled = run_lengths.decode(run_lengths.frPyObjects([loop.points], height, width))[..., 0]
            drawn += filled.astype(int) if loop.is_outer else -filled.astype(int)
        assert np.array_equal(drawn == 1, mask) and not (drawn > 1).any()


def test_polygons_cover_just_the_mask_whatever_its_holes():
    rng = np.random.default_rng(1)
    for _ in range(60):
        mask = rng.random(rng.integers(3, 16, 2)) < 0.75
        height, width = mask.shape
        drawn = run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(polygons(mask), height, width)))
        assert np.array_equal(drawn.astype(bool), mask)


def test_an_outline_has_corners_only_and_a_hole_is_told_from_a_body():
    mask = np.ones((4, 5), bool)
    mask[1:3, 1:3] = False
    body, hole = outlines(mask)
    assert body == ([0, 0, 5, 0, 5, 4, 0, 4], True)
    assert not hole.is_outer and len(hole.points) == 8
    assert outlines(np.zeros((2, 2), bool)) == []
