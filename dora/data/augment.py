"""Views of a clip: global views of every frame and several local crops, for DoRA, DINO and iBOT.

DoRA's are the authors' (github.com/shashankvkt/DoRA_ICLR24, WTDataloader.py and the transforms in main.py): the clip
is cropped once to `clip_size`, one box for all frames; its one global view is cropped and flipped alike in all frames;
local crops take a box of their own in every frame. DINO's and iBOT's (github.com/facebookresearch/dino, main_dino.py)
are cut from whole frames, each frame by itself; of two global views the second one may be solarised.
Colour, grey, blur and solarisation are drawn for every image anew. The operations are torchvision's
(RandomResizedCrop, ColorJitter, Grayscale, GaussianBlur, solarize); resizing is antialiased.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from dora.config import AugmentConfig
from dora.data.draws import Box, ImageDraws, draw_views
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
    solarize_,
    taps_needed,
)

MEAN = (0.485, 0.456, 0.406)  # of ImageNet; what every encoder here expects
STD = (0.229, 0.224, 0.225)
ADJUSTMENTS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)
# What is worked on at once: on a CPU images that stay in its cache until they are done; on a GPU as much as it has room
# for several times over, for single images' small kernels would keep it waiting for Python.
CPU_BYTES_AT_ONCE, GPU_BYTES_AT_ONCE = 2**18, 2**27


class Views(NamedTuple):
    """What one step of training sees of its clips; normalised."""

    global_views: Float[Tensor, "G B T 3 Y X"]
    local_views: Float[Tensor, "L B T 3 y x"]
    positions: tuple[int, ...]  # of the clips in the training's stream; what is drawn for a clip is seeded by them


def augment_clip(
    frames: UInt8[Tensor, "T Y X 3"], config: AugmentConfig, generator: Generator
) -> tuple[Float[Tensor, "G T 3 y x"], Float[Tensor, "L T 3 v u"]]:
    """The global views and the local views of one clip, on the device of `frames`."""
    global_views, local_views = augment_clips([frames], config, [generator], device=frames.device)
    return global_views[:, 0], local_views[:, 0]


@torch.no_grad()
def augment_clips(
    clips: Sequence[UInt8[Tensor, "_T _Y _X 3"]], config: AugmentConfig, generators: Sequence[Generator], *,
    device: torch.device, at_once: int | None = None,
) -> tuple[Float[Tensor, "G B T 3 y x"], Float[Tensor, "L B T 3 v u"]]:  # fmt: skip
    """Global and local views of clips, which may differ in height and width; each clip's draws are its generator's.

    The number of images that are made together, `at_once`, changes no bit on a CPU. None takes what is fast there.
    """
    if config.clip_scale is None and len({clip.shape for clip in clips}) > 1:  # whole frames make no one tensor then
        single = [
            augment_clips([clip], config, [generator], device=device, at_once=at_once)
            for clip, generator in zip(clips, generators, strict=True)
        ]
        return torch.cat([views for views, _ in single], 1), torch.cat([views for _, views in single], 1)
    draws = [draw_views(clip.shape, config, generator) for clip, generator in zip(clips, generators, strict=True)]
    lying = _lying(clips, [drawn.box for drawn in draws], config.clip_size, device, at_once=at_once)
    make = partial(_views, lying, max_sigma=config.blur_sigma[1], at_once=at_once)
    global_draws = [
        image for view in range(config.n_global_views) for drawn in draws for image in drawn.global_views[view]
    ]
    local_draws = [
        image for crop in range(config.n_local_crops) for drawn in draws for image in drawn.local_views[crop]
    ]
    shape = (len(clips), len(clips[0]))
    return (
        make(global_draws, config.global_size, config.global_resize).unflatten(0, (config.n_global_views, *shape)),
        make(local_draws, config.local_size, "bicubic").unflatten(0, (config.n_local_crops, *shape)),
    )


def normalise_(images: Float[Tensor, "*B 3 Y X"]) -> None:
    """Images in [0, 1] to ImageNet's mean 0 and deviation 1, in place."""
    mean, std = (constant(values, images.device)[:, None, None] for values in (MEAN, STD))
    images.sub_(mean).div_(std)


