"""Photos as linear classifiers are trained on them: a part at random, to a square, mirrored or not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop

from eval.features import normalised
from eval.frozen.probe import Heads
from eval.frozen.tokens import last_class_tokens
from eval.images import open_photo


class Crop(NamedTuple):
    """A training sample."""

    pixels: UInt8[np.ndarray, "Y X 3"]
    label: int


def reader(photos: Sequence[Path], labels: Sequence[int], *, crop: int) -> Callable[[int], Crop]:
    """Reads photo i anew each time, drawing from torch's global generator.

    Torchvision's defaults, which DINO's probe takes: 8 to 100 % of the area, sides of 3:4 to 4:3, bilinear.
    """
    drawn = Compose([RandomResizedCrop(crop), RandomHorizontalFlip()])

    def read(index: int) -> Crop:
        return Crop(np.array(drawn(open_photo(photos[index]))), labels[index])

    return read


def losses(
    vit: VisionTransformer, n_blocks: int, *, avgpool: bool = False
) -> Callable[[Heads, list[Crop]], dict[str, Tensor]]:
    """Cross-entropy of each head on what eval/frozen/tokens.py reads of `vit`, in which nothing is learnt."""

    def of_crops(heads: Heads, samples: list[Crop]) -> dict[str, Tensor]:
        device = next(vit.parameters()).device
        pixels = normalised(np.stack([sample.pixels for sample in samples]), device=device)
        # A copy: tensors made in inference mode cannot be kept for a gradient.
        features = last_class_tokens(vit, pixels, n_blocks, avgpool=avgpool).flatten(1).clone()
        return heads.losses(features, torch.tensor([sample.label for sample in samples], device=device))

    return of_crops
