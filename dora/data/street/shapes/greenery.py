"""Trees, and plants in pots."""

import math

import numpy as np

from dora.data.street.shapes.figure import Figure
from dora.data.street.shapes.painter import Point, Shape, View
from dora.data.street.shapes.palette import any_colour, bark, leaf
from dora.data.street.textures import BARK, BLOSSOM, BRICKS, LEAVES, METAL, NEEDLES, PLAIN, SLATS, STRIPES, WOOD


def tree(look: int, phase: float, view: View) -> Shape:
    """A tree: round, a poplar, a fir, a palm or bare."""
    rng, figure = np.random.default_rng(look), Figure(view)
    tall, wood = rng.uniform(4.2, 7.8), bark(rng)
    kind = str(rng.choice(["round", "round", "round", "poplar", "fir", "bare", "palm"]))
    thick = rng.uniform(0.2, 0.34)
    figure.limb((0, 0, 0), (0, tall * 0.55, 0), (thick * 1.3, thick * 0.7), wood, BARK, nearer=-1)
    colour = leaf(rng)
    {"round": _crown, "poplar": _poplar, "fir": _fir, "bare": _bare, "palm": _palm}[kind](
        figure, rng, tall, colour, wood
    )
    return figure.shape(shadow=(1.2, 1.2))


def _crown(figure: Figure, rng: np.random.Generator, tall: float, colour: np.ndarray, wood: np.ndarray) -> None:
    for branch in (-1, 1):
        figure.limb((0, tall * 0.38, 0), (branch * tall * 0.14, tall * 0.62, 0), (0.16, 0.08), wood, BARK, nearer=-1)
    n_blobs = int(rng.integers(9, 14))
    wide, high, crown = tall * rng.uniform(0.17, 0.27), tall * rng.uniform(0.15, 0.2), tall * 0.7
    texture = BLOSSOM if rng.random() < 0.25 else LEAVES
    for blob in range(n_blobs):
        angle, out = 2.4 * blob + rng.uniform(-0.3, 0.3), math.sqrt((n_blobs - blob) / n_blobs)
        x, up = wide * out * math.cos(angle), out * math.sin(angle)
        size = tall * rng.uniform(0.1, 0.15)
        shade = 0.82 + 0.2 * up + rng.uniform(-0.08, 0.08)
        figure.ball((x, crown + high * up, 0), (size * 1.15, size, size), np.clip(colour * shade, 0, 1), texture,
                    nearer=0.1 * blob)  # fmt: skip


def _poplar(figure: Figure, rng: np.random.Generator, tall: float, colour: np.ndarray, wood: np.ndarray) -> None:
    wide = tall * rng.uniform(0.09, 0.13)
    for level in range(6):
        y, half = tall * (0.28 + 0.14 * level), wide * (1.0, 1.2, 1.2, 1.0, 0.75, 0.45)[level]
        shade = np.clip(colour * (0.75 + 0.07 * level), 0, 1)
        figure.ball((rng.uniform(-0.1, 0.1), y, 0), (half, tall * 0.13, half), shade, LEAVES, nearer=0.1 * level)


def _fir(figure: Figure, rng: np.random.Generator, tall: float, colour: np.ndarray, wood: np.ndarray) -> None:
    for level in range(5):
        low, half = tall * (0.16 + 0.16 * level), tall * (0.23 - 0.037 * level)
        sag = tall * 0.04
        corners: list[Point] = [(-half, low, 0), (-half * 0.4, low - sag, 0), (half * 0.4, low - sag, 0),
                                (half, low, 0), (0, low + tall * 0.27, 0)]  # fmt: skip
        figure.sheet(corners, np.clip(colour * (0.6 + 0.1 * level), 0, 1), NEEDLES, nearer=0.1 * level)


def _bare(figure: Figure, rng: np.random.Generator, tall: float, colour: np.ndarray, wood: np.ndarray) -> None:
    """Branches that fork twice."""
    for index in range(5):
        lean = (index - 2) * 0.42 + rng.uniform(-0.12, 0.12)
        start, length = tall * rng.uniform(0.36, 0.52), tall * rng.uniform(0.24, 0.36)
        end = length * math.sin(lean), start + length * math.cos(lean)
        figure.limb((0, start, 0), (*end, 0), (0.17, 0.09), wood, BARK, nearer=-0.9)
        for fork in (-0.55, -0.1, 0.4):
            angle, reach = lean + fork + rng.uniform(-0.15, 0.15), length * rng.uniform(0.4, 0.75)
            tip = end[0] + reach * math.sin(angle), end[1] + reach * math.cos(angle)
            figure.limb((*end, 0), (*tip, 0), (0.08, 0.035), wood, BARK)
            for twig in (-0.5, 0.5):
                figure.limb(((end[0] + tip[0]) / 2, (end[1] + tip[1]) / 2, 0),
                            (tip[0] + 0.4 * math.sin(angle + twig), tip[1] + 0.3 * math.cos(angle + twig), 0),
                            (0.045, 0.025), wood, BARK)  # fmt: skip


