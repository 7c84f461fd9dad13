"""Cars, trucks and buses: solid bodies on wheels that turn."""

import math

import numpy as np

from dora.data.street.shapes.painter import Colour, Painter, Shape, View
from dora.data.street.shapes.palette import against, any_colour
from dora.data.street.textures import CANVAS, DOTS, GLASS, METAL, PLAIN, RUBBER, SLATS, STRIPES, WOOD

WHEEL_M = 0.33  # a car's, radius
_DARK = np.array([0.1, 0.11, 0.13])
_RED, _WHITE, _AMBER = (0.8, 0.07, 0.05), (0.98, 0.96, 0.85), (0.95, 0.55, 0.1)


def car(look: int, phase: float, view: View) -> Shape:
    """A car: hatchback, saloon, estate, off-roader or city car."""
    rng, p = np.random.default_rng(look), Painter()
    kind = int(rng.integers(5))
    length = (3.9, 4.6, 4.6, 4.4, 3.1)[kind] * rng.uniform(0.95, 1.05)
    width, waist = rng.uniform(1.65, 1.85), (0.88, 0.86, 0.88, 1.02, 0.95)[kind] * rng.uniform(0.95, 1.05)
    roof = (1.46, 1.4, 1.45, 1.78, 1.52)[kind] * rng.uniform(0.97, 1.04)
    paint = any_colour(rng)
    top_paint = against(paint, rng) if rng.random() < 0.15 else paint
    x, z = width / 2, length / 2
    p.polygon([(-x, 0.15, -z), (x, 0.15, -z), (x, 0.15, z), (-x, 0.15, z)], (0.03, 0.03, 0.03))
    hull = p.body((-x, x, -z, z, 0.22), (-x * 0.97, x * 0.97, -z * 0.98, z * 0.95, waist), paint, METAL)
    back, back_slope, hood, front_slope = (
        (-0.93, 0.22, 0.42, 0.34), (-0.62, 0.28, 0.4, 0.36), (-0.95, 0.1, 0.42, 0.34), (-0.95, 0.08, 0.42, 0.24),
        (-0.95, 0.14, 0.66, 0.4),
    )[kind]  # fmt: skip
    low = (-x * 0.95, x * 0.95, z * back, z * hood, waist)
    top = (-x * 0.78, x * 0.78, z * (back + back_slope), z * (hood - front_slope), roof)
    cabin = p.body(low, top, top_paint, METAL)
    for name in ("back", "ahead"):
        p.inset(cabin[name], (0.07, 0.93), (0.15, 0.92), _DARK, GLASS)
    for near, far in ((0.06, 0.48), (0.52, 0.94)):
        p.inset(cabin["right"], (near, far), (0.12, 0.88), _DARK, GLASS)
        p.inset(cabin["left"], (1 - far, 1 - near), (0.12, 0.88), _DARK, GLASS)
    _ends(p, hull, lamp_height=(0.52, 0.8), grille=True)
    for name in ("left", "right"):
        p.inset(hull[name], (0.0, 1.0), (0.0, 0.12), _DARK)
        for door in (0.36, 0.56):
            p.inset(hull[name], (door - 0.004, door + 0.004), (0.14, 0.98), paint * 0.5)
            p.inset(hull[name], (door + 0.03, door + 0.07), (0.74, 0.79), paint * 0.35)
    for side in (-1, 1):
        p.block((side * x * 1.0 - 0.06, side * x + 0.06), (waist, waist + 0.13), (z * 0.3, z * 0.34), top_paint * 0.8)
    if rng.random() < 0.12:
        p.block((-0.28, 0.28), (roof, roof + 0.16), (-0.1, 0.12), against(paint, rng))  # a taxi's sign
    hub = np.full(3, rng.choice([0.25, 0.55, 0.8]))
    _wheels(p, x, (-z * 0.62, z * 0.62), WHEEL_M, hub=hub, phase=phase, arch=paint * 0.25)
    return p.shape(flat=False, shadow=(x + 0.1, z + 0.1))


