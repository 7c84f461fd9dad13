"""A frozen backbone and its patch features, in batches, as float32; its [CLS] features are in eval/frozen."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.artifacts import Checkpoint, Machine
from dora.method.vit import tokens
from dora.weights.load import load_encoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def frozen_backbone(checkpoint: Checkpoint, machine: Machine) -> VisionTransformer:
    """The teacher's backbone in evaluation mode, on the machine's device; of our files or others' (docs/weights.md)."""
    return load_encoder(checkpoint.path).to(device(machine)).requires_grad_(False)


def device(machine: Machine) -> torch.device:
    """The device that the machine asks for; "auto" is a GPU if there is one."""
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if machine.device == "auto" else machine.device)


def patch_size(vit: VisionTransformer, *sides: int) -> int:
    """Side of a patch in pixels, which must divide `sides`.

    Raises:
        ValueError: if it does not.
    """
    size = vit.patch_embed.patch_size[0]
    odd = [side for side in sides if side % size]
    if odd:
        raise ValueError(f"the backbone's {size} px patches do not divide {odd[0]} px. Choose a multiple of {size}.")
    return size


def normalised(
    images: UInt8[np.ndarray, "B Y X 3"],
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    device: torch.device | None = None,
) -> Float[Tensor, "B 3 Y X"]:
    """(pixel / 255 - mean) / std, by colour; on `device`, to which a quarter of the bytes travels so."""
    scaled = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    centred = scaled - torch.tensor(mean, device=device).view(3, 1, 1)
    return centred / torch.tensor(std, device=device).view(3, 1, 1)


@torch.inference_mode()
def patch_features(
    vit: VisionTransformer, images: Iterable[UInt8[np.ndarray, "Y X 3"]], *, batch_size: int,
    std: tuple[float, ...] = IMAGENET_STD, precision: Literal["fp32", "bf16"] = "fp32",
) -> Iterator[Float[Tensor, "h w D"]]:  # fmt: skip
    """Patch tokens after the final LayerNorm, image by image, on the device; holds one batch at a time.

    With bf16 the products are computed in half precision (autocast).
    """
    size, device = patch_size(vit), _device_of(vit)
    for batch in _batches(images, batch_size):
        height, width = batch.shape[1] // size, batch.shape[2] // size
        pixels = normalised(batch, std=std, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = tokens(vit, pixels)
        yield from found[:, 1:].float().unflatten(1, (height, width))


def _device_of(vit: VisionTransformer) -> torch.device:
    return next(vit.parameters()).device


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[UInt8[np.ndarray, "B Y X 3"]]:
    waiting = iter(images)
    while batch := list(islice(waiting, size)):
        yield np.stack(batch)
