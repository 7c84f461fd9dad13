"""What a network makes of each frame, one at a time: of each only a small picture and its maps stay in memory."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.config import TrackingConfig
from dora.data.augment import normalise_
from dora.drawing import resized
from dora.method.seen import whole_patches
from dora.method.tracking import object_masks
from dora.method.vit import LastBlock, last_block

TILE = 320  # pixels of a picture's longer side, as it is kept to be drawn on


class Objects(NamedTuple):
    """Where the objects are that frame 0's prototypes stand for, on the CPU."""

    maps: Float[Tensor, "T O h w"]
    masks: Bool[Tensor, "T O h w"]


class Sight(NamedTuple):
    """All that is drawn."""

    tiles: UInt8[Tensor, "T 3 y x"]  # the pictures, small
    times_s: list[float]
    attention: Float[Tensor, "T H h w"]  # of [CLS] to each patch; what it pays to itself is left out
    plain: Objects  # prototypes as discovered (eqs. 1-3)
    refined: Objects  # by Sinkhorn-Knopp (eqs. 4-5)
    size: tuple[int, int]  # pixels of the footage: height, width
    seen: tuple[int, int]  # pixels that the network sees


class Moment(NamedTuple):
    """A picture and when it is shown."""

    time_s: float
    pixels: UInt8[np.ndarray, "Y X 3"]


@torch.inference_mode()
def see(
    vit: VisionTransformer, moments: Iterable[Moment], *, heads: list[int], tracking: TrackingConfig, short_side: int,
    device: torch.device, done: Callable[[int], None],
) -> Sight:  # fmt: skip
    """Look at the frames in order. The first is the one in which the objects are discovered, as in training.

    Raises:
        ValueError: if there is no frame.
    """
    patch = vit.patch_embed.patch_size[0]
    configs = [tracking.model_copy(update={"refine": refine}) for refine in (False, True)]
    first: LastBlock | None = None
    size = seen = (0, 0)
    tiles: list[Tensor] = []
    times_s: list[float] = []
    attention: list[Tensor] = []
    maps: list[list[Tensor]] = [[], []]
    masks: list[list[Tensor]] = [[], []]
    for number, moment in enumerate(moments):
        size = moment.pixels.shape[0], moment.pixels.shape[1]
        seen = whole_patches(size, short_side, patch)
        here = last_block(vit, _input(moment.pixels, seen).to(device))
        first = first or here
        grid = seen[0] // patch, seen[1] // patch
        for config, some_maps, some_masks in zip(configs, maps, masks, strict=True):
            tracks = object_masks(first, here.key[None], head_indices=heads, config=config)
            some_maps.append(tracks.soft[:, 0, 0].unflatten(-1, grid).cpu().float())
            some_masks.append(tracks.masks[:, 0, 0].unflatten(-1, grid).cpu())
        attention.append(here.attention[0, :, 1:].unflatten(-1, grid).cpu().float())
        tiles.append(_tile(moment.pixels))
        times_s.append(moment.time_s)
        done(number + 1)
    if first is None:
        raise ValueError("no frame to look at.")
    plain, refined = (Objects(torch.stack(a), torch.stack(b)) for a, b in zip(maps, masks, strict=True))
    return Sight(torch.stack(tiles), times_s, torch.stack(attention), plain, refined, size, seen)


def overlap(masks: Bool[Tensor, "T O h w"]) -> float | None:
    """Mean IoU of the masks of two objects, over all pairs and frames; None for a single object.

    0: each patch belongs to one object at most. 1: all objects are the same.
    """
    flat = masks.flatten(2).float()
    both = flat @ flat.transpose(1, 2)
    area = flat.sum(-1)
    either = area[:, :, None] + area[:, None] - both
    n_objects = masks.shape[1]
    above = torch.ones(n_objects, n_objects, dtype=torch.bool).triu(1)
    return float((both / either.clamp(min=1))[:, above].mean()) if n_objects > 1 else None


def _input(pixels: UInt8[np.ndarray, "Y X 3"], size: tuple[int, int]) -> Float[Tensor, "1 3 y x"]:
    image = resized(pixels[None], *size)
    normalise_(image)
    return image


def _tile(pixels: UInt8[np.ndarray, "Y X 3"]) -> UInt8[Tensor, "3 y x"]:
    height, width = pixels.shape[:2]
    scale = TILE / max(height, width)
    small = resized(pixels[None], max(1, round(height * scale)), max(1, round(width * scale)))[0]
    return small.clamp(0, 1).mul(255).round().byte()
