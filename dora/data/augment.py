"""Views of a clip for DoRA: one global view of every frame and several local crops.

The authors' recipe (github.com/shashankvkt/DoRA_ICLR24, WTDataloader.py and the transforms in main.py):
the clip is cropped once to `clip_size`, one box for all frames; the global view is cropped and flipped alike in all
frames; local crops take a box of their own in every frame. Colour, grey and blur are drawn for every image anew.
There is no solarisation and no second global view. The operations are torchvision's (RandomResizedCrop, ColorJitter,
Grayscale, GaussianBlur) with parameters of its own for every image; resizing is antialiased.

Everything is drawn on the CPU before anything is computed, so the same seed gives the same views on every device.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor

from dora.config import AugmentConfig
from dora.data.pixels import (
    Mode,
    Taps,
    adjust_brightness_,
    adjust_contrast_,
    adjust_hue_,
    adjust_saturation_,
    blur_,
    constant,
    flip_,
    make_grey_,
    resample,
    resizing_taps,
    sent,
)

MEAN = (0.485, 0.456, 0.406)  # of ImageNet; what every encoder here expects
STD = (0.229, 0.224, 0.225)
ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop
CROP_TRIES = 10
Box = tuple[int, int, int, int]  # top, left, height, width
ADJUSTMENTS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)
# What is worked on at once: on a CPU images that stay in its cache until they are done; on a GPU as much as it has room
# for several times over, for single images' small kernels would keep it waiting for Python.
CPU_BYTES_AT_ONCE, GPU_BYTES_AT_ONCE = 2**18, 2**27


class Views(NamedTuple):
    """What one step of training sees of its clips; normalised."""

    global_views: Float[Tensor, "B T 3 Y X"]
    local_views: Float[Tensor, "L B T 3 y x"]


class ImageDraws(NamedTuple):
    """What is drawn for one image."""

    box: Box
    is_flipped: bool
    order: tuple[int, ...]  # of the ADJUSTMENTS; empty: none
    factors: tuple[float, ...]  # of all four
    is_grey: bool
    is_blurred: bool
    sigma: float


class ClipDraws(NamedTuple):
    """All that is drawn for one clip."""

    box: Box
    global_views: list[ImageDraws]  # a frame each
    local_views: list[list[ImageDraws]]  # crop by crop, a frame each


def augment_clip(
    frames: UInt8[Tensor, "T Y X 3"], config: AugmentConfig, generator: Generator
) -> tuple[Float[Tensor, "T 3 y x"], Float[Tensor, "L T 3 v u"]]:
    """The global view and the local views of one clip, on the device of `frames`."""
    views = augment_clips([frames], config, [generator], device=frames.device)
    return views.global_views[0], views.local_views[:, 0]


@torch.no_grad()
def augment_clips(
    clips: Sequence[UInt8[Tensor, "_T _Y _X 3"]], config: AugmentConfig, generators: Sequence[Generator], *,
    device: torch.device, at_once: int | None = None,
) -> Views:  # fmt: skip
    """The views of several clips, which may differ in height and width; each clip's draws are its own generator's.

    The number of images that are made together, `at_once`, changes no bit on a CPU. None takes what is fast there.
    """
    n_clips, n_frames, size, max_sigma = len(clips), len(clips[0]), config.clip_size, config.blur_sigma[1]
    draws = [draw_views(clip.shape, config, generator) for clip, generator in zip(clips, generators, strict=True)]
    lying = torch.empty(n_clips * n_frames, size, 3, size, device=device)
    for clip, drawn, out in zip(clips, draws, lying.split(n_frames), strict=True):
        _resize_clip(clip, drawn.box, out, at_once=at_once)
    global_draws = [image for drawn in draws for image in drawn.global_views]
    local_draws = [
        image for crop in range(config.n_local_crops) for drawn in draws for image in drawn.local_views[crop]
    ]
    global_views = _views(lying, global_draws, config.global_size, "bilinear", max_sigma=max_sigma, at_once=at_once)
    local_views = _views(lying, local_draws, config.local_size, "bicubic", max_sigma=max_sigma, at_once=at_once)
    return Views(
        global_views.unflatten(0, (n_clips, n_frames)),
        local_views.unflatten(0, (config.n_local_crops, n_clips, n_frames)),
    )


def normalise_(images: Float[Tensor, "*B 3 Y X"]) -> None:
    """Images in [0, 1] to ImageNet's mean 0 and deviation 1, in place."""
    mean, std = (constant(values, images.device)[:, None, None] for values in (MEAN, STD))
    images.sub_(mean).div_(std)


