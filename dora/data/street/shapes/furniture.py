"""What stands in a street: lamps, traffic lights, signs, benches and bins."""

import math

import numpy as np

from dora.data.street.shapes.figure import Figure
from dora.data.street.shapes.painter import Colour, Painter, Point, Shape, View
from dora.data.street.shapes.palette import against, any_colour
from dora.data.street.textures import CHECKS, GLASS, METAL, PLAIN, SLATS, STRIPES, WOOD

_STEEL = np.array([0.55, 0.56, 0.58])


def lamp(look: int, phase: float, view: View) -> Shape:
    """A street lamp: lantern, globes, or one or two arms."""
    rng, figure = np.random.default_rng(look), Figure(view)
    tall, metal, kind = rng.uniform(3.6, 5.6), any_colour(rng) * 0.85, int(rng.integers(5))
    glass = np.array([(0.97, 0.93, 0.75), (0.92, 0.94, 0.97), (0.98, 0.85, 0.55)])[int(rng.integers(3))]
    figure.tube(((0, 0.17, 0.17), (0.25, 0.15, 0.15), (0.7, 0.08, 0.08)), metal, METAL)
    figure.limb((0, 0.5, 0), (0, tall, 0), (0.13, 0.09), metal, METAL)
    figure.ball((0, 0.75, 0), (0.11, 0.05, 0.1), metal * 0.8)
    if kind == 0:
        figure.tube(((tall, 0.1, 0.1), (tall + 0.45, 0.24, 0.1)), glass, GLASS, nearer=0.1)
        for x in (-0.7, 0.0, 0.7):
            figure.limb((x * 0.13, tall, 0), (x * 0.32, tall + 0.45, 0), (0.025, 0.025), metal * 0.7, nearer=0.2)
        figure.tube(((tall + 0.45, 0.29, 0.1), (tall + 0.66, 0.07, 0.1), (tall + 0.78, 0.02, 0.1)), metal, nearer=0.3)
    elif kind == 1:
        for x in (-0.45, 0.45) if rng.random() < 0.5 else (0.0,):
            figure.limb((0, tall - 0.1, 0), (x, tall, 0), (0.07, 0.07), metal, METAL)
            figure.ball((x, tall + 0.24, 0), (0.24, 0.24, 0.2), glass, GLASS, nearer=0.1)
            figure.ball((x, tall + 0.03, 0), (0.12, 0.06, 0.1), metal, nearer=0.2)
    elif kind == 2:
        for side in (-1, 1):
            _hanging(figure, side, tall, metal, glass)
    else:
        _arm(figure, int(rng.choice([-1, 1])), tall, rng.uniform(0.8, 1.4), metal, glass)
    return figure.shape(shadow=(0.2, 0.2))


def _hanging(figure: Figure, side: int, tall: float, metal: np.ndarray, glass: np.ndarray) -> None:
    """An arm that bends down to a bell with a bulb."""
    figure.limb((0, tall - 0.5, 0), (side * 0.35, tall, 0), (0.05, 0.05), metal)
    figure.limb((side * 0.35, tall, 0), (side * 0.6, tall - 0.12, 0), (0.05, 0.05), metal)
    figure.ball((side * 0.6, tall - 0.45, 0), (0.13, 0.14, 0.1), glass, GLASS, nearer=0.1)
    figure.tube(((tall - 0.42, 0.24, 0.1), (tall - 0.25, 0.14, 0.1), (tall - 0.1, 0.04, 0.1)), metal * 0.85, METAL,
                at=(side * 0.6, 0), nearer=0.2)  # fmt: skip


