"""Photos with outlined, named objects: how COCO's detections look beside the truth."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

LINE, TEXT, HATCH = 2, 12, 8  # pixels

Plate = tuple[float, float, float, float]  # left, top, right, bottom of a name


class Shown(NamedTuple):
    """One object of a photo."""

    box: Sequence[float]  # x, y, width, height
    mask: Bool[np.ndarray, "Y X"]
    label: int  # decides the colour
    text: str
    is_crowd: bool = False


def drawn(
    photo: UInt8[np.ndarray, "Y X 3"], objects: Sequence[Shown], *, height: int
) -> UInt8[np.ndarray, "height x 3"]:
    """The photo at that height, with each object's mask tinted, its box and its name; crowds are hatched.

    Later objects are drawn over earlier ones.
    """
    scale = height / photo.shape[0]
    size = (max(1, round(photo.shape[1] * scale)), height)
    pixels = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    for thing in objects:
        pixels = _tinted(pixels, cv2.resize(thing.mask.astype(np.uint8), size) > 0, thing)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for thing in objects:
        if not thing.is_crowd:
            x, y, w, h = (side * scale for side in thing.box)
            draw.rectangle((x, y, x + w, y + h), outline=colour_of(thing.label), width=LINE)
    plates: list[Plate] = []
    for thing in reversed(objects):  # names last, so that no box crosses one; where two collide, the later object's
        plate = _plate(draw, thing, scale, size)
        if not thing.is_crowd and not any(_overlap(plate, other) for other in plates):
            draw.rectangle(plate, fill=colour_of(thing.label))
            draw.text((plate[0] + 2, plate[1]), thing.text, fill="black", font=ImageFont.load_default(TEXT))
            plates.append(plate)
    return np.array(image)


def colour_of(label: int) -> tuple[int, int, int]:
    """A bright colour for each category; neighbours in COCO's list are told apart."""
    # Steps of the golden ratio around the circle of hues never come back close to one another soon.
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _tinted(
    pixels: UInt8[np.ndarray, "Y X 3"], mask: Bool[np.ndarray, "Y X"], thing: Shown
) -> UInt8[np.ndarray, "Y X 3"]:
    colour = np.array(colour_of(thing.label), np.uint8)
    if thing.is_crowd:
        y, x = np.indices(mask.shape)
        return np.where((mask & ((x + y) % HATCH < HATCH // 4))[..., None], colour, pixels)
    tinted = np.where(mask[..., None], pixels // 2 + colour // 2, pixels)
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return np.where((outline & mask)[..., None], colour, tinted)


def _plate(draw: ImageDraw.ImageDraw, thing: Shown, scale: float, size: tuple[int, int]) -> Plate:
    """Where the object's name goes: above its box or, at the photo's edges, inside the photo."""
    width, height = draw.textlength(thing.text, ImageFont.load_default(TEXT)) + 4, TEXT + 3
    left = max(0, min(thing.box[0] * scale, size[0] - width))
    top = max(0, thing.box[1] * scale - height)
    return left, top, left + width, top + height


def _overlap(one: Plate, other: Plate) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
