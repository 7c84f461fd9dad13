"""Image operations with parameters of their own for every image of a batch; values are torchvision's.

Resizing and blurring are the same thing here: each new row is a weighted sum of a few old rows, the taps. As a sparse
matrix product (`embedding_bag`) that is several times faster than F.interpolate on a CPU, and one kernel for any number
of different boxes on a GPU. What ends in an underscore changes its images in place. Nothing waits for a GPU.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, Int64
from torch import Tensor

Mode = Literal["bilinear", "bicubic"]
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2 to torchvision's four digits
OPPOSITE_HUES = (1 / 2, 5 / 6, 1 / 6)  # of red, green and blue, in turns
REACH = {"bilinear": 1, "bicubic": 2}  # in pixels of the larger of the two images


class Taps(NamedTuple):
    """Which rows of image n are summed to its row i, and with which weights."""

    rows: Int32[Tensor, "N i K"]
    weight: Float[Tensor, "M i K"]

    def of(self, part: slice, n_taps: int) -> "Taps":
        """The taps of some of the images, of which those after the first `n_taps` have no weight."""
        return Taps(self.rows[part, :, :n_taps], self.weight[part, :, :n_taps])


def resizing_taps(lengths: Int64[Tensor, "N"], size: int, mode: Mode, *, longest: int) -> Taps:
    """What F.interpolate(antialias=True) sums to make `size` pixels of `lengths`, of which none exceeds `longest`.

    The filter is as wide as the larger pixels (Pillow's rule). Single precision and this order of operations are
    torch's own: a centre a rounding further to the left shifts the whole image by as much.
    """
    scale = lengths.float() / size
    stretch = scale.clamp_min(1)[:, None]
    centre = scale[:, None] * (torch.arange(size, device=lengths.device) + 0.5)  # N i
    first = (centre - REACH[mode] * stretch + 0.5).clamp_min_(0).int()
    taps = torch.arange(taps_needed(longest, size, mode), dtype=torch.int32, device=lengths.device)
    index = first[..., None] + taps  # N i K
    last = lengths.int()[:, None, None] - 1
    distance = ((index - centre[..., None]).add_(0.5) / stretch[..., None]).abs_()
    weight = _triangle(distance) if mode == "bilinear" else _cubic(distance)
    weight.mul_(index <= last)
    return Taps(torch.minimum(index, last), weight.div_(weight.sum(-1, keepdim=True)))


def taps_needed(length: int, size: int, mode: Mode) -> int:
    """How many taps are enough for every one of `size` pixels, made of `length`."""
    return math.ceil(2 * REACH[mode] * max(length / size, 1)) + 1


def resample(
    images: Float[Tensor, "S A *rest"], taps: Taps, first_row: Int32[Tensor, "N"]
) -> Float[Tensor, "N i *rest"]:
    """Sums of rows, along the first axis of images. Result n counts its rows from the `first_row[n]`-th of them all.

    Taps of a single image are for all N.
    """
    index = taps.rows + first_row[:, None, None]
    sums = F.embedding_bag(
        index.flatten(0, 1),
        images.flatten(0, 1).flatten(1),
        per_sample_weights=taps.weight.expand_as(index).flatten(0, 1),
        mode="sum",
    )
    return sums.view(*index.shape[:2], *images.shape[2:])


def adjust_brightness_(images: Float[Tensor, "N 3 Y X"], factor: Float[Tensor, "N"]) -> None:
    """0 makes it black, 1 leaves it."""
    images.mul_(_each(factor)).clamp_(0, 1)


def adjust_contrast_(images: Float[Tensor, "N 3 Y X"], factor: Float[Tensor, "N"]) -> None:
    """0 makes it the image's mean grey, 1 leaves it."""
    mean_grey = (images.mean((2, 3)) * constant(LUMA, images.device)).sum(1)
    images.mul_(_each(factor)).add_(_each(mean_grey * (1 - factor))).clamp_(0, 1)


def adjust_saturation_(images: Float[Tensor, "N 3 Y X"], factor: Float[Tensor, "N"]) -> None:
    """0 makes it grey, 1 leaves it."""
    greyness = grey(images).mul_(_each(1 - factor))
    images.mul_(_each(factor)).add_(greyness).clamp_(0, 1)


def adjust_hue_(images: Float[Tensor, "N 3 Y X"], shift: Float[Tensor, "N"]) -> None:
    """Turn the colour circle by `shift` turns: to HSV and back.

    Without branches: a hue is 1 + (g + b - r - least) / chroma sixths of a turn from red, to the side that the sign of
    g - b tells. A channel is value - chroma·clamp(2 - 6·d, 0, 1), d turns being between the hue and its opposite.
    """
    red, green, blue = images.split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    from_red = (green + blue).sub_(red).sub_(least).div_(chroma.clamp(min=1e-12)).add_(1).div_(6)
    hue = from_red.copysign_(green - blue).add_(_each(shift))
    away = hue - constant(OPPOSITE_HUES, images.device)[:, None, None]  # N 3 Y X, in turns
    away.sub_(away.round()).abs_().mul_(-6).add_(2).clamp_(0, 1).mul_(chroma)
    torch.sub(value, away, out=images)


def make_grey_(images: Float[Tensor, "N 3 Y X"]) -> None:
    """Every channel its luma."""
    images.copy_(grey(images))


def flip_(images: Float[Tensor, "N 3 Y X"]) -> None:
    """Left to right."""
    images.copy_(images.flip(-1))


def solarize_(images: Float[Tensor, "N 3 Y X"]) -> None:
    """Invert what is bright: values of a half and more."""
    torch.minimum(images, 1 - images, out=images)


def grey(images: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N 1 Y X"]:
    """Luma."""
    red, green, blue = images.split(1, 1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blur_(images: Float[Tensor, "N 3 Y X"], sigma: Float[Tensor, "N"], *, radius: int) -> None:
    """Gaussian of `sigma` pixels, cut at `radius`, edges reflected."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = (offsets / sigma[:, None]).square_().mul_(-0.5).exp_()
    kernel = kernel.div_(kernel.sum(1, keepdim=True))[:, None, None]
    planes = images.flatten(0, 1)
    for _ in range(2):  # along one axis, then along the other
        size = planes.shape[1]
        first_row, reached = _planes_rows(len(planes), size, radius, images.device)
        planes = resample(planes, Taps(reached, kernel.expand(-1, 3, size, -1).flatten(0, 1)), first_row).mT
    images.copy_(planes.view_as(images))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it is doing: that needs page-locked memory."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values).to(device, non_blocking=True)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "n"]:
    """The numbers on the device, sent there once."""
    return torch.tensor(values, device=device)


@lru_cache(maxsize=64)
def _planes_rows(n: int, size: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first row of each of n planes; and for every row of a plane those within `radius`, reflected at the edges."""
    row = torch.arange(size, dtype=torch.int32, device=device)[:, None]
    reached = row + torch.arange(-radius, radius + 1, dtype=torch.int32, device=device)
    reached = size - 1 - (size - 1 - reached.abs()).abs()
    return torch.arange(0, n * size, size, dtype=torch.int32, device=device), reached[None]


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, which antialiased resizing uses. Each half is 0 where the other one ends."""
    near, far = distance.clamp(max=1), distance.clamp(1, 2)
    return (1.5 * near - 2.5) * near * near + 1 - 0.5 * (((far - 5) * far + 8) * far - 4)


def _each(factor: Float[Tensor, "N"]) -> Float[Tensor, "N 1 1 1"]:
    return factor[:, None, None, None]