def truck(look: int, phase: float, view: View) -> Shape:
    """A truck: a cab and, behind it, a box, a canvas, a tipper with its load, or the bed of a pick-up."""
    rng, p = np.random.default_rng(look), Painter()
    kind = int(rng.integers(5))
    return _pickup(rng, p, phase, view) if kind == 0 else _lorry(rng, p, phase, view, kind)


def _lorry(rng: np.random.Generator, p: Painter, phase: float, view: View, kind: int) -> Shape:
    length, x = rng.uniform(5.6, 7.4), rng.uniform(1.02, 1.15)
    z, paint, load = length / 2, any_colour(rng), any_colour(rng)
    cab_length, cab_top, high = rng.uniform(1.5, 1.9), rng.uniform(2.2, 2.6), rng.uniform(2.8, 3.4)
    join, floor = z - cab_length, 0.85
    band = against(load, rng)
    n_ribs = int(rng.integers(6, 12))

    def cab() -> None:
        body = p.body(
            (-x * 0.95, x * 0.95, join + 0.1, z, 0.4), (-x * 0.9, x * 0.9, join + 0.15, z - 0.22, cab_top), paint, METAL
        )
        p.inset(body["ahead"], (0.06, 0.94), (0.5, 0.86), _DARK, GLASS)
        p.inset(body["ahead"], (0.2, 0.8), (0.18, 0.42), _DARK, STRIPES)
        for side in ((0.03, 0.18), (0.82, 0.97)):
            p.inset(body["ahead"], side, (0.1, 0.24), _WHITE)
        for name, pane in (("right", (0.35, 0.92)), ("left", (0.08, 0.65))):
            p.inset(body[name], pane, (0.48, 0.84), _DARK, GLASS)
            p.inset(body[name], (0.3, 0.32) if name == "right" else (0.68, 0.7), (0.05, 0.9), paint * 0.5)
        p.inset(body["back"], (0.2, 0.8), (0.55, 0.85), _DARK, GLASS)
        for side in (-1, 1):
            p.block((side * x - 0.07, side * x + 0.07), (1.5, 1.95), (z - 0.32, z - 0.22), _DARK)

    def cargo() -> None:
        low = 1.75 if kind == 3 else high
        texture = (PLAIN, SLATS, CANVAS, METAL, PLAIN)[kind]
        body = p.block((-x, x), (floor, low), (-z, join), load, texture)
        if kind == 3:
            foot, heap = (-x * 0.85, x * 0.85, -z * 0.9, join - 0.2, low), (-x * 0.3, x * 0.3, -z * 0.5, join - 1.2)
            p.body(foot, (*heap, low + 0.7), any_colour(rng), RUBBER)
        for name in ("left", "right"):
            for rib in range(n_ribs + 1 if kind in (2, 3) else 0):
                p.inset(body[name], (max(rib / n_ribs - 0.008, 0), rib / n_ribs + 0.008), (0, 1), load * 0.55)
            if kind in (1, 4):
                p.inset(body[name], (0.12, 0.88), (0.4, 0.68), band, (DOTS, STRIPES)[kind % 2])
            p.inset(body[name], (0, 1), (0, 0.05), load * 0.4)
        p.inset(body["back"], (0.485, 0.515), (0.02, 0.98), load * 0.45)
        for u in (0.08, 0.92, 0.4, 0.6):
            p.inset(body["back"], (u - 0.012, u + 0.012), (0.05, 0.95), load * 0.6)

    p.polygon([(-x, 0.4, -z), (x, 0.4, -z), (x, 0.4, z), (-x, 0.4, z)], (0.03, 0.03, 0.03))
    frame = p.block((-x * 0.8, x * 0.8), (0.5, floor), (-z, join), _DARK)
    for u in ((0.0, 0.2), (0.8, 1.0)):
        p.inset(frame["back"], u, (0.15, 0.75), _RED)
    p.inset(frame["back"], (0.38, 0.62), (0.2, 0.7), (0.9, 0.88, 0.6))
    for paint_part in (cargo, cab) if _from_the_front(view) else (cab, cargo):
        paint_part()
    axles = (-z * 0.72, -z * 0.45, z - 0.75) if length > 6.6 else (-z * 0.6, z - 0.75)
    _wheels(p, x * 0.98, axles, 0.46, hub=np.full(3, 0.6), phase=phase, arch=None)
    return p.shape(flat=False, shadow=(x + 0.15, z + 0.1))


