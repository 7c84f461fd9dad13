"""Bicycles, and motorcycles and scooters."""

import math

import numpy as np

from dora.data.street.shapes.painter import RING, Colour, Painter, Shape, View
from dora.data.street.shapes.palette import any_colour
from dora.data.street.textures import METAL, PLAIN, RUBBER, WOVEN

BICYCLE_WHEEL_M = 0.34
_BLACK, _STEEL = (0.06, 0.06, 0.07), (0.68, 0.69, 0.7)


def bicycle(look: int, phase: float, view: View) -> Shape:
    """A bicycle: two thin wheels with spokes and an open frame, with a basket or a child's seat now and then."""
    rng, p = np.random.default_rng(look), Painter()
    r, paint = BICYCLE_WHEEL_M, any_colour(rng)
    thick, tyre = rng.uniform(0.04, 0.06), np.full(3, rng.choice([0.05, 0.05, 0.3]))
    for axle in (-0.53, 0.53):
        _spoked(p, axle, r, phase, tyre)
    saddle, crank, head, hub, fork = (-0.2, 0.9), (-0.06, 0.3), (0.36, 0.88), (-0.53, r), (0.53, r)
    step_through = rng.random() < 0.4
    top = (-0.16, 0.62) if step_through else (-0.18, 0.82)
    for start, end in ((saddle, crank), (crank, head), (top, head), (crank, hub), (head, fork), (top, hub)):
        p.bar(start, end, thick, paint, texture=METAL)
    p.bar((-0.53, 0.72), (-0.53 + 0.4, 0.72), 0.04, paint * 0.7)  # a rack
    p.block((-0.08, 0.08), (0.9, 0.97), (-0.33, -0.07), np.array(_BLACK) + 0.1 * rng.random())
    p.block((-0.27, 0.27), (1.0, 1.04), (0.3, 0.35), _STEEL)
    for side in (-0.25, 0.25):
        p.block((side - 0.03, side + 0.03), (0.99, 1.05), (0.2, 0.32), _BLACK)
    p.bar(head, (0.33, 1.02), 0.045, _STEEL)
    if rng.random() < 0.35:
        p.body((-0.14, 0.14, 0.42, 0.68, 0.78), (-0.2, 0.2, 0.38, 0.74, 1.02), any_colour(rng), WOVEN)
    if rng.random() < 0.2:
        p.block((-0.14, 0.14), (0.74, 1.15), (-0.68, -0.42), any_colour(rng))
    return p.shape(flat=False, shadow=(0.2, 0.8))


def motorcycle(look: int, phase: float, view: View) -> Shape:
    """A motorcycle with tank and engine, or a scooter with its shield; thick wheels, a lamp, an exhaust."""
    rng, p = np.random.default_rng(look), Painter()
    scooter = rng.random() < 0.45
    paint = any_colour(rng)
    trim = any_colour(rng) * 0.6 if rng.random() < 0.5 else paint * 0.75
    r, half = (0.24, 0.62) if scooter else (0.33, 0.72)
    parts = [lambda: _disc(p, -half, r, phase), lambda: _rump(p, paint, trim, scooter=scooter),
             lambda: _front(p, paint, half, r, scooter=scooter), lambda: _disc(p, half, r, phase)]  # fmt: skip
    for paint_part in parts[::-1] if math.cos(view.turn) > 0 else parts:
        paint_part()
    return p.shape(flat=False, shadow=(0.3, 0.9))