def _arm(figure: Figure, side: int, tall: float, reach: float, metal: np.ndarray, glass: np.ndarray) -> None:
    figure.limb((0, tall - 0.05, 0), (side * reach * 0.5, tall + 0.3, 0), (0.09, 0.07), metal, METAL)
    figure.limb((side * reach * 0.5, tall + 0.3, 0), (side * reach, tall + 0.38, 0), (0.07, 0.06), metal, METAL)
    figure.ball((side * (reach + 0.25), tall + 0.33, 0), (0.34, 0.07, 0.1), glass, nearer=0.1)
    figure.tube(((tall + 0.34, 0.38, 0.1), (tall + 0.46, 0.26, 0.1)), metal, METAL, at=(side * (reach + 0.22), 0),
                nearer=0.2)  # fmt: skip


def traffic_light(look: int, phase: float, view: View) -> Shape:
    """A pole with a box of three lamps, red in the first third of a phase, amber in the second, green in the last."""
    rng, figure = np.random.default_rng(look), Figure(view)
    paint, box = any_colour(rng), any_colour(rng) * 0.55
    high, lit = rng.uniform(2.5, 3.0), int(phase * 3)
    figure.limb((0, 0, 0), (0, high + 1.0, 0), (0.13, 0.11), paint, STRIPES if rng.random() < 0.25 else METAL)
    figure.tube(((0, 0.14, 0.14), (0.35, 0.12, 0.12)), paint * 0.8, METAL, nearer=0.01)
    board = rng.random() < 0.4
    _head(figure, (0, high, 0.2), 0.17, box, lit, board=board)
    if rng.random() < 0.5:  # a second head, at a cyclist's height
        _head(figure, (0.0, 1.55, 0.14), 0.09, box, lit, board=False)
    elif rng.random() < 0.5:  # or over the road
        for bend in ((0, high + 0.9, 0), (-1.0, high + 1.25, 0)):
            figure.limb(bend, (-2.0 if bend[0] else -1.0, high + 1.25, 0), (0.1, 0.08), paint, METAL)
        _head(figure, (-1.9, high + 0.45, 0.1), 0.16, box, lit, board=board)
    figure.tube(((0.95, 0.07, 0.05), (1.2, 0.07, 0.05)), against(paint, rng), at=(0, 0.08))
    return figure.shape(shadow=(0.15, 0.15))


def _head(figure: Figure, at: Point, half: float, box: np.ndarray, lit: int, *, board: bool) -> None:
    x, y, z = at
    if board:
        wide, low, high = half * 1.7, y - 0.12, y + half * 6.2
        corners = [(x - wide, low, z - 0.03), (x + wide, low, z - 0.03), (x + wide, high, z - 0.03),
                   (x - wide, high, z - 0.03)]  # fmt: skip
        figure.sheet(corners, (0.93, 0.93, 0.9), nearer=0.001)
        inner = [(a, b, c + 0.015) for a, b, c in corners]
        figure.sheet([(x + (a - x) * 0.86, b, c) for a, b, c in inner], (0.06, 0.06, 0.06))
    figure.tube(((y, half, half * 0.8), (y + half * 5.6, half, half * 0.8)), box, at=(x, z))
    for index, hue in enumerate(((0.98, 0.12, 0.08), (1.0, 0.7, 0.08), (0.1, 0.95, 0.45))):
        glow = np.array(hue) * (1.0 if index == lit else 0.2)
        centre = (x, y + half * (4.65 - 1.85 * index), z + half * 0.8)
        figure.ball(centre, (half * 0.78, half * 0.78, 0.03), glow)
        if index == lit:
            bulb = (x, centre[1], centre[2] + 0.03)
            figure.ball(bulb, (half * 0.4, half * 0.4, 0.03), np.clip(glow + 0.35, 0, 1))
        brim = ((-1, 0.55, 0.0), (1, 0.55, 0.0), (0.8, 0.95, 0.13), (-0.8, 0.95, 0.13))
        visor = [(x + sx * half * 0.85, centre[1] + half * up, centre[2] + out) for sx, up, out in brim]
        figure.sheet(visor, box * 0.6)


