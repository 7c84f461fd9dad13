"""Birds: pigeons, crows, gulls, ducks and geese, on the ground, on a bench's back, or in the air."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.shapes.figure import Figure
from dora.data.street.shapes.painter import Point, Shape, View
from dora.data.street.shapes.palette import coat
from dora.data.street.textures import FEATHERS

_HORNS = np.array([(0.9, 0.5, 0.15), (0.2, 0.19, 0.18), (0.85, 0.45, 0.45), (0.9, 0.75, 0.3)])
PERCH_M = 0.92  # above the ground: the top of a bench's back


class _Bird(NamedTuple):
    """What makes one bird unlike another; lengths in metres."""

    size: float  # of its trunk
    neck: float
    leg: float
    beak: float
    plumage: np.ndarray
    wing: np.ndarray
    head: np.ndarray
    horn: np.ndarray  # of beak and legs
    pecks: bool


@lru_cache(maxsize=512)
def _bird(look: int) -> _Bird:
    rng = np.random.default_rng(look)
    kind = int(rng.integers(4))  # pigeon, crow, gull, goose
    size = rng.uniform(0.9, 1.15) * (0.36, 0.38, 0.42, 0.52)[kind]
    plumage = coat(rng)
    return _Bird(
        size=size, neck=size * (0.3, 0.26, 0.3, rng.uniform(0.5, 0.95))[kind], leg=size * (0.3, 0.42, 0.45, 0.42)[kind],
        beak=size * (0.16, 0.26, 0.24, 0.24)[kind], plumage=plumage,
        wing=coat(rng) if rng.random() < 0.6 else plumage * 0.75, head=coat(rng) if rng.random() < 0.5 else plumage,
        horn=_HORNS[int(rng.integers(len(_HORNS)))],
        pecks=rng.random() < 0.7,
    )  # fmt: skip


def bird(look: int, phase: float, view: View) -> Shape:
    """A bird on the ground: it pecks for the first half of a phase and looks about in the other."""
    who = _bird(look)
    down = math.sin(2 * math.pi * phase) ** 2 if who.pecks and phase < 0.5 else 0.0
    return _standing(who, view, floor=0.0, down=down)


def perched_bird(look: int, phase: float, view: View) -> Shape:
    """A bird on the back of a bench."""
    return _standing(_bird(look), view, floor=PERCH_M, down=0.0)


def _standing(who: _Bird, view: View, *, floor: float, down: float) -> Shape:
    figure, s = Figure(view), who.size
    middle = floor + who.leg + s * 0.28
    tilt = 0.22 - 0.35 * down  # of the trunk, breast up
    breast: Point = (0, middle + s * tilt * 0.5, s * 0.24)
    rump: Point = (0, middle - s * tilt * 0.5, -s * 0.3)
    figure.limb(rump, breast, (s * 0.28, s * 0.52), who.plumage, FEATHERS)
    figure.ball(breast, (s * 0.25, s * 0.27, s * 0.26), who.plumage, FEATHERS, nearer=-0.005)
    figure.sheet([(-s * 0.07, rump[1] + 0.02, rump[2]), (s * 0.07, rump[1] + 0.02, rump[2]),
                  (s * 0.12, rump[1] - s * 0.12, rump[2] - s * 0.42),
                  (-s * 0.12, rump[1] - s * 0.12, rump[2] - s * 0.42)],
                 who.wing * 0.8, FEATHERS)  # fmt: skip
    figure.limb((0, rump[1] + 0.02, rump[2] + 0.05), (0, rump[1] - s * 0.08, rump[2] - s * 0.4), (s * 0.16, s * 0.1),
                who.wing * 0.7, FEATHERS)  # fmt: skip
    for side in (-1, 1):
        figure.limb((side * s * 0.22, breast[1] + s * 0.02, breast[2] - s * 0.02),
                    (side * s * 0.13, rump[1] - s * 0.02, rump[2] - s * 0.2), (s * 0.36, s * 0.1),
                    who.wing, FEATHERS)  # fmt: skip
        hip, foot = (side * s * 0.12, middle - s * 0.15, 0.0), (side * s * 0.13, floor + 0.01, s * 0.02)
        figure.limb(hip, foot, (s * 0.1, s * 0.05), who.horn)
        figure.limb(foot, (side * s * 0.15, floor + 0.01, s * 0.16), (s * 0.06, s * 0.06), who.horn)
    raised = (0.0, breast[1] + s * 0.12 + who.neck, breast[2] + s * 0.12 + who.neck * 0.25)
    lowered = (0.0, floor + s * 0.2, breast[2] + s * 0.3 + who.neck * 0.4)
    x, y, z = (a + (b - a) * down for a, b in zip(raised, lowered, strict=True))
    head: Point = (x, y, z)
    figure.limb((0, breast[1] + s * 0.06, breast[2] + s * 0.05), head, (s * 0.32, s * 0.2), who.head, FEATHERS)
    _head(figure, who, head, dip=down)
    return figure.shape(shadow=(s * 0.3, s * 0.4) if floor == 0 else (0.01, 0.01))


def flying_bird(look: int, phase: float, view: View) -> Shape:
    """A bird in the air whose wings beat once a phase, between the height of a head and of a first floor."""
    figure, who = Figure(view), _bird(look)
    s, high = who.size * 1.1, 1.6 + (look >> 8) % 1000 / 1000 * 2.2 + 0.1 * math.sin(2 * math.pi * phase)
    front, back = (0, high + s * 0.02, s * 0.28), (0, high, -s * 0.32)
    figure.limb(back, front, (s * 0.2, s * 0.36), who.plumage, FEATHERS)
    figure.ball(front, (s * 0.18, s * 0.18, s * 0.2), who.plumage, FEATHERS)
    figure.sheet([(-s * 0.05, high, -s * 0.35), (s * 0.05, high, -s * 0.35), (s * 0.2, high + 0.02, -s * 0.75),
                  (-s * 0.2, high + 0.02, -s * 0.75)], who.wing * 0.85, FEATHERS)  # fmt: skip
    figure.limb((0, high, -s * 0.3), (0, high + 0.01, -s * 0.68), (s * 0.12, s * 0.14), who.wing * 0.85, FEATHERS)
    beat = math.sin(2 * math.pi * phase)
    for side in (-1, 1):
        wrist = 0.55 * s, 0.42 * s * beat
        tip = wrist[0] + 0.5 * s, wrist[1] + 0.45 * s * math.sin(2 * math.pi * (phase - 0.12))
        root = [(side * s * 0.1, high + s * 0.08, s * 0.25), (side * s * 0.1, high + s * 0.06, -s * 0.22)]
        middle = [(side * wrist[0], high + wrist[1], s * 0.32), (side * wrist[0], high + wrist[1], -s * 0.18)]
        figure.sheet([root[0], middle[0], middle[1], root[1]], who.wing, FEATHERS, nearer=0.02 * beat)
        figure.sheet([middle[0], (side * tip[0], high + tip[1], -s * 0.06), middle[1]], who.wing * 0.72, FEATHERS)
    neck: Point = (0, high + s * 0.06, s * 0.5 + who.neck * 0.5)
    figure.limb(front, neck, (s * 0.24, s * 0.18), who.head, FEATHERS)
    _head(figure, who, neck, dip=0)
    return figure.shape(shadow=(s * 0.4, s * 0.3))


def _head(figure: Figure, who: _Bird, at: Point, *, dip: float) -> None:
    (_, y, z), s = at, who.size
    figure.ball(at, (s * 0.125, s * 0.13, s * 0.15), who.head, FEATHERS, nearer=0.01)
    tip = (0, y - s * 0.03 - dip * who.beak, z + s * 0.12 + who.beak * (1 - 0.5 * dip))
    figure.limb((0, y, z + s * 0.1), tip, (s * 0.11, s * 0.03), who.horn)
    for side in (-1, 1):
        figure.ball((side * s * 0.105, y + s * 0.03, z + s * 0.06), (s * 0.03, s * 0.035, s * 0.035), (0.9, 0.55, 0.15))
        figure.ball(
            (side * s * 0.115, y + s * 0.03, z + s * 0.065), (s * 0.015, s * 0.022, s * 0.022), (0.03, 0.03, 0.03)
        )
