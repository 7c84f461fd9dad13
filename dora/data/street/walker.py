"""The walker whose eye the camera is: where they go and where they look."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.layout import Camera, phases

FOCAL_PER_WIDTH = 0.72
WALKER_X = 6.85  # of the way, on average
_WALK_M_S = 1.3
_STEPS_PER_S = 1.8
_GLANCE_S = 8.0


class Whereabouts(NamedTuple):
    """Where the walker is, metres, and how fast, metres a second along the street."""

    x: float
    z: float
    speed: float


def whereabouts(seed: int, time_s: float) -> Whereabouts:
    """The walker's way along the right pavement, a little to and fro, now faster and now slower."""
    phase = phases(seed, 7)
    return Whereabouts(
        x=WALKER_X + 0.3 * math.sin(time_s / 11 + phase[0]) + 0.12 * math.sin(time_s / 3.7 + phase[1]),
        z=_start(seed) + _WALK_M_S * (time_s + 3 * math.sin(time_s / 9 + phase[2])),
        speed=_WALK_M_S * (1 + math.cos(time_s / 9 + phase[2]) / 3),
    )


def walker(seed: int, time_s: float, *, width: int, height: int) -> Camera:
    """The walker's eye: it sways and bobs with each step and looks about."""
    yaw, down = _gaze(seed, time_s)
    here, phase = whereabouts(seed, time_s), phases(seed, 7)
    step = 2 * np.pi * _STEPS_PER_S * time_s
    return Camera(
        x=float(here.x + 0.015 * np.sin(step / 2)),
        y=float(1.65 + 0.025 * np.sin(step)),
        z=here.z,
        yaw=yaw,
        focal=FOCAL_PER_WIDTH * width,
        horizon=float(height * (0.46 - down + 0.02 * np.sin(time_s / 4.1 + phase[5]) + 0.004 * np.sin(step))),
        width=width,
        height=height,
        turning=(_gaze(seed, time_s + 0.01)[0] - _gaze(seed, time_s - 0.01)[0]) / 0.02,
    )


@lru_cache(maxsize=64)
def _start(seed: int) -> float:
    """Where in the endless street the tour begins, metres."""
    return float(np.random.default_rng((seed, 13)).uniform(0, 1e4))


def _gaze(seed: int, time_s: float) -> tuple[float, float]:
    """Where the walker looks: radians to the right, and down as a share of the picture.

    The head turns slowly, and in most stretches of _GLANCE_S seconds it turns once to a shop front or over the street,
    or down at what is at its feet, stays for a moment and comes back.
    """
    phase = phases(seed, 7)
    yaw = -0.1 + 0.15 * np.sin(time_s / 7.3 + phase[3]) + 0.05 * np.sin(time_s / 2.9 + phase[4])
    stretch, into = divmod(time_s, _GLANCE_S)
    glance = _glance(seed, int(stretch))
    turned = _eased((into - glance.start_s) / 1.2) - _eased((into - glance.stop_s + 1.3) / 1.3)
    return float(yaw + glance.aside * turned), glance.down * turned


class _Glance(NamedTuple):
    """One turn of the head, in one stretch of _GLANCE_S seconds."""

    aside: float  # radians
    down: float  # share of the picture
    start_s: float
    stop_s: float


@lru_cache(maxsize=64)
def _glance(seed: int, stretch: int) -> _Glance:
    rng = np.random.default_rng((seed, 9, stretch % (1 << 31)))
    aside = float(rng.choice([0.0, 0.0, 0.3, 0.5, -0.4, -0.6]) * rng.uniform(0.8, 1.15))
    down = float(rng.choice([0.03, 0.1, 0.18]))
    return _Glance(aside, down, float(rng.uniform(0.2, 1.5)), float(rng.uniform(5.0, _GLANCE_S - 0.2)))


def _eased(share: float) -> float:
    """From 0 to 1, starting and ending at rest."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)
