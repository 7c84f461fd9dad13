"""Reading and writing the data sets' files: photos, video frames, label maps. No tensors here."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from dora.data.labelled.files import voc_palette

CROP_SHARE = 224 / 256


def read_video_frame(path: Path) -> UInt8[np.ndarray, "Y X 3"]:
    """RGB pixels of a frame, decoded by OpenCV.

    Raises:
        ValueError: if the file is no readable image.
    """
    content = path.read_bytes()
    # OpenCV decodes a torn JPEG and leaves the rest grey; in a whole one the marker of its end comes after that of the
    # last scan, and more may follow.
    torn = content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
    pixels = None if torn or not content else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError(f"{path} is no readable image (empty, truncated or of another format). Fetch it again.")
    return np.asarray(pixels)


def resized(pixels: UInt8[np.ndarray, "Y X 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """OpenCV's bilinear, which looks at four pixels however much it shrinks; DAVIS' published numbers saw it."""
    return np.asarray(cv2.resize(pixels, (width, height)))


def open_photo(path: Path) -> Image.Image:
    """The whole photo in RGB, decoded by PIL at full size.

    Raises:
        ValueError: if the file is no readable image.
    """
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image ({error}). Fetch it again.") from None


def read_photo(path: Path, *, crop: int) -> UInt8[np.ndarray, "crop crop 3"]:
    """RGB pixels of the centre: short side to 256/224 of `crop` (bicubic, antialiased, PIL), then the centre square.

    Rounding is torchvision's (Resize, CenterCrop), which every published ImageNet number has seen.

    Raises:
        ValueError: if the file is no readable image.
    """
    image = open_photo(path)
    short = round(crop / CROP_SHARE)
    width, height = image.size
    size = (short, short * height // width) if width <= height else (short * width // height, short)
    left, top = (round((side - crop) / 2) for side in size)
    image = image.resize(size, Image.Resampling.BICUBIC)
    return np.array(image.crop((left, top, left + crop, top + crop)))


def read_labels(path: Path) -> UInt8[np.ndarray, "Y X"]:
    """Label map of an indexed (palette) or grey PNG.

    Raises:
        ValueError: if the file is no image or holds colours instead of labels.
    """
    with _open_labels(path) as image:
        return np.array(image)


def read_palette(path: Path) -> list[int]:
    """The colours of an indexed PNG: r, g, b of label 0, of label 1, ... VOC's if the PNG is grey."""
    with _open_labels(path) as image:
        return image.getpalette() or voc_palette()


def _open_labels(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image ({error}). Fetch it again.") from None
    if image.mode not in ("P", "L"):
        raise ValueError(f"{path} holds colours ({image.mode}); expected an indexed PNG whose pixels are labels.")
    return image