def _lying(
    clips: Sequence[UInt8[Tensor, "_T _Y _X 3"]], boxes: Sequence[Box | None], size: int, device: torch.device, *,
    at_once: int | None,
) -> UInt8[Tensor, "F X 3 Y"] | Float[Tensor, "F X 3 Y"]:  # fmt: skip
    """The frames that views are cut from, on their side, for columns are sampled first: whole, or the box in [0, 1]."""
    if boxes[0] is None:
        return torch.cat([sent(clip, device) for clip in clips]).permute(0, 2, 3, 1).contiguous()
    n_frames = len(clips[0])
    lying = torch.empty(len(clips) * n_frames, size, 3, size, device=device)
    for clip, box, out in zip(clips, boxes, lying.split(n_frames), strict=True):
        assert box is not None
        _resize_clip(clip, box, out, at_once=at_once)
    return lying


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
    at_once = at_once or _images_at_once(len(out[0]), len(out[0]), out.device)
    for frames, there in zip(part.split(at_once), out.split(at_once), strict=True):
        number = torch.arange(len(frames), dtype=torch.int32, device=out.device)
        squeezed = resample(frames.float(), rows, number * height)  # n y X 3
        there.copy_(resample(squeezed.permute(0, 2, 3, 1), columns, number * width))  # n x 3 y


def _views(
    lying: Float[Tensor, "F X 3 Y"] | UInt8[Tensor, "F X 3 Y"], draws: list[ImageDraws], size: int, mode: Mode, *,
    max_sigma: float, at_once: int | None,
) -> Float[Tensor, "N 3 y x"]:  # fmt: skip
    """Cut, recoloured and normalised images; the n-th is of frame n mod F."""
    n_frames, width, _, height = lying.shape
    device = lying.device
    views = torch.empty(len(draws), 3, size, size, device=device)
    lengths = sent(torch.tensor([drawn.box[2:] for drawn in draws], dtype=torch.int64).view(-1, 2), device)
    # Weights as if each box were the largest there can be, so that they do not depend on what else is drawn.
    rows = resizing_taps(lengths[:, 0], size, mode, longest=height)
    columns = resizing_taps(lengths[:, 1], size, mode, longest=width)
    if lying.dtype == torch.uint8:
        columns = Taps(columns.rows, columns.weight / 255)
    parameters = sent(torch.tensor([(*drawn.factors, drawn.sigma) for drawn in draws]).view(-1, 5), device)
    cut_at_once = at_once or _images_at_once(height, width, device)
    for part in _parts(slice(0, len(draws)), at_once or _images_at_once(size, size, device), period=len(draws)):
        drawn, images = draws[part], views[part]
        for few in _parts(part, cut_at_once, period=n_frames):  # so that from first to last there are as few frames
            boxes = [image.box for image in draws[few]]
            some_rows = rows.of(few, taps_needed(max(box[2] for box in boxes), size, mode))
            some_columns = columns.of(few, taps_needed(max(box[3] for box in boxes), size, mode))
            frames = [number % n_frames for number in range(few.start, few.stop)]
            views[few].copy_(_cut(lying, frames, boxes, some_rows, some_columns))
        if mode == "bicubic":
            images.clamp_(0, 1)  # it overshoots at edges
        _restyle_(images, drawn, parameters[part], max_sigma=max_sigma)
        normalise_(images)
    return views


def _cut(
    lying: Float[Tensor, "F X 3 Y"] | UInt8[Tensor, "F X 3 Y"], frames: list[int], boxes: list[Box], rows: Taps,
    columns: Taps,
) -> Float[Tensor, "n 3 y x"]:  # fmt: skip
    """The boxes of the frames, resized and set upright. Only what lies between the outermost edges is looked at."""
    first = min(frames)
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    n_rows, n_columns = max(box[0] + box[2] for box in boxes) - top, max(box[1] + box[3] for box in boxes) - left
    window = lying[first : max(frames) + 1, left : left + n_columns, :, top : top + n_rows].float()
    at_column = [(frame - first) * n_columns + box[1] - left for frame, box in zip(frames, boxes, strict=True)]
    at_row = [number * n_rows + box[0] - top for number, box in enumerate(boxes)]
    narrowed = resample(window, columns, sent(torch.tensor(at_column, dtype=torch.int32), lying.device))  # n x 3 Y
    turned = narrowed.permute(0, 3, 2, 1)  # n Y 3 x
    return resample(turned, rows, sent(torch.tensor(at_row, dtype=torch.int32), lying.device)).transpose(1, 2)


def _restyle_(
    images: Float[Tensor, "n 3 Y X"], draws: list[ImageDraws], parameters: Float[Tensor, "n 5"], *, max_sigma: float
) -> None:
    """Flip, jitter, grey, blur and solarise, each by its own draws; the parameters are an image's factors and sigma."""
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
    _change_(images, _where(drawn.is_solarized for drawn in draws), solarize_)


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


def _parts(whole: slice, length: int, *, period: int) -> Iterator[slice]:
    """Parts of at most this length, none of which goes on past a multiple of `period`."""
    start = whole.start
    while start < whole.stop:
        stop = min(start + length, whole.stop, (start // period + 1) * period)
        yield slice(start, stop)
        start = stop


def _images_at_once(height: int, width: int, device: torch.device) -> int:
    return max(1, (CPU_BYTES_AT_ONCE if device.type == "cpu" else GPU_BYTES_AT_ONCE) // (4 * 3 * height * width))
