import numpy as np
from jaxtyping import Float32

PLAIN, LEAVES, STRIPES, CHECKS, DOTS, GLASS, WOOD, BARK = range(8)
_SIZE = 32


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
    y, x = np.mgrid[:_SIZE, :_SIZE]
    leaves = np.ones((_SIZE, _SIZE))
    for _ in range(90):
        cx, cy, r = rng.uniform(0, _SIZE), rng.uniform(0, _SIZE), rng.uniform(1.2, 2.6)
        leaves[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0.6, 1.35)
    patterns = [
        1 + rng.normal(0, 0.03, (_SIZE, _SIZE)),
        leaves,
        np.where(y // 4 % 2, 1.15, 0.75),
        np.where((x // 4 + y // 4) % 2, 1.2, 0.7),
        np.where(((x % 8) - 4) ** 2 + ((y % 8) - 4) ** 2 < 6, 1.5, 0.9),
        0.8 + 0.9 * np.exp(-(((x + y - _SIZE) / 7.0) ** 2)) + 0.5 * (1 - y / _SIZE),
        np.where(y % 8 == 7, 0.55, 1 + 0.1 * np.sin(x * 0.9 + y // 8)),
        0.85 + 0.3 * np.sin(x * 1.6) + rng.normal(0, 0.1, (_SIZE, _SIZE)),
    ]
    return np.stack(patterns).astype(np.float32)


TEXTURES = _textures()
