"""The things in the street, each as coloured convex polygons in metres.

Axes of a shape: x to the right, y up, z ahead; the origin is on the ground under its middle. `look` seeds the variation
inside a class, `phase` (0 … N_PHASES-1) is the moment of a walk, `view` (0 … N_VIEWS-1) the angle from which a flat
shape is seen: 0 from behind, N_VIEWS/4 with its head to the left of the picture.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from dora.data.street.textures import BARK, CHECKS, DOTS, GLASS, LEAVES, PLAIN, STRIPES, WOOD

N_CORNERS = 10
N_PHASES = 12
N_VIEWS = 12
Colour = Sequence[float] | np.ndarray
Point = tuple[float, float, float]
Rectangle = tuple[float, float, float, float, float]  # x0, x1, z0, z1 and its height y


class Shape(NamedTuple):
    """Convex polygons in painting order."""

    corners: np.ndarray  # float32 (P, 3 * N_CORNERS): all x, all y, all z, in metres
    colours: np.ndarray  # float32 (P, 3), 0 … 1
    textures: np.ndarray  # int32 (P), index in textures.TEXTURES
    solid: np.ndarray  # bool (P): a face of a body, seen from its outer side only
    flat: bool  # turns to face the camera
    shadow: tuple[float, float]  # metres, half its width and length on the ground


CLOTH = (PLAIN, PLAIN, PLAIN, STRIPES, CHECKS, DOTS)
_RING = [(math.cos(2 * math.pi * i / N_CORNERS), math.sin(2 * math.pi * i / N_CORNERS)) for i in range(N_CORNERS)]


class _Painter:
    """Collects polygons as plain numbers and makes arrays of them once: walking people are shaped in every frame."""

    def __init__(self) -> None:
        self.corners: list[list[float]] = []
        self.colours: list[Colour] = []
        self.textures: list[int] = []
        self.solid: list[bool] = []

    def polygon(self, corners: Sequence[Point], colour: Colour, texture: int = PLAIN, *, solid: bool = False) -> None:
        padded = [*corners, *[corners[-1]] * (N_CORNERS - len(corners))]
        x, y, z = zip(*padded, strict=True)
        self.corners.append([*x, *y, *z])
        self.colours.append(colour)
        self.textures.append(texture)
        self.solid.append(solid)

    def flat(self, xy: Sequence[tuple[float, float]], colour: Colour, texture: int = PLAIN) -> None:
        self.polygon([(x, y, 0.0) for x, y in xy], colour, texture)

    def limb(self, start: tuple[float, float], end: tuple[float, float], widths: tuple[float, float],
             colour: Colour, texture: int = PLAIN) -> None:  # fmt: skip
        (x0, y0), (x1, y1), (a, b) = start, end, widths
        length = max(math.hypot(x1 - x0, y1 - y0), 1e-6) * 2
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        self.flat([(x0 + nx * a, y0 + ny * a), (x1 + nx * b, y1 + ny * b), (x1 - nx * b, y1 - ny * b),
                   (x0 - nx * a, y0 - ny * a)], colour, texture)  # fmt: skip

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], colour: Colour, texture: int = PLAIN
    ) -> None:
        (x, y), (a, b) = centre, radii
        self.flat([(x + a * cos, y + b * sin) for cos, sin in _RING], colour, texture)

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

    def inset(self, face: list[Point], u: tuple[float, float], v: tuple[float, float], colour: Colour,
              texture: int = PLAIN) -> None:  # fmt: skip
        """Paint the part u × v (0 … 1, from its lower left) of a body's face."""
        places = ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))
        self.polygon([_between(face, x, y) for x, y in places], colour, texture, solid=True)

    def wheel(self, x: float, y: float, z: float, radius: float) -> None:
        out = 0.01 if x > 0 else -0.01
        turn = -1 if x > 0 else 1  # so that it is seen from its outer side
        for r, colour in ((radius, (0.06, 0.06, 0.07)), (0.55 * radius, (0.55, 0.55, 0.58))):
            self.polygon([(x + out, y + turn * r * sin, z - r * cos) for cos, sin in _RING], colour, solid=True)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """Paint a bar between two places (z, y) at x = 0, along and across: it is no mere line from behind."""
        (z0, y0), (z1, y1), w = start, end, width / 2
        length = math.hypot(z1 - z0, y1 - y0)
        dy, dz = (z1 - z0) / length * w, (y0 - y1) / length * w
        self.polygon(
            [(0, y0 + dy, z0 + dz), (0, y1 + dy, z1 + dz), (0, y1 - dy, z1 - dz), (0, y0 - dy, z0 - dz)], colour
        )
        self.polygon([(-w, y0, z0), (-w, y1, z1), (w, y1, z1), (w, y0, z0)], colour)

    def shape(self, *, flat: bool, shadow: tuple[float, float]) -> Shape:
        return Shape(
            np.array(self.corners, np.float32), np.array(self.colours, np.float32), np.array(self.textures, np.int32),
            np.array(self.solid), flat, shadow,
        )  # fmt: skip


