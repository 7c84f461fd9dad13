"""The miniature's still scenery: sky, road, pavement and house fronts, cast ray by ray.

The street is straight, so a ray's hit on the ground depends on its row only and its hit on a wall on its column only.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

ROAD_HALF_M = 5.0
WALL_M = 9.0  # from the middle of the road to the house fronts
CROSSING_EVERY_M = 48.0
FAR_M = 400.0
_HOUSE_M = 12.0  # mean width of a house
_TILE = 32  # texels of a facade tile's side
_LEVELS = 5
_SHOP, _DOOR, _FIRST_WINDOW, _N_TILES = 0, 1, 2, 6

SKY, ROAD, PAVEMENT, BUILDING = 1, 2, 3, 4  # in miniature.CLASSES


class Camera(NamedTuple):
    """A pinhole camera that looks along the street, turned to the right by `yaw` (radians)."""

    x: float
    y: float  # metres above the ground
    z: float
    yaw: float
    focal: float  # pixels
    horizon: float  # pixel row
    width: int
    height: int


class Light(NamedTuple):
    """The daylight of one moment, colours 0 … 1."""

    sun: np.ndarray  # multiplies every surface
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: float  # 0 … 1
    bearing: float  # of the sun, radians


class Scenery(NamedTuple):
    """What is behind all things."""

    colour: Float[np.ndarray, "Y X 3"]  # 0 … 1, without light
    classes: UInt8[np.ndarray, "Y X"]
    depth: Float[np.ndarray, "Y X"]  # metres; the sky is FAR_M away


class _House(NamedTuple):
    start: float
    height: float
    storey: float
    bay: float
    tiles: np.ndarray  # uint8 (tile, level, row, column, RGB_)


def scenery(seed: int, camera: Camera, light: Light, time_s: float) -> Scenery:
    """Render the empty street."""
    u = (np.arange(camera.width, dtype=np.float32) + 0.5 - camera.width / 2) / camera.focal
    v = (np.arange(camera.height, dtype=np.float32) + 0.5 - camera.horizon) / camera.focal
    east, north = u * np.cos(camera.yaw) + np.sin(camera.yaw), np.cos(camera.yaw) - u * np.sin(camera.yaw)
    east = np.where(np.abs(east) < 1e-4, 1e-4, east)
    to_wall = np.minimum((np.sign(east) * WALL_M - camera.x) / east, FAR_M)
    to_ground = np.where(v > 1e-4, camera.y / np.maximum(v, 1e-4), FAR_M)
    is_ground = (to_ground[:, None] < to_wall) & (to_ground[:, None] < FAR_M)

    colour = _sky(seed, np.arctan2(east, north), v, light, time_s)
    classes = np.full(is_ground.shape, SKY, np.uint8)
    depth = np.full(is_ground.shape, FAR_M, np.float32)
    _paint_houses(seed, camera, v, east, north, to_wall, ~is_ground, (colour, classes, depth))
    _paint_ground(seed, camera, east, north, to_ground, is_ground, (colour, classes, depth))
    return Scenery(colour, classes, depth)


def _sky(seed: int, bearing: np.ndarray, v: np.ndarray, light: Light, time_s: float) -> np.ndarray:
    up = np.clip(-v / 0.7, 0, 1)[:, None]
    # Clouds lie on a plane above, so they gather towards the horizon.
    row = (40 / (up[:, 0] + 0.12)).astype(np.int32) % 256
    column = ((bearing * 90 + time_s * 1.5).astype(np.int32)) % 256
    cloud = (_noise(seed + 17, 256, 24)[row][:, column] * 2.2 - 0.7 - (1 - light.clouds)).clip(0, 1) * (
        0.35 + 0.65 * up
    )
    clear = light.horizon * (1 - up[..., None]) + light.zenith * up[..., None]
    return (clear + cloud[..., None] * (np.float32(0.95) - clear)).astype(np.float32)


def _paint_ground(seed: int, camera: Camera, east: np.ndarray, north: np.ndarray, to_ground: np.ndarray,
                  where: np.ndarray, layers: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:  # fmt: skip
    top = int(where.any(axis=1).argmax()) if where.any() else len(to_ground)
    t, inside = to_ground[top:, None].astype(np.float32), where[top:]
    x, z = camera.x + t * east.astype(np.float32), np.float32(camera.z % 9600) + t * north.astype(np.float32)
    footprint = (t * t / (camera.y * camera.focal))[:, 0]  # metres of street in one pixel's row
    blur = np.maximum(0.02, footprint)[:, None]

    grain = _noise(seed + 3, 128, 2)[(z * 16).astype(np.int32) % 128, (x * 16).astype(np.int32) % 128]
    patches = _noise(seed + 5, 128, 16)[(z * 4).astype(np.int32) % 128, (x * 4).astype(np.int32) % 128]
    fade = np.clip(0.09 / footprint, 0, 1)[:, None].astype(np.float32)
    shade = 1 + (grain - 0.5) * 0.5 * fade + (patches - 0.5) * 0.25
    is_road = np.abs(x) < ROAD_HALF_M
    level = np.where(is_road, np.float32(0.3), np.float32(0.56)) * shade

    def stripe(distance: np.ndarray, half: float) -> np.ndarray:
        return np.clip((half - np.abs(distance)) / blur + 0.5, 0, 1)

    joints = np.maximum(stripe((x + 0.5) % 1 - 0.5, 0.03), stripe((z + 0.5) % 1 - 0.5, 0.03)) * fade
    dashes = stripe(x, 0.08) * stripe((z % 6) - 1.5, 1.5)
    zebra = stripe(z % CROSSING_EVERY_M - CROSSING_EVERY_M / 2, 1.6) * stripe(x % 1 - 0.5, 0.25)
    paint = np.where(is_road, np.maximum(dashes, zebra) * 0.8, 0)
    kerb = stripe(np.abs(x) - ROAD_HALF_M - 0.12, 0.12)
    level = level * (1 - 0.35 * np.where(is_road, 0, joints))
    level = level + (np.float32(0.85) - level) * paint + (np.float32(0.68) - level) * kerb
    tint = np.array([1.0, 0.98, 0.95], np.float32)
    layers[0][top:][inside] = level[inside][:, None] * tint
    layers[1][top:][inside] = np.where(is_road, ROAD, PAVEMENT)[inside]
    layers[2][top:][inside] = np.broadcast_to(t, inside.shape)[inside]


def _paint_houses(seed: int, camera: Camera, v: np.ndarray, east: np.ndarray, north: np.ndarray, to_wall: np.ndarray,
                  where: np.ndarray, layers: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:  # fmt: skip
    z = camera.z + to_wall * north
    slots = range(int((camera.z - 20) // _HOUSE_M), int((camera.z + 160) // _HOUSE_M))
    houses = [[_house(seed, side, slot) for slot in slots] for side in (0, 1)]
    side = (east > 0).astype(np.int32)
    starts = np.array([[house.start for house in row] for row in houses])
    index = np.where(side == 0, np.searchsorted(starts[0], z), np.searchsorted(starts[1], z)) - 1
    index = np.clip(index, 0, len(slots) - 1) + side * len(slots)
    street = [house for row in houses for house in row]
    size = np.array([(h.height, h.storey, h.bay, h.start) for h in street], np.float32)[index]
    roof, storey, bay, start = size.T

    wall_height = camera.y - v[:, None] * to_wall
    inside = where & (wall_height < roof) & (to_wall < FAR_M)
    rows, columns = np.nonzero(inside)
    high = wall_height[rows, columns] / storey[columns]
    along = (z - start) / bay
    # A facade is a mirror image on the left, so that its tiles are not all seen from the same side.
    texel = ((along % 1) * _TILE).astype(np.int32)[columns]
    floor = np.maximum(high, 0).astype(np.int32)
    cell = (np.floor(along).astype(np.int32) * 7 + index * 13)[columns]
    is_shop = floor == 0
    tile = np.where(is_shop, np.where(cell % 4 == 0, _DOOR, _SHOP), _FIRST_WINDOW + (cell * 31 + floor * 17) // 5 % 4)
    step = np.abs(np.gradient(z)) / bay * _TILE  # texels a pixel
    level = np.clip(np.round(np.log2(np.maximum(np.minimum(step, to_wall / camera.focal * 12), 1))), 0, _LEVELS - 1)
    texel_row = np.clip(((1 - high % 1) * _TILE).astype(np.int32), 0, _TILE - 1)
    tiles = np.stack([house.tiles for house in street]).view(np.uint32)[..., 0]
    packed = tiles[index[columns], tile, level.astype(np.int32)[columns], texel_row, texel]
    rgb = packed.view(np.uint8).reshape(-1, 4)[:, :3] / np.float32(255)
    shade = np.where(side == 0, np.float32(1.0), np.float32(0.82))[columns]
    cornice = (roof[columns] - wall_height[rows, columns]) < 0.35
    layers[0][rows, columns] = rgb * np.where(cornice, shade * np.float32(0.75), shade)[:, None]
    layers[1][rows, columns] = BUILDING
    layers[2][rows, columns] = to_wall[columns]


@lru_cache(maxsize=512)
def _house(seed: int, side: int, slot: int) -> _House:
    rng = np.random.default_rng((seed, 101, side, slot % (1 << 31)))
    start = slot * _HOUSE_M + rng.uniform(-3, 3)
    storey, n_storeys = rng.uniform(2.9, 3.8), int(rng.integers(2, 7))
    wall = np.clip(rng.uniform(0.35, 0.85) + rng.uniform(-0.16, 0.16, 3) * np.array([1, 0.5, 1]), 0.1, 0.95)
    style = int(rng.integers(4))
    trim = np.clip(wall * rng.choice([0.55, 1.35]), 0, 1)
    sign = np.clip(rng.uniform(0.1, 0.8, 3), 0, 1)
    tiles = [_shop(rng, wall, style, sign), _door(rng, wall, style, trim)]
    shutters = rng.random() < 0.3
    shape = rng.uniform(0.22, 0.34), rng.uniform(0.28, 0.4)
    tiles += [_window(rng, wall, style, trim, variant, shape, shutters=shutters) for variant in range(4)]
    levels = [np.stack([_blur(tile, 2**level) for level in range(_LEVELS)]) for tile in tiles]
    rgb = np.clip(np.stack(levels) * 255, 0, 255).astype(np.uint8)
    packed = np.concatenate([rgb, np.zeros_like(rgb[..., :1])], axis=-1)
    return _House(start, storey * n_storeys + 0.6, storey, rng.uniform(2.0, 3.4), packed)


def _wall(rng: np.random.Generator, wall: np.ndarray, style: int) -> np.ndarray:
    tile = np.ones((_TILE, _TILE, 3)) * wall
    tile *= 1 + rng.normal(0, 0.025, (_TILE, _TILE, 1))
    if style == 0:  # bricks
        rows = np.arange(_TILE)
        tile[rows % 3 == 2] *= 0.82
        for row in rows:
            tile[row, (np.arange(_TILE) + 3 * (row // 3 % 2)) % 6 == 5] *= 0.88
    elif style == 1:  # cut stone
        tile[::8] *= 0.8
    elif style == 2:  # boards
        tile[:, ::4] *= 0.85
    return tile


def _box(tile: np.ndarray, rows: tuple[float, float], columns: tuple[float, float], colour: np.ndarray) -> None:
    r, c = [round(_TILE * x) for x in rows], [round(_TILE * x) for x in columns]
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


def _blur(tile: np.ndarray, size: int) -> np.ndarray:
    for axis in (0, 1):
        tile = np.mean([np.roll(tile, shift, axis) for shift in range(-(size // 2), size - size // 2)], axis=0)
    return tile


@lru_cache(maxsize=64)
def _noise(seed: int, size: int, smooth: int) -> Float[np.ndarray, "N N"]:
    """Noise from 0 to 1 that repeats without a seam, smoothed over `smooth` texels."""
    rng = np.random.default_rng((seed, size, smooth))
    total = np.zeros((size, size))
    while smooth >= 1:
        spectrum = np.fft.fft2(rng.normal(size=(size, size)))
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
        layer = np.fft.ifft2(spectrum * np.exp(-((frequency * smooth * 2) ** 2))).real
        total += layer / layer.std() * smooth
        smooth //= 2
    ranks = np.clip(0.5 + total / total.std() / 5, 0, 1)
    return ranks.astype(np.float32)
