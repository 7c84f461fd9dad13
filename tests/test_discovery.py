"""Objects found by hand-made keys and attention, whose answer can be seen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import PRETRAIN

from dora.method.vit import build_vit, last_block
from eval.discovery.attention_masks import attention_masks, dino_seg, jaccard
from eval.discovery.boxes import overlaps, parts_of
from eval.discovery.last_layer import last_layer
from eval.discovery.lost import degrees, discover
from eval.features import normalised

torch.set_num_threads(1)
GRID = (6, 8)
HOW = {"patch": 10, "size": (57, 80), "n_candidates": 100}


def keys_of(mask: np.ndarray) -> torch.Tensor:
    """Patches of the mask correlate with each other, the others among themselves, and one with the other never."""
    return F.one_hot(torch.from_numpy(mask).flatten().long(), 2).float()


def small_object() -> np.ndarray:
    mask = np.zeros(GRID, bool)
    mask[3:6, 2:4] = True
    return mask


def test_lost_finds_the_smaller_kind_and_cuts_its_box_to_the_photo():
    found = discover(keys_of(small_object()), GRID, **HOW)
    assert found.box == (20.0, 30.0, 40.0, 57.0)
    assert np.array_equal(found.mask, small_object())
    assert set(found.degree.tolist()) == {5, 41}


def test_equal_degrees_rank_row_by_row():
    found = discover(keys_of(small_object()), GRID, **HOW)
    assert found.seed == 3 * 8 + 2
    assert found.similar.tolist() == [26, 27, 34, 35, 42, 43]


def test_only_the_part_that_holds_the_seed_is_boxed():
    mask = small_object()
    mask[0, 7] = True
    assert discover(keys_of(mask), GRID, **HOW).box == (70.0, 0.0, 80.0, 10.0)


def test_keys_of_zeros_leave_the_first_patch():
    assert discover(torch.zeros(48, 4), GRID, **HOW).box == (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize("n", [1, 5, 192, 193])
def test_degrees_equal_the_whole_affinity_counted_row_by_row(n: int):
    keys = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
    affinity = keys @ keys.T
    assert degrees(keys).tolist() == [sum(bool(affinity[i, j] > 0) for j in range(n) if j != i) for i in range(n)]


def test_parts_are_numbered_as_they_are_read_and_touch_by_sides():
    parts = parts_of(np.array([[0, 1, 0, 1], [1, 0, 0, 1], [1, 0, 1, 0]], bool))
    assert parts.labels.tolist() == [[0, 1, 0, 2], [3, 0, 0, 2], [3, 0, 4, 0]]
    assert parts.sizes == [6, 1, 2, 2, 1] and parts.cells[2] == (3, 0, 1, 2)


def test_overlap_is_intersection_over_union():
    assert overlaps((0, 0, 2, 2), [(0, 0, 2, 2), (1, 0, 3, 2), (2, 0, 4, 2)]).tolist() == [1, 1 / 3, 0]


def test_a_mask_is_the_fewest_patches_that_hold_the_share():
    attention = torch.tensor([[0.1, 0.5, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert attention_masks(attention, mass=0.6).tolist() == [[False, True, False, True], [False, True, True, True]]


def test_void_counts_in_the_union_or_not_at_all():
    target = np.array([[7, 7, 0, 255]], np.uint8)
    found = jaccard(np.array([[[True, False, False, True]], [[True, True, False, False]]]), target)
    assert found.labels == [7]
    assert found.jaccard.tolist() == [[1 / 3, 1]] and found.without_void.tolist() == [[1 / 2, 1]]


def test_dino_seg_as_published_overlooks_the_last_part_and_as_meant_does_not():
    attention = torch.tensor([[[1, 0, 2, 2], [0, 0, 2, 2.0]]]).flatten(1)
    how = {"head": 0, "mass": 0.99, "patch": 10, "size": (20, 35)}
    assert dino_seg(attention, (2, 4), as_published=True, **how) == (0.0, 0.0, 10.0, 10.0)
    assert dino_seg(attention, (2, 4), as_published=False, **how) == (20.0, 0.0, 35.0, 20.0)


@pytest.mark.parametrize("size", [(32, 32), (30, 41)])
def test_the_last_layer_is_the_methods_own_on_the_padded_photo(size: tuple[int, int]):
    torch.manual_seed(0)
    vit = build_vit(PRETRAIN.backbone, drop_path=False).eval()
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    seen = last_layer(vit, photo)
    image = F.pad(normalised(photo[None]), (0, -size[1] % 8, 0, -size[0] % 8))
    expected = last_block(vit, image)
    torch.testing.assert_close(seen.attention, expected.attention[0, :, 1:])
    torch.testing.assert_close(seen.keys, expected.key[0, :, 1:].transpose(0, 1).flatten(1))
    assert seen.grid == (-(-size[0] // 8), -(-size[1] // 8))
