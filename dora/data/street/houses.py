"""House fronts: each a roof line and a few painted tiles, repeated along bays and storeys."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.shapes.palette import any_colour

HOUSE_M = 12.0  # mean width of a house
TILE = 32  # texels of a tile's side
N_LEVELS = 5  # of a tile, each twice as blurred as the one before, for walls far away
SHOP, DOOR, FIRST_WINDOW, N_TILES = 0, 1, 2, 6


class Houses(NamedTuple):
    """The houses within sight, those on the left first."""

    starts: np.ndarray  # (2, houses of a side): where they begin, metres along the street
    sizes: np.ndarray  # (houses, 5): roof, storey, bay and start, in metres; a number to vary its windows by
    tiles: np.ndarray  # uint32, flat (houses, N_TILES, N_LEVELS, TILE, TILE): red, green and blue in the lower bytes


class _House(NamedTuple):
    start: float
    roof: float
    storey: float
    bay: float
    variety: int
    tiles: np.ndarray


@lru_cache(maxsize=4)
def row_of_houses(seed: int, slot: int) -> Houses:
    """The houses that a walker in this slot (HOUSE_M of street) can see."""
    street = [[_house(seed, side, near) for near in range(slot - 2, slot + 15)] for side in (0, 1)]
    houses = street[0] + street[1]
    return Houses(
        np.array([[house.start for house in side] for side in street]),
        np.array([(house.roof, house.storey, house.bay, house.start, house.variety) for house in houses]),
        np.stack([house.tiles for house in houses]).view(np.uint32).ravel(),
    )


@lru_cache(maxsize=512)
def _house(seed: int, side: int, slot: int) -> _House:
    rng = np.random.default_rng((seed, 101, side, slot % (1 << 31)))
    start = slot * HOUSE_M + rng.uniform(-3, 3)
    storey, n_storeys = rng.uniform(2.9, 3.8), int(rng.integers(2, 7))
    hue = np.array([(0.62, 0.34, 0.27), (0.78, 0.7, 0.56), (0.66, 0.64, 0.6), (0.5, 0.55, 0.6), (0.8, 0.6, 0.45),
                    (0.72, 0.75, 0.66)])[int(rng.integers(6))]  # fmt: skip
    if rng.random() < 0.4:  # painted
        hue = 0.25 + 0.65 * any_colour(rng)
    wall = np.clip(hue * rng.uniform(0.75, 1.15) + rng.uniform(-0.06, 0.06, 3), 0.1, 0.95)
    style = int(rng.integers(4))
    trim = np.clip(wall * rng.choice([0.55, 1.35]), 0, 1)
    sign = np.clip(rng.uniform(0.1, 0.8, 3), 0, 1)
    tiles = [_shop(rng, wall, style, sign), _door(rng, wall, style, trim)]
    shutters = rng.random() < 0.3
    shape = rng.uniform(0.22, 0.34), rng.uniform(0.28, 0.4)
    tiles += [_window(rng, wall, style, trim, variant, shape, shutters=shutters) for variant in range(4)]
    levels = np.stack([_blur(np.stack(tiles), 2**level) for level in range(N_LEVELS)], axis=1)
    rgb = np.clip(levels * 255, 0, 255).astype(np.uint8)
    packed = np.concatenate([rgb, np.zeros_like(rgb[..., :1])], axis=-1)
    return _House(start, storey * n_storeys + 0.6, storey, rng.uniform(2.0, 3.4), int(rng.integers(256)), packed)


def _wall(rng: np.random.Generator, wall: np.ndarray, style: int) -> np.ndarray:
    tile = np.ones((TILE, TILE, 3)) * wall
    tile *= 1 + rng.normal(0, 0.025, (TILE, TILE, 1))
    if style == 0:  # bricks
        rows = np.arange(TILE)
        tile[rows % 3 == 2] *= 0.82
        tile[(rows + 3 * (rows[:, None] // 3 % 2)) % 6 == 5] *= 0.88
    elif style == 1:  # cut stone
        tile[::8] *= 0.8
    elif style == 2:  # boards
        tile[:, ::4] *= 0.85
    return tile


def _box(tile: np.ndarray, rows: tuple[float, float], columns: tuple[float, float], colour: np.ndarray) -> None:
    r, c = [round(TILE * x) for x in rows], [round(TILE * x) for x in columns]
    tile[r[0] : r[1], c[0] : c[1]] = colour


def _window(rng: np.random.Generator, wall: np.ndarray, style: int, trim: np.ndarray, variant: int,
            shape: tuple[float, float], *, shutters: bool) -> np.ndarray:  # fmt: skip
    tile, (wide, tall) = _wall(rng, wall, style), shape
    left, right, top, bottom = 0.5 - wide, 0.5 + wide, 0.48 - tall, 0.48 + tall
    glass = np.array([[0.16, 0.2, 0.26], [0.3, 0.38, 0.46], [0.85, 0.74, 0.45], [0.22, 0.24, 0.26]])[variant]
    _box(tile, (top - 0.05, bottom + 0.05), (left - 0.05, right + 0.05), trim)
    _box(tile, (top, bottom), (left, right), glass)
    if variant in (1, 3):  # curtains
        for side in ((left, left + wide * 0.45), (right - wide * 0.45, right)):
            _box(tile, (top, bottom), side, np.array([0.75, 0.72, 0.66]) * (0.7 + 0.3 * variant / 3))
    _box(tile, (0.47, 0.5), (left, right), trim)
    _box(tile, (top, bottom), (0.485, 0.515), trim)
    _box(tile, (bottom + 0.03, bottom + 0.09), (left - 0.08, right + 0.08), np.clip(trim * 1.15, 0, 1))
    if shutters:
        for side in ((left - 0.15, left - 0.02), (right + 0.02, right + 0.15)):
            _box(tile, (top, bottom), side, trim[::-1] * 0.7)
    return tile


def _shop(rng: np.random.Generator, wall: np.ndarray, style: int, sign: np.ndarray) -> np.ndarray:
    tile = _wall(rng, wall * 0.85, style)
    _box(tile, (0.3, 0.88), (0.06, 0.94), sign * 0.6)
    _box(tile, (0.34, 0.86), (0.1, 0.9), np.array([0.3, 0.32, 0.33]))
    for shelf in range(5):
        left, top = 0.12 + 0.155 * shelf, rng.uniform(0.45, 0.7)
        _box(tile, (top, 0.84), (left, left + rng.uniform(0.06, 0.14)), rng.uniform(0.2, 0.95, 3))
    _box(tile, (0.04, 0.2), (0.0, 1.0), sign)
    for letter in range(6):
        _box(tile, (0.08, 0.16), (0.12 + 0.13 * letter, 0.2 + 0.13 * letter), np.clip(1.1 - sign, 0.1, 1))
    if rng.random() < 0.6:  # an awning
        for stripe in range(8):
            shade = (sign, np.array([0.92, 0.9, 0.86]))[stripe % 2]
            _box(tile, (0.2, 0.36), (stripe / 8, (stripe + 1) / 8), shade)
    return tile


def _door(rng: np.random.Generator, wall: np.ndarray, style: int, trim: np.ndarray) -> np.ndarray:
    tile, door = _wall(rng, wall * 0.85, style), rng.uniform(0.1, 0.5, 3)
    _box(tile, (0.25, 1.0), (0.27, 0.73), trim)
    _box(tile, (0.3, 1.0), (0.32, 0.68), door)
    _box(tile, (0.34, 0.46), (0.37, 0.63), np.array([0.25, 0.3, 0.34]))
    _box(tile, (0.52, 0.7), (0.37, 0.63), door * 0.75)
    _box(tile, (0.75, 0.93), (0.37, 0.63), door * 0.75)
    _box(tile, (0.7, 0.73), (0.61, 0.65), np.array([0.85, 0.75, 0.3]))
    return tile


def _blur(tiles: np.ndarray, size: int) -> np.ndarray:
    """Tiles (…, TILE, TILE, C) in squares of `size` texels."""
    blocks = tiles.reshape(*tiles.shape[:-3], TILE // size, size, TILE // size, size, tiles.shape[-1])
    return blocks.mean(axis=(-4, -2)).repeat(size, axis=-3).repeat(size, axis=-2)
