"""The beat of the street: traffic runs, halts at all crossings alike while people cross, and runs again.

Everything that drives moves together, a whole number of crossings in each cycle of the lights, so vehicles that halt
clear of a crossing once do so for ever, and where they are stays a closed function of time.
"""

import math

from dora.data.street.layout import CROSSING_EVERY_M

CYCLE_S = 26.0
_RUN = 0.58  # share of a cycle in which traffic runs
_AMBER = 0.1


def driven_m(time_s: float, crossings: int) -> float:
    """How far traffic has come that passes `crossings` of them in each cycle."""
    cycle, share = divmod(time_s / CYCLE_S, 1)
    run = min(share / _RUN, 1.0)
    eased = run - math.sin(2 * math.pi * run) / (2 * math.pi)
    return (cycle + eased) * crossings * CROSSING_EVERY_M


def lit_lamp(time_s: float) -> int:
    """What the traffic lights show to those who drive: 0 red, 1 amber, 2 green."""
    share = time_s / CYCLE_S % 1
    if share >= _RUN:
        return 0 if share < 1 - _AMBER / 4 else 1
    return 2 if share < _RUN - _AMBER else 1


def crossed(time_s: float, delay: float) -> tuple[float, float, float]:
    """How far someone is who crosses while traffic halts (0 … 1), how fast (per second) and where they face (radians).

    They go to the right in one cycle and back in the next, and turn round between; `delay` (0 … 1) is how long they
    hesitate.
    """
    cycle, share = divmod(time_s / CYCLE_S, 1)
    start, stop = _RUN - 0.01 + 0.05 * delay, 0.99
    walked = min(max((share - start) / (stop - start), 0.0), 1.0)
    speed = 1 / ((stop - start) * CYCLE_S) if 0 < walked < 1 else 0.0
    turned = min(max((share - 0.05) / 0.07, 0.0), 1.0)
    facing = math.pi * (turned - 0.5)
    return (walked, speed, facing) if cycle % 2 == 0 else (1 - walked, -speed, facing + math.pi)
