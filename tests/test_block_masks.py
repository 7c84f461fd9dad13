import numpy as np
import pytest
import torch
from torch import Tensor

from dora.config import IbotConfig
from dora.method.block_masks import block_mask, view_masks

IBOT = IbotConfig()


def masks(*positions: int, config: IbotConfig = IBOT, seed: int = 0, n_frames: int = 8) -> Tensor:
    return view_masks(positions, 2, n_frames, (14, 14), config, seed=seed)


@pytest.mark.parametrize(("rows", "columns"), [(14, 14), (7, 12), (4, 4), (2, 2)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.77, 1.0])
def test_never_more_patches_are_masked_than_wanted(rows: int, columns: int, share: float):
    for seed in range(50):
        mask = block_mask(rows, columns, share * rows * columns, np.random.default_rng(seed))
        assert mask.shape == (rows, columns) and mask.sum() <= share * rows * columns


@pytest.mark.parametrize(("share", "reached"), [(0.1, 0.85), (0.3, 0.95), (0.4, 0.97), (0.6, 0.97)])
def test_nearly_as_many_patches_are_masked_as_wanted(share: float, reached: float):
    generator = np.random.default_rng(0)
    mean = np.mean([block_mask(14, 14, share * 196, generator).mean() for _ in range(300)])
    assert reached * share < mean <= share


def test_a_small_mask_is_one_rectangle():
    n_rectangles = 0
    for seed in range(200):
        # Of 16 patches at least 16 are a block at once, if it fits.
        mask = block_mask(14, 14, 16, np.random.default_rng(seed))
        there = np.argwhere(mask)
        height, width = there.max(0) - there.min(0) + 1
        n_rectangles += height * width == mask.sum()
        if height * width == mask.sum() == 16:
            assert 0.2 < height / width < 5  # the ratio of 0.3 to 1 / 0.3, after rounding
    assert n_rectangles > 120


def test_masked_patches_lie_together():
    generator = np.random.default_rng(0)
    drawn = np.stack([block_mask(14, 14, 60, generator) for _ in range(200)])
    scattered = generator.permuted(drawn.reshape(200, -1), axis=1).reshape(drawn.shape)

    def n_pairs(masks: np.ndarray) -> int:
        return (masks[:, :, 1:] & masks[:, :, :-1]).sum() + (masks[:, 1:] & masks[:, :-1]).sum()

    assert n_pairs(drawn) > 2 * n_pairs(scattered)


def test_as_many_views_are_masked_as_the_probability_says_and_by_all_shares_between_its_bounds():
    shares = masks(*range(100)).float().mean((-2, -1)).flatten()
    masked = shares[shares > 0]
    assert len(masked) / len(shares) == pytest.approx(0.5, abs=0.05)
    assert masked.max() <= 0.5 and masked.min() < 0.15 and masked.max() > 0.45
    assert masked.mean() == pytest.approx(0.29, abs=0.01)
    always = masks(0, config=IbotConfig(masked_probability=1, mask_ratio=0.4, mask_ratio_spread=0))
    assert always.flatten(3).any(-1).all() and always.flatten(3).sum(-1).max() <= 0.4 * 196
    assert not masks(0, config=IbotConfig(masked_probability=0)).any()


def test_a_clips_masks_depend_on_its_position_and_the_seed_alone():
    together = masks(5, 9, 70)
    assert together.shape == (2, 3, 8, 14, 14) and together.dtype == torch.bool
    assert torch.equal(together, torch.cat([masks(5), masks(9), masks(70)], dim=1))
    assert torch.equal(together[:, [2, 0]], masks(70, 5))
    assert not torch.equal(together[:, 0], together[:, 1]) and not torch.equal(masks(5), masks(5, seed=1))


def test_every_view_and_frame_has_a_mask_of_its_own():
    drawn = masks(3, config=IbotConfig(masked_probability=1)).flatten(0, 2).flatten(1)
    assert len(drawn.unique(dim=0)) == 16