def sign(look: int, phase: float, view: View) -> Shape:
    """A traffic sign or a board with a picture or lines of writing, on a post; grey from behind."""
    rng, figure = np.random.default_rng(look), Figure(view)
    high, size = rng.uniform(2.1, 2.7), rng.uniform(0.33, 0.46)
    ground = any_colour(rng)
    ink = against(ground, rng)
    rim = any_colour(rng) if rng.random() < 0.6 else ink
    outline = _outline(int(rng.integers(6)), rng)
    figure.limb(
        (0, 0, 0), (0, high + size * 0.9, 0), (0.08, 0.08), any_colour(rng) if rng.random() < 0.4 else _STEEL, METAL
    )
    for scale, colour, z in ((1.0, _STEEL * 0.9, 0.03), (1.0, rim, 0.06), (0.83, ground, 0.07)):
        figure.sheet([(x * size * scale, high + y * size * scale, z) for x, y in outline], colour)
    wide = max(x for x, _ in outline)
    _pictogram(figure, rng, high, (size, wide), ink)
    if rng.random() < 0.3:  # a small plate below
        plate = [
            (x * size * 0.8, high - size * 1.3 + y * size * 0.22, 0.06) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        figure.sheet([(x, y, 0.03) for x, y, _ in plate], _STEEL * 0.9)
        figure.sheet(plate, against(ink, rng))
        figure.limb(
            (-size * 0.5, high - size * 1.3, 0.07), (size * 0.5, high - size * 1.3, 0.07), (0.07, 0.07), ink, CHECKS
        )
    return figure.shape(shadow=(0.15, 0.15))


def _outline(kind: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """A disc, triangle, octagon, diamond, square or long board, about one high."""
    if kind == 5:
        wide = rng.uniform(1.4, 2.3)
        return [(-wide, -0.6), (wide, -0.6), (wide, 0.6), (-wide, 0.6)]
    n, first, size = ((10, 0.0, 1.0), (3, 90.0, 1.2), (8, 22.5, 1.0), (4, 90.0, 1.1), (4, 45.0, 1.3))[kind]
    angles = [math.radians(first + 360 * i / n) for i in range(n)]
    return [(size * math.cos(a), size * math.sin(a)) for a in angles]


def _pictogram(figure: Figure, rng: np.random.Generator, high: float, half: tuple[float, float], ink: Colour) -> None:
    size, wide = half
    kind, z = int(rng.integers(7)) if wide <= 1.35 else 7, 0.09

    def line(start: tuple[float, float], end: tuple[float, float], width: float, texture: int = PLAIN) -> None:
        (x0, y0), (x1, y1) = start, end  # its left is our right
        figure.limb(
            (-x0 * size, high + y0 * size, z),
            (-x1 * size, high + y1 * size, z),
            (width * size, width * size),
            ink,
            texture,
        )

    if kind == 0:  # straight on, or turn
        side = int(rng.choice([-1, 0, 1]))
        line((0, -0.5), (0, 0.15), 0.16)
        tip = (0.45 * side, 0.45 if side == 0 else 0.2)
        line((0, 0.15), tip, 0.16)
        for wing in (-0.2, 0.2):
            line(tip, (tip[0] - 0.2 * side + (wing if side == 0 else 0), tip[1] + (wing if side else -0.2)), 0.14)
    elif kind == 1:
        line((-0.5, 0), (0.5, 0), 0.3)
    elif kind == 2:  # someone who walks
        figure.ball((0, high + 0.42 * size, z), (0.12 * size, 0.12 * size, 0.01), ink)
        for start, end in (((0, 0.25), (0, -0.1)), ((0, -0.1), (-0.22, -0.5)), ((0, -0.1), (0.22, -0.5)),
                           ((0, 0.2), (-0.28, -0.05)), ((0, 0.2), (0.28, 0.0))):  # fmt: skip
            line(start, end, 0.12)
    elif kind == 3:
        line((0, 0.4), (0, -0.1), 0.18)
        line((0, -0.42), (0, -0.44), 0.18)
    elif kind == 4:
        line((-0.4, -0.4), (0.4, 0.4), 0.18)
        line((0.4, -0.4), (-0.4, 0.4), 0.18)
    elif kind == 5:  # P
        line((-0.2, -0.5), (-0.2, 0.45), 0.18)
        for start, end in (((-0.2, 0.42), (0.22, 0.35)), ((0.25, 0.32), (0.25, 0.05)), ((0.22, 0.0), (-0.2, -0.02))):
            line(start, end, 0.16)
    elif kind == 6:
        for y in (-0.3, 0.0, 0.3):
            line((-0.45, y), (0.45, y), 0.16, CHECKS)
    else:  # a board: lines of writing and an arrow
        for y in (-0.22, 0.22):
            line((-wide * 0.75, y), (wide * rng.uniform(0.0, 0.4), y), 0.24, CHECKS)
        line((wide * 0.55, 0), (wide * 0.85, 0), 0.14)
        for y in (-0.22, 0.22):
            line((wide * 0.85, 0), (wide * 0.85 - 0.22, y), 0.14)


def bench(look: int, phase: float, view: View) -> Shape:
    """A bench along z that looks to -x: slats on two feet, mostly with a back and arms."""
    rng, p = np.random.default_rng(look), Painter()
    slats, feet = any_colour(rng), any_colour(rng) * 0.6
    half, backed, armed = rng.uniform(0.7, 1.0), rng.random() < 0.75, rng.random() < 0.5
    texture = int(rng.choice([WOOD, WOOD, METAL]))

    def seat() -> None:
        for end in (-half * 0.82, half * 0.82):
            if backed:
                for x in (-0.22, 0.18):
                    p.block((x - 0.04, x + 0.04), (0, 0.43), (end - 0.04, end + 0.04), feet, METAL)
            else:
                p.block((-0.22, 0.22), (0, 0.43), (end - 0.12, end + 0.12), feet, PLAIN)
        for x in (-0.26, -0.09, 0.08):
            p.block((x, x + 0.14), (0.43, 0.48), (-half, half), slats, texture)
        for end in (-half * 0.9, half * 0.9) if armed else ():
            p.block((-0.24, -0.18), (0.48, 0.68), (end - 0.03, end + 0.03), feet)
            p.block((-0.26, 0.2), (0.66, 0.71), (end - 0.04, end + 0.04), feet)

    def back() -> None:
        for y, x in ((0.56, 0.22), (0.7, 0.25), (0.84, 0.28)) if backed else ():
            p.body((x, x + 0.04, -half, half, y), (x + 0.02, x + 0.06, -half, half, y + 0.1), slats * 0.92, texture)
        for end in (-half * 0.82, half * 0.82) if backed else ():
            p.body((0.24, 0.28, end - 0.03, end + 0.03, 0.4), (0.32, 0.36, end - 0.03, end + 0.03, 0.92), feet)

    for paint_part in (back, seat) if math.sin(view.turn) > 0 else (seat, back):
        paint_part()
    return p.shape(flat=False, shadow=(0.4, half))


def bin_(look: int, phase: float, view: View) -> Shape:
    """A litter bin: a box with a mouth, a wheeled bin with a lid, a round one of slats, or a basket on a post."""
    rng = np.random.default_rng(look)
    kind, tall, paint = int(rng.integers(4)), rng.uniform(0.85, 1.15), any_colour(rng)
    if kind < 2:
        return (_boxy, _wheeled)[kind](rng, tall, paint)
    return (_round, _basket)[kind - 2](rng, tall, paint, view)


def _boxy(rng: np.random.Generator, tall: float, paint: np.ndarray) -> Shape:
    p, half, trim = Painter(), rng.uniform(0.23, 0.31), against(paint, rng)
    faces = p.block(
        (-half, half), (0.05, tall * 0.8), (-half, half), paint, int(rng.choice([SLATS, PLAIN, STRIPES, METAL]))
    )
    mouth = p.block((-half, half), (tall * 0.8, tall), (-half, half), paint * 0.85)
    p.body(
        (-half * 1.1, half * 1.1, -half * 1.1, half * 1.1, tall),
        (-half * 0.7, half * 0.7, -half * 0.7, half * 0.7, tall + 0.12),
        paint * 0.7,
    )
    for name in ("back", "ahead", "left", "right"):
        p.inset(mouth[name], (0.12, 0.88), (0.15, 0.85), (0.03, 0.03, 0.03))
        p.inset(faces[name], (0.3, 0.7), (0.4, 0.72), trim)
        p.inset(faces[name], (0.42, 0.58), (0.46, 0.66), paint * 0.6)
    return p.shape(flat=False, shadow=(half * 1.2, half * 1.2))


def _wheeled(rng: np.random.Generator, tall: float, paint: np.ndarray) -> Shape:
    p, half = Painter(), rng.uniform(0.24, 0.3)
    lid = any_colour(rng) if rng.random() < 0.5 else paint * 0.8
    for z in (-half, half):
        p.wheel((half * 0.9, 0.1, z * 0.75), 0.1, hub=(0.3, 0.3, 0.3), turned=0)
    p.body((-half * 0.8, half * 0.8, -half * 0.8, half * 0.8, 0.06), (-half, half, -half, half, tall), paint)
    faces = p.body(
        (-half * 1.08, half * 1.12, -half * 1.08, half * 1.08, tall), (-half, half, -half, half, tall + 0.09), lid
    )
    p.block((half * 1.12, half * 1.3), (tall - 0.04, tall + 0.03), (-half * 0.8, half * 0.8), lid * 0.6)
    p.inset(faces["left"], (0.3, 0.7), (0.2, 0.6), lid * 0.4)
    return p.shape(flat=False, shadow=(half * 1.2, half * 1.2))


def _round(rng: np.random.Generator, tall: float, paint: np.ndarray, view: View) -> Shape:
    figure, half = Figure(view), rng.uniform(0.24, 0.32)
    figure.tube(((0.04, half * 0.85, half), (tall * 0.4, half, half), (tall * 0.82, half, half)), paint, SLATS)
    for y in (0.12, 0.5, 0.82):
        figure.limb(
            (-half * 0.97, tall * y, 0), (half * 0.97, tall * y, 0), (0.05, 0.05), paint * 0.6, METAL, nearer=0.01
        )
    figure.tube(((tall * 0.84, half * 0.85, half), (tall * 0.98, half * 0.85, half)), (0.03, 0.03, 0.03), nearer=0.005)
    figure.tube(((tall * 0.96, half * 1.05, half), (tall * 1.1, half * 0.75, half), (tall * 1.15, half * 0.3, half)),
                paint * 0.8, METAL, nearer=0.02)  # fmt: skip
    return figure.shape(shadow=(half * 1.2, half * 1.2))


def _basket(rng: np.random.Generator, tall: float, paint: np.ndarray, view: View) -> Shape:
    figure, half = Figure(view), rng.uniform(0.2, 0.26)
    figure.limb((0, 0, 0), (0, tall + 0.15, 0), (0.08, 0.08), _STEEL * 0.6, METAL)
    low = tall * 0.35
    figure.tube(
        ((low, half * 0.7, half), (tall, half, half)), paint, SLATS if rng.random() < 0.6 else STRIPES, nearer=0.1
    )
    figure.ball((0, tall, 0), (half, 0.06, half), (0.04, 0.04, 0.04), nearer=0.2)
    figure.ball((half * 0.3, tall + 0.03, 0), (half * 0.4, 0.08, 0.1), (0.9, 0.9, 0.88), nearer=0.3)
    figure.limb((-half, tall - 0.02, 0), (half, tall - 0.02, 0), (0.05, 0.05), paint * 0.75, nearer=0.4)
    return figure.shape(shadow=(half, half))
