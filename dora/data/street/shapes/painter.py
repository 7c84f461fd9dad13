"""What a shape is, and how polygons are collected into one.

Axes of a shape: x to the right, y up, z ahead; metres; the origin is on the ground under its middle.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dora.data.street.textures import PLAIN, RUBBER

N_CORNERS = 10
Colour = Sequence[float] | np.ndarray
Point = tuple[float, float, float]
Rectangle = tuple[float, float, float, float, float]  # x0, x1, z0, z1 and its height y
RING = [(math.cos(2 * math.pi * i / N_CORNERS), math.sin(2 * math.pi * i / N_CORNERS)) for i in range(N_CORNERS)]


class View(NamedTuple):
    """From where a shape is seen."""

    turn: float = 0.0  # radians; 0 from behind, π/2 with its head to the left of the picture
    pixel_m: float = 0.0  # how wide a pixel is there: smaller parts may be left out


class Shape(NamedTuple):
    """Convex polygons in painting order."""

    corners: np.ndarray  # float32 (P, 3 * N_CORNERS): all x, all y, all z, in metres; fast along P
    colours: np.ndarray  # float32 (P, 3), 0 … 1
    textures: np.ndarray  # int32 (P), index in textures.TEXTURES
    solid: np.ndarray  # bool (P): a face of a body, seen from its outer side only
    flat: bool  # turns to face the camera
    shadow: tuple[float, float]  # metres, half its width and length on the ground


class Painter:
    """Collects polygons as plain numbers and makes arrays of them once: walking people are shaped in every frame."""

    def __init__(self) -> None:
        self.corners: list[list[float]] = []
        self.colours: list[Colour] = []
        self.textures: list[int] = []
        self.solid: list[bool] = []

    def polygon(self, corners: Sequence[Point], colour: Colour, texture: int = PLAIN, *, solid: bool = False) -> None:
        """Paint a polygon over what was painted before; a solid one is seen only where it runs anticlockwise."""
        padded = [*corners, *[corners[-1]] * (N_CORNERS - len(corners))]
        x, y, z = zip(*padded, strict=True)
        self.corners.append([*x, *y, *z])
        self.colours.append(colour)
        self.textures.append(texture)
        self.solid.append(solid)

    def body(self, bottom: Rectangle, top: Rectangle, colour: Colour, texture: int = PLAIN) -> dict[str, list[Point]]:
        """Paint a solid between two rectangles; return its faces' corners, each from its lower left."""
        (a, b, c, d, low), (e, f, g, h, high) = bottom, top
        at = {"blb": (a, low, c), "brb": (b, low, c), "blf": (a, low, d), "brf": (b, low, d),
              "tlb": (e, high, g), "trb": (f, high, g), "tlf": (e, high, h), "trf": (f, high, h)}  # fmt: skip
        faces = {"top": "tlb trb trf tlf", "back": "blb brb trb tlb", "ahead": "brf blf tlf trf",
                 "left": "blf blb tlb tlf", "right": "brb brf trf trb"}  # fmt: skip
        corners = {name: [at[key] for key in keys.split()] for name, keys in faces.items()}
        for face in corners.values():
            self.polygon(face, colour, texture, solid=True)
        return corners

    def block(self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Colour,
              texture: int = PLAIN) -> dict[str, list[Point]]:  # fmt: skip
        """Paint an upright box; return its faces' corners, each from its lower left."""
        return self.body((*x, *z, y[0]), (*x, *z, y[1]), colour, texture)

    def inset(self, face: list[Point], u: tuple[float, float], v: tuple[float, float], colour: Colour,
              texture: int = PLAIN) -> None:  # fmt: skip
        """Paint the part u × v (0 … 1, from its lower left) of a body's face."""
        places = ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))
        self.polygon([_between(face, x, y) for x, y in places], colour, texture, solid=True)

    def wheel(self, at: Point, radius: float, *, hub: Colour, turned: float) -> None:
        """Paint a wheel of a car: a tyre and a hub of four spokes, `turned` by a share of a turn; seen from outside."""
        x, y, z = at
        out = 0.01 if x > 0 else -0.01
        turn = -1 if x > 0 else 1  # so that it is seen from its outer side
        rims = (radius, (0.06, 0.06, 0.07), RUBBER), (0.62 * radius, hub, PLAIN)
        for r, colour, texture in rims:
            self.polygon([(x + out, y + turn * r * s, z - r * c) for c, s in RING], colour, texture, solid=True)
        for spoke in range(4):
            angle = 2 * math.pi * (spoke / 4 + turned)
            corners = [(x + out, y + turn * r * radius * math.sin(a), z - r * radius * math.cos(a))
                       for r, a in ((0.16, angle + 0.78), (0.56, angle + 1.1), (0.56, angle + 0.46))]  # fmt: skip
            self.polygon(corners[::-1], np.asarray(hub) * 0.35, solid=True)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour, *,
            x: float = 0.0, texture: int = PLAIN, across: bool = True) -> None:  # fmt: skip
        """Paint a bar between two places (z, y), along and, if asked, across: it is no mere line from behind."""
        (z0, y0), (z1, y1), w = start, end, width / 2
        length = math.hypot(z1 - z0, y1 - y0)
        dy, dz = (z1 - z0) / length * w, (y0 - y1) / length * w
        self.polygon([(x, y0 + dy, z0 + dz), (x, y1 + dy, z1 + dz), (x, y1 - dy, z1 - dz), (x, y0 - dy, z0 - dz)],
                     colour, texture)  # fmt: skip
        if across:
            self.polygon([(x - w, y0, z0), (x - w, y1, z1), (x + w, y1, z1), (x + w, y0, z0)], colour, texture)

    def shape(self, *, flat: bool, shadow: tuple[float, float]) -> Shape:
        """What was painted."""
        return Shape(
            np.asfortranarray(np.array(self.corners, np.float32)), np.array(self.colours, np.float32),
            np.array(self.textures, np.int32), np.array(self.solid), flat, shadow,
        )  # fmt: skip


def _between(face: list[Point], u: float, v: float) -> Point:
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v
    (ax, ay, az), (bx, by, bz), (cx, cy, cz), (dx, dy, dz) = face
    return a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy, a * az + b * bz + c * cz + d * dz