def draw_views(shape: Sequence[int], config: AugmentConfig, generator: Generator) -> ClipDraws:
    """All draws for a clip of T Y X 3 bytes."""
    n_frames, height, width, _ = shape
    size = config.clip_size
    clip_box = crop_boxes(1, height, width, config.clip_scale, generator)[0]
    global_box = crop_boxes(1, size, size, config.global_scale, generator).expand(n_frames, -1)
    local_boxes = crop_boxes(config.n_local_crops * n_frames, size, size, config.local_scale, generator)
    flip = bool(torch.rand((), generator=generator) < config.flip_probability)
    global_views = _draw_images(global_box, flip, config, config.global_blur_probability, generator)
    local_views = _draw_images(local_boxes, False, config, config.local_blur_probability, generator)
    by_crop = [local_views[n_frames * crop : n_frames * (crop + 1)] for crop in range(config.n_local_crops)]
    return ClipDraws(tuple(clip_box.tolist()), global_views, by_crop)


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


def _draw_images(
    boxes: Int64[Tensor, "n 4"], flip: bool, config: AugmentConfig, blur_probability: float, generator: Generator
) -> list[ImageDraws]:
    """Colours and blur for images of these boxes."""
    n = len(boxes)
    order = torch.rand(n, 4, generator=generator).argsort(1).tolist()
    is_jittered = (torch.rand(n, generator=generator) < config.jitter_probability).tolist()
    *spreads, hue = config.jitter
    factors = [_uniform((n,), max(0, 1 - spread), 1 + spread, generator).tolist() for spread in spreads]
    factors.append(_uniform((n,), -hue, hue, generator).tolist())
    is_grey = (torch.rand(n, generator=generator) < config.grayscale_probability).tolist()
    is_blurred = (torch.rand(n, generator=generator) < blur_probability).tolist()
    sigma = _uniform((n,), *config.blur_sigma, generator).tolist()
    return [
        ImageDraws(
            box=tuple(boxes[i].tolist()),
            is_flipped=flip,
            order=tuple(order[i]) if is_jittered[i] else (),
            factors=tuple(of_all[i] for of_all in factors),
            is_grey=is_grey[i],
            is_blurred=is_blurred[i],
            sigma=sigma[i],
        )
        for i in range(n)
    ]


def _resize_clip(
    clip: UInt8[Tensor, "T Y X 3"], box: Box, out: Float[Tensor, "T x 3 y"], *, at_once: int | None
) -> None:
    """The part of the frames in the box, in [0, 1], as squares that lie on their side: columns are sampled next."""
    top, left, height, width = box
    part = sent(clip[:, top : top + height, left : left + width], out.device)
    lengths = sent(torch.tensor([height, width]), out.device)
    rows = resizing_taps(lengths[:1], out.shape[3], "bilinear", longest=height)
    columns = resizing_taps(lengths[1:], out.shape[1], "bilinear", longest=width)
    columns = Taps(columns.rows, columns.weight / 255)
    at_once = at_once or _images_at_once(len(out[0]), out.device)
    for frames, there in zip(part.split(at_once), out.split(at_once), strict=True):
        number = torch.arange(len(frames), dtype=torch.int32, device=out.device)
        squeezed = resample(frames.float(), rows, number * height)  # n y X 3
        there.copy_(resample(squeezed.permute(0, 2, 3, 1), columns, number * width))  # n x 3 y