def _between(face: list[Point], u: float, v: float) -> Point:
    weights = ((1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v)
    x, y, z = (sum(w * corner[axis] for w, corner in zip(weights, face, strict=True)) for axis in range(3))
    return x, y, z


def _vivid(rng: np.random.Generator, low: float = 0.15, high: float = 0.85) -> np.ndarray:
    grey = rng.uniform(low, high)
    return np.clip(grey + rng.uniform(0, 0.35) * rng.uniform(-1, 1, 3), 0.03, 0.95)


class _Looks(NamedTuple):
    """What makes one person unlike another."""

    tall: float
    wide: float  # 1 is common
    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    trousers: np.ndarray
    shoes: np.ndarray
    bag: np.ndarray | None
    cloth: int  # texture
    coat: bool
    skirt: bool
    hat: bool


@lru_cache(maxsize=1024)
def _looks(look: int) -> _Looks:
    rng = np.random.default_rng(look)
    tall = rng.uniform(1.5, 1.92)
    return _Looks(
        tall=tall, wide=rng.uniform(0.85, 1.25) * tall / 1.75,
        skin=np.array([0.92, 0.74, 0.62]) * rng.uniform(0.4, 1.05) ** np.array([0.6, 0.9, 1.0]),
        hair=np.array([0.45, 0.32, 0.2]) * rng.uniform(0.1, 1.6),
        top=_vivid(rng), trousers=_vivid(rng, 0.1, 0.5), shoes=_vivid(rng, 0.05, 0.4),
        bag=_vivid(rng, 0.1, 0.6) if rng.random() < 0.4 else None, cloth=int(rng.choice(CLOTH)),
        coat=rng.random() < 0.35, skirt=rng.random() < 0.2, hat=rng.random() < 0.25,
    )  # fmt: skip


def person(look: int, phase: int, view: int, *, seated: bool = False) -> Shape:
    """Someone who walks: legs and arms swing along the way they go."""
    who, p = _looks(look), _Painter()
    tall, wide, top = who.tall, who.wide, who.top
    turn, stride = 2 * math.pi * view / N_VIEWS, 2 * math.pi * phase / N_PHASES
    side = -math.sin(turn)  # how much of the stride is seen as width
    facing = math.cos(turn) < -0.3
    swing = 0.0 if seated else math.sin(stride)
    half = wide * (0.2 - 0.07 * abs(side))
    hip, shoulder = tall * 0.5, tall * 0.81
    for leg in (-1, 1):
        reach = leg * swing * 0.3 * tall / 1.75
        lift = 0.0 if seated else max(0.0, leg * math.cos(stride)) * 0.1
        root = leg * half * 0.45 * (1 - 0.6 * abs(side))
        knee, foot = (root + reach * 0.45 * side, hip * 0.52 + lift * 0.6), (root + reach * side, 0.06 + lift)
        colour = who.skin if who.skirt and not who.coat else who.trousers
        p.limb((root, hip), knee, (0.17 * wide, 0.13 * wide), colour)
        p.limb(knee, foot, (0.13 * wide, 0.09 * wide), colour * 0.92)
        toe = 0.1 * side if abs(side) > 0.3 else 0.02 * leg
        p.ellipse((foot[0] + toe, foot[1]), (0.07 + 0.05 * abs(side), 0.05), who.shoes)
    if who.skirt:
        p.flat([(-half * 0.8, hip * 1.1), (half * 0.8, hip * 1.1), (half * 1.25, hip * 0.6), (-half * 1.25, hip * 0.6)],
               who.trousers, who.cloth)  # fmt: skip
    hem = hip * (0.72 if who.coat else 0.95)
    p.flat([(-half * 0.95, hem), (half * 0.95, hem), (half * 1.05, shoulder * 0.97), (half * 0.6, shoulder * 1.02),
            (-half * 0.6, shoulder * 1.02), (-half * 1.05, shoulder * 0.97)], top, who.cloth)  # fmt: skip
    if who.bag is not None and not facing:
        p.flat([(-half * 0.75, tall * 0.55), (half * 0.75, tall * 0.55), (half * 0.6, tall * 0.79),
                (-half * 0.6, tall * 0.79)], who.bag, STRIPES)  # fmt: skip
        p.limb((-half * 0.5, tall * 0.6), (half * 0.5, tall * 0.6), (tall * 0.07, tall * 0.07), who.bag * 0.7)
    for arm in (-1, 1):
        reach = -arm * swing * 0.22
        root = (arm * half * 1.05 * (1 - 0.75 * abs(side)), shoulder * 0.97)
        elbow = (root[0] + arm * 0.05 + reach * 0.5 * side, tall * 0.64)
        hand = (elbow[0] + (reach * 0.6 + (0.22 if seated else 0.04)) * side, tall * (0.6 if seated else 0.49))
        p.limb(root, elbow, (0.12 * wide, 0.1 * wide), top * 0.85, who.cloth)
        p.limb(elbow, hand, (0.1 * wide, 0.07 * wide), top * 0.85, who.cloth)
        p.ellipse(hand, (0.045, 0.05), who.skin)
    p.limb((0, shoulder), (0, tall * 0.86), (0.12, 0.11), who.skin * 0.9)
    head = 0.02 * side
    p.ellipse((head, tall * 0.925), (tall * 0.058, tall * 0.075), who.skin if facing or abs(side) > 0.5 else who.hair)
    p.ellipse((head - 0.03 * side, tall * (0.96 if facing else 0.943)), (tall * 0.06, tall * 0.045), who.hair)
    if facing:
        for eye in (-1, 1):
            p.ellipse((head + eye * tall * 0.02, tall * 0.925), (0.012, 0.012), (0.05, 0.05, 0.06))
    if who.hat:
        p.ellipse((head, tall * 0.975), (tall * 0.085, tall * 0.014), top[::-1] * 0.6)
        p.ellipse((head, tall * 0.99), (tall * 0.052, tall * 0.03), top[::-1] * 0.6)
    return p.shape(flat=True, shadow=(0.3, 0.3))


def rider(look: int, phase: int, view: int) -> Shape:
    """Someone on a bicycle."""
    shape = person(look, phase, view, seated=True)
    corners = shape.corners.copy()
    corners[:, N_CORNERS : 2 * N_CORNERS] = 0.84 * corners[:, N_CORNERS : 2 * N_CORNERS] + 0.32  # bent, on a saddle
    return shape._replace(corners=corners)


def dog(look: int, phase: int, view: int) -> Shape:
    """A dog: round parts along its back, seen from any side."""
    rng, p = np.random.default_rng(look), _Painter()
    size = rng.uniform(0.65, 1.3)
    coat = np.clip(np.array([0.75, 0.58, 0.42]) * rng.uniform(0.15, 1.25), 0, 0.95)
    spot = np.clip(coat * rng.choice([0.5, 1.0, 1.5]), 0, 0.95)
    turn = 2 * math.pi * view / N_VIEWS
    side, ahead = -math.sin(turn), math.cos(turn)
    swing = math.sin(2 * math.pi * phase / N_PHASES) * 0.1
    long = 0.13 + 0.12 * abs(side)
    parts: list[tuple[float, Callable[[], None]]] = []  # how far ahead of its middle, and how to paint it
    for along, beside, step in ((-0.27, -1, swing), (-0.27, 1, -swing), (0.22, -1, -swing), (0.22, 1, swing)):
        x = along * side + beside * 0.07 * ahead
        start, end = (x * size, 0.34 * size), ((x + step * side) * size, 0.03 * size)
        parts.append((along + 0.02, partial(p.limb, start, end, (0.09 * size, 0.06 * size), coat * 0.85)))
    for along, high, radii, colour in (
        (-0.2, 0.42, (long, 0.13), coat), (0.02, 0.42, (long, 0.12), spot), (0.2, 0.44, (long * 0.8, 0.14), coat),
        (0.36, 0.6, (0.1, 0.1), spot), (0.48, 0.57, (0.07, 0.05), coat * 0.8), (0.36, 0.68, (0.045, 0.06), coat * 0.55),
    ):  # fmt: skip
        centre = (along * side * size, high * size)
        parts.append((along, partial(p.ellipse, centre, (radii[0] * size, radii[1] * size), colour)))
    tail = (-0.38 * side * size, 0.46 * size), ((-0.52 * side + 0.6 * swing) * size, 0.68 * size)
    parts.append((-0.4, partial(p.limb, *tail, (0.06 * size, 0.03 * size), coat)))
    for _, paint in sorted(parts, key=lambda part: -part[0] * ahead):
        paint()
    return p.shape(flat=True, shadow=(0.3 * size, 0.25 * size))


def car(look: int, phase: int, view: int) -> Shape:
    """A car: saloon, hatchback or van."""
    rng, p = np.random.default_rng(look), _Painter()
    kind = rng.integers(3)
    length, width = rng.uniform(3.7, 4.7), rng.uniform(1.65, 1.85)
    waist, roof = rng.uniform(0.8, 0.95), (rng.uniform(1.35, 1.55), rng.uniform(1.4, 1.6), rng.uniform(1.8, 2.1))[kind]
    paint, dark = _vivid(rng, 0.1, 0.95), np.array([0.12, 0.15, 0.18])
    x, z = width / 2, length / 2
    p.polygon([(-x, 0.12, -z), (x, 0.12, -z), (x, 0.12, z), (-x, 0.12, z)], (0.03, 0.03, 0.03))
    hull = p.body((-x, x, -z, z, 0.25), (-x, x, -z * 0.97, z * 0.95, waist), paint)
    back = (-z * 0.62, -z * 0.93, -z * 0.95)[kind]
    low = (-x * 0.96, x * 0.96, back, z * (0.42, 0.45, 0.6)[kind], waist)
    top = (-x * 0.8, x * 0.8, back + (0.55, 0.25, 0.05)[kind], z * (0.08, 0.1, 0.4)[kind], roof)
    cabin = p.body(low, top, paint)
    for name in ("back", "ahead"):
        p.inset(cabin[name], (0.08, 0.92), (0.18, 0.9), dark, GLASS)
    panes = ((0.05, 0.47), (0.52, 0.95)) if kind != 2 else ((0.62, 0.95),)
    for pane in panes:
        p.inset(cabin["right"], pane, (0.15, 0.88), dark, GLASS)
        p.inset(cabin["left"], (1 - pane[1], 1 - pane[0]), (0.15, 0.88), dark, GLASS)
    for name, lamp in (("back", (0.75, 0.08, 0.06)), ("ahead", (0.97, 0.95, 0.8))):
        p.inset(hull[name], (0.03, 0.2), (0.5, 0.82), lamp)
        p.inset(hull[name], (0.8, 0.97), (0.5, 0.82), lamp)
        p.inset(hull[name], (0.36, 0.64), (0.28, 0.48), (0.92, 0.92, 0.85))
        p.inset(hull[name], (0.0, 1.0), (0.0, 0.16), dark)
    for name in ("left", "right"):
        p.inset(hull[name], (0.2, 0.8), (0.0, 0.08), dark)
        p.inset(hull[name], (0.495, 0.503), (0.1, 0.95), paint * 0.55)
    for side in (-x, x):
        for axle in (-z * 0.62, z * 0.62):
            p.wheel(side, 0.33, axle, 0.33)
    return p.shape(flat=False, shadow=(x + 0.1, z + 0.1))


def bus(look: int, phase: int, view: int) -> Shape:
    """A city bus."""
    rng, p = np.random.default_rng(look), _Painter()
    length, width, roof = rng.uniform(9.5, 11.5), 2.5, rng.uniform(2.9, 3.3)
    paint, band, glass = _vivid(rng, 0.3, 0.9), _vivid(rng), np.array([0.14, 0.18, 0.22])
    x, z = width / 2, length / 2
    faces = p.body((-x, x, -z, z, 0.35), (-x * 0.97, x * 0.97, -z * 0.99, z * 0.99, roof), paint)
    n_panes = int(rng.integers(5, 8))
    for name in ("left", "right"):
        p.inset(faces[name], (0, 1), (0.08, 0.22), band, STRIPES)
        for pane in range(n_panes):
            p.inset(faces[name], ((pane + 0.08) / n_panes, (pane + 0.92) / n_panes), (0.45, 0.85), glass, GLASS)
    p.inset(faces["right"], (0.78, 0.9), (0.02, 0.86), glass * 1.6, GLASS)
    for name, lamp in (("back", (0.8, 0.1, 0.06)), ("ahead", (1.0, 0.97, 0.8))):
        p.inset(faces[name], (0.05, 0.95), (0.4, 0.82), glass, GLASS)
        p.inset(faces[name], (0.2, 0.8), (0.86, 0.97), (0.08, 0.08, 0.05))
        p.inset(faces[name], (0.26, 0.74), (0.885, 0.945), (0.95, 0.65, 0.1), DOTS)
        for u in ((0.04, 0.18), (0.82, 0.96)):
            p.inset(faces[name], u, (0.1, 0.18), lamp)
    for side in (-x, x):
        for axle in (-z * 0.6, z * 0.65):
            p.wheel(side, 0.48, axle, 0.48)
    return p.shape(flat=False, shadow=(x + 0.2, z + 0.2))


def bicycle(look: int, phase: int, view: int) -> Shape:
    """A bicycle: two rings and a frame in one upright plane."""
    rng, p = np.random.default_rng(look), _Painter()
    radius, paint = rng.uniform(0.31, 0.36), _vivid(rng)

    for axle in (-0.52, 0.52):
        rim = [(axle + radius * cos, radius + radius * sin) for cos, sin in _RING]
        for start, end in zip(rim, [*rim[1:], rim[0]], strict=True):
            p.bar(start, end, 0.06, (0.07, 0.07, 0.08))
    saddle, crank, head = (-0.18, 0.88), (-0.05, 0.3), (0.36, 0.86)
    for start, end in ((saddle, crank), (crank, head), (saddle, head), (crank, (-0.52, radius)), (head, (0.52, radius)),
                       (saddle, (-0.52, radius))):  # fmt: skip
        p.bar(start, end, 0.05, paint)
    p.body((-0.08, 0.08, -0.32, -0.06, 0.88), (-0.06, 0.06, -0.3, -0.08, 0.95), (0.1, 0.08, 0.07))
    p.body((-0.28, 0.28, 0.3, 0.36, 0.98), (-0.28, 0.28, 0.3, 0.36, 1.02), (0.15, 0.15, 0.16))
    p.bar(head, (0.33, 1.0), 0.05, (0.2, 0.2, 0.2))
    return p.shape(flat=False, shadow=(0.2, 0.8))


def tree(look: int, phase: int, view: int) -> Shape:
    """A round-crowned tree or a fir."""
    rng, p = np.random.default_rng(look), _Painter()
    tall = rng.uniform(4.2, 7.5)
    leaf = np.array([0.28, 0.45, 0.16]) * rng.uniform(0.6, 1.35) + np.array([rng.uniform(0, 0.2), 0, 0])
    bark = np.array([0.36, 0.27, 0.19]) * rng.uniform(0.6, 1.2)
    p.limb((0, 0), (rng.uniform(-0.15, 0.15), tall * 0.6), (rng.uniform(0.25, 0.45), 0.16), bark, BARK)
    if rng.random() < 0.25:
        for level in range(4):
            low, half = tall * (0.22 + 0.18 * level), tall * (0.24 - 0.045 * level)
            p.flat([(-half, low), (half, low), (0.02, low + tall * 0.3)], leaf * (0.62 + 0.1 * level), LEAVES)
        return p.shape(flat=True, shadow=(1.0, 1.0))
    for branch in (-1, 1):
        p.limb((0, tall * 0.4), (branch * tall * 0.14, tall * 0.62), (0.14, 0.07), bark, BARK)
    n_blobs = int(rng.integers(8, 13))
    wide, crown = tall * rng.uniform(0.2, 0.28), tall * 0.7
    for blob in range(n_blobs):
        angle, out = 2.4 * blob + rng.uniform(-0.3, 0.3), np.sqrt((n_blobs - blob) / n_blobs)
        centre = wide * out * np.cos(angle), crown + tall * 0.18 * out * np.sin(angle)
        size = tall * rng.uniform(0.11, 0.16)
        light = 0.8 + 0.35 * (centre[1] - crown) / (tall * 0.18) * 0.5 + rng.uniform(-0.08, 0.08)
        p.ellipse(centre, (size * 1.15, size), np.clip(leaf * light, 0, 1), LEAVES)
    return p.shape(flat=True, shadow=(1.2, 1.2))


def lamp(look: int, phase: int, view: int) -> Shape:
    """A street lamp, old or new."""
    rng, p = np.random.default_rng(look), _Painter()
    tall, metal = rng.uniform(3.6, 5.5), np.array([0.2, 0.22, 0.22]) * rng.uniform(0.5, 1.5)
    p.limb((0, 0), (0, 0.7), (0.26, 0.14), metal)
    p.limb((0, 0.6), (0, tall), (0.12, 0.08), metal)
    if rng.random() < 0.5:
        p.flat([(-0.12, tall), (0.12, tall), (0.22, tall + 0.45), (-0.22, tall + 0.45)], (0.95, 0.9, 0.7), GLASS)
        p.flat([(-0.26, tall + 0.45), (0.26, tall + 0.45), (0.05, tall + 0.65), (-0.05, tall + 0.65)], metal)
    else:
        reach = -1.1
        p.limb((0, tall - 0.05), (reach, tall + 0.15), (0.08, 0.06), metal)
        p.flat([(reach - 0.35, tall + 0.05), (reach + 0.2, tall + 0.05), (reach + 0.1, tall + 0.22),
                (reach - 0.3, tall + 0.2)], (0.9, 0.88, 0.75))  # fmt: skip
    return p.shape(flat=True, shadow=(0.2, 0.2))


def sign(look: int, phase: int, view: int) -> Shape:
    """A traffic sign: round, triangular, octagonal or a board."""
    rng, p = np.random.default_rng(look), _Painter()
    kind, high, size = rng.integers(4), rng.uniform(2.2, 2.7), rng.uniform(0.32, 0.42)
    red, blue, white = (0.78, 0.08, 0.08), (0.08, 0.22, 0.65), (0.93, 0.93, 0.93)
    p.limb((0, 0), (0, high + size), (0.07, 0.07), (0.5, 0.5, 0.52))
    if kind == 0:
        ring, inner = ((red, white), (blue, blue))[int(rng.integers(2))]
        p.ellipse((0, high), (size, size), ring)
        p.ellipse((0, high), (size * 0.74, size * 0.74), inner)
        p.limb((-size * 0.4, high), (size * 0.4, high), (0.12, 0.12), white if ring == blue else (0.1, 0.1, 0.1))
    elif kind == 1:
        for scale, colour in ((1.0, red), (0.66, white)):
            p.flat(
                [(size * 1.15 * scale * np.sin(a), high + size * 1.15 * scale * np.cos(a)) for a in (0, 2.1, 4.2)],
                colour,
            )
        p.limb((0, high + size * 0.3), (0, high - size * 0.35), (0.09, 0.06), (0.08, 0.08, 0.08))
    elif kind == 2:
        for scale, colour in ((1.0, white), (0.9, red)):
            angles = (np.arange(8) + 0.5) * np.pi / 4
            p.flat([(size * scale * np.cos(a), high + size * scale * np.sin(a)) for a in angles], colour)
        p.limb((-size * 0.7, high), (size * 0.7, high), (0.14, 0.14), white, CHECKS)
    else:
        wide = size * rng.uniform(1.5, 2.2)
        for scale, colour, texture in (
            (1.0, white, PLAIN),
            (0.9, blue if rng.random() < 0.5 else (0.1, 0.4, 0.2), PLAIN),
        ):
            x, y = wide * scale, size * 0.6 * scale
            p.flat([(-x, high - y), (x, high - y), (x, high + y), (-x, high + y)], colour, texture)
        for line in (-0.2, 0.15):
            p.limb(
                (-wide * 0.75, high + line * size),
                (wide * rng.uniform(0, 0.75), high + line * size),
                (0.07, 0.07),
                white,
                CHECKS,
            )
    return p.shape(flat=True, shadow=(0.15, 0.15))


def bench(look: int, phase: int, view: int) -> Shape:
    """A bench of wooden slats."""
    rng, p = np.random.default_rng(look), _Painter()
    wood, iron = np.array([0.52, 0.34, 0.2]) * rng.uniform(0.6, 1.3), (0.12, 0.13, 0.13)
    half = rng.uniform(0.7, 1.0)
    for end in (-half * 0.85, half * 0.85):
        p.body((-0.25, 0.2, end - 0.04, end + 0.04, 0), (-0.25, 0.2, end - 0.04, end + 0.04, 0.42), iron)
    p.body((-0.28, 0.25, -half, half, 0.42), (-0.28, 0.25, -half, half, 0.48), wood, WOOD)
    p.body((0.2, 0.26, -half, half, 0.58), (0.26, 0.32, -half, half, 0.92), wood * 0.9, WOOD)
    return p.shape(flat=False, shadow=(0.4, half))


def bin_(look: int, phase: int, view: int) -> Shape:
    """A litter bin."""
    rng, p = np.random.default_rng(look), _Painter()
    half, tall, paint = rng.uniform(0.2, 0.3), rng.uniform(0.75, 1.1), _vivid(rng, 0.1, 0.5)
    faces = p.body(
        (-half * 0.85, half * 0.85, -half * 0.85, half * 0.85, 0), (-half, half, -half, half, tall), paint, STRIPES
    )
    for name in ("back", "ahead", "left", "right"):
        p.inset(faces[name], (0.15, 0.85), (0.76, 0.9), (0.05, 0.05, 0.05))
        p.inset(faces[name], (0.3, 0.7), (0.35, 0.6), (0.85, 0.85, 0.8))
    return p.shape(flat=False, shadow=(half * 1.2, half * 1.2))


_SHAPES: dict[str, Callable[[int, int, int], Shape]] = {
    "person": person, "rider": rider, "dog": dog, "car": car, "bus": bus, "bicycle": bicycle, "tree": tree,
    "lamp": lamp, "sign": sign, "bench": bench, "bin": bin_,
}  # fmt: skip


@lru_cache(maxsize=4096)
def shape(kind: str, look: int, phase: int, view: int) -> Shape:
    """The shape of one thing; the same arguments give the same polygons."""
    return _SHAPES[kind](look, phase, view)
