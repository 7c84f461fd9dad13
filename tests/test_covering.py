"""What tracking masks are compared with: the part of a rendered walk that the encoder looks at."""

import numpy as np
import torch

from dora.config import AugmentConfig, PretrainConfig
from eval.covering import LEAST_SHARE, best_fit, through_a_box

BOXES = PretrainConfig(augment=AugmentConfig(clip_scale=(0.05, 0.25)))


def test_frames_and_truth_are_cut_alike_whatever_their_sizes():
    rows, columns = np.mgrid[:80, :120]
    frames = np.stack([np.stack([rows, columns, 0 * rows], -1)] * 2).astype(np.uint8)
    things = np.stack([1000 * rows[::2, ::2] + columns[::2, ::2] + 1] * 2).astype(np.int32)
    for clip in range(5):
        part, there = through_a_box(frames, things, BOXES, clip)
        assert 0.04 < part[0, :, :, 0].size / rows.size < 0.27 and len(part) == len(there) == 2
        for corner in (0, -1):
            y, x = divmod(there[0, corner, corner] - 1, 1000)
            assert np.abs(part[0, corner, corner, :2].astype(int) - (y, x)).max() <= 2
        assert np.array_equal(part, through_a_box(frames, things, BOXES, clip)[0])


def test_a_box_is_taken_in_which_there_is_something():
    frames, things = np.zeros((1, 80, 120, 3), np.uint8), np.zeros((1, 80, 120), np.int32)
    things[0, 5:25, 90:110] = 7
    for clip in range(10):
        _, there = through_a_box(frames, things, BOXES, clip)
        assert (there == 7).mean() >= LEAST_SHARE
    assert through_a_box(frames, 0 * things, BOXES, 0)[1].max() == 0  # nothing anywhere: any box will do


def test_whole_frames_are_looked_at_where_training_does():
    frames, things = np.zeros((1, 8, 12, 3), np.uint8), np.zeros((1, 8, 12), np.int32)
    whole = PretrainConfig(augment=AugmentConfig(clip_scale=None))
    assert through_a_box(frames, things, whole, 0) == (frames, things)


def test_a_mask_is_compared_with_the_thing_that_it_fits_best():
    things = np.array([[[1, 1, 2, 2], [0, 0, 2, 2]]], np.int32)
    assert best_fit(torch.tensor([[[False, True]]]), things).iou == 1  # all of thing 2
    assert best_fit(torch.tensor([[[True, False]]]), things).iou == 0.5  # thing 1 and two pixels of nothing
    assert best_fit(torch.tensor([[[True, True]]]), things).iou == 0.5  # thing 2 is half of everything
    assert best_fit(torch.tensor([[[True, True]]]), np.zeros_like(things)).iou == 0
