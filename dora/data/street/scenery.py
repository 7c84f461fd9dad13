"""The still scenery: sky, road, pavement and house fronts, cast ray by ray.

The street is straight, so how far a ray goes to the ground depends on its row only, and to a wall on its column only.
Colours are kept as planes (C Y X): numpy is several times faster along rows than across three colours.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, UInt8

from dora.data.street.houses import DOOR, FIRST_WINDOW, HOUSE_M, N_LEVELS, N_TILES, SHOP, TILE, row_of_houses
from dora.data.street.layout import (
    BUILDING,
    CROSSING_EVERY_M,
    FAR_M,
    PAVEMENT,
    ROAD,
    ROAD_HALF_M,
    SKY,
    WALL_M,
    Camera,
    Layers,
    Light,
)  # fmt: skip
from dora.data.street.textures import noise

_TEXELS_PER_M = 32  # of the ground's picture, at its finest


def scenery(seed: int, camera: Camera, light: Light, time_s: float) -> Layers:
    """Render the empty street."""
    u = ((np.arange(camera.width) + 0.5 - camera.width / 2) / camera.focal).astype(np.float32)
    v = ((np.arange(camera.height) + 0.5 - camera.horizon) / camera.focal).astype(np.float32)
    sin, cos = np.float32(np.sin(camera.yaw)), np.float32(np.cos(camera.yaw))
    east, north = u * cos + sin, cos - u * sin
    east[np.abs(east) < 1e-4] = 1e-4
    to_wall = np.minimum((np.sign(east) * np.float32(WALL_M) - np.float32(camera.x)) / east, np.float32(FAR_M))
    to_ground = np.where(v > 1e-4, np.float32(camera.y) / np.maximum(v, np.float32(1e-4)), np.float32(FAR_M))
    is_ground = to_ground[:, None] < to_wall

    shape = (camera.height, camera.width)
    layers = Layers(
        np.empty((3, *shape), np.float32), np.full(shape, SKY, np.uint8), np.zeros(shape, np.int32),
        np.full(shape, FAR_M, np.float32),
    )  # fmt: skip
    _paint_sky(seed, np.arctan2(east, north), v, light, time_s, layers)
    _paint_houses(seed, camera, v, north, east > 0, to_wall, ~is_ground, layers)
    _paint_ground(seed, camera, east, north, to_ground, is_ground, layers)
    return layers


def _paint_sky(
    seed: int, bearing: np.ndarray, v: np.ndarray, light: Light, time_s: float, layers: Layers
) -> None:  # fmt: skip
    n_rows = int((v < 0).sum())
    up = np.clip(-v[:n_rows] / np.float32(0.7), 0, 1)
    # Clouds lie on a plane above, so they gather towards the horizon.
    row = (40 / (up + 0.12)).astype(np.int32) & 255
    column = (bearing * 90 + time_s * 1.5).astype(np.int32) & 255
    cover = _clouds(seed)[row[:, None], column] - np.float32(1.7 - light.clouds)
    cloud = np.clip(cover, 0, 1) * (np.float32(0.35) + np.float32(0.65) * up)[:, None]
    for plane, zenith, horizon in zip(layers.colour, light.zenith, light.horizon, strict=True):
        clear = (horizon + (zenith - horizon) * up)[:, None]
        plane[:n_rows] = clear + cloud * (np.float32(0.95) - clear)
        plane[n_rows:] = horizon


def _paint_ground(seed: int, camera: Camera, east: np.ndarray, north: np.ndarray, to_ground: np.ndarray,
                  where: np.ndarray, layers: Layers) -> None:  # fmt: skip
    top = int(where.any(axis=1).argmax()) if where.any() else len(to_ground)
    footprint = to_ground**2 / np.float32(camera.y * camera.focal)  # metres of street in one row of pixels
    textures = _ground(seed)
    finest = np.log2(np.maximum(footprint * np.float32(_TEXELS_PER_M / 2), 1))
    level = np.minimum(np.round(finest).astype(np.int32), len(textures) - 1)
    start_z = np.float32(camera.z % CROSSING_EVERY_M)
    for step in range(len(textures)):
        rows = np.flatnonzero(level[top:] == step) + top
        if not len(rows):
            continue
        band, inside = slice(rows[0], rows[-1] + 1), where[rows[0] : rows[-1] + 1]
        texture, scale = textures[step], np.float32(_TEXELS_PER_M / 2**step)
        t = to_ground[band, None]
        x = np.float32(camera.x) + t * east
        texel_x = np.clip((x + np.float32(WALL_M)) * scale, 0, texture.shape[1] - 1).astype(np.int32)
        texel_z = ((start_z + t * north) * scale).astype(np.int32) % texture.shape[0]
        grey = texture.ravel()[texel_z * texture.shape[1] + texel_x] * np.float32(1 / 255)
        for plane, tint in zip(layers.colour, _stone(seed), strict=True):
            np.copyto(plane[band], grey * np.float32(tint), where=inside)
        is_road = np.abs(x) < ROAD_HALF_M
        np.copyto(layers.classes[band], np.where(is_road, np.uint8(ROAD), np.uint8(PAVEMENT)), where=inside)
        np.copyto(layers.depth[band], t, where=inside)


@lru_cache(maxsize=8)
def _stone(seed: int) -> tuple[float, ...]:
    """The tint of a street's asphalt and slabs: greyish, reddish, yellowish or bluish."""
    return tuple(np.random.default_rng((seed, 15)).uniform(0.86, 1.04, 3).tolist())


