"""Masks that know nothing of objects, for the paper's ablation; and frames with their masked patches blacked out."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dora.config import TrackingConfig
from dora.method.block_masks import block_mask
from dora.seeds import derived_seed


def random_masks(
    config: TrackingConfig, positions: Sequence[int], n_frames: int, grid: tuple[int, int], *, seed: int
) -> Bool[Tensor, "O T B h w"]:
    """Another mask for each object and frame, of `kept_share` of the patches: blocks, or patches anywhere."""
    rows, columns = grid
    n_kept = round(config.kept_share * rows * columns)
    masks = np.zeros((len(positions), config.n_objects * n_frames, rows * columns), bool)
    for of_clip, position in zip(masks, positions, strict=True):
        draw = np.random.default_rng(derived_seed(seed, "masks", position))
        for mask in of_clip:
            if config.mask == "block":
                mask[:] = block_mask(rows, columns, n_kept, draw).ravel()
            else:
                mask[draw.permutation(len(mask))[:n_kept]] = True
    by_object = masks.reshape(len(positions), config.n_objects, n_frames, rows, columns)
    return torch.from_numpy(by_object).permute(1, 2, 0, 3, 4)


def black_out(frames: Float[Tensor, "T B 3 Y X"], masks: Shaped[Tensor, "O T B h w"]) -> Float[Tensor, "O T B 3 Y X"]:
    """The frames times the masks, hard or soft: masked patches become 0, the data set's mean colour."""
    height, width = frames.shape[-2:]
    rows, columns = masks.shape[-2:]
    patches = frames.unflatten(-1, (columns, width // columns)).unflatten(-3, (rows, height // rows))
    return (patches * masks[:, :, :, None, :, None, :, None]).flatten(-2).flatten(-3, -2)
