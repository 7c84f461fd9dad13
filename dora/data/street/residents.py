"""Who is where and when: everything that stands, walks, drives or flies in the street.

Things live in slots along the street that move together, a stream; who is in a slot is drawn from the seed. So any
moment can be rendered without the ones before, and a thing keeps its identity for ever.
"""

import math
from bisect import bisect
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from dora.data.street.layout import CROSSING_EVERY_M, Camera
from dora.data.street.paths import Place, crossing, flight, forage, loop, past_the_walker, stroll
from dora.data.street.shapes.cycles import BICYCLE_WHEEL_M
from dora.data.street.shapes.vehicles import WHEEL_M
from dora.data.street.traffic import driven_m, lit_lamp
from dora.data.street.walker import Whereabouts, whereabouts

NEAR_M, HORIZON_M = 0.7, 75.0  # things are drawn between these distances
_LONGEST_M = 12.0
_WINDOW_M = 8.0  # of the walk, for which what stands is kept
_IDS = 8  # of a slot: of those who live together in it
_STRIDE_M = {"dog": 0.62, "cat": 0.38}  # two steps; all others are people
_PERSON_STRIDE_M = 1.25
_HALF_LENGTH_M = {"bus": 5.0, "truck": 4.0, "car": 2.3}
_LANES = (-8.2, -5.15, -3.0, -2.55, 0.0, 2.55, 3.0, 5.15, 8.2)  # where one ends and the next begins, x in metres


class _Stream(NamedTuple):
    kinds: tuple[str, ...]  # dealt like cards: each once before any comes again
    spacing: float  # metres from slot to slot
    x: tuple[float, float]
    way: str = "stays"  # how it moves: stays, drives, strolls, loops, crosses, flies or pecks
    speed: float = 0.0  # metres a second along the street; of what drives, crossings passed in a cycle of the lights
    presence: float = 0.7  # share of the slots in use
    jitter: float = 0.35  # of the spacing
    heading: float = 0.0  # radians; 0 looks along the street
    sight: float = HORIZON_M  # from where on they may be seen


_BACK = math.pi
_POSTS = ("lamp", "sign", "bin", "lamp", "sign")
_FRONTS = ("bench", "bin", "plant", "sitting cat", "bicycle", "bench", "plant", "bicycle", "bin", "sitting cat")
_PARKED = ("car", "truck", "motorcycle", "car", "motorcycle")
_TRAFFIC = ("car", "bus", "truck", "car", "motorcyclist", "car")
_WALKERS = ("person", "dog walker", "person", "person", "dog", "person")
_STROLLERS = ("person", "cat", "cat", "dog", "cat")
_STREAMS = (
    _Stream(("tree",), 9, (5.5, 5.7), presence=0.7),
    _Stream(("tree",), 9, (-5.7, -5.5), presence=0.7),
    _Stream(_POSTS, 6, (5.3, 5.45), presence=0.9, heading=_BACK),
    _Stream(_POSTS, 6, (-5.45, -5.3), presence=0.85, heading=_BACK),
    _Stream(_FRONTS, 2.8, (8.4, 8.6), presence=0.9, jitter=0.2),
    _Stream(_FRONTS, 3.4, (-8.6, -8.4), presence=0.75, jitter=0.2, heading=_BACK),
    _Stream(("traffic light",), CROSSING_EVERY_M / 4, (5.35, 5.5), jitter=0.0, presence=0.97, heading=_BACK),
    _Stream(("traffic light",), CROSSING_EVERY_M / 4, (-5.5, -5.35), jitter=0.0, presence=0.97),
    _Stream(_PARKED, 6.6, (3.9, 4.0), jitter=0.04, presence=0.9),
    _Stream(_PARKED, 6.6, (-4.0, -3.9), jitter=0.04, presence=0.85, heading=_BACK),
    _Stream(_TRAFFIC, 16, (1.5, 1.65), "drives", 3, presence=0.85, jitter=0.04),
    _Stream(_TRAFFIC, 16, (-1.65, -1.5), "drives", -3, presence=0.85, jitter=0.04, heading=_BACK),
    _Stream(("cyclist",), 16, (2.78, 2.85), "drives", 2, presence=0.4, jitter=0.2),
    _Stream(("cyclist",), 16, (-2.85, -2.78), "drives", -2, presence=0.4, jitter=0.2, heading=_BACK),
    _Stream(_WALKERS, 7, (6.1, 6.7), "strolls", -1.15, presence=0.7, heading=_BACK),
    _Stream(_WALKERS, 9, (7.0, 7.7), "strolls", 0.9, presence=0.6),
    _Stream(_WALKERS, 15, (6.5, 7.6), "strolls", 1.75, presence=0.5),
    _Stream(_WALKERS, 5, (-6.9, -6.1), "strolls", 1.2, presence=0.55),
    _Stream(_WALKERS, 6, (-7.9, -7.1), "strolls", -1.2, presence=0.55, heading=_BACK),
    _Stream(_STROLLERS, 7, (6.6, 7.4), "loops", presence=0.85),
    _Stream(_STROLLERS, 11, (-7.3, -6.7), "loops", presence=0.75),
    _Stream(("bird",), 9, (6.2, 7.7), "pecks", presence=0.75, sight=45),
    _Stream(("bird",), 11, (-7.7, -6.2), "pecks", presence=0.6, sight=45),
    _Stream(("flying bird",), 29, (6.2, 7.4), "flies", -3.2, presence=0.85, sight=50),
    _Stream(("flying bird",), 37, (6.4, 7.6), "flies", 4.5, presence=0.85, sight=50),
    _Stream(("flying bird",), 27, (-7.6, -6.2), "flies", 4.0, presence=0.85, sight=50),
    _Stream(("stander",), 14, (7.9, 8.1), presence=0.45),
    _Stream(("stander",), 12, (-8.1, -7.8), presence=0.45),
    _Stream(("person", "person", "person", "dog"), CROSSING_EVERY_M / 8, (0.0, 0.0), "crosses", presence=0.8),
)  # fmt: skip


