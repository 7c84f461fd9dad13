"""The kinds of file that the field's data sets are made of: photos, label maps and lists."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def write_photo(path: Path, pixels: UInt8[np.ndarray, "Y X 3"]) -> None:
    """A JPEG of high quality."""
    Image.fromarray(pixels).save(path, format="JPEG", quality=95)


def write_labels(path: Path, labels: UInt8[np.ndarray, "Y X"], palette: list[int] | None) -> None:
    """A PNG of label numbers: indexed with a palette, grey without."""
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def voc_palette() -> list[int]:
    """The 256 colours of PASCAL VOC, which DAVIS' PNGs carry: a label's bits dealt out to r, g, b, high bits first."""
    return [
        sum(((label >> (3 * bit + c)) & 1) << (7 - bit) for bit in range(8)) for label in range(256) for c in range(3)
    ]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file of one line each, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
