"""What the street is made of and how wide it is. Axes: x to the right of the middle of the road, y up, z along it."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

CLASSES: tuple[str, ...] = (
    "sky", "road", "pavement", "building", "tree", "person", "car", "truck", "bus", "motorcycle",
    "bicycle", "dog", "cat", "bird", "lamp", "traffic light", "sign", "bench", "bin", "plant",
)  # fmt: skip
SCENERY = SKY, ROAD, PAVEMENT, BUILDING = range(4)  # the other classes are things: they have instances

ROAD_HALF_M = 5.0
WALL_M = 9.0  # from the middle of the road to the house fronts
CROSSING_EVERY_M = 32
FAR_M = 400.0


class Camera(NamedTuple):
    """A pinhole camera that looks along the street, turned to the right by `yaw` (radians)."""

    x: float
    y: float  # metres above the ground
    z: float
    yaw: float
    focal: float  # pixels
    horizon: float  # pixel row
    width: int
    height: int
    turning: float = 0.0  # radians a second, to the right


class Light(NamedTuple):
    """The daylight of one moment, colours 0 … 1."""

    sun: Float32[np.ndarray, "C"]  # multiplies every surface
    zenith: Float32[np.ndarray, "C"]
    horizon: Float32[np.ndarray, "C"]
    clouds: float  # 0 … 1
    bearing: float  # of the sun, radians


class Layers(NamedTuple):
    """A picture in the making."""

    colour: Float32[np.ndarray, "C Y X"]  # 0 … 1, before light and haze
    classes: UInt8[np.ndarray, "Y X"]  # index in CLASSES
    instances: Int32[np.ndarray, "Y X"]  # 0: scenery
    depth: Float32[np.ndarray, "Y X"]  # metres; the sky is FAR_M away


@lru_cache(maxsize=64)
def phases(seed: int, of: int) -> tuple[float, ...]:
    """Six angles that set a seed's slow oscillations apart from another's."""
    return tuple(np.random.default_rng((seed, of)).uniform(0, 2 * np.pi, 6).tolist())
