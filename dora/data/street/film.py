"""A painted scene becomes a picture: light and haze, a lens that is not quite sharp, a sensor that is never still."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, UInt8

from dora.data.street.layout import SKY, Camera, Layers, Light, phases

_EXPOSURE_S = 1 / 90
_GRAIN_MARGIN = 64
_HAZE_M, _LEAST_CLEAR = 110, 0.1  # colour fades to a third over so many metres, and never quite


def develop(layers: Layers, light: Light, seed: int, camera: Camera, time_s: float) -> UInt8[np.ndarray, "Y X 3"]:
    """Light, haze (what is far fades into the horizon's colour), the lens's blur and the sensor's noise."""
    spread, grain = _lens(seed, camera, time_s), _grain(seed, camera, time_s)
    is_sky = layers.classes == SKY
    clear = np.float32(_LEAST_CLEAR) + np.float32(1 - _LEAST_CLEAR) * np.exp(layers.depth * np.float32(-1 / _HAZE_M))
    image = np.empty((*layers.depth.shape, 3), np.uint8)
    for index, (plane, sun, horizon) in enumerate(zip(layers.colour, light.sun, light.horizon, strict=True)):
        lit = (plane * sun - horizon) * clear + horizon
        np.copyto(lit, plane, where=is_sky)
        spread_out = _blurred(_blurred(lit, spread[0]).T, spread[1]).T
        spread_out *= np.float32(255)
        spread_out += grain[index]
        image[..., index] = np.clip(spread_out, 0, 255, out=spread_out)
    return image


def _lens(seed: int, camera: Camera, time_s: float) -> tuple[float, float]:
    """How far a point spreads in the picture, pixels to either side across and down.

    The lens's sharpness drifts; a head that turns smears the picture sideways.
    """
    soft = (0.2 + 0.14 * np.sin(time_s / 8.7 + phases(seed, 10)[0])) * max(camera.width / 480, 0.5)
    return float(soft + abs(camera.turning) * _EXPOSURE_S * camera.focal / 2), float(soft)


def _grain(seed: int, camera: Camera, time_s: float) -> Float32[np.ndarray, "C Y X"]:
    """The sensor's noise at one moment, in steps of 255: a part of a larger pattern, chosen by the time."""
    rng = np.random.default_rng((seed, 11, round(time_s * 1000) % (1 << 31)))
    left, top = (int(offset) for offset in rng.integers(0, _GRAIN_MARGIN, 2))
    return _sensor(seed, camera.width, camera.height)[:, top : top + camera.height, left : left + camera.width]


@lru_cache(maxsize=4)
def _sensor(seed: int, width: int, height: int) -> Float32[np.ndarray, "C Y X"]:
    shape = (3, height + _GRAIN_MARGIN, width + _GRAIN_MARGIN)
    noise = np.random.default_rng((seed, 12)).standard_normal(shape, np.float32)
    return np.float32(1.7) * noise + np.float32(0.5)  # half a step, so that what follows rounds


def _blurred(plane: Float32[np.ndarray, "Y X"], radius: float) -> Float32[np.ndarray, "Y X"]:
    """The mean over 2 radius + 1 pixels across, a fraction of the outermost two; the edge pixels go on for ever."""
    share = plane * np.float32(1 / (2 * radius + 1))
    total = share.copy(order="K")
    for shift in range(1, int(np.ceil(radius)) + 1):
        part = share * np.float32(radius - shift + 1) if shift > radius else share
        total[:, shift:] += part[:, :-shift]
        total[:, :shift] += part[:, :1]
        total[:, :-shift] += part[:, shift:]
        total[:, -shift:] += part[:, -1:]
    return total
