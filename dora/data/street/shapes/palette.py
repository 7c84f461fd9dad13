"""Colours, drawn from ranges so broad and alike that none of them gives a class away."""

import colorsys

import numpy as np

_COATS = np.array([
    (0.93, 0.91, 0.87), (0.08, 0.08, 0.09), (0.45, 0.45, 0.46), (0.72, 0.55, 0.36), (0.38, 0.25, 0.16),
    (0.8, 0.46, 0.2), (0.86, 0.76, 0.6), (0.6, 0.58, 0.55), (0.24, 0.2, 0.19), (0.62, 0.36, 0.2),
])  # fmt: skip
_LEAVES = np.array([
    (0.3, 0.48, 0.16), (0.2, 0.38, 0.17), (0.44, 0.54, 0.2), (0.28, 0.4, 0.26), (0.82, 0.68, 0.16), (0.85, 0.48, 0.14),
    (0.68, 0.2, 0.14), (0.5, 0.16, 0.24), (0.94, 0.68, 0.76), (0.93, 0.91, 0.88),
])  # fmt: skip


def any_colour(rng: np.random.Generator) -> np.ndarray:
    """Paint, plastic or cloth: any hue, or white, grey or black."""
    if rng.random() < 0.3:
        return np.clip(rng.choice([0.07, 0.2, 0.45, 0.7, 0.93]) + rng.uniform(-0.04, 0.04, 3), 0.03, 0.97)
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.95), rng.uniform(0.3, 0.97))
    return np.array(rgb)


def against(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something that can be told from `colour`: light on dark, dark on light, or a third of the time any hue."""
    other = any_colour(rng) if rng.random() < 0.35 else np.full(3, rng.uniform(0.85, 0.97))
    return other if abs(other.mean() - colour.mean()) > 0.25 else np.full(3, 0.06 if colour.mean() > 0.45 else 0.93)


def coat(rng: np.random.Generator) -> np.ndarray:
    """Fur, feathers or hair: white, black, grey, tan, brown, ginger and what lies between."""
    return np.clip(_COATS[int(rng.integers(len(_COATS)))] * rng.uniform(0.8, 1.12), 0.04, 0.97)


def skin(rng: np.random.Generator) -> np.ndarray:
    """Skin from pale to dark."""
    return np.array([0.92, 0.74, 0.62]) * rng.uniform(0.35, 1.05) ** np.array([0.6, 0.9, 1.0])


def leaf(rng: np.random.Generator) -> np.ndarray:
    """Leaves of any season: greens half the time, else yellow, orange, red, purple, or blossom in pink and white."""
    index = int(rng.integers(4)) if rng.random() < 0.5 else int(rng.integers(4, len(_LEAVES)))
    return np.clip(_LEAVES[index] * rng.uniform(0.75, 1.15) + rng.uniform(-0.04, 0.04, 3), 0.04, 0.97)


def bark(rng: np.random.Generator) -> np.ndarray:
    """Bark: brown, grey, or a birch's white."""
    return np.array([(0.36, 0.27, 0.19), (0.42, 0.4, 0.37), (0.24, 0.2, 0.17), (0.8, 0.78, 0.74)])[
        int(rng.integers(4))
    ] * rng.uniform(0.75, 1.15)
