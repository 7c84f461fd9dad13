"""Light and colour of a picture in CIELAB."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2 degrees, for a Y of 1
# sRGB primaries (IEC 61966-2-1), which are BT.709's: linear red, green, blue to X, Y, Z.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


class Light(NamedTuple):
    """Of one picture: means over its pixels."""

    lightness: float  # L*, 0 black to 100 white
    contrast: float  # standard deviation of L*
    chroma: float  # C*, 0 grey
    colour: tuple[int, int, int]  # mean red, green, blue, as stored


def light(pixels: UInt8[np.ndarray, "Y X 3"]) -> Light:
    """Mean lightness and colour of an sRGB picture."""
    lab = cielab(pixels)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    red, green, blue = pixels.reshape(-1, 3).mean(0).round().astype(int).tolist()
    return Light(float(lab[..., 0].mean()), float(lab[..., 0].std()), float(chroma.mean()), (red, green, blue))


def cielab(pixels: UInt8[np.ndarray, "Y X 3"]) -> Float64[np.ndarray, "Y X 3"]:
    """L*, a*, b* of every pixel (CIE 1976, D65)."""
    share = (_LINEAR[pixels] @ _TO_XYZ.T) / _WHITE
    bent = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