@lru_cache(maxsize=8)
def _ground(seed: int) -> list[UInt8[np.ndarray, "Z X"]]:
    """The ground of one stretch of street from zebra crossing to zebra crossing, each level half as fine."""
    n = _TEXELS_PER_M
    z, x = (np.arange(CROSSING_EVERY_M * n) + 0.5)[:, None] / n, (np.arange(int(2 * WALL_M) * n) + 0.5) / n - WALL_M
    repeats = (CROSSING_EVERY_M * n // 128, -(-len(x) // 128))
    grain = np.tile(noise(seed + 3, 128, 2), repeats)[:, : len(x)]
    patches = np.kron(np.tile(noise(seed + 5, 128, 16), (2, 2))[:, : len(x) // 4], np.ones((4, 4)))
    is_road = np.abs(x) < ROAD_HALF_M
    asphalt, slabs = np.random.default_rng((seed, 16)).uniform((0.24, 0.42), (0.4, 0.64))
    grey = np.where(is_road, asphalt, slabs) * (1 + (grain - 0.5) * 0.4 + (patches - 0.5) * 0.3)
    joints = (np.minimum(x % 1, 1 - x % 1) < 0.03) | (np.minimum(z % 1, 1 - z % 1) < 0.03)
    grey = np.where(~is_road & joints, grey * 0.65, grey)
    dashes = (np.abs(x) < 0.08) & (z % 4 < 2)
    zebra = (np.abs(z - CROSSING_EVERY_M / 2) < 1.6) & (np.abs(x % 1 - 0.5) < 0.25)
    grey = np.where(is_road & (dashes | zebra), 0.3 * grey + 0.6, grey)
    grey = np.where(np.abs(np.abs(x) - ROAD_HALF_M - 0.12) < 0.12, 0.68, grey)
    levels = [np.clip(grey * 255, 0, 255)]
    while levels[-1].shape[1] > 18:
        finer = levels[-1]
        levels.append(finer.reshape(finer.shape[0] // 2, 2, finer.shape[1] // 2, 2).mean(axis=(1, 3)))
    return [level.astype(np.uint8) for level in levels]


def _paint_houses(seed: int, camera: Camera, v: np.ndarray, north: np.ndarray, on_right: np.ndarray,
                  to_wall: np.ndarray, where: np.ndarray, layers: Layers) -> None:  # fmt: skip
    z = camera.z + to_wall.astype(np.float64) * north
    street = row_of_houses(seed, int(camera.z // HOUSE_M))
    n_left = len(street.starts[0])
    index = np.where(on_right, np.searchsorted(street.starts[1], z), np.searchsorted(street.starts[0], z)) - 1
    index = np.clip(index, 0, n_left - 1) + on_right * n_left
    roof, storey, bay, start, variety = street.sizes[index].T

    # Columns know their house, bay and texel; rows add storey and height.
    along = (z - start) / bay
    cell = np.floor(along).astype(np.int32) * 7 + variety.astype(np.int32)
    step = np.maximum(np.abs(np.gradient(z)) / bay * TILE, 1)  # texels a pixel, along the wall
    level = np.clip(np.round(np.log2(np.minimum(step, np.maximum(to_wall / camera.focal * 12, 1)))), 0, N_LEVELS - 1)
    base = index * N_TILES * N_LEVELS + level.astype(np.int32)
    base = (base * TILE * TILE + ((along % 1) * TILE).astype(np.int32)).astype(np.int32)
    ground_tile = np.where(cell % 4 == 0, DOOR, SHOP).astype(np.int32)

    n_rows = int(where.any(axis=1).sum())
    high = (camera.y / storey).astype(np.float32) - v[:n_rows, None] * (to_wall / storey).astype(np.float32)
    inside = where[:n_rows] & (high < (roof / storey).astype(np.float32)) & (to_wall < FAR_M)
    floor = np.maximum(high, 0).astype(np.int32)
    texel_row = np.clip((TILE * (1 + floor - high)).astype(np.int32), 0, TILE - 1)
    window = FIRST_WINDOW + (((cell * 31).astype(np.int32) + floor * 17) >> 2 & 3)
    tile = np.where(floor == 0, ground_tile, window)
    packed = np.take(street.tiles, base + (tile * (N_LEVELS * TILE) + texel_row) * TILE)

    shade = np.where(on_right, np.float32(0.82), np.float32(1)) / np.float32(255)
    cornice = high > ((roof - 0.35) / storey).astype(np.float32)
    shade = np.where(cornice, np.float32(0.75) * shade, shade)
    texels = packed.view(np.uint8).reshape(*packed.shape, 4)
    for colour, plane in enumerate(layers.colour):
        np.multiply(texels[..., colour], shade, out=plane[:n_rows], where=inside)
    np.copyto(layers.classes[:n_rows], np.uint8(BUILDING), where=inside)
    np.copyto(layers.depth[:n_rows], to_wall, where=inside)


@lru_cache(maxsize=8)
def _clouds(seed: int) -> Float32[np.ndarray, "N N"]:
    return noise(seed + 17, 256, 24) * np.float32(2.2)
