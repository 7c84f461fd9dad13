"""Views of a clip for DoRA: one global view of every frame and several local crops.

The authors' recipe (github.com/shashankvkt/DoRA_ICLR24, WTDataloader.py and the transforms in main.py):
the clip is cropped once to `clip_size`, one box for all frames; the global view is cropped and flipped alike in all
frames; local crops take a box of their own in every frame. Colour, grey and blur are drawn for every image anew.
There is no solarisation and no second global view. The operations are torchvision's (RandomResizedCrop, ColorJitter,
Grayscale, GaussianBlur) on batches in which every image has its own parameters; resizing is antialiased.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor

from dora.config import AugmentConfig

MEAN = (0.485, 0.456, 0.406)  # of ImageNet; what every encoder here expects
STD = (0.229, 0.224, 0.225)
ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop
CROP_TRIES = 10


class Views(NamedTuple):
    """What one step of training sees of its clips; normalised."""

    global_views: Float[Tensor, "B T 3 Y X"]
    local_views: Float[Tensor, "L B T 3 y x"]


def augment_clip(
    frames: UInt8[Tensor, "T Y X 3"], config: AugmentConfig, generator: Generator
) -> tuple[Float[Tensor, "T 3 y x"], Float[Tensor, "L T 3 v u"]]:
    """The global view and the local views of one clip, on the device of `frames`.

    Every draw comes from the CPU `generator`, so the same seed gives the same views on every device.
    """
    n_frames, height, width, _ = frames.shape
    clip_box = crop_boxes(1, height, width, config.clip_scale, generator)
    global_box = crop_boxes(1, config.clip_size, config.clip_size, config.global_scale, generator)
    local_boxes = crop_boxes(
        config.n_local_crops * n_frames, config.clip_size, config.clip_size, config.local_scale, generator
    )
    flip = bool(torch.rand((), generator=generator) < config.flip_probability)

    clip = crop(frames.permute(0, 3, 1, 2), clip_box[0]).contiguous().float() / 255
    clip = resize(clip, config.clip_size, "bilinear")
    global_views = resize(crop(clip, global_box[0]), config.global_size, "bilinear")
    if flip:
        global_views = global_views.flip(-1)
    local_views = clip.new_empty(len(local_boxes), 3, config.local_size, config.local_size)
    for index, box in enumerate(local_boxes):
        frame = index % n_frames
        local_views[index] = resize(crop(clip[frame : frame + 1], box), config.local_size, "bicubic")[0]

    global_views = _colour(global_views, config, config.global_blur_probability, generator)
    local_views = _colour(local_views, config, config.local_blur_probability, generator)
    return global_views, local_views.unflatten(0, (config.n_local_crops, n_frames))


def stack_views(clips: Sequence[tuple[Tensor, Tensor]]) -> Views:
    """Several clips' views as one batch."""
    return Views(torch.stack([c[0] for c in clips]), torch.stack([c[1] for c in clips], 1))


def normalise(images: Float[Tensor, "*B 3 Y X"]) -> Float[Tensor, "*B 3 Y X"]:
    """Images in [0, 1] to ImageNet's mean 0 and deviation 1."""
    return (images - images.new_tensor(MEAN)[:, None, None]) / images.new_tensor(STD)[:, None, None]


def crop_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], generator: Generator
) -> Int64[Tensor, "n 4"]:
    """Boxes (top, left, height, width) as RandomResizedCrop draws them from a `height` by `width` image.

    Area uniform in `scale`, aspect ratio log-uniform in 3/4 to 4/3; after ten draws that do not fit, the largest
    central box of an allowed ratio. All ten are always drawn, so what follows does not depend on which one fits.
    """
    area = height * width * _uniform((n, CROP_TRIES), *scale, generator)
    ratio = _uniform((n, CROP_TRIES), math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1]), generator).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    sizes = torch.cat([heights.gather(1, first), widths.gather(1, first)], 1)
    corners = (_uniform((n, 2), 0, 1, generator) * (torch.tensor([height, width]) - sizes + 1)).floor()

    central_ratio = min(max(width / height, ASPECT_RATIO[0]), ASPECT_RATIO[1])
    central_height, central_width = min(height, round(width / central_ratio)), min(width, round(height * central_ratio))
    top, left = (height - central_height) // 2, (width - central_width) // 2
    central = torch.tensor([top, left, central_height, central_width])
    return torch.where(fits.any(1, keepdim=True), torch.cat([corners, sizes], 1).long(), central)


def crop(images: Tensor, box: Int64[Tensor, "4"]) -> Tensor:
    """The part of the images inside the box (top, left, height, width)."""
    top, left, height, width = box.tolist()
    return images[..., top : top + height, left : left + width]


