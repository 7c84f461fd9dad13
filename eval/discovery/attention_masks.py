"""What [CLS] looks at, as masks: for each head the fewest patches that hold a share of its attention.

DINO's figure 4 (arXiv:2104.14294, Sec. 4.2.2) and visualize_attention.py (7c446df) make masks so; how they are compared
with objects is that of the public re-implementation, Muzammal-Naseer/Intriguing-Properties-of-Vision-Transformers
evaluate_segmentation.py (9aa9fea), since DINO's own is not released.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from eval.discovery.boxes import Box, box_of, parts_of

VOID = 255


def attention_masks(attention: Float[Tensor, "H N"], *, mass: float) -> Bool[Tensor, "H N"]:
    """Where the `mass` lies: sorted upwards and cumulated, patches above 1 − mass of the sum are kept.

    Of patches with equal attention the later ones are kept.
    """
    value, index = attention.double().sort(dim=1, stable=True)
    kept = (value / value.sum(dim=1, keepdim=True)).cumsum(dim=1) > 1 - mass
    return torch.zeros_like(kept).scatter_(1, index, kept)


class Overlap(NamedTuple):
    """Intersection over union of each object with each head's mask."""

    labels: list[int]
    jaccard: Float[np.ndarray, "O H"]
    without_void: Float[np.ndarray, "O H"]  # void pixels belong to no mask; in the reference they count in the union


def jaccard(masks: Bool[np.ndarray, "H Y X"], target: UInt8[np.ndarray, "Y X"]) -> Overlap:
    """Each label of the target but 0 and void is an object."""
    counts = np.bincount(target.ravel(), minlength=256)
    labels = [label for label in range(1, VOID) if counts[label]]
    # Pixels of each label under each head's mask.
    under = np.stack([np.bincount(target[mask], minlength=256) for mask in masks], axis=1)
    shared, sizes = under[labels], counts[labels][:, None]
    area, void = under.sum(axis=0), under[VOID]
    return Overlap(labels, shared / (area + sizes - shared), shared / (area - void + sizes - shared))


def dino_seg(
    attention: Float[Tensor, "H N"], grid: tuple[int, int], *, head: int, mass: float, patch: int,
    size: tuple[int, int], as_published: bool,
) -> Box:  # fmt: skip
    """DINO-seg, LOST's baseline: the box of the largest part of one head's mask.

    `as_published` does as valeoai/LOST dino_seg (fcedbec), with which its numbers were made: the last part is never
    considered, where there is only one the box is that of what lies outside of it, and nothing is cut to the image.
    """
    mask = attention_masks(attention, mass=mass)[head].reshape(grid).cpu().numpy()
    parts = parts_of(mask)
    considered = parts.sizes[1:-1] if as_published else parts.sizes[1:]
    outside = 0 if parts.sizes[0] else 1
    part = 1 + considered.index(max(considered)) if considered else outside
    return box_of(parts.cells[part], patch, None if as_published else size)