class _Resident(NamedTuple):
    """Who is in a slot, whenever one looks."""

    kind: str
    x: float
    z: float  # at time 0
    look: int
    phase: float  # 0 … 1
    n: int  # how many they are


class Thing(NamedTuple):
    """A resident at one moment."""

    kind: str  # one of shapes.FORMS
    instance: int
    look: int  # seed of its appearance
    x: float
    z: float
    heading: float
    cycles: float  # of its walk, its wheels or its wings so far; of a traffic light, a third for each lamp


class _Located(NamedTuple):
    """Things, and where they are as arrays."""

    things: list[Thing]
    x: np.ndarray
    z: np.ndarray
    half_length: np.ndarray


@lru_cache(maxsize=4)  # whoever asks for a picture and for what is in it asks twice
def things(seed: int, camera: Camera, time_s: float) -> tuple[Thing, ...]:
    """All things that may be in the picture, the farthest first."""
    standing = _standing(seed, int(camera.z // _WINDOW_M))
    near = [_stirred(standing.things[index], time_s) for index in np.flatnonzero(_may_be_seen(standing, camera))]
    moving = list(_moving(seed, camera, time_s))
    near += [moving[index] for index in np.flatnonzero(_may_be_seen(_located(moving), camera))]
    own = bisect(_LANES, camera.x)

    def farness(thing: Thing) -> tuple[int, float]:
        # What is lanes away never hides what is nearer the camera's own lane, however long a bus is; in one lane
        # distance decides.
        return abs(bisect(_LANES, thing.x) - own), math.hypot(thing.x - camera.x, thing.z - camera.z)

    return tuple(sorted(near, key=farness, reverse=True))


def _moving(seed: int, camera: Camera, time_s: float) -> Iterator[Thing]:
    walker = whereabouts(seed, time_s)
    for stream, spec in enumerate(_STREAMS):
        if spec.way == "stays":
            continue
        moved = _moved(spec, time_s)
        first = int((camera.z - _LONGEST_M - moved) // spec.spacing)
        last = int((camera.z + spec.sight - moved) // spec.spacing)
        for slot in range(first, last + 1):
            if (who := _resident(seed, stream, slot)) is not None:
                yield from _named(who, stream, slot, _MOVING[spec.way](who, spec, moved, time_s, walker))


def _moved(spec: _Stream, time_s: float) -> float:
    if spec.way == "drives":
        return driven_m(time_s, int(spec.speed))
    return spec.speed * time_s if spec.way in ("strolls", "flies") else 0.0


@lru_cache(maxsize=16384)
def _resident(seed: int, stream: int, slot: int) -> _Resident | None:
    spec = _STREAMS[stream]
    rng = np.random.default_rng((seed, 200 + stream, slot % (1 << 31)))
    deal, card = divmod(slot, len(spec.kinds))
    order = np.random.default_rng((seed, 300 + stream, deal % (1 << 31))).permutation(len(spec.kinds))
    kind = spec.kinds[int(order[card])]
    z = _settled(kind, spec, slot, (slot + float(rng.uniform(-spec.jitter, spec.jitter))) * spec.spacing)
    if z is None or rng.random() > spec.presence:
        return None
    x, look, phase = float(rng.uniform(*spec.x)), int(rng.integers(1 << 31)), float(rng.random())
    return _Resident(kind, x, z, look, phase, int(rng.integers(3, _IDS - 1)))


def _settled(kind: str, spec: _Stream, slot: int, z: float) -> float | None:
    """Where a slot's resident is at time 0, if there may be one: nothing that stays blocks a zebra crossing."""
    if kind == "traffic light":  # one before each crossing, as traffic comes
        return z - 2.3 * math.copysign(1, spec.x[0]) if slot % 4 == 2 else None
    if spec.way == "crosses":
        return z if slot % 16 in (7, 8) else None
    if spec.way == "drives":
        return z + 8.5  # so that a bus halts clear of the crossings before and behind it
    clear = 6.0 if kind == "truck" else 4.6
    return z if spec.way != "stays" or abs(z % CROSSING_EVERY_M - CROSSING_EVERY_M / 2) > clear else None


_Member = tuple[str, int, Place]  # kind, number in its slot, place


def _named(who: _Resident, stream: int, slot: int, members: Iterator[_Member]) -> Iterator[Thing]:
    """Things with an identity and a look of their own."""
    first = 1 + _IDS * (stream + len(_STREAMS) * (2 * slot if slot >= 0 else -2 * slot - 1))
    for kind, number, place in members:
        look = who.look + 7919 * number
        yield Thing(kind, first + number, look, place.x, place.z, place.heading, _cycles(kind, place) + who.phase)


def _cycles(kind: str, place: Place) -> float:
    if kind in ("bird", "flying bird"):
        return place.walked
    if kind in ("car", "truck", "bus", "motorcycle", "bicycle"):
        return place.walked / (2 * math.pi * (BICYCLE_WHEEL_M if kind == "bicycle" else WHEEL_M))
    return place.walked / _STRIDE_M.get(kind, _PERSON_STRIDE_M if kind != "cyclist" else 4.5)


@lru_cache(maxsize=8)
def _standing(seed: int, window: int) -> _Located:
    """Everyone that stays in its place and may be seen from a stretch of the walk."""
    found: list[Thing] = []
    for stream, spec in enumerate(_STREAMS):
        first = int((window * _WINDOW_M - _LONGEST_M) // spec.spacing)
        last = int(((window + 1) * _WINDOW_M + spec.sight) // spec.spacing)
        for slot in range(first, last + 1) if spec.way == "stays" else ():
            if (who := _resident(seed, stream, slot)) is not None:
                found += _named(who, stream, slot, _still(who, spec))
    return _located(found)


def _located(things: list[Thing]) -> _Located:
    at = np.array([(thing.x, thing.z, _HALF_LENGTH_M.get(thing.kind, 0.0)) for thing in things]).reshape(-1, 3)
    return _Located(things, *at.T)


def _beside(who: _Resident, spec: _Stream, turned: float, x: float = 0.0, z: float = 0.0) -> Place:
    return Place(who.x + x, who.z + z, math.sin(spec.heading + turned), math.cos(spec.heading + turned), 0.0)


def _still(who: _Resident, spec: _Stream) -> Iterator[_Member]:
    place = partial(_beside, who, spec)
    outward = math.copysign(1, who.x)  # from the middle of the road to the houses
    free = who.phase - 0.5
    if who.kind == "bench":
        yield "bench", 0, place(0)
        guest = ("sitter", "bench cat", "bench cat", "perched bird", "bench cat")[int(who.phase * 5)]
        if guest == "sitter":
            yield guest, 1, place(-math.pi / 2, x=-0.1 * outward, z=0.3 * free)
        elif guest:
            yield (
                guest,
                1,
                place(-math.pi / 2 + 2 * free, x=(0.3 if guest == "perched bird" else -0.06) * outward, z=free),
            )
    elif who.kind == "motorcycle":
        for number in range(1 + who.n // 3):
            yield "motorcycle", number, place(-1.1, x=0.35 * outward, z=1.0 * number - 1.0)
    elif who.kind == "sign":
        yield "sign", 0, place(1.2 * free + (math.pi if spec.x[0] < 0 and who.n > 5 else 0))
    elif who.kind in ("stander", "sitting cat"):
        yield who.kind, 0, place(-outward * math.pi / 2 + 4 * free - spec.heading)
    else:
        yield who.kind, 0, place({"bicycle": 0.7 * free, "bin": free}.get(who.kind, 0.0))


def _driving(who: _Resident, spec: _Stream, moved: float, time_s: float, walker: Whereabouts) -> Iterator[_Member]:
    place = Place(who.x, who.z + moved, math.sin(spec.heading), math.cos(spec.heading), abs(moved))
    vehicle = {"motorcyclist": "motorcycle", "cyclist": "bicycle"}.get(who.kind)
    if vehicle is not None:
        yield vehicle, 1, place
    yield who.kind, 0, place


def _walking(who: _Resident, spec: _Stream, moved: float, time_s: float, walker: Whereabouts) -> Iterator[_Member]:
    if spec.way == "crosses":
        place = crossing(who.z, time_s, phase=who.phase)
    elif spec.way == "loops":
        place = loop(who.x, who.z, time_s, phase=who.phase, speed={"cat": 0.5, "dog": 1.1}.get(who.kind, 0.95))
    else:
        place = stroll(who.x, who.z + moved, time_s, phase=who.phase, speed=spec.speed)
    yield "person" if who.kind == "dog walker" else who.kind, 0, past_the_walker(place, walker, who.x)
    if who.kind == "dog walker":
        sin, cos = math.sin(place.heading), math.cos(place.heading)
        dog = place._replace(x=place.x + 0.5 * sin - 0.6 * cos, z=place.z + 0.5 * cos + 0.6 * sin)
        yield "dog", 1, past_the_walker(dog, walker, who.x)


def _flock(who: _Resident, spec: _Stream, moved: float, time_s: float, walker: Whereabouts) -> Iterator[_Member]:
    for number in range(who.n):
        if spec.way == "flies":
            place = flight(who.x, who.z + moved, time_s, phase=who.phase, speed=spec.speed, number=number)
        else:
            place = forage(who.x, who.z, time_s, phase=who.phase, number=number)
        yield who.kind, number, past_the_walker(place, walker, who.x)


_MOVING: dict[str, Callable[[_Resident, _Stream, float, float, Whereabouts], Iterator[_Member]]] = {
    "drives": _driving, "strolls": _walking, "loops": _walking, "crosses": _walking, "flies": _flock, "pecks": _flock,
}  # fmt: skip


def _stirred(thing: Thing, time_s: float) -> Thing:
    """What stays in its place and yet moves: lights change, cats flick their tails, people look about."""
    if thing.kind == "traffic light":
        return thing._replace(cycles=(lit_lamp(time_s) + 0.5) / 3)
    if thing.kind in ("sitting cat", "bench cat"):
        return thing._replace(cycles=thing.cycles + 0.4 * time_s)
    if thing.kind == "stander":
        return thing._replace(heading=thing.heading + 0.5 * math.sin(time_s / 3 + 6 * thing.cycles))
    return thing


def _may_be_seen(located: _Located, camera: Camera) -> np.ndarray:
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    dx, dz = located.x - camera.x, located.z - camera.z
    ahead, beside = dx * sin + dz * cos, np.abs(dx * cos - dz * sin)
    half_view = camera.width / camera.focal / 2
    in_view = beside < half_view * np.maximum(ahead, 0) + located.half_length + 1.5
    return (ahead > NEAR_M - located.half_length) & in_view & (dz < HORIZON_M)
