"""The things in the street, each as coloured convex polygons in metres."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from dora.data.street.shapes.animals import bench_cat, cat, dog, sitting_cat
from dora.data.street.shapes.birds import bird, flying_bird, perched_bird
from dora.data.street.shapes.cycles import bicycle, motorcycle
from dora.data.street.shapes.furniture import bench, bin_, lamp, sign, traffic_light
from dora.data.street.shapes.greenery import plant, tree
from dora.data.street.shapes.painter import N_CORNERS, Shape
from dora.data.street.shapes.people import cyclist, motorcyclist, person, sitter, stander
from dora.data.street.shapes.vehicles import bus, car, truck

__all__ = ["FORMS", "N_CORNERS", "Form", "Shape", "shape"]


class Form(NamedTuple):
    """How a kind of thing is drawn, and from how many moments and sides."""

    of: str  # class
    draw: Callable[[int, float, float], Shape]  # look, phase 0 … 1, turn in radians
    n_phases: int = 1
    n_views: int = 1


FORMS: dict[str, Form] = {
    "person": Form("person", person, 16, 24), "stander": Form("person", stander, 1, 24),
    "sitter": Form("person", sitter, 1, 24), "cyclist": Form("person", cyclist, 12, 24),
    "motorcyclist": Form("person", motorcyclist, 1, 24), "dog": Form("dog", dog, 12, 24),
    "cat": Form("cat", cat, 12, 24), "sitting cat": Form("cat", sitting_cat, 8, 24),
    "bench cat": Form("cat", bench_cat, 8, 24), "bird": Form("bird", bird, 16, 16),
    "perched bird": Form("bird", perched_bird, 1, 16), "flying bird": Form("bird", flying_bird, 12, 16),
    "car": Form("car", car, 12), "truck": Form("truck", truck, 12, 2), "bus": Form("bus", bus, 12),
    "bicycle": Form("bicycle", bicycle, 12), "motorcycle": Form("motorcycle", motorcycle, 10, 2),
    "tree": Form("tree", tree), "plant": Form("plant", plant), "lamp": Form("lamp", lamp),
    "traffic light": Form("traffic light", traffic_light, 3, 24), "sign": Form("sign", sign, 1, 24),
    "bench": Form("bench", bench, 1, 4), "bin": Form("bin", bin_),
}  # fmt: skip


@lru_cache(maxsize=8192)
def shape(kind: str, look: int, phase: int, view: int) -> Shape:
    """The shape of one thing; the same arguments give the same polygons.

    `look` seeds the variation inside a class, `phase` is the moment of a walk, a turn of a wheel or a beat of wings,
    out of the form's n_phases, `view` the side it is seen from out of its n_views: 0 from behind, a quarter of them
    with its head to the left of the picture.
    """
    form = FORMS[kind]
    return form.draw(look, phase / form.n_phases, 2 * math.pi * view / form.n_views)