def _rump(p: Painter, paint: np.ndarray, trim: np.ndarray, *, scooter: bool) -> None:
    if scooter:
        p.block((-0.18, 0.18), (0.24, 0.32), (-0.3, 0.42), trim)
        p.body((-0.17, 0.17, -0.78, -0.12, 0.34), (-0.15, 0.15, -0.8, -0.2, 0.72), paint, METAL)
        p.body((-0.15, 0.15, -0.8, -0.18, 0.72), (-0.12, 0.12, -0.74, -0.2, 0.82), _BLACK)
    else:
        p.block((-0.17, 0.17), (0.28, 0.58), (-0.25, 0.25), (0.3, 0.3, 0.31), RUBBER)
        for fin in range(3):
            p.block((-0.2, 0.2), (0.36 + 0.08 * fin, 0.4 + 0.08 * fin), (-0.12, 0.16), _STEEL, METAL)
        p.body((-0.13, 0.13, -0.8, -0.1, 0.62), (-0.13, 0.13, -0.88, -0.1, 0.76), trim, METAL)
        p.body((-0.15, 0.15, -0.7, -0.08, 0.76), (-0.12, 0.12, -0.72, -0.1, 0.85), _BLACK)
        p.body((-0.17, 0.17, -0.1, 0.38, 0.62), (-0.1, 0.1, 0.0, 0.34, 0.94), paint, METAL)
    tail = p.block((-0.08, 0.08), (0.6, 0.7), (-0.92, -0.8), trim)
    p.inset(tail["back"], (0.1, 0.9), (0.1, 0.9), (0.85, 0.08, 0.05))
    p.bar((-0.85, 0.3), (0.1, 0.27), 0.1, _STEEL, x=0.2, texture=METAL)


def _front(p: Painter, paint: np.ndarray, half: float, r: float, *, scooter: bool) -> None:
    handle = (half - 0.28, 1.0)
    for x in (-0.07, 0.07):
        p.bar((half, r), handle, 0.06, _STEEL, x=x, texture=METAL)
    if scooter:
        p.body((-0.2, 0.2, 0.34, 0.42, 0.26), (-0.22, 0.22, 0.22, 0.32, 0.9), paint, METAL)
    p.bar((half - 0.2, r * 1.95), (half + 0.22, r * 2.05), 0.07, paint)
    p.block((-0.36, 0.36), (1.0, 1.05), (handle[0] - 0.06, handle[0]), _BLACK)
    lamp = p.block((-0.1, 0.1), (0.82, 1.0), (handle[0] + 0.02, handle[0] + 0.16), paint * 0.8)
    p.inset(lamp["ahead"], (0.1, 0.9), (0.1, 0.9), (0.98, 0.96, 0.82))
    for x in (-0.3, 0.3):
        p.block((x - 0.06, x + 0.06), (1.12, 1.22), (handle[0] - 0.03, handle[0]), _BLACK)
        p.block((x - 0.01, x + 0.01), (1.04, 1.14), (handle[0] - 0.03, handle[0]), _BLACK)


def _spoked(p: Painter, z: float, radius: float, phase: float, tyre: Colour) -> None:
    rim = [(z + radius * c, radius + radius * s) for c, s in RING]
    for start, end in zip(rim, [*rim[1:], rim[0]], strict=True):
        p.bar(start, end, 0.05, tyre, across=False)
    p.polygon([(-0.025, 0, z), (-0.025, 2 * radius, z), (0.025, 2 * radius, z), (0.025, 0, z)], tyre)  # from behind
    for spoke in range(5):
        angle = math.pi * (spoke / 5 + 2 * phase)
        dz, dy = 0.93 * radius * math.cos(angle), -0.93 * radius * math.sin(angle)
        p.bar((z - dz, radius - dy), (z + dz, radius + dy), 0.012, _STEEL, across=False)


def _disc(p: Painter, z: float, radius: float, phase: float) -> None:
    """A thick wheel: a tread seen from its ends, a tyre and a rim with five spokes on either side."""
    for high, long in ((0.93, 0.35), (0.7, 0.7), (0.35, 0.93)):
        y, half = high * radius, long * radius
        p.block((-0.055, 0.055), (radius - y, radius + y), (z - half, z + half), _BLACK, RUBBER)
    for x, turn in ((-0.057, 1), (0.057, -1)):
        for r, colour, texture in ((radius, _BLACK, RUBBER), (radius * 0.66, (0.45, 0.45, 0.46), PLAIN)):
            p.polygon([(x, radius + turn * r * s, z - r * c) for c, s in RING], colour, texture, solid=True)
        for spoke in range(5):
            a = 2 * math.pi * (spoke / 5 + phase)
            corners = [(x, radius - k * radius * math.sin(b), z + k * radius * math.cos(b))
                       for k, b in ((0.15, a), (0.6, a + 0.35), (0.6, a - 0.35))]  # fmt: skip
            p.polygon(corners[::-turn], _BLACK, solid=True)
