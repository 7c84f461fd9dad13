"""The things in the street, each as coloured convex polygons in metres."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.shapes.animals import bench_cat, cat, dog, sitting_cat
from dora.data.street.shapes.birds import bird, flying_bird, perched_bird
from dora.data.street.shapes.cycles import bicycle, motorcycle
from dora.data.street.shapes.furniture import bench, bin_, lamp, sign, traffic_light
from dora.data.street.shapes.greenery import plant, tree
from dora.data.street.shapes.painter import N_CORNERS, Shape, View
from dora.data.street.shapes.people import cyclist, motorcyclist, person, sitter, stander
from dora.data.street.shapes.vehicles import bus, car, truck

__all__ = ["COARSEST", "FINEST_M", "FORMS", "N_CORNERS", "Form", "Shape", "shape"]

# Levels of detail: at level n, a pixel is at least FINEST_M * 2**n wide where the thing stands.
FINEST_M, COARSEST = 0.012, 4


class Form(NamedTuple):
    """How a kind of thing is drawn, and from how many moments and sides."""

    of: str  # class
    draw: Callable[[int, float, View], Shape]  # look, phase 0 … 1
    n_phases: int = 1
    n_views: int = 1

    def seen_from(self, level: int) -> tuple[int, int]:
        """Moments and sides that can be told apart at a level of detail."""
        share = (1, 1, 2, 4, 4)[level]
        # The few of what is not round (a truck's front and back) differ at any distance.
        n_phases, n_views = (n if n <= 4 else -(-n // share) for n in (self.n_phases, self.n_views))
        return n_phases, n_views


FORMS: dict[str, Form] = {
    "person": Form("person", person, 12, 24), "stander": Form("person", stander, 1, 24),
    "sitter": Form("person", sitter, 1, 24), "cyclist": Form("person", cyclist, 12, 24),
    "motorcyclist": Form("person", motorcyclist, 1, 24), "dog": Form("dog", dog, 10, 20),
    "cat": Form("cat", cat, 10, 20), "sitting cat": Form("cat", sitting_cat, 6, 20),
    "bench cat": Form("cat", bench_cat, 6, 20), "bird": Form("bird", bird, 10, 12),
    "perched bird": Form("bird", perched_bird, 1, 16), "flying bird": Form("bird", flying_bird, 8, 12),
    "car": Form("car", car, 12), "truck": Form("truck", truck, 12, 2), "bus": Form("bus", bus, 12),
    "bicycle": Form("bicycle", bicycle, 12), "motorcycle": Form("motorcycle", motorcycle, 10, 2),
    "tree": Form("tree", tree), "plant": Form("plant", plant), "lamp": Form("lamp", lamp),
    "traffic light": Form("traffic light", traffic_light, 3, 24), "sign": Form("sign", sign, 1, 24),
    "bench": Form("bench", bench, 1, 4), "bin": Form("bin", bin_),
}  # fmt: skip


@lru_cache(maxsize=8192)
def shape(kind: str, look: int, phase: float, view: float, level: int) -> Shape:
    """The shape of one thing; the same arguments give the same polygons.

    `look` seeds the variation inside a class, `phase` (0 … 1) is the moment of a walk, a turn of a wheel or a beat of
    wings, `view` (0 … 1) the side it is seen from: 0 from behind, 0.25 with its head to the left of the picture. What
    is smaller than a pixel at `level` is left out.
    """
    pixel_m = FINEST_M * 2**level if level else 0.0
    whole = FORMS[kind].draw(look, phase, View(2 * math.pi * view, pixel_m))
    return whole if level == 0 or whole.flat else _coarse(whole, pixel_m)


def _coarse(whole: Shape, pixel_m: float) -> Shape:
    corners = whole.corners.reshape(-1, 3, N_CORNERS)
    following = np.roll(corners, -1, axis=2)
    area = np.sqrt((np.cross(corners, following, axis=1).sum(axis=2) ** 2).sum(axis=1)) / 2
    length = np.sqrt(((corners.max(axis=2) - corners.min(axis=2)) ** 2).sum(axis=1))
    keep = (area > pixel_m**2) & (area > 0.2 * pixel_m * length)
    keep |= ~keep.any()
    return whole._replace(
        corners=np.asfortranarray(whole.corners[keep]),
        colours=whole.colours[keep],
        textures=whole.textures[keep],
        solid=whole.solid[keep],
    )