def _pickup(rng: np.random.Generator, p: Painter, phase: float, view: View) -> Shape:
    x, z, paint = rng.uniform(0.9, 0.98), rng.uniform(2.5, 2.8), any_colour(rng)
    load = any_colour(rng)
    p.polygon([(-x, 0.3, -z), (x, 0.3, -z), (x, 0.3, z), (-x, 0.3, z)], (0.03, 0.03, 0.03))
    hull = p.block((-x, x), (0.38, 1.08), (-z, z), paint, METAL)
    _ends(p, hull, lamp_height=(0.45, 0.8), grille=True)
    for name in ("left", "right"):
        p.inset(hull[name], (0.0, 1.0), (0.0, 0.14), _DARK)
        p.inset(hull[name], (0.44, 0.45) if name == "right" else (0.55, 0.56), (0.05, 1.0), paint * 0.4)
    bed = hull["top"]
    p.polygon([(a * 0.88, b + 0.005, c if c > 0 else c + 0.1) for a, b, c in bed[:2]] +
              [(x * 0.88, 1.085, -0.15), (-x * 0.88, 1.085, -0.15)], (0.05, 0.05, 0.05), solid=True)  # fmt: skip

    def crates() -> None:
        for index in range(3):
            at = -z + 0.35 + 0.72 * index
            p.block((-x * 0.7, x * (0.1 + 0.25 * index)), (1.08, 1.35 + 0.13 * index), (at, at + 0.6), load, WOOD)

    def cabin() -> None:
        body = p.body(
            (-x * 0.95, x * 0.95, -0.1, z * 0.55, 1.08), (-x * 0.8, x * 0.8, 0.02, z * 0.3, 1.78), paint, METAL
        )
        for name in ("back", "ahead", "left", "right"):
            p.inset(body[name], (0.08, 0.92), (0.15, 0.88), _DARK, GLASS)
        for name in ("left", "right"):
            p.inset(body[name], (0.47, 0.52), (0.1, 0.9), paint)

    for paint_part in (crates, cabin) if _from_the_front(view) else (cabin, crates):
        paint_part()
    _wheels(p, x, (-z * 0.6, z * 0.62), 0.39, hub=np.full(3, 0.45), phase=phase, arch=_DARK)
    return p.shape(flat=False, shadow=(x + 0.1, z + 0.1))


