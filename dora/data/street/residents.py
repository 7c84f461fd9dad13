"""Who is where and when: everything that stands, walks or drives in the street.

Things live in slots along the street that move together, a stream; who is in a slot is drawn from the seed. So any
moment can be rendered without the ones before, and a thing keeps its identity for ever.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.layout import CROSSING_EVERY_M, Camera

NEAR_M, HORIZON_M = 0.7, 75.0  # things are drawn between these distances
_LONGEST_M = 12.0


class _Stream(NamedTuple):
    kinds: tuple[str, ...]  # one is drawn for each slot
    spacing: float  # metres from slot to slot
    x: tuple[float, float]
    speed: float = 0.0  # metres a second along the street
    presence: float = 0.7  # share of the slots in use
    jitter: float = 0.35  # of the spacing
    heading: float = 0.0  # radians; 0 looks along the street


_BACK = math.pi
_POSTS = ("lamp", "sign")
_CORNERS = ("bench", "bin", "bicycle", "bicycle")
_TRAFFIC = ("car", "car", "car", "bus")
_STREAMS = (
    _Stream(("tree",), 9, (5.5, 5.8), presence=0.75),
    _Stream(("tree",), 9, (-5.8, -5.5), presence=0.75),
    _Stream(_POSTS, 8, (5.25, 5.4), presence=0.8),
    _Stream(_POSTS, 8, (-5.4, -5.25), presence=0.8),
    _Stream(_CORNERS, 7, (8.3, 8.6)),
    _Stream(_CORNERS, 7, (-8.6, -8.3), heading=_BACK),
    _Stream(("car",), 6.5, (3.9, 4.1), jitter=0.1),
    _Stream(("car",), 6.5, (-4.1, -3.9), jitter=0.1, heading=_BACK),
    _Stream(_TRAFFIC, 24, (1.5, 1.7), speed=7.0, jitter=0.2),
    _Stream(_TRAFFIC, 24, (-1.7, -1.5), speed=-6.0, jitter=0.2, heading=_BACK),
    _Stream(("rider",), 40, (2.8, 2.9), speed=4.0),
    _Stream(("rider",), 40, (-2.9, -2.8), speed=-3.5, heading=_BACK),
    _Stream(("person",), 6, (5.9, 6.9), speed=-1.1, presence=0.5, heading=_BACK),
    _Stream(("person",), 7, (6.6, 8.0), speed=0.9, presence=0.6),
    _Stream(("person",), 13, (5.8, 7.5), speed=1.8, presence=0.5),
    _Stream(("person",), 5, (-8.0, -5.9), speed=1.2, presence=0.6),
    _Stream(("person",), 6, (-8.0, -5.9), speed=-1.2, presence=0.6, heading=_BACK),
    _Stream(("dog",), 17, (6.0, 7.6), speed=1.0, presence=0.6),
    _Stream(("dog",), 19, (-7.6, -6.0), speed=-1.1, presence=0.6, heading=_BACK),
    _Stream(("person", "person", "dog"), CROSSING_EVERY_M / 4, (0.0, 0.0), presence=0.8),
)
_CROSSING = len(_STREAMS) - 1  # the last stream walks to and fro over the zebra crossings


class _Resident(NamedTuple):
    """Who is in a slot, whenever one looks."""

    kind: str
    x: float
    z: float  # at time 0
    look: int
    phase: float  # 0 … 1


class Thing(NamedTuple):
    """A resident at one moment."""

    kind: str  # a class, or "rider": the person on a bicycle
    instance: int
    look: int  # seed of its appearance
    x: float
    z: float
    heading: float
    cycles: float  # of its walk so far, two steps each


def things(seed: int, camera: Camera, time_s: float) -> list[Thing]:
    """All things that may be in the picture, the farthest first."""
    found: list[Thing] = []
    for stream, spec in enumerate(_STREAMS):
        moved = spec.speed * time_s
        first = int((camera.z - _LONGEST_M - moved) // spec.spacing)
        last = int((camera.z + HORIZON_M - moved) // spec.spacing)
        for slot in range(first, last + 1):
            resident = _resident(seed, stream, slot)
            if resident is not None:
                found += _now(resident, stream, slot, time_s)
    near = [thing for thing in found if _may_be_seen(thing, camera)]
    # Distance from the camera, not along its axis: someone beside a bus is drawn on the right side of it.
    return sorted(near, key=lambda thing: -math.hypot(thing.x - camera.x, thing.z - camera.z))


@lru_cache(maxsize=16384)
def _resident(seed: int, stream: int, slot: int) -> _Resident | None:
    spec = _STREAMS[stream]
    rng = np.random.default_rng((seed, 200 + stream, slot % (1 << 31)))
    kind = spec.kinds[int(rng.integers(len(spec.kinds)))]
    z = (slot + float(rng.uniform(-spec.jitter, spec.jitter))) * spec.spacing
    if stream == _CROSSING:
        in_use, z = slot % 4 == 2, slot * spec.spacing + float(rng.uniform(-1.2, 1.2))
    else:
        in_use = spec.speed != 0 or abs(z % CROSSING_EVERY_M - CROSSING_EVERY_M / 2) > 4.5  # nothing blocks a crossing
    if not in_use or rng.random() > spec.presence:
        return None
    return _Resident(kind, float(rng.uniform(*spec.x)), z, int(rng.integers(1 << 31)), float(rng.random()))


def _now(who: _Resident, stream: int, slot: int, time_s: float) -> Iterator[Thing]:
    spec = _STREAMS[stream]
    x, z, heading, cycles = who.x, who.z + spec.speed * time_s, spec.heading, 0.0
    if stream == _CROSSING:
        there = (time_s / 26 + who.phase) % 1
        x = -7 + 28 * there if there < 0.5 else 7 - 28 * (there - 0.5)
        heading = math.pi / 2 if there < 0.5 else -math.pi / 2
        cycles = time_s * 0.9 + who.phase
    elif who.kind in ("person", "dog"):
        sway = 2 * math.pi * (time_s / 14 + who.phase)
        x, z = x + 0.25 * math.sin(sway), z + 0.4 * math.cos(sway)
        cycles = time_s * (0.55 + 0.3 * abs(spec.speed)) + who.phase
    elif who.kind == "bicycle":
        heading += 1.2 * (who.phase - 0.5)
    instance = 1 + 2 * (stream + len(_STREAMS) * (2 * slot if slot >= 0 else -2 * slot - 1))
    if who.kind == "rider":
        yield Thing("bicycle", instance + 1, who.look, x, z, heading, 0.0)
    yield Thing(who.kind, instance, who.look, x, z, heading, cycles)


def _may_be_seen(thing: Thing, camera: Camera) -> bool:
    dx, dz = thing.x - camera.x, thing.z - camera.z
    ahead = dx * math.sin(camera.yaw) + dz * math.cos(camera.yaw)
    beside = dx * math.cos(camera.yaw) - dz * math.sin(camera.yaw)
    half_length = {"bus": 6.0, "car": 2.5}.get(thing.kind, 0.0)
    half_view = camera.width / camera.focal / 2
    return ahead > NEAR_M - half_length and abs(beside) < half_view * max(ahead, 0) + half_length + 2.0
