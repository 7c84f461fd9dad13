"""Ways through the street as closed functions of time; who moves faces where they go."""

import math
from typing import NamedTuple

from dora.data.street.traffic import crossed
from dora.data.street.walker import WALKER_X, Whereabouts

_KERB_M = 5.7  # where one waits to cross
_ARM_M, _AHEAD_M = 1.3, 2.6  # room that is left to the walker, beside and ahead


class Place(NamedTuple):
    """Where someone is and which way they go."""

    x: float
    z: float
    vx: float  # metres a second, or only the direction of what stands
    vz: float
    walked: float  # metres so far

    @property
    def heading(self) -> float:
        """Radians; 0 looks along the street, π/2 to its right."""
        return math.atan2(self.vx, self.vz)


def stroll(x: float, z: float, time_s: float, *, phase: float, speed: float) -> Place:
    """Along the street, not quite straight; `z` already moves at `speed`."""
    a, b = time_s * 0.7 + 6.28 * phase, time_s * 0.31 + 16.0 * phase
    return Place(
        x + 0.3 * math.sin(a), z + 0.5 * math.sin(b),
        0.21 * math.cos(a), speed + 0.155 * math.cos(b), abs(speed) * time_s + phase,
    )  # fmt: skip


def loop(x: float, z: float, time_s: float, *, phase: float, speed: float) -> Place:
    """Up the pavement, round, back and round again."""
    radius, length = 0.6, 5.0 + 4.0 * phase
    arc = math.pi * radius
    walked = speed * time_s + 40 * phase
    at = walked % (2 * (length + arc))
    back, at = at >= length + arc, at % (length + arc)
    sign, angle = (-1 if back else 1), max(at - length, 0.0) / radius
    along = min(at, length) - length / 2
    return Place(
        x - sign * radius * math.cos(angle), z + sign * (along + radius * math.sin(angle)),
        sign * speed * math.sin(angle), sign * speed * math.cos(angle), walked,
    )  # fmt: skip


def crossing(z: float, time_s: float, *, phase: float) -> Place:
    """Over the zebra crossing while traffic halts, and back the next time; meanwhile they wait at the kerb."""
    side = 1 if phase < 0.5 else -1
    share, speed, facing = crossed(time_s, phase)
    width = 2 * _KERB_M + phase
    vx, vz = (speed * width, 0.0) if speed else (1e-3 * math.sin(facing), 1e-3 * math.cos(facing))
    return Place(side * width * (share - 0.5), z, side * vx, vz, width * share)


def flight(x: float, z: float, time_s: float, *, phase: float, speed: float, number: int) -> Place:
    """One of a flock in the air; `z` already moves at `speed`. It has flown a metre for each beat of its wings."""
    a = time_s * 0.9 + 6.28 * phase + 0.6 * number
    return Place(
        x + 0.5 * math.sin(a) + 0.35 * (number % 3 - 1), z + 0.9 * number + 0.4 * math.cos(a),
        0.45 * math.cos(a), speed - 0.36 * math.sin(a), time_s * (2.4 + 0.3 * phase) + 0.37 * number,
    )  # fmt: skip


def forage(x: float, z: float, time_s: float, *, phase: float, number: int) -> Place:
    """One of a flock on the ground, on its own small round."""
    turn, out = 2.4 * number + 6.28 * phase, 0.4 + 0.28 * number
    a = 0.35 * time_s * (1 if number % 2 else -1) + 5 * phase + number
    spin = 0.35 * 0.3 * (1 if number % 2 else -1)
    return Place(
        x + min(out, 1.0) * math.sin(turn) * 0.8 + 0.3 * math.sin(a), z + out * math.cos(turn) + 0.3 * math.cos(a),
        spin * math.cos(a), -spin * math.sin(a), time_s * 0.3 + phase + 0.31 * number,
    )  # fmt: skip


def past_the_walker(place: Place, walker: Whereabouts, lane: float) -> Place:
    """The same, but an arm's length aside where the walker comes by, to the side of its lane."""
    dz = place.z - walker.z
    side = 1 if lane > WALKER_X else -1
    beside = side * (place.x - walker.x)
    missing = _ARM_M - beside
    if missing <= 0 or abs(dz) > 2 * _AHEAD_M:
        return place
    # Who comes by steps aside; from far on the other side one just passes.
    near, far = math.exp(-((dz / _AHEAD_M) ** 4)), min(max(beside + 2, 0.0), 1.0)
    aside = missing * near * far
    # Its rate: by who moves across, and by how fast the two come closer.
    across = side * place.vx * near * ((missing if 0 < far < 1 else 0.0) - far)
    along = -4 * dz**3 / _AHEAD_M**4 * aside * (place.vz - walker.speed)
    return place._replace(x=place.x + side * aside, vx=place.vx + side * (across + along))
