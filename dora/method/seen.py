"""What a network sees in the whole frames of a clip, without augmentation: to be looked at, not learnt from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dora.config import TrackingConfig
from dora.data.augment import normalise_
from dora.drawing import resized
from dora.method.tracking import object_masks
from dora.method.vit import ClipTokens


class Seen(NamedTuple):
    """What a network makes of one clip, on the CPU; h and w count patches."""

    clip: ClipTokens  # B = 1
    grid: tuple[int, int]  # h, w
    attention: Float[Tensor, "H h w"]  # of frame 0


class Tracked(NamedTuple):
    """Where the objects of a clip are."""

    maps: Float[Tensor, "O T h w"]
    masks: Bool[Tensor, "O T h w"]


@torch.no_grad()
def look(
    see: Callable[[Float[Tensor, "T 1 3 Y X"]], ClipTokens], frames: UInt8[np.ndarray, "T Y X 3"], *,
    short_side: int, patch_size: int, device: torch.device | None = None,
) -> Seen:  # fmt: skip
    """One pass of the frames, scaled to `short_side` in whole patches, through `see`."""
    height, width = whole_patches(frames.shape[1:3], short_side, patch_size)
    grid = height // patch_size, width // patch_size
    images = resized(frames, height, width)
    normalise_(images)
    there = see(images[:, None].to(device))
    first = type(there.first)(*(part.cpu().float() for part in there.first))
    clip = ClipTokens(there.cls.cpu().float(), first, there.keys.cpu().float())
    return Seen(clip, grid, first.attention[0, :, 1:].unflatten(-1, grid))


def tracked(seen: Seen, heads: Sequence[int], config: TrackingConfig) -> Tracked:
    """The objects that these heads find, as training tracks them."""
    tracks = object_masks(seen.clip.first, seen.clip.keys, head_indices=heads, config=config)
    return Tracked(
        tracks.soft.squeeze(2).unflatten(-1, seen.grid), tracks.masks.squeeze(2).unflatten(-1, seen.grid)
    )  # fmt: skip


def whole_patches(size: tuple[int, int], short_side: int, patch_size: int) -> tuple[int, int]:
    """Height and width nearest to `size` scaled to `short_side`, in whole patches."""
    scale = short_side / min(size)
    height, width = (max(1, round(side * scale / patch_size)) * patch_size for side in size)
    return height, width
