import math
from collections.abc import Sequence

from dora.data.street.shapes.painter import RING, Colour, Painter, Point, Shape, View
from dora.data.street.textures import PLAIN

Level = tuple[float, float, float]  # height, and half the width and the depth there


class Figure:
    """Round parts placed in space, drawn as the flat picture that someone has from where they look.

    Parts may be added in any order: what is farther from the eye is painted first, so a face has eyes from the front
    and hair from behind. Limbs and balls much smaller than a pixel are left out.
    """

    def __init__(self, view: View) -> None:
        self._sin, self._cos = math.sin(view.turn), math.cos(view.turn)
        self._least = view.pixel_m
        self._parts: list[tuple[float, list[Point], Colour, int]] = []

    def limb(self, start: Point, end: Point, widths: tuple[float, float], colour: Colour, texture: int = PLAIN, *,
             nearer: float = 0.0) -> None:  # fmt: skip
        """A rod with round ends, as wide as `widths` at them; `nearer` metres to the eye in the painting order."""
        (x0, y0), (x1, y1) = self._seen(start), self._seen(end)
        length = math.hypot(x1 - x0, y1 - y0)
        if (length + widths[0]) * (widths[0] + widths[1]) < self._least**2 or widths[0] + widths[1] < 0.4 * self._least:
            return
        ux, uy = ((x1 - x0) / length, (y1 - y0) / length) if length > 1e-6 else (0.0, 1.0)
        corners: list[Point] = []
        for x, y, radius, sign in ((x0, y0, widths[0] / 2, -1), (x1, y1, widths[1] / 2, 1)):
            for along, across in ((0, -1), (0.6, -0.75), (0.9, 0), (0.6, 0.75), (0, 1)):
                a, b = sign * along * radius, sign * across * radius
                corners.append((x + a * ux + b * uy, y + a * uy - b * ux, 0.0))
        depth = (self._depth(start) + self._depth(end)) / 2 - nearer
        self._parts.append((depth, corners, colour, texture))

    def ball(self, centre: Point, radii: Point, colour: Colour, texture: int = PLAIN, *, nearer: float = 0.0) -> None:
        """An ellipsoid."""
        (x, y), high = self._seen(centre), radii[1]
        wide = math.hypot(radii[0] * self._cos, radii[2] * self._sin)
        if 6 * wide * high < self._least**2:
            return
        corners = [(x + wide * c, y + high * s, 0.0) for c, s in RING]
        self._parts.append((self._depth(centre) - nearer, corners, colour, texture))

    def tube(self, levels: Sequence[Level], colour: Colour, texture: int = PLAIN, *, nearer: float = 0.0,
             at: tuple[float, float] = (0.0, 0.0), lean: float = 0.0) -> None:  # fmt: skip
        """An upright body of two to five levels from its lowest up, at (x, z), leaning ahead by `lean` m a metre."""
        left: list[Point] = []
        right: list[Point] = []
        for y, half_x, half_z in levels:
            half = math.hypot(half_x * self._cos, half_z * self._sin)
            x, _ = self._seen((at[0], y, at[1] + lean * (y - levels[0][0])))
            left.append((x - half, y, 0.0))
            right.append((x + half, y, 0.0))
        depth = self._depth((at[0], 0, at[1] + lean * (levels[-1][0] - levels[0][0]) / 2)) - nearer
        self._parts.append((depth, [*right, *left[::-1]], colour, texture))

    def sheet(self, corners: Sequence[Point], colour: Colour, texture: int = PLAIN, *, nearer: float = 0.0) -> None:
        """A thin convex plate."""
        seen = [(*self._seen(corner), 0.0) for corner in corners]
        depth = sum(map(self._depth, corners)) / len(corners) - nearer
        self._parts.append((depth, seen, colour, texture))

    def shape(self, *, shadow: tuple[float, float]) -> Shape:
        """The picture."""
        painter = Painter()
        for _, corners, colour, texture in sorted(self._parts, key=lambda part: -part[0]):
            painter.polygon(corners, colour, texture)
        return painter.shape(flat=True, shadow=shadow)

    def _seen(self, at: Point) -> tuple[float, float]:
        return at[0] * self._cos - at[2] * self._sin, at[1]

    def _depth(self, at: Point) -> float:
        return at[2] * self._cos + at[0] * self._sin


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