def bus(look: int, phase: float, view: View) -> Shape:
    """A city bus, some with two decks."""
    rng, p = np.random.default_rng(look), Painter()
    decks = 2 if rng.random() < 0.3 else 1
    length, x, roof = rng.uniform(8.6, 10.0), 1.2, rng.uniform(2.9, 3.2) + 1.3 * (decks - 1)
    paint, z = any_colour(rng), length / 2
    band = against(paint, rng)
    p.polygon([(-x, 0.3, -z), (x, 0.3, -z), (x, 0.3, z), (-x, 0.3, z)], (0.03, 0.03, 0.03))
    for side in (-1, 1):  # mirrors, painted before the body, which hides the farther one from behind
        p.block((side * (x + 0.1) - 0.08, side * (x + 0.1) + 0.08), (1.9, 2.3), (z - 0.1, z), _DARK)
    faces = p.body((-x, x, -z, z, 0.32), (-x * 0.96, x * 0.96, -z * 0.99, z * 0.985, roof), paint)
    n_panes, stripe = int(rng.integers(5, 8)), float(rng.uniform(0.06, 0.14))
    panes = ((0.4, 0.86),) if decks == 1 else ((0.26, 0.48), (0.64, 0.88))
    for name in ("left", "right"):
        p.inset(faces[name], (0, 1), (0.05, 0.05 + stripe), band, STRIPES if rng.random() < 0.4 else PLAIN)
        for low, high in panes:
            p.inset(faces[name], (0.02, 0.98), (low - 0.015, high + 0.015), _DARK)
            for pane in range(n_panes):
                p.inset(
                    faces[name], ((pane + 0.07) / n_panes, (pane + 0.93) / n_panes), (low, high), _DARK * 1.6, GLASS
                )
    doors = ((0.86, 0.95), (0.42, 0.54)) if rng.random() < 0.7 else ((0.86, 0.95),)
    for u in doors:
        p.inset(faces["right"], u, (0.01, panes[0][1] + 0.02), band * 0.6)
        for leaf in (0.06, 0.54):
            across = u[1] - u[0]
            p.inset(
                faces["right"],
                (u[0] + leaf * across, u[0] + (leaf + 0.4) * across),
                (0.05, panes[0][1]),
                _DARK * 2,
                GLASS,
            )
    for name, lamp in (("back", _RED), ("ahead", _WHITE)):
        for low, high in panes:
            p.inset(faces[name], (0.06, 0.94), (low, high - 0.02), _DARK * 1.3, GLASS)
        p.inset(faces[name], (0.15, 0.85), (0.885, 0.985), (0.05, 0.05, 0.05))
        p.inset(faces[name], (0.24, 0.76), (0.91, 0.965), _AMBER, DOTS)
        p.inset(faces[name], (0.0, 1.0), (0.0, 0.06), _DARK)
        for u in ((0.04, 0.17), (0.83, 0.96)):
            p.inset(faces[name], u, (0.08, 0.15), lamp)
    _wheels(p, x, (-z * 0.58, z * 0.62), 0.48, hub=np.full(3, 0.5), phase=phase, arch=paint * 0.3)
    return p.shape(flat=False, shadow=(x + 0.2, z + 0.2))


def _from_the_front(view: View) -> bool:
    return math.cos(view.turn) < 0


def _ends(p: Painter, hull: dict[str, list[tuple[float, float, float]]], *, lamp_height: tuple[float, float],
          grille: bool) -> None:  # fmt: skip
    """Lamps, number plates and bumpers."""
    for name, lamp in (("back", _RED), ("ahead", _WHITE)):
        for u in ((0.03, 0.2), (0.8, 0.97)):
            p.inset(hull[name], u, lamp_height, lamp)
        if grille and name == "ahead":
            p.inset(hull[name], (0.26, 0.74), (0.5, 0.76), _DARK, STRIPES)
        p.inset(hull[name], (0.0, 1.0), (0.0, 0.2), _DARK)
        p.inset(hull[name], (0.36, 0.64), (0.24, 0.4), (0.92, 0.9, 0.75))


def _wheels(p: Painter, x: float, axles: tuple[float, ...], radius: float, *, hub: Colour, phase: float,
            arch: Colour | None) -> None:  # fmt: skip
    for side in (-x, x):
        for axle in axles:
            if arch is not None:
                _arch(p, side, axle, radius * 1.18, arch)
            p.wheel((side, radius, axle), radius, hub=hub, turned=phase)


def _arch(p: Painter, x: float, z: float, radius: float, colour: Colour) -> None:
    out, turn, start = (0.005, -1, -math.pi) if x > 0 else (-0.005, 1, 0.0)  # so that it is seen from its outer side
    angles = [start + math.pi * i / 8 for i in range(9)]
    p.polygon([(x + out, 0.85 * radius + turn * radius * math.sin(a), z - radius * math.cos(a)) for a in angles],
              colour, solid=True)  # fmt: skip
