import math
from collections.abc import Sequence

import numpy as np

from dora.data.street.shapes.painter import N_CORNERS, RING, Colour, Point, Shape, View
from dora.data.street.textures import PLAIN

Level = tuple[float, float, float]  # height, and half the width and the depth there
_CAP = np.array([(0, -1), (0.6, -0.75), (0.9, 0), (0.6, 0.75), (0, 1)]).T  # of a rod's end, along and across
_COS, _SIN = np.array(RING).T
_ROD, _DISC, _PLATE = range(3)


class Figure:
    """Round parts placed in space, drawn as the flat picture that someone has from where they look.

    Parts may be added in any order: what is farther from the eye is painted first, so a face has eyes from the front
    and hair from behind. Limbs and balls much smaller than a pixel are left out. Parts are kept as a few numbers each
    and become corners all at once: walking people are drawn in every frame.
    """

    def __init__(self, view: View) -> None:
        self._sin, self._cos = math.sin(view.turn), math.cos(view.turn)
        self._least = view.pixel_m
        self._rods: list[tuple[float, ...]] = []  # x, y and radius of both ends
        self._discs: list[tuple[float, ...]] = []  # x, y and both radii
        self._plates: list[list[float]] = []  # x, then y, of all corners
        self._parts: list[tuple[float, int, int, Colour, int]] = []  # depth, which of these lists, place, look

    def limb(self, start: Point, end: Point, widths: tuple[float, float], colour: Colour, texture: int = PLAIN, *,
             nearer: float = 0.0) -> None:  # fmt: skip
        """A rod with round ends, as wide as `widths` at them; `nearer` metres to the eye in the painting order."""
        (x0, y0), (x1, y1) = self._seen(start), self._seen(end)
        thick = widths[0] + widths[1]
        if (math.hypot(x1 - x0, y1 - y0) + widths[0]) * thick < 2 * self._least**2 or thick < 0.4 * self._least:
            return
        depth = (self._depth(start) + self._depth(end)) / 2 - nearer
        self._parts.append((depth, _ROD, len(self._rods), colour, texture))
        self._rods.append((x0, y0, widths[0] / 2, x1, y1, widths[1] / 2))

    def ball(self, centre: Point, radii: Point, colour: Colour, texture: int = PLAIN, *, nearer: float = 0.0) -> None:
        """An ellipsoid."""
        (x, y), high = self._seen(centre), radii[1]
        wide = math.hypot(radii[0] * self._cos, radii[2] * self._sin)
        if 3 * wide * high < self._least**2:
            return
        self._parts.append((self._depth(centre) - nearer, _DISC, len(self._discs), colour, texture))
        self._discs.append((x, y, wide, high))

    def tube(self, levels: Sequence[Level], colour: Colour, texture: int = PLAIN, *, nearer: float = 0.0,
             at: tuple[float, float] = (0.0, 0.0), lean: float = 0.0) -> None:  # fmt: skip
        """An upright body of two to five levels from its lowest up, at (x, z), leaning ahead by `lean` m a metre."""
        left: list[tuple[float, float]] = []
        right: list[tuple[float, float]] = []
        for y, half_x, half_z in levels:
            half = math.hypot(half_x * self._cos, half_z * self._sin)
            x, _ = self._seen((at[0], y, at[1] + lean * (y - levels[0][0])))
            left.append((x - half, y))
            right.append((x + half, y))
        depth = self._depth((at[0], 0, at[1] + lean * (levels[-1][0] - levels[0][0]) / 2)) - nearer
        self._plate(depth, [*right, *left[::-1]], colour, texture)

    def sheet(self, corners: Sequence[Point], colour: Colour, texture: int = PLAIN, *, nearer: float = 0.0) -> None:
        """A thin convex plate."""
        depth = sum(map(self._depth, corners)) / len(corners) - nearer
        self._plate(depth, [self._seen(corner) for corner in corners], colour, texture)

    def _plate(self, depth: float, seen: list[tuple[float, float]], colour: Colour, texture: int) -> None:
        x, y = zip(*seen, *[seen[-1]] * (N_CORNERS - len(seen)), strict=True)
        self._parts.append((depth, _PLATE, len(self._plates), colour, texture))
        self._plates.append([*x, *y])

    def shape(self, *, shadow: tuple[float, float]) -> Shape:
        """The picture."""
        drawn = np.concatenate(
            [_rods(self._rods), _discs(self._discs), np.array(self._plates).reshape(-1, 2 * N_CORNERS)]
        )
        first = (0, len(self._rods), len(self._rods) + len(self._discs))
        parts = sorted(self._parts, key=lambda part: -part[0])
        corners = np.zeros((len(parts), 3 * N_CORNERS), np.float32, order="F")
        corners[:, : 2 * N_CORNERS] = drawn[[first[kind] + place for _, kind, place, _, _ in parts]]
        return Shape(
            corners, np.array([part[3] for part in parts], np.float32).reshape(-1, 3),
            np.array([part[4] for part in parts], np.int32), np.zeros(len(parts), bool), flat=True, shadow=shadow,
        )  # fmt: skip

    def _seen(self, at: Point) -> tuple[float, float]:
        return at[0] * self._cos - at[2] * self._sin, at[1]

    def _depth(self, at: Point) -> float:
        return at[2] * self._cos + at[0] * self._sin


def _rods(rods: list[tuple[float, ...]]) -> np.ndarray:
    """Corners of rods with round ends, (rods, x and then y)."""
    x0, y0, r0, x1, y1, r1 = np.array(rods).reshape(-1, 6).T[..., None]
    dx, dy = x1 - x0, y1 - y0
    length = np.sqrt(dx * dx + dy * dy)
    short = length < 1e-6
    length[short] = dy[short] = 1.0  # seen from its end: a disc
    ux, uy = dx / length, dy / length
    along, across = _CAP
    ahead_x, ahead_y = along * ux + across * uy, along * uy - across * ux
    return np.concatenate([x0 - r0 * ahead_x, x1 + r1 * ahead_x, y0 - r0 * ahead_y, y1 + r1 * ahead_y], axis=1)


def _discs(discs: list[tuple[float, ...]]) -> np.ndarray:
    x, y, wide, high = np.array(discs).reshape(-1, 4).T[..., None]
    return np.concatenate([x + wide * _COS, y + high * _SIN], axis=1)


def joint(start: Point, end: Point, lengths: tuple[float, float], *, ahead: bool) -> Point:
    """The knee (or, bent the other way, the elbow) of a limb of two bones; a limb too short for it is stretched."""
    (x0, y0, z0), (x1, y1, z1), (upper, lower) = start, end, lengths
    dy, dz = y1 - y0, z1 - z0
    reach = max(math.hypot(dy, dz), 1e-6)
    along = min(max((upper**2 - lower**2 + reach**2) / (2 * reach), 0.0), reach)
    out = math.sqrt(max(upper**2 - along**2, 0.0)) * (1 if ahead else -1)
    share = along / reach
    return x0 + (x1 - x0) * share, y0 + dy * share + out * dz / reach, z0 + dz * share - out * dy / reach


def step(phase: float, reach: float, lift: float) -> tuple[float, float]:
    """Where a foot is in its stride, ahead and up: on the ground half the time, then lifted to the front."""
    phase %= 1
    if phase < 0.5:
        return reach * (1 - 4 * phase), 0.0
    return reach * (4 * phase - 3), lift * math.sin(2 * math.pi * (phase - 0.5))
