"""Masks of random blocks, as iBOT draws them (github.com/bytedance/ibot, loader.py; after BEiT, arXiv:2106.08254)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from dora.config import IbotConfig
from dora.seeds import derived_seed

LOG_ASPECT_RATIO = math.log(0.3), -math.log(0.3)
TRIES = 10


def block_mask(
    rows: int, columns: int, n_masked: float, generator: np.random.Generator
) -> Bool[np.ndarray, "{rows} {columns}"]:
    """Blocks laid over each other until `n_masked` patches are masked: never more, mostly a few less.

    A block has the area of a ninth of the grid at least, or what is still wanted, if that is less, and is neither as
    high nor as wide as the grid. It ends when ten blocks in a row do not fit: on a 14 by 14 grid with 0.97 of the
    patches that are wanted, on average, and with 0.99 where these are 0.4 of all or more.
    """
    mask = np.zeros((rows, columns), bool)
    smallest = (min(rows, columns) // 3) ** 2
    wanted = n_masked
    while wanted > 0 and (n_new := _mask_a_block(mask, smallest, wanted, generator)):
        wanted -= n_new
    return mask


def view_masks(
    positions: Sequence[int], n_views: int, n_frames: int, grid: tuple[int, int], config: IbotConfig, *, seed: int
) -> Bool[Tensor, "G B T h w"]:
    """The masks of global views: each is masked at all with `masked_probability`, and then by a share of its own.

    The draws belong to the clip, so batches, ranks and workers change nothing.
    """
    low, high = config.mask_ratio - config.mask_ratio_spread, config.mask_ratio + config.mask_ratio_spread
    masks = np.zeros((len(positions), n_views * n_frames, *grid), bool)
    for of_clip, position in zip(masks, positions, strict=True):
        generator = np.random.default_rng(derived_seed(seed, "ibot masks", position))
        for mask in of_clip:
            if generator.random() < config.masked_probability:
                mask[:] = block_mask(*grid, generator.uniform(low, high) * mask.size, generator)
    return torch.from_numpy(masks).unflatten(1, (n_views, n_frames)).transpose(0, 1)


def _mask_a_block(mask: np.ndarray, smallest: int, wanted: float, generator: np.random.Generator) -> int:
    """Mask one block of no more than `wanted` new patches, and say of how many."""
    rows, columns = mask.shape
    for _ in range(TRIES):
        area = smallest + (wanted - smallest) * generator.random()  # towards `wanted`, be it more or less
        aspect_ratio = math.exp(generator.uniform(*LOG_ASPECT_RATIO))
        height, width = round(math.sqrt(area * aspect_ratio)), round(math.sqrt(area / aspect_ratio))
        if height < rows and width < columns:
            top, left = generator.integers(rows - height + 1), generator.integers(columns - width + 1)
            block = mask[top : top + height, left : left + width]
            n_new = block.size - int(np.count_nonzero(block))
            if 0 < n_new <= wanted:
                block[:] = True
                return n_new
    return 0
