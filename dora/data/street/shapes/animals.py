"""Dogs and cats. A dog is long-nosed and deep-chested; a cat slim, with pointed ears and its long tail up."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.shapes.figure import Figure, joint, step
from dora.data.street.shapes.painter import Point, Shape, View
from dora.data.street.shapes.palette import any_colour, coat
from dora.data.street.textures import FUR, PATCHES, TABBY

_BLACK = (0.05, 0.04, 0.04)
SEAT_M = 0.48  # above the ground, of benches: cats like them


class _Beast(NamedTuple):
    """What makes one animal unlike another; lengths in metres."""

    high: float  # its back
    long: float  # from shoulder to rump
    thick: float  # of its trunk
    leg: float  # how thick
    head: float  # radius
    muzzle: float
    ears: str  # pointed, hanging
    tail: str  # up, curled, hanging
    coat: np.ndarray
    second: np.ndarray  # of socks, chest and muzzle
    fur: int  # texture
    collar: np.ndarray | None


@lru_cache(maxsize=512)
def _dog(look: int) -> _Beast:
    rng = np.random.default_rng(look)
    high = rng.uniform(0.42, 0.85)
    breed = int(rng.integers(4))  # sturdy, lean, low and long, fluffy
    colour = coat(rng)
    return _Beast(
        high=high * (1, 1.08, 0.72, 0.95)[breed], long=high * (0.85, 0.85, 1.2, 0.75)[breed],
        thick=high * (0.4, 0.3, 0.38, 0.52)[breed], leg=high * (0.13, 0.09, 0.13, 0.16)[breed],
        head=high * (0.19, 0.15, 0.17, 0.2)[breed], muzzle=high * (0.26, 0.32, 0.26, 0.18)[breed],
        ears=str(rng.choice(["hanging", "hanging", "pointed"])), tail=str(rng.choice(["up", "curled", "hanging"])),
        coat=colour, second=coat(rng) if rng.random() < 0.5 else colour, fur=int(rng.choice([FUR, FUR, PATCHES])),
        collar=any_colour(rng) if rng.random() < 0.6 else None,
    )  # fmt: skip


@lru_cache(maxsize=512)
def _cat(look: int) -> _Beast:
    rng = np.random.default_rng(look)
    high, colour = rng.uniform(0.38, 0.48), coat(rng)
    fat = rng.uniform(0.85, 1.3)
    return _Beast(
        high=high, long=high * rng.uniform(1.0, 1.2), thick=high * 0.38 * fat, leg=high * 0.12, head=high * 0.26,
        muzzle=high * 0.1, ears="pointed", tail="up", coat=colour,
        second=np.array([0.93, 0.91, 0.87]) if rng.random() < 0.4 else colour,
        fur=int(rng.choice([FUR, TABBY, TABBY, PATCHES])),
        collar=any_colour(rng) if rng.random() < 0.3 else None,
    )  # fmt: skip


def dog(look: int, phase: float, view: View) -> Shape:
    """A dog that trots."""
    beast, figure = _dog(look), Figure(view)
    _trunk(figure, beast, phase, deep=1.15)
    h, front = beast.high, beast.long / 2
    head: Point = (0, h * 1.22, front + h * 0.28)
    figure.limb((0, h * 0.86, front), head, (beast.thick * 0.75, beast.head * 1.5), beast.coat, beast.fur)
    figure.ball(head, (beast.head * 0.9, beast.head, beast.head), beast.coat, FUR, nearer=0.01)
    nose = (0, head[1] - beast.head * 0.4, head[2] + beast.head * 0.6 + beast.muzzle)
    figure.limb((0, head[1] - beast.head * 0.25, head[2] + beast.head * 0.5), nose,
                (beast.head * 1.2, beast.head * 0.75), beast.second, FUR)  # fmt: skip
    tip = beast.head * 0.26
    figure.ball((0, nose[1] + tip * 0.8, nose[2] + tip * 0.8), (tip, tip * 0.8, tip), _BLACK)
    if look % 3 == 0:  # it pants
        figure.limb(
            (0, nose[1] - tip, nose[2] - 0.02), (0, nose[1] - tip * 3.4, nose[2]), (tip * 1.3, tip), (0.85, 0.4, 0.45)
        )
    _face(figure, beast, head)
    for side in (-1, 1):
        x = side * beast.head * 0.75
        if beast.ears == "hanging":
            figure.limb((x, head[1] + beast.head * 0.7, head[2] - 0.01),
                        (x * 1.45, head[1] - beast.head * 0.8, head[2] + 0.01),
                        (beast.head * 0.6, beast.head * 0.9), beast.coat * 0.65, FUR, nearer=0.03)  # fmt: skip
        else:
            _pointed_ear(figure, beast, head, side, tall=0.95)
    root: Point = (0, h * 0.95, -front - beast.thick * 0.3)
    wag = 0.12 * h * math.sin(4 * math.pi * phase)
    bends = {"up": ((0.28, -0.12), (0.5, -0.1)), "curled": ((0.25, -0.1), (0.3, 0.12)),
             "hanging": ((-0.1, -0.22), (-0.4, -0.3))}[beast.tail]  # fmt: skip
    _tail(figure, beast, root, [(wag * (i + 1), h * up, h * back) for i, (up, back) in enumerate(bends)], 0.15 * h)
    return figure.shape(shadow=(0.25, beast.long * 0.7))


def cat(look: int, phase: float, view: View) -> Shape:
    """A cat that walks with its tail up."""
    beast, figure = _cat(look), Figure(view)
    _trunk(figure, beast, phase, deep=1.0)
    h, front = beast.high, beast.long / 2
    head: Point = (0, h * 1.12, front + h * 0.26)
    figure.limb((0, h * 0.88, front), head, (beast.thick * 0.7, beast.head * 1.2), beast.coat, beast.fur)
    _cat_head(figure, beast, head)
    sway = 0.1 * h * math.sin(2 * math.pi * phase)
    root: Point = (0, h * 0.95, -front - beast.thick * 0.3)
    _tail(
        figure,
        beast,
        root,
        [(0, h * 0.42, -h * 0.16), (sway, h * 0.85, -h * 0.1), (sway * 2, h * 1.0, h * 0.08)],
        0.1 * h,
    )
    return figure.shape(shadow=(0.18, beast.long * 0.7))


def sitting_cat(look: int, phase: float, view: View) -> Shape:
    """A cat that sits upright on the ground, its tail beside it; it moves the tip."""
    return _sitting(look, phase, view, 0.0)


def bench_cat(look: int, phase: float, view: View) -> Shape:
    """A cat that sits on a bench."""
    return _sitting(look, phase, view, SEAT_M)


def _sitting(look: int, phase: float, view: View, floor: float) -> Shape:
    beast, figure = _cat(look), Figure(view)
    h = beast.high * 1.15
    t = beast.thick * 1.15
    figure.tube(((floor, t * 0.85, t * 1.0), (floor + h * 0.25, t, t * 1.15), (floor + h * 0.75, t * 0.62, t * 0.7),
                 (floor + h * 1.05, t * 0.4, t * 0.45)), beast.coat, beast.fur, lean=0.12)  # fmt: skip
    figure.ball((0, floor + h * 0.62, t * 0.75), (t * 0.4, h * 0.22, t * 0.25), beast.second, FUR)
    for side in (-1, 1):
        x = side * t * 0.36
        figure.limb(
            (x, floor + h * 0.6, t * 0.6), (x, floor + 0.03, t * 1.15), (t * 0.5, t * 0.42), beast.coat, beast.fur
        )
        figure.ball((x, floor + 0.025, t * 1.3), (t * 0.25, 0.03, t * 0.32), beast.second, FUR)
        figure.ball(
            (side * t * 0.85, floor + h * 0.2, -t * 0.1), (t * 0.35, h * 0.2, t * 0.65), beast.coat * 0.92, beast.fur
        )
    _cat_head(figure, beast, (0, floor + h * 1.22, t * 0.55))
    flick = 0.06 * math.sin(2 * math.pi * phase)
    _tail(figure, beast, (t * 0.5, floor + 0.05, -t * 0.9),
          [(t * 0.9, 0.0, -t * 0.1), (t * 1.2, flick + 0.04, t * 0.6), (t * 1.0, flick * 2 + 0.08, t * 1.1)],
          0.12 * h)  # fmt: skip
    return figure.shape(shadow=(0.2, 0.2))


def _trunk(figure: Figure, beast: _Beast, phase: float, *, deep: float) -> None:
    """Back, chest, belly and four legs: the legs of a diagonal move together."""
    h, t, half = beast.high, beast.thick, beast.long / 2
    y = h - t / 2
    figure.limb((0, y, -half), (0, y, half), (t * 0.9, t), beast.coat, beast.fur)
    figure.ball((0, y - 0.04 * h, half), (t * 0.5, t * 0.5 * deep, t * 0.5), beast.second, FUR, nearer=-0.01)
    figure.ball((0, y, -half), (t * 0.48, t * 0.5, t * 0.5), beast.coat, beast.fur)
    for side, end, shift in ((-1, -1, 0.0), (1, -1, 0.5), (-1, 1, 0.5), (1, 1, 0.0)):
        ahead, up = step(phase + shift, h * 0.24, h * 0.14)
        top = (side * t * 0.32, y, end * half * 0.92)
        foot = (side * t * 0.3, beast.leg * 0.4 + up, end * half * 0.92 + ahead)
        knee = joint(top, foot, (h * 0.44, h * 0.42), ahead=end > 0)
        figure.limb(top, knee, (t * 0.5, beast.leg * 1.15), beast.coat * 0.93, FUR)
        figure.limb(knee, foot, (beast.leg * 1.1, beast.leg * 0.85), beast.second * 0.93, FUR)
        figure.ball(
            (foot[0], foot[1], foot[2] + beast.leg * 0.35),
            (beast.leg * 0.5, beast.leg * 0.38, beast.leg * 0.75),
            beast.second,
        )
    if beast.collar is not None:
        figure.ball((0, h * 0.98, half + h * 0.14), (t * 0.4, h * 0.05, t * 0.4), beast.collar, nearer=0.04)


def _tail(figure: Figure, beast: _Beast, root: Point, bends: Sequence[Point], thick: float) -> None:
    """A tail through places given from its root."""
    start = root
    for index, (x, y, z) in enumerate(bends):
        end = (root[0] + x, root[1] + y, root[2] + z)
        colour = beast.coat if index < len(bends) - 1 else beast.second
        figure.limb(start, end, (thick * (1 - 0.15 * index), thick * (0.85 - 0.15 * index)), colour, beast.fur)
        start = end


def _cat_head(figure: Figure, beast: _Beast, head: Point) -> None:
    r = beast.head
    _, y, z = head
    figure.ball(head, (r * 1.08, r * 0.92, r * 0.9), beast.coat, beast.fur, nearer=0.01)
    figure.ball((0, y - r * 0.35, z + r * 0.75), (r * 0.5, r * 0.34, r * 0.35), beast.second)
    figure.ball((0, y - r * 0.2, z + r * 1.08), (r * 0.14, r * 0.1, r * 0.05), (0.75, 0.4, 0.4))
    _face(figure, beast, head)
    for side in (-1, 1):
        _pointed_ear(figure, beast, head, side, tall=1.0)
        for whisker in (-0.25, 0.1):
            figure.limb((side * r * 0.35, y - r * 0.35, z + r * 1.0),
                        (side * r * 1.5, y + r * (whisker - 0.3), z + r * 0.8),
                        (0.006, 0.004), (0.9, 0.9, 0.88))  # fmt: skip


def _pointed_ear(figure: Figure, beast: _Beast, head: Point, side: int, *, tall: float) -> None:
    (_, y, z), r = head, beast.head
    corners = [(side * r * 0.98, y + r * 0.3, z), (side * r * 0.25, y + r * 0.75, z),
               (side * r * 0.85, y + r * (0.75 + 0.85 * tall), z)]  # fmt: skip
    figure.sheet(corners, beast.coat * 0.85, nearer=0.02)
    x, (low, tip) = side * r * 0.75, (y + r * 0.35, y + r * (0.75 + 0.85 * tall))
    figure.sheet([(x, low, z - r * 0.45), (x, low, z + r * 0.35), (x, tip, z)], beast.coat * 0.8)  # from the side
    inner = [(a * 0.6 + b * 0.4, c * 0.6 + d * 0.4, e + 0.012)
             for (a, c, e), (b, d, _) in zip(corners, [corners[2], corners[2], corners[0]], strict=True)]  # fmt: skip
    figure.sheet(inner, (0.8, 0.55, 0.52))


def _face(figure: Figure, beast: _Beast, head: Point) -> None:
    (_, y, z), r = head, beast.head
    iris = (0.55, 0.65, 0.2) if beast.muzzle < 0.06 else (0.25, 0.15, 0.08)
    for side in (-1, 1):
        figure.ball((side * r * 0.45, y + r * 0.18, z + r * 0.8), (r * 0.2, r * 0.2, r * 0.08), iris)
        figure.ball((side * r * 0.45, y + r * 0.18, z + r * 0.9), (r * 0.1, r * 0.17, r * 0.05), _BLACK)