def resize(
    images: Float[Tensor, "N 3 Y X"], size: int, mode: Literal["bilinear", "bicubic"]
) -> Float[Tensor, "N 3 y x"]:
    """Square images of `size` pixels in [0, 1]: bicubic overshoots at edges, so it is clamped."""
    resized = F.interpolate(images, (size, size), mode=mode, antialias=True)
    return resized.clamp_(0, 1) if mode == "bicubic" else resized


def adjust_brightness(images: Float[Tensor, "N 3 Y X"], factor: Float[Tensor, "N"]) -> Float[Tensor, "N 3 Y X"]:
    """0 is black, 1 the same image."""
    return _blend(images, torch.zeros((), device=images.device), factor)


def adjust_contrast(images: Float[Tensor, "N 3 Y X"], factor: Float[Tensor, "N"]) -> Float[Tensor, "N 3 Y X"]:
    """0 is the image's mean grey, 1 the same image."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Float[Tensor, "N 3 Y X"], factor: Float[Tensor, "N"]) -> Float[Tensor, "N 3 Y X"]:
    """0 is grey, 1 the same image."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Float[Tensor, "N 3 Y X"], shift: Float[Tensor, "N"]) -> Float[Tensor, "N 3 Y X"]:
    """Turn the colour circle by `shift` turns: to HSV and back.

    With value v, chroma c and hue h in sixths of a turn, a channel is v - c·clamp(min(k, 4 - k), 0, 1) where
    k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue (the piecewise HSV formula in one line).
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(
        value == red, (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )  # fmt: skip
    hue = hue + 6 * shift.to(images)[:, None, None]
    k = (hue[:, None] + hue.new_tensor([5, 3, 1])[:, None, None]) % 6  # N 3 Y X
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def grey(images: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N 1 Y X"]:
    """Luma with torchvision's weights (ITU-R 601-2, four digits)."""
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def gaussian_blur(
    images: Float[Tensor, "N 3 Y X"], sigma: Float[Tensor, "N"], *, max_sigma: float
) -> Float[Tensor, "N 3 Y X"]:
    """Blur of `sigma` pixels, cut at three times `max_sigma`, edges reflected: a matrix product along each axis."""
    along_y, along_x = (_blur_matrix(size, sigma, max_sigma).to(images)[:, None] for size in images.shape[-2:])
    return along_y @ images @ along_x.mT


def _colour(
    images: Float[Tensor, "N 3 Y X"], config: AugmentConfig, blur_probability: float, generator: Generator
) -> Float[Tensor, "N 3 Y X"]:
    """Jitter, grey and blur, each image by its own draws; then normalised. Changes `images` in place."""
    n = len(images)
    order = torch.rand(n, 4, generator=generator).argsort(1)
    order[torch.rand(n, generator=generator) >= config.jitter_probability] = -1  # no adjustment at all
    *spreads, hue = config.jitter
    factors = [_uniform((n,), max(0, 1 - spread), 1 + spread, generator) for spread in spreads]
    factors.append(_uniform((n,), -hue, hue, generator))
    is_grey = torch.rand(n, generator=generator) < config.grayscale_probability
    is_blurred = torch.rand(n, generator=generator) < blur_probability
    sigma = _uniform((n,), *config.blur_sigma, generator)

    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for place in range(4):
        for kind, adjust in enumerate(adjustments):
            _change(images, order[:, place] == kind, adjust, factors[kind])
    _change(images, is_grey, lambda chosen, _: grey(chosen).expand_as(chosen), sigma)
    _change(images, is_blurred, lambda chosen, s: gaussian_blur(chosen, s, max_sigma=config.blur_sigma[1]), sigma)
    return normalise(images)


def _change(images: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor], parameter: Tensor) -> None:
    """images[chosen] = change(images[chosen], parameter[chosen]); the two lie on the CPU, so no GPU is waited for."""
    where = chosen.nonzero()[:, 0]
    if len(where):
        there = where.to(images.device)
        images[there] = change(images[there], parameter[where])


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, factor.to(images)[:, None, None, None]).clamp_(0, 1)


def _blur_matrix(size: int, sigma: Tensor, max_sigma: float) -> Float[Tensor, "N size size"]:
    """Row i holds the Gaussian around pixel i; what falls over an edge is reflected."""
    radius = min(math.ceil(3 * max_sigma), size - 1)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma.double()[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    reached = torch.arange(size)[:, None] + offsets
    reached = size - 1 - (size - 1 - reached.abs()).abs()
    matrix = torch.zeros(len(sigma), size, size, dtype=torch.float64)
    return matrix.scatter_add_(2, reached.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1))


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
