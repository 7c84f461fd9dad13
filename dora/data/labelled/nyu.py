"""NYU Depth v2's layout as depth estimators read it: photos, 16-bit PNGs of millimetres, and two lists of pairs.

NYU's pictures were taken with one Kinect, carried about in the hand, and so are these: with one focal length, from
anywhere between the house fronts, turned and tilted by chance. In a walker's pictures, who looks ahead, where a pixel
is says more about its depth than what is seen there: a linear layer on nothing but its place did better than one on
any encoder that was tried. With a focal length by chance nothing says how far a thing is that looks so large.

A depth of 0 is unknown: 16 bits of millimetres end at 65 m, and the sky has none. NYU's rooms end at 10 m, a street
does not; the benchmark's Config says how far it looks.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt16
from PIL import Image

from dora.data.labelled.files import write_lines, write_photo
from dora.data.labelled.imagenet import within_walls
from dora.data.labelled.moments import Moment, moments
from dora.data.miniature import Frame, World, photograph, view
from dora.data.street.layout import WALL_M, Camera
from dora.seeds import derived_seed

ROOT = "nyu"
LISTS = {"train": "nyudepthv2_train_files_with_gt.txt", "val": "nyudepthv2_test_files_with_gt.txt"}
# Of the camera: metres above the ground, radians to either side of the street's direction, where the horizon is, as a
# share of the picture's height, and the Kinect's focal length: 519 of NYU's 640 columns.
EYE_M, TURN, HORIZON, FOCAL_PER_WIDTH = (0.6, 2.6), 1.0, (0.05, 0.95), 0.81
_LARGEST_MM = 2**16 - 1


class Shot(NamedTuple):
    """A picture and the camera that took it."""

    street: World
    camera: Camera
    frame: Frame


def shots(world: World, subset: str, n: int) -> Iterator[Shot]:
    """`n` pictures of one subset, at the moments of the other sets' stills but by a camera in the hand.

    Raises:
        ValueError: as `moments`.
    """
    for moment in moments(world, subset, n):
        camera = held(moment)
        yield Shot(moment.world, camera, photograph(moment.world.seed, camera, moment.time_s))


def held(moment: Moment) -> Camera:
    """A camera somewhere beside the walker, held anyhow."""
    street, time_s = moment
    rng = np.random.default_rng(derived_seed("in the hand", street.seed, str(time_s)))
    x, y, yaw, horizon = (
        float(rng.uniform(*between)) for between in ((-WALL_M, WALL_M), EYE_M, (-TURN, TURN), HORIZON)
    )
    return view(street, time_s)._replace(
        x=within_walls(x), y=y, yaw=yaw, focal=FOCAL_PER_WIDTH * street.width, horizon=horizon * street.height,
        turning=0.0,
    )  # fmt: skip


def write(folder: Path, subsets: Mapping[str, Iterable[Shot]]) -> None:
    """Write the data set into `folder`, which is what the field calls nyu."""
    for subset, pictures in subsets.items():
        pairs: list[str] = []
        for number, shot in enumerate(pictures):
            scene = f"street_{shot.street.seed}"
            photo, depth = f"{scene}/rgb_{number:05d}.jpg", f"{scene}/sync_depth_{number:05d}.png"
            (folder / scene).mkdir(parents=True, exist_ok=True)
            write_photo(folder / photo, shot.frame.image)
            Image.fromarray(millimetres(shot.frame.depth)).save(folder / depth)
            pairs.append(f"{photo} {depth} {shot.camera.focal:.4f}")
        write_lines(folder / LISTS[subset], pairs)


def millimetres(depth: Float32[np.ndarray, "Y X"]) -> UInt16[np.ndarray, "Y X"]:
    """Depth in millimetres, 0 where it is beyond what 16 bits can say."""
    rounded = np.round(depth * np.float32(1000))
    return np.where(rounded <= _LARGEST_MM, rounded, 0).astype(np.uint16)
