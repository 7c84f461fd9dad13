"""All that is drawn for a clip's views, on the CPU and before anything is computed.

So the same seed gives the same views on every device. Everything is drawn, needed or not: whatever a recipe's
probabilities are, no draw depends on another's outcome. Torch draws, NumPy reckons: what a call costs is nearly all
that so few numbers cost, and the thread that makes views for a GPU takes Python's time from the one that trains on it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Generator

from dora.config import AugmentConfig

ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop
CROP_TRIES = 10
Box = tuple[int, int, int, int]  # top, left, height, width


class ImageDraws(NamedTuple):
    """What is drawn for one image."""

    box: Box
    is_flipped: bool
    order: tuple[int, ...]  # of brightness, contrast, saturation and hue; empty: none
    factors: tuple[float, ...]  # of all four
    is_grey: bool
    is_blurred: bool
    sigma: float
    is_solarized: bool


class ClipDraws(NamedTuple):
    """All that is drawn for one clip."""

    box: Box | None  # of the first crop; None: there is none
    global_views: list[list[ImageDraws]]  # view by view, a frame each
    local_views: list[list[ImageDraws]]  # crop by crop, a frame each


def draw_views(shape: Sequence[int], config: AugmentConfig, generator: Generator) -> ClipDraws:
    """All draws for a clip of T Y X 3 bytes."""
    n_frames, height, width, _ = shape
    clip_box = None
    if config.clip_scale is not None:
        (clip_box,) = _boxes(crop_boxes(1, height, width, config.clip_scale, generator))
        height = width = config.clip_size

    global_views: list[list[ImageDraws]] = []
    n_boxes = 1 if config.one_global_box else n_frames
    for blur, solarize in zip(config.global_blur_probability, config.solarize_probability, strict=True):
        boxes = _boxes(crop_boxes(n_boxes, height, width, config.global_scale, generator)) * (n_frames // n_boxes)
        flips = _happens(n_boxes, config.flip_probability, generator) * (n_frames // n_boxes)
        global_views.append(_draw_images(boxes, flips, config, generator, blur=blur, solarize=solarize))

    n = config.n_local_crops * n_frames
    boxes = _boxes(crop_boxes(n, height, width, config.local_scale, generator))
    flips = _happens(n, config.local_flip_probability, generator)
    local_views = _draw_images(boxes, flips, config, generator, blur=config.local_blur_probability, solarize=0)
    by_crop = [local_views[n_frames * crop : n_frames * (crop + 1)] for crop in range(config.n_local_crops)]
    return ClipDraws(clip_box, global_views, by_crop)


def crop_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], generator: Generator
) -> Int64[np.ndarray, "n 4"]:
    """Boxes (top, left, height, width) as RandomResizedCrop draws them from a `height` by `width` image.

    Area uniform in `scale`, aspect ratio log-uniform in 3/4 to 4/3; after ten draws that do not fit, the largest
    central box of an allowed ratio. All ten are always drawn, so what follows does not depend on which one fits.
    """
    area = height * width * _uniform((n, CROP_TRIES), *scale, generator)
    log_ratio = _uniform((n, CROP_TRIES), math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1]), generator)
    ratio = torch.from_numpy(log_ratio).exp().numpy()  # NumPy's has another last digit here and there
    widths, heights = np.sqrt(area * ratio).round(), np.sqrt(area / ratio).round()
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    first = np.arange(n), fits.argmax(1)
    sizes = np.stack([heights[first], widths[first]], 1)
    corners = np.floor(_uniform((n, 2), 0, 1, generator) * (np.array([height, width]) - sizes + 1))

    central_ratio = min(max(width / height, ASPECT_RATIO[0]), ASPECT_RATIO[1])
    central_height, central_width = min(height, round(width / central_ratio)), min(width, round(height * central_ratio))
    top, left = (height - central_height) // 2, (width - central_width) // 2
    fitting = np.concatenate([corners, sizes], 1).astype(np.int64)
    return np.where(fits.any(1, keepdims=True), fitting, (top, left, central_height, central_width))


def _draw_images(
    boxes: Sequence[Box], flips: Sequence[bool], config: AugmentConfig, generator: Generator, *,
    blur: float, solarize: float,
) -> list[ImageDraws]:  # fmt: skip
    """Colours and blur for images of these boxes; `blur` and `solarize` are how probable those are."""
    n = len(boxes)
    order = torch.rand(n, 4, generator=generator).numpy().argsort(1, kind="stable").tolist()
    is_jittered = _happens(n, config.jitter_probability, generator)
    *spreads, hue = config.jitter
    factors = [_uniform((n,), max(0, 1 - spread), 1 + spread, generator).tolist() for spread in spreads]
    factors.append(_uniform((n,), -hue, hue, generator).tolist())
    is_grey = _happens(n, config.grayscale_probability, generator)
    is_blurred = _happens(n, blur, generator)
    sigma = _uniform((n,), *config.blur_sigma, generator).tolist()
    is_solarized = _happens(n, solarize, generator)
    return [
        ImageDraws(
            box=boxes[i],
            is_flipped=flips[i],
            order=tuple(order[i]) if is_jittered[i] else (),
            factors=tuple(of_all[i] for of_all in factors),
            is_grey=is_grey[i],
            is_blurred=is_blurred[i],
            sigma=sigma[i],
            is_solarized=is_solarized[i],
        )
        for i in range(n)
    ]


def _boxes(boxes: Int64[np.ndarray, "n 4"]) -> list[Box]:
    return [(top, left, height, width) for top, left, height, width in boxes.tolist()]


def _happens(n: int, probability: float, generator: Generator) -> list[bool]:
    return (torch.rand(n, generator=generator).numpy() < probability).tolist()


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Float64[np.ndarray, "..."]:
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy() * (high - low) + low