def _views(
    lying: Float[Tensor, "F X 3 Y"], draws: list[ImageDraws], size: int, mode: Mode, *,
    max_sigma: float, at_once: int | None,
) -> Float[Tensor, "N 3 y x"]:  # fmt: skip
    """Cut, recoloured and normalised images; the n-th is of frame n mod F."""
    device, longest = lying.device, lying.shape[1]
    views = lying.new_empty(len(draws), 3, size, size)
    lengths = sent(torch.tensor([drawn.box[2:] for drawn in draws], dtype=torch.int64).view(-1, 2), device)
    # As many taps for each image as the largest box needs, so that sums do not depend on what else is drawn.
    rows, columns = (resizing_taps(lengths[:, side], size, mode, longest=longest) for side in (0, 1))
    parameters = sent(torch.tensor([(*drawn.factors, drawn.sigma) for drawn in draws]).view(-1, 5), device)
    at_once = at_once or _images_at_once(size, device)
    for start in range(0, len(draws), at_once):
        part = slice(start, start + at_once)
        drawn, images = draws[part], views[part]
        frames = [number % len(lying) for number in range(start, start + len(drawn))]
        images.copy_(_cut(lying, frames, [image.box for image in drawn], rows.of(part), columns.of(part)))
        if mode == "bicubic":
            images.clamp_(0, 1)  # it overshoots at edges
        _restyle_(images, drawn, parameters[part], max_sigma=max_sigma)
        normalise_(images)
    return views


def _cut(
    lying: Float[Tensor, "F X 3 Y"], frames: list[int], boxes: list[Box], rows: Taps, columns: Taps
) -> Float[Tensor, "n 3 y x"]:
    """The boxes of the frames, resized and set upright. Only what lies between the outermost edges is looked at."""
    first = min(frames)
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    n_rows, n_columns = max(box[0] + box[2] for box in boxes) - top, max(box[1] + box[3] for box in boxes) - left
    window = lying[first : max(frames) + 1, left : left + n_columns, :, top : top + n_rows]
    at_column = [(frame - first) * n_columns + box[1] - left for frame, box in zip(frames, boxes, strict=True)]
    at_row = [number * n_rows + box[0] - top for number, box in enumerate(boxes)]
    narrowed = resample(window, columns, sent(torch.tensor(at_column, dtype=torch.int32), lying.device))  # n x 3 Y
    turned = narrowed.permute(0, 3, 2, 1)  # n Y 3 x
    return resample(turned, rows, sent(torch.tensor(at_row, dtype=torch.int32), lying.device)).transpose(1, 2)


def _restyle_(
    images: Float[Tensor, "n 3 Y X"], draws: list[ImageDraws], parameters: Float[Tensor, "n 5"], *, max_sigma: float
) -> None:
    """Flip, jitter, grey and blur, each image by its own draws; the parameters are its factors and sigma."""
    _change_(images, _where(drawn.is_flipped for drawn in draws), flip_)
    for place in range(len(ADJUSTMENTS)):
        alike: list[list[int]] = [[] for _ in ADJUSTMENTS]  # images by what is adjusted
        for number, drawn in enumerate(draws):
            if drawn.order:
                alike[drawn.order[place]].append(number)
        for kind, adjust_ in enumerate(ADJUSTMENTS):
            _change_(images, alike[kind], adjust_, parameters[:, kind])
    _change_(images, _where(drawn.is_grey for drawn in draws), make_grey_)
    radius = min(math.ceil(3 * max_sigma), images.shape[-1] - 1)
    _change_(images, _where(drawn.is_blurred for drawn in draws), partial(blur_, radius=radius), parameters[:, 4])


def _change_(images: Tensor, chosen: list[int], change_: Callable[..., None], *parameters: Tensor) -> None:
    """Change some of the images, each with its own parameters."""
    if len(chosen) == len(images):
        change_(images, *parameters)
    elif chosen:
        there = sent(torch.tensor(chosen), images.device)
        some = images.index_select(0, there)
        change_(some, *(parameter.index_select(0, there) for parameter in parameters))
        images.index_copy_(0, there, some)


def _where(chosen: Iterable[bool]) -> list[int]:
    return [number for number, is_chosen in enumerate(chosen) if is_chosen]


def _images_at_once(size: int, device: torch.device) -> int:
    return max(1, (CPU_BYTES_AT_ONCE if device.type == "cpu" else GPU_BYTES_AT_ONCE) // (4 * 3 * size**2))


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
