"""A training sample's pixels: crops around the boxes, the searched one's shaken, mirrored, grey or brighter by chance.

SeqTrack's order (microsoft/VideoX SeqTrack, lib/train/data/processing.py, transforms.py), except that crops rather than
whole frames are made grey and mirrored: the same but for rounding, and much less work.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from eval.trackers.seqtrack.crop import cut, to_crop, window
from eval.trackers.seqtrack.settings import Settings
from eval.trackers.seqtrack.tokens import words


class Sample(NamedTuple):
    """What the network sees of a sample, on the CPU, and what it has to say."""

    search: UInt8[np.ndarray, "Y X 3"]
    templates: UInt8[np.ndarray, "K y x 3"]
    brightness: Float32[np.ndarray, "K1"]  # factors: of the searched crop, then of the templates
    words: Int64[np.ndarray, "4"]


class Frame(NamedTuple):
    """A picture and the box of its thing."""

    pixels: UInt8[np.ndarray, "Y X 3"]
    box: Float64[np.ndarray, "4"]


def augmented(
    search: Frame, templates: Sequence[Frame], settings: Settings, draw: np.random.Generator, *, search_size: int,
    template_size: int,
) -> Sample:  # fmt: skip
    """The sample, everything drawn from `draw`.

    Raises:
        ValueError: for a box that has no area.
    """
    is_grey, is_mirrored = draw.random() < settings.grayscale, draw.random() < settings.joint_flip
    n = 1 + len(templates)
    mirrored = is_mirrored ^ (draw.random(n) < settings.own_flip)
    brightness = draw.uniform(1 - settings.brightness, 1 + settings.brightness, n).clip(min=0).astype(np.float32)
    around = window(shaken(search.box, settings, draw), area_factor=settings.area_factor)
    target = to_crop(search.box, around, size=search_size)
    if mirrored[0]:
        target[0] = 1 - target[0]
    crops = [cut(search.pixels, around, size=search_size)]
    for frame in templates:
        crops.append(
            cut(frame.pixels, window(frame.box, area_factor=settings.template_area_factor), size=template_size)
        )
    crops = [
        _changed(crop, is_grey=is_grey, is_mirrored=bool(flip)) for crop, flip in zip(crops, mirrored, strict=True)
    ]
    said = words(target.clip(0, 1), n_bins=settings.n_bins)
    return Sample(crops[0], np.stack(crops[1:]), brightness, said)


def shaken(
    box: Float[np.ndarray, "4"], settings: Settings, draw: np.random.Generator
) -> Float64[np.ndarray, "4"]:  # fmt: skip
    """A box of another size at another place, around which to search."""
    sides = box[2:] * np.exp(settings.scale_jitter * draw.standard_normal(2))
    center = box[:2] + box[2:] / 2 + settings.center_jitter * math.sqrt(sides.prod()) * (draw.random(2) - 0.5)
    return np.concatenate([center - sides / 2, sides]).astype(np.float64)


def _changed(crop: UInt8[np.ndarray, "Y X 3"], *, is_grey: bool, is_mirrored: bool) -> UInt8[np.ndarray, "Y X 3"]:
    if is_grey:
        crop = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.ascontiguousarray(crop[:, ::-1]) if is_mirrored else crop