def _palm(figure: Figure, rng: np.random.Generator, tall: float, colour: np.ndarray, wood: np.ndarray) -> None:
    top = tall * 0.8
    figure.limb((0, tall * 0.5, 0), (0, top, 0), (0.26, 0.2), wood, STRIPES, nearer=-0.9)
    for frond in range(9):
        angle = -0.35 + (math.pi + 0.7) * frond / 8
        reach = tall * rng.uniform(0.24, 0.3)
        bend = (reach * 0.6 * math.cos(angle), top + reach * 0.62 * math.sin(angle))
        tip = (reach * 1.15 * math.cos(angle), bend[1] - reach * 0.18)
        shade = np.clip(colour * rng.uniform(0.75, 1.1), 0, 1)
        figure.limb((0, top, 0), (*bend, 0), (0.12, 0.34), shade, NEEDLES)
        figure.limb((*bend, 0), (*tip, 0), (0.34, 0.08), shade, NEEDLES, nearer=0.02)


def plant(look: int, phase: float, view: View) -> Shape:
    """A pot, bowl, barrel, urn or box with a bush, a clipped ball, grass, broad leaves, a cactus or flowers."""
    rng, figure = np.random.default_rng(look), Figure(view)
    high, wide = rng.uniform(0.3, 0.55), rng.uniform(0.2, 0.34)
    high, wide = _pot(figure, rng, high, wide)
    grow = {"bush": _bush, "ball": _ball, "grass": _grass, "broad": _broad, "cactus": _cactus, "flowers": _flowers}
    kind = str(rng.choice(["bush", "ball", "grass", "broad", "cactus", "flowers", "flowers"]))
    grow[kind](figure, rng, high, wide, leaf(rng))
    return figure.shape(shadow=(wide * 1.2, 0.3))


def _pot(figure: Figure, rng: np.random.Generator, high: float, wide: float) -> tuple[float, float]:
    """Paint it behind what grows in it; return its height and half width."""
    colour, kind = any_colour(rng), int(rng.integers(5))
    texture = int(rng.choice([PLAIN, METAL, STRIPES, BRICKS, SLATS, WOOD]))
    if kind == 0:
        wide *= rng.uniform(1.6, 2.4)
    levels = (
        ((0, wide, wide), (high, wide, wide)),
        ((0, wide * 0.65, wide), (high, wide, wide)),
        ((0, wide * 0.4, wide), (high * 0.3, wide * 0.85, wide), (high * 0.8, wide * 1.05, wide), (high, wide, wide)),
        ((0, wide * 0.8, wide), (high * 0.5, wide * 1.1, wide), (high, wide * 0.85, wide)),
        ((high * 0.35, wide * 0.35, wide), (high * 0.6, wide * 0.9, wide), (high, wide * 1.1, wide)),
    )[kind]
    if kind == 4:
        figure.tube(((0, wide * 0.6, wide), (high * 0.4, wide * 0.2, wide)), colour * 0.8, texture)
    figure.tube(levels, colour, texture, nearer=0.01)
    figure.limb((-wide * 0.95, high, 0), (wide * 0.95, high, 0), (0.07, 0.07), colour * 0.8, METAL, nearer=0.6)
    return high, wide


def _bush(figure: Figure, rng: np.random.Generator, high: float, wide: float, colour: np.ndarray) -> None:
    tall = rng.uniform(0.3, 0.8)
    for blob in range(9):
        angle, out = 2.4 * blob, math.sqrt((9 - blob) / 9)
        centre = (wide * 0.9 * out * math.cos(angle), high + tall * (0.5 + 0.4 * out * math.sin(angle)), 0)
        figure.ball(centre, (wide * 0.55, tall * 0.3, 0.1), np.clip(colour * rng.uniform(0.7, 1.1), 0, 1), LEAVES,
                    nearer=0.02 * blob)  # fmt: skip


