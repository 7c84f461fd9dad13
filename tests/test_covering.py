"""What tracking masks are compared with: the part of a rendered walk that the encoder looks at."""

import numpy as np
import torch

from dora.config import AugmentConfig, PretrainConfig
from eval.covering import LEAST_SHARE, overlaps, summary, through_a_box

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


THINGS = np.array([[[1, 1, 2, 2], [0, 0, 2, 2]]], np.int32)
LEFT, RIGHT, ALL, NONE = (torch.tensor([[row]]) for row in ([True, False], [False, True], [True] * 2, [False] * 2))


def test_the_masks_of_each_object_overlap_with_each_thing():
    got = overlaps(torch.stack([LEFT, RIGHT, ALL, NONE]), THINGS)
    assert got.things.tolist() == [1, 2]  # 0 is no thing
    assert got.sizes.tolist() == [0.5, 1]  # in patches: each is four pixels
    assert got.ious.tolist() == [[0.5, 0], [0, 1], [0.25, 0.5], [0, 0]]
    assert overlaps(torch.stack([ALL]), 0 * THINGS).ious.shape == (1, 0)


def test_objects_are_asked_what_they_fit_and_things_what_fits_them():
    apart, alike = (overlaps(torch.stack(masks), THINGS) for masks in ([LEFT, RIGHT], [RIGHT, RIGHT]))
    nothing = overlaps(torch.stack([ALL, NONE]), 0 * THINGS)
    assert summary([apart], step=3).model_dump() == {"step": 3, "mask_iou": 75, "things": 2, "best_overlap": 100}
    assert summary([alike], step=0).model_dump() == {"step": 0, "mask_iou": 100, "things": 1, "best_overlap": 100}
    assert summary([nothing], step=0).model_dump() == {"step": 0, "mask_iou": 0, "things": 0, "best_overlap": 0}
    assert summary([apart, alike], step=0).things == 1.5


def test_a_thing_that_no_mask_fits_lowers_the_best_overlap_and_a_small_one_does_not():
    things = np.array([[[1, 2, 3, 3], [0, 0, 3, 3]]], np.int32)
    covered = overlaps(torch.stack([RIGHT]), things)
    assert covered.sizes.tolist() == [0.25, 0.25, 1] and summary([covered], step=0).best_overlap == 100
    missed = overlaps(torch.stack([LEFT]), things)
    assert summary([missed], step=0).best_overlap == 0 and summary([missed], step=0).mask_iou == 25
    assert summary([covered, missed], step=0).best_overlap == 50
