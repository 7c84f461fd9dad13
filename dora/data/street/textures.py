"""Patterns of brightness, drawn once."""

import numpy as np
from jaxtyping import Float32

(PLAIN, LEAVES, STRIPES, CHECKS, DOTS, GLASS, WOOD, BARK, FUR, FEATHERS, METAL, NEEDLES, PLAID, SLATS, TABBY, PATCHES,
 BLOSSOM, RUBBER, WOVEN, CANVAS, BRICKS) = range(21)  # fmt: skip
_SIZE, _UNITS = 64, 32  # texels of a side; what the patterns below count in


def noise(seed: int, size: int, smooth: int) -> Float32[np.ndarray, "N N"]:
    """Noise from 0 to 1 that repeats without a seam, in blobs of up to `smooth` texels."""
    rng = np.random.default_rng((seed, size, smooth))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    total = np.zeros((size, size))
    while smooth >= 1:
        spectrum = np.fft.fft2(rng.normal(size=(size, size)))
        layer = np.fft.ifft2(spectrum * np.exp(-((frequency * smooth * 2) ** 2))).real
        total += layer / layer.std() * smooth
        smooth //= 2
    return np.clip(0.5 + total / total.std() / 5, 0, 1).astype(np.float32)


def _textures() -> Float32[np.ndarray, "N Y X"]:
    """Brightness patterns for things, in the order of the names above."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_SIZE, :_SIZE] * (_UNITS / _SIZE)
    grain = rng.normal(0, 1, (_SIZE, _SIZE))
    blobs = noise(1, _SIZE, 16)
    patterns = [
        1 + 0.03 * grain,
        _scattered(rng, 260, (1.2, 3.4), (0.6, 1.35)),
        np.where(y // 4 % 2, 1.2, 0.7),
        np.where((x // 4 + y // 4) % 2, 1.2, 0.65),
        np.where(((x % 8) - 4) ** 2 + ((y % 8) - 4) ** 2 < 6, 1.5, 0.85),
        0.8 + 0.9 * np.exp(-(((x + y - _UNITS) / 7.0) ** 2)) + 0.5 * (1 - y / _UNITS),
        np.where(y % 8 >= 7, 0.55, 1 + 0.1 * np.sin(x * 0.9 + y // 8)),
        0.85 + 0.3 * np.sin(x * 1.6 + 1.5 * blobs) + 0.1 * grain,
        0.95 + 0.22 * np.sin(x * 0.9 + 5 * blobs) + 0.16 * grain - 0.12 * (y / _UNITS - 0.5),
        0.85 + 0.3 * (((y + 3 * (x // 6 % 2)) % 6) / 5.0) - 0.25 * (x % 6 < 1),
        0.75 + 0.65 * np.exp(-(((x - _UNITS * 0.35) / 6.0) ** 2)) - 0.2 * (x / _UNITS),
        np.where((y + 1.6 * np.abs(x % 6 - 3)) % 5 < 2.2, 0.68, 1.12) + 0.1 * grain,
        0.8 + 0.25 * (x // 5 % 2) + 0.25 * (y // 5 % 2) - 0.25 * ((x % 10 < 1) | (y % 10 < 1)),
        np.where(x % 5 >= 4, 0.4, 1.08),
        np.where(np.sin(x * 0.75 + 2.5 * np.sin(y * 0.25)) > 0.25, 0.5, 1.12) + 0.08 * grain,
        np.where(blobs > 0.56, 0.28, 1.1) + 0.06 * grain,
        _scattered(rng, 400, (1.0, 2.6), (0.75, 1.2)),
        np.where((x + y) % 4 < 1, 1.9, 1.0),
        np.where((x // 2 + y // 2) % 2, 1.1, 0.8) - 0.15 * (y % 4 >= 3),
        0.97 + 0.1 * np.sin(x * 0.4) + 0.03 * grain,
        np.where((y % 6 >= 5) | ((x + 5 * (y // 6 % 2)) % 10 >= 9), 1.25, 0.95) + 0.05 * grain,
    ]
    return np.stack(patterns).astype(np.float32)


def _scattered(
    rng: np.random.Generator, n_discs: int, radii: tuple[float, float], shades: tuple[float, float]
) -> np.ndarray:
    y, x = np.mgrid[:_SIZE, :_SIZE]
    pattern = np.ones((_SIZE, _SIZE))
    for _ in range(n_discs):
        cx, cy, r = rng.uniform(0, _SIZE), rng.uniform(0, _SIZE), rng.uniform(*radii)
        pattern[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(*shades)
    return pattern


TEXTURES = _textures()
