"""What training does to photos and labels, and what validation does to photos: timm's and torchvision's transforms.

timm draws from `random`, `np.random` and torch's generator. The training loop seeds all three before each sample, by
its position, and before each micro-batch, by iteration, rank and part: a run that goes on draws what it would have.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from timm.data.auto_augment import RandAugment, posterize
from timm.data.mixup import Mixup
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from eval.classifying.photos import Photos
from eval.classifying.recipe import Finetuning
from eval.images import CROP_SHARE

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Sample(NamedTuple):
    """A training photo: augmented, normalised; and its label."""

    image: Float[Tensor, "3 Y X"]
    label: int


def reader(photos: Photos, config: Finetuning) -> Callable[[int], Sample]:
    """What reads a training photo by its number: a random part of it, mirrored or not, augmented, partly erased."""
    transform: Any = create_transform(
        config.crop, is_training=True, auto_augment=config.auto_augment or None, interpolation="bicubic",
        re_prob=config.erase, re_mode="pixel",
        color_jitter=None,  # pyright: ignore[reportArgumentType]  # timm leaves it out beside RandAugment anyway
    )  # fmt: skip

    _let_nothing_be_kept(transform)

    def read(index: int) -> Sample:
        image, label = photos[index]
        try:
            return Sample(transform(image), label)
        except (ValueError, OSError) as error:  # which the loop would take for a broken photo
            raise RuntimeError(f"a photo of {image.size} pixels cannot be augmented: {error}") from error

    return read


def _let_nothing_be_kept(transform: Compose) -> None:
    """Have RandAugment make black pictures where it wants to keep 0 bits of each colour.

    Magnitude 10, which 9 with a deviation of 0.5 often is, stands for that. Pillow did so when the recipes were made,
    and refuses it today.
    """
    for step in transform.transforms:
        if isinstance(step, RandAugment):
            for operation in step.ops:
                if "Posterize" in operation.name:
                    operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **how: Any) -> Image.Image:
    return posterize(image, bits_to_keep, **how) if bits_to_keep else Image.new(image.mode, image.size)


def centre(config: Finetuning) -> Callable[[Image.Image], UInt8[np.ndarray, "Y X 3"]]:
    """What makes a validation photo's centre square of it."""
    size, how = int(config.crop / CROP_SHARE), InterpolationMode(config.resize)
    transform = Compose([Resize(size, how), CenterCrop(config.crop)])

    def pixels(image: Image.Image) -> np.ndarray:
        return np.asarray(transform(image))

    return pixels


def mixing(config: Finetuning, n_classes: int) -> Mix:
    """What mixes a micro-batch with itself, last photo with first, and makes shares of classes of its labels.

    One draw for all, as a GPU's batch has in timm; mixup and cutmix take turns by chance. Labels are smoothed too.
    """
    mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=n_classes)
    mixup.mixup_enabled = config.mixup > 0 or config.cutmix > 0

    def mix(
        images: Float[Tensor, "B 3 Y X"], labels: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B 3 Y X"], Float[Tensor, "B K"]]:
        n = len(images)
        if n % 2:  # timm pairs them up: the first one is its own partner
            images, labels = torch.cat([images, images[:1]]), torch.cat([labels, labels[:1]])
        mixed, shares = mixup(images, labels)
        return mixed[:n], shares[:n]

    return mix
