"""NYU Depth v2's layout as depth estimators read it: photos, 16-bit PNGs of millimetres, and two lists of pairs.

A depth of 0 is unknown: 16 bits of millimetres end at 65 m, and the sky has none. NYU's rooms end at 10 m, a street
does not; the benchmark's Config says how far it looks.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt16
from PIL import Image

from dora.data.labelled.files import write_lines, write_photo
from dora.data.labelled.moments import Still
from dora.data.street.walker import FOCAL_PER_WIDTH

ROOT = "nyu"
LISTS = {"train": "nyudepthv2_train_files_with_gt.txt", "val": "nyudepthv2_test_files_with_gt.txt"}
_LARGEST_MM = 2**16 - 1


def write(folder: Path, subsets: Mapping[str, Iterable[Still]]) -> None:
    """Write the data set into `folder`, which is what the field calls nyu."""
    for subset, pictures in subsets.items():
        pairs: list[str] = []
        for number, still in enumerate(pictures):
            scene = f"street_{still.moment.world.seed}"
            photo, depth = f"{scene}/rgb_{number:05d}.jpg", f"{scene}/sync_depth_{number:05d}.png"
            (folder / scene).mkdir(parents=True, exist_ok=True)
            write_photo(folder / photo, still.frame.image)
            Image.fromarray(millimetres(still.frame.depth)).save(folder / depth)
            pairs.append(f"{photo} {depth} {FOCAL_PER_WIDTH * still.moment.world.width:.4f}")
        write_lines(folder / LISTS[subset], pairs)


def millimetres(depth: Float32[np.ndarray, "Y X"]) -> UInt16[np.ndarray, "Y X"]:
    """Depth in millimetres, 0 where it is beyond what 16 bits can say."""
    rounded = np.round(depth * np.float32(1000))
    return np.where(rounded <= _LARGEST_MM, rounded, 0).astype(np.uint16)