def _ball(figure: Figure, rng: np.random.Generator, high: float, wide: float, colour: np.ndarray) -> None:
    stem, n_balls = rng.uniform(0.15, 0.5), int(rng.integers(1, 4))
    radius = rng.uniform(0.2, 0.34) / math.sqrt(n_balls)
    figure.limb((0, high, 0), (0, high + stem + 0.4, 0), (0.05, 0.05), bark(rng), BARK)
    for index in range(n_balls):
        r = radius * (1.15 - 0.15 * index)
        y = high + stem + radius * (1 + 1.9 * index)
        figure.ball((0, y, 0), (r, r, r), colour * 0.85, LEAVES, nearer=0.1)
        figure.ball((-r * 0.2, y + r * 0.25, 0), (r * 0.65, r * 0.6, r), colour, LEAVES, nearer=0.2)


def _grass(figure: Figure, rng: np.random.Generator, high: float, wide: float, colour: np.ndarray) -> None:
    for blade in range(17):
        lean = (blade - 8) / 8 + rng.uniform(-0.1, 0.1)
        length = rng.uniform(0.45, 0.9)
        bend = (wide * lean * 0.7 + 0.12 * lean, high + length * 0.65)
        tip = (bend[0] + 0.3 * lean * length, bend[1] + length * (0.4 - 0.35 * abs(lean)))
        shade = np.clip(colour * rng.uniform(0.65, 1.15), 0, 1)
        figure.limb((wide * lean * 0.6, high, 0), (*bend, 0), (0.03, 0.035), shade)
        figure.limb((*bend, 0), (*tip, 0), (0.035, 0.008), shade)


def _broad(figure: Figure, rng: np.random.Generator, high: float, wide: float, colour: np.ndarray) -> None:
    for index in range(9):
        angle = math.pi * (0.08 + 0.84 * (index * 4 % 9) / 8)
        length = rng.uniform(0.4, 0.85)
        middle = (length * 0.5 * math.cos(angle), high + length * 0.55 * math.sin(angle))
        tip = (length * math.cos(angle), high + length * (1.0 * math.sin(angle) - 0.1 * abs(math.cos(angle))))
        dx, dy = 0.09 * math.sin(angle), 0.09 * math.cos(angle)
        shade = np.clip(colour * rng.uniform(0.65, 1.15), 0, 1)
        figure.sheet([(0, high, 0), (middle[0] + dx, middle[1] - dy, 0), (*tip, 0),
                      (middle[0] - dx, middle[1] + dy, 0)],
                     shade, SLATS if index % 2 else PLAIN, nearer=0.02 * index)  # fmt: skip
        figure.limb((0, high, 0), (*tip, 0), (0.015, 0.008), shade * 0.6, nearer=0.02 * index + 0.01)


def _cactus(figure: Figure, rng: np.random.Generator, high: float, wide: float, colour: np.ndarray) -> None:
    tall = rng.uniform(0.5, 0.9)
    figure.limb((0, high, 0), (0, high + tall, 0), (0.2, 0.17), colour, SLATS)
    for side in (-1, 1):
        elbow = (side * 0.22, high + tall * rng.uniform(0.3, 0.5))
        figure.limb((0, elbow[1], 0), (*elbow, 0), (0.11, 0.11), colour * 0.9, SLATS, nearer=-0.01)
        figure.limb((*elbow, 0), (elbow[0], elbow[1] + tall * 0.35, 0), (0.11, 0.1), colour * 0.9, SLATS)


def _flowers(figure: Figure, rng: np.random.Generator, high: float, wide: float, colour: np.ndarray) -> None:
    petals = any_colour(rng)
    _bush_base(figure, high, wide, colour)
    n_flowers = int(rng.integers(6, 11))
    for flower in range(n_flowers):
        x = wide * 1.1 * (2 * flower / (n_flowers - 1) - 1)
        y = high + rng.uniform(0.3, 0.65)
        figure.limb((x * 0.6, high, 0), (x, y, 0), (0.02, 0.02), colour * 0.6, nearer=0.1)
        for petal in range(5):
            a = 2 * math.pi * petal / 5
            figure.ball((x + 0.05 * math.cos(a), y + 0.05 * math.sin(a), 0), (0.035, 0.035, 0.03),
                        np.clip(petals * rng.uniform(0.85, 1.1), 0, 1), nearer=0.2)  # fmt: skip
        figure.ball((x, y, 0), (0.028, 0.028, 0.02), (0.9, 0.75, 0.2), nearer=0.3)


def _bush_base(figure: Figure, high: float, wide: float, colour: np.ndarray) -> None:
    for x in (-0.6, 0.0, 0.6):
        figure.ball((x * wide, high + 0.12, 0), (wide * 0.55, 0.17, 0.1), colour * (0.8 + 0.15 * x), LEAVES)
