"""People: who walk, stand, sit and ride."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dora.data.street.shapes.figure import Figure, joint, step
from dora.data.street.shapes.painter import Point, Shape, View
from dora.data.street.shapes.palette import any_colour, coat, skin
from dora.data.street.textures import CANVAS, CHECKS, DOTS, PATCHES, PLAID, PLAIN, STRIPES, WOVEN

_CLOTH = (PLAIN, PLAIN, CANVAS, CANVAS, STRIPES, CHECKS, DOTS, PLAID, WOVEN, PATCHES)
_SADDLE = (0.0, 0.95, -0.16)
_GRIP = (0.2, 1.02, 0.36)


class _Looks(NamedTuple):
    """What makes one person unlike another."""

    tall: float
    wide: float  # metres, half the shoulders
    child: bool
    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    legs: np.ndarray
    shoes: np.ndarray
    extra: np.ndarray  # of a bag, a hat, an umbrella
    cloth: int  # texture
    lower: str  # trousers, shorts, skirt, dress or coat
    hair_cut: str
    hat: str
    bag: str


@lru_cache(maxsize=1024)
def _looks(look: int) -> _Looks:
    rng = np.random.default_rng(look)
    child = rng.random() < 0.18
    tall = rng.uniform(1.0, 1.4) if child else rng.uniform(1.52, 1.95)
    return _Looks(
        tall=tall, wide=tall * rng.uniform(0.1, 0.145), child=child,
        skin=skin(rng), hair=coat(rng), top=any_colour(rng), legs=any_colour(rng), shoes=any_colour(rng),
        extra=any_colour(rng), cloth=int(rng.choice(_CLOTH)),
        lower=str(rng.choice(["trousers", "trousers", "trousers", "shorts", "skirt", "dress", "coat", "coat"])),
        hair_cut=str(rng.choice(["short", "short", "long", "tail", "bun", "bald"])),
        hat=str(rng.choice(["", "", "", "", "brim", "cap", "beanie"])),
        bag=str(rng.choice(["", "", "", "backpack", "shoulder", "shopping", "umbrella"])),
    )  # fmt: skip


def person(look: int, phase: float, view: View) -> Shape:
    """Someone who walks: two steps a phase, arms against the legs."""
    who, figure = _looks(look), Figure(view)
    t = who.tall
    hip = t * (0.5 + 0.012 * math.cos(4 * math.pi * phase))
    feet = [step(phase + side / 2, 0.19 * t, 0.09 * t) for side in (0, 1)]
    _legs(figure, who, (0, hip, 0), [(x, 0.045 * t + up, ahead) for x, (ahead, up) in zip((-1, 1), feet, strict=True)])
    swing = 0.3 * t * math.cos(2 * math.pi * phase) * 0.5
    shoulder = (0.0, t * 0.81, 0.0)
    hands: list[Point] = []
    for side in (-1, 1):
        ahead = side * swing + 0.02
        held = who.bag == "umbrella" and side == 1
        hands.append((side * who.wide * 1.25, t * (0.74 if held else 0.48), 0.16 * t if held else ahead))
    _upper_body(figure, who, hip=(0, hip, 0), shoulder=shoulder, hands=hands)
    _luggage(figure, who, hands[1])
    return figure.shape(shadow=(0.3, 0.3))


def stander(look: int, phase: float, view: View) -> Shape:
    """Someone who stands: with hands down, on a telephone, or talking with hands."""
    who, figure = _looks(look), Figure(view)
    t, hip, kind = who.tall, who.tall * 0.51, look % 3
    _legs(figure, who, (0, hip, 0), [(-1, 0.045 * t, 0.02), (1, 0.045 * t, -0.03)])
    up, ahead = ((0.48, 0.03), (0.7, 0.24), (0.6, 0.2))[kind]
    hands = [(-who.wide * 1.2, t * 0.48, 0.02), (who.wide * (1.2 if kind == 0 else 0.5), t * up, ahead * t)]
    _upper_body(figure, who, hip=(0, hip, 0), shoulder=(0, t * 0.81, 0), hands=hands)
    if kind == 1:
        figure.limb((who.wide * 0.5, t * 0.69, 0.27 * t), (who.wide * 0.5, t * 0.75, 0.29 * t), (0.07, 0.07), who.extra)
    _luggage(figure, who, hands[1] if kind == 0 else (who.wide, t * 0.48, 0))
    return figure.shape(shadow=(0.3, 0.3))


def sitter(look: int, phase: float, view: View) -> Shape:
    """Someone on a bench, looking along z."""
    who, figure = _looks(look), Figure(view)
    t, hip = who.tall, 0.52
    _legs(figure, who, (0, hip, -0.05), [(-0.8, 0.05, 0.28 * t), (0.9, 0.05, 0.24 * t)], seated=True)
    hands = [(side * who.wide * 0.6, hip + 0.12, 0.2 * t) for side in (-1, 1)]
    _upper_body(figure, who, hip=(0, hip, -0.05), shoulder=(0, hip + 0.32 * t, -0.08), hands=hands)
    return figure.shape(shadow=(0.3, 0.3))


def cyclist(look: int, phase: float, view: View) -> Shape:
    """Someone who pedals, on a bicycle that is drawn as another thing."""
    who, figure = _grown(_looks(look)), Figure(view)
    feet: list[Point] = []
    for side in (-1, 1):
        angle = 2 * math.pi * phase + (math.pi if side > 0 else 0)
        feet.append((side * 1.1, 0.32 - 0.17 * math.sin(angle), -0.02 + 0.17 * math.cos(angle)))
    _legs(figure, who, _SADDLE, feet, seated=True)
    hands: list[Point] = [(side * _GRIP[0], _GRIP[1], _GRIP[2]) for side in (-1, 1)]
    shoulder = (0.0, _SADDLE[1] + 0.29 * who.tall, _SADDLE[2] + 0.14)
    _upper_body(figure, who, hip=_SADDLE, shoulder=shoulder, hands=hands)
    return figure.shape(shadow=(0.2, 0.2))


def motorcyclist(look: int, phase: float, view: View) -> Shape:
    """Someone with a helmet, on a motorcycle that is drawn as another thing."""
    who, figure = _grown(_looks(look))._replace(hair_cut="bald", hat="helmet"), Figure(view)
    hip = (0.0, 0.82, -0.25)
    _legs(figure, who, hip, [(-1.6, 0.3, 0.12), (1.6, 0.3, 0.12)], seated=True)
    hands: list[Point] = [(side * 0.32, 0.98, 0.42) for side in (-1, 1)]
    _upper_body(figure, who, hip=hip, shoulder=(0, hip[1] + 0.3 * who.tall, hip[2] + 0.18), hands=hands)
    return figure.shape(shadow=(0.2, 0.2))


def _grown(who: _Looks) -> _Looks:
    lower = who.lower if who.lower in ("trousers", "shorts") else "trousers"
    tall = max(who.tall, 1.6)
    return who._replace(tall=tall, wide=max(who.wide, 0.11 * tall), child=False, bag="", lower=lower)


def _legs(figure: Figure, who: _Looks, hip: Point, feet: Sequence[Point], *, seated: bool = False) -> None:
    """Legs to the feet, whose x is in half hips."""
    t, half = who.tall, who.wide * 0.45
    bare = who.lower in ("shorts", "skirt", "dress")
    thigh, shin = (who.legs, who.skin if bare else who.legs * 0.93)
    for foot in feet:
        ankle = (foot[0] * half, foot[1], foot[2])
        top = (math.copysign(half, foot[0]), hip[1], hip[2])
        knee = joint(top, ankle, (0.245 * t, 0.235 * t), ahead=True)
        thick = 0.62 * who.wide + 0.03
        figure.limb(top, knee, (thick, thick * 0.75), thigh, who.cloth if who.lower == "shorts" else CANVAS)
        figure.limb(knee, ankle, (thick * 0.72, thick * 0.5), shin, PLAIN if bare else CANVAS)
        toe = (ankle[0] * 1.15, ankle[1] - 0.015, ankle[2] + 0.085 * t)
        figure.limb((ankle[0], ankle[1] - 0.01, ankle[2] - 0.02), toe, (0.05 * t, 0.04 * t), who.shoes, nearer=0.02)
    if seated or who.lower not in ("skirt", "dress", "coat"):
        return
    hem = t * {"skirt": 0.31, "dress": 0.26, "coat": 0.33}[who.lower]
    flare = 1.25 if who.lower == "coat" else 1.5
    colour = who.top if who.lower != "skirt" else who.legs
    levels = ((hem, who.wide * flare, 0.09 * t), (hip[1] + 0.06 * t, who.wide * 0.85, 0.065 * t))
    figure.tube(levels, colour * 0.95, who.cloth, nearer=0.4)


def _upper_body(figure: Figure, who: _Looks, *, hip: Point, shoulder: Point, hands: Sequence[Point]) -> None:
    t, w = who.tall, who.wide
    lean = (shoulder[2] - hip[2]) / (shoulder[1] - hip[1])
    low, high = hip[1] - 0.03 * t, shoulder[1]
    levels = ((low, w * 0.82, 0.07 * t), (low + 0.1 * t, w * 0.85, 0.072 * t), (high - 0.05 * t, w, 0.075 * t),
              (high, w * 0.9, 0.06 * t), (high + 0.03 * t, w * 0.4, 0.04 * t))  # fmt: skip
    figure.tube(levels, who.top, who.cloth, at=(0, hip[2]), lean=lean)
    for side, hand in zip((-1, 1), hands, strict=True):
        top = (side * w * 0.95, shoulder[1] - 0.02 * t, shoulder[2])
        elbow = joint(top, hand, (0.17 * t, 0.16 * t), ahead=False)
        thick = 0.4 * w + 0.02
        figure.limb(top, elbow, (thick, thick * 0.8), who.top * 0.85, who.cloth)
        sleeve = who.skin if who.lower in ("shorts", "dress") else who.top * 0.85
        figure.limb(elbow, hand, (thick * 0.75, thick * 0.6), sleeve, CANVAS)
        figure.ball(hand, (0.024 * t, 0.028 * t, 0.028 * t), who.skin, nearer=0.01)
    _head(figure, who, (0, shoulder[1] + 0.12 * t, shoulder[2] + 0.01))


def _head(figure: Figure, who: _Looks, at: Point) -> None:
    (_, y, z), t = at, who.tall * (1.3 if who.child else 1.0)
    y += 0.02 * t if who.child else 0.0
    figure.limb((0, y - 0.12 * who.tall, z - 0.02), (0, y - 0.05 * t, z), (0.07 * t, 0.065 * t), who.skin * 0.88)
    figure.ball(at := (0, y, z), (0.046 * t, 0.066 * t, 0.055 * t), who.skin)
    for side in (-1, 1):
        figure.ball((side * 0.019 * t, y + 0.006 * t, z + 0.051 * t), (0.008 * t, 0.008 * t, 0.003), (0.05, 0.04, 0.04))
        figure.ball((side * 0.047 * t, y - 0.003 * t, z), (0.008 * t, 0.016 * t, 0.012 * t), who.skin * 0.9)
    figure.sheet([(0, y + 0.003 * t, z + 0.05 * t), (0, y - 0.02 * t, z + 0.07 * t), (0, y - 0.022 * t, z + 0.05 * t)],
                 who.skin * 0.85)  # fmt: skip
    figure.limb((-0.014 * t, y - 0.035 * t, z + 0.05 * t), (0.014 * t, y - 0.035 * t, z + 0.05 * t),
                (0.008 * t, 0.008 * t), who.skin * 0.55)  # fmt: skip
    _hair(figure, who, at, t)
    _hat(figure, who, at, t)


def _hair(figure: Figure, who: _Looks, at: Point, t: float) -> None:
    _, y, z = at
    if who.hair_cut == "bald":
        return
    figure.ball((0, y + 0.022 * t, z - 0.018 * t), (0.051 * t, 0.058 * t, 0.054 * t), who.hair, CANVAS)
    figure.sheet([(-0.044 * t, y + 0.03 * t, z + 0.045 * t), (0.044 * t, y + 0.03 * t, z + 0.045 * t),
                  (0.03 * t, y + 0.068 * t, z + 0.02 * t), (-0.03 * t, y + 0.068 * t, z + 0.02 * t)],
                 who.hair, nearer=0.03)  # fmt: skip
    if who.hair_cut == "long":
        low = y - 0.11 * t
        figure.tube(((low, 0.055 * t, 0.03 * t), (y, 0.054 * t, 0.04 * t), (y + 0.05 * t, 0.04 * t, 0.03 * t)),
                    who.hair, CANVAS, at=(0, z - 0.032 * t))  # fmt: skip
    elif who.hair_cut == "tail":
        figure.limb((0, y + 0.03 * t, z - 0.07 * t), (0, y - 0.08 * t, z - 0.095 * t), (0.035 * t, 0.02 * t), who.hair)
    elif who.hair_cut == "bun":
        figure.ball((0, y + 0.07 * t, z - 0.045 * t), (0.028 * t, 0.028 * t, 0.028 * t), who.hair)


def _hat(figure: Figure, who: _Looks, at: Point, t: float) -> None:
    _, y, z = at
    if who.hat in ("brim", "cap", "beanie"):
        figure.tube(((y + 0.022 * t, 0.053 * t, 0.062 * t), (y + 0.065 * t, 0.049 * t, 0.056 * t),
                     (y + 0.088 * t, 0.03 * t, 0.034 * t)), who.extra, WOVEN, at=(0, z), nearer=0.08)  # fmt: skip
    if who.hat == "brim":
        figure.ball((0, y + 0.024 * t, z), (0.098 * t, 0.013 * t, 0.098 * t), who.extra * 0.85, nearer=0.09)
    elif who.hat == "cap":
        figure.limb((0, y + 0.027 * t, z + 0.03 * t), (0, y + 0.02 * t, z + 0.1 * t), (0.07 * t, 0.04 * t), who.extra)
    elif who.hat == "beanie":
        figure.ball((0, y + 0.095 * t, z), (0.02 * t, 0.02 * t, 0.02 * t), who.extra * 0.8, nearer=0.1)
    elif who.hat == "helmet":
        figure.ball((0, y + 0.008 * t, z - 0.01), (0.07 * t, 0.083 * t, 0.083 * t), who.extra, nearer=0.09)
        figure.ball((0, y + 0.008 * t, z + 0.07 * t), (0.05 * t, 0.026 * t, 0.02 * t), (0.1, 0.12, 0.15), nearer=0.05)


def _luggage(figure: Figure, who: _Looks, hand: Point) -> None:
    t, w = who.tall, who.wide
    if who.bag == "backpack":
        figure.tube(((0.54 * t, w * 0.7, 0.05 * t), (0.7 * t, w * 0.72, 0.06 * t), (0.8 * t, w * 0.5, 0.03 * t)),
                    who.extra, CANVAS, at=(0, -0.11 * t), nearer=0.02)  # fmt: skip
        figure.ball((0, 0.6 * t, -0.165 * t), (w * 0.45, 0.045 * t, 0.02 * t), who.extra * 0.75)
        for side in (-0.55, 0.55):
            figure.limb(
                (side * w, 0.6 * t, 0.08 * t), (side * w, 0.81 * t, 0.06 * t), (0.025 * t, 0.025 * t), who.extra
            )
    elif who.bag == "shoulder":
        figure.tube(((0.45 * t, 0.05, 0.1 * t), (0.56 * t, 0.045, 0.09 * t)), who.extra, WOVEN, at=(-w * 1.35, 0.0))
        for z in (-0.07, 0.07):
            figure.limb((-w * 1.3, 0.55 * t, z * t), (-w * 0.8, 0.83 * t, 0), (0.02, 0.02), who.extra * 0.7)
    elif who.bag == "shopping":
        x, y, z = hand
        figure.tube(((y - 0.21 * t, 0.06, 0.09 * t), (y - 0.05 * t, 0.07, 0.11 * t)), who.extra, WOVEN, at=(x, z))
        figure.limb((x, y, z - 0.01), (x, y - 0.06 * t, z), (0.02, 0.09), who.extra * 0.8)
    elif who.bag == "umbrella":
        x, y, z = hand
        figure.limb((x, y - 0.05, z), (x * 0.6, 1.2 * t, z * 0.4), (0.02, 0.02), (0.2, 0.2, 0.2))
        radius, rim = 0.3 * t, 1.13 * t
        figure.tube(((rim, radius, radius), (rim + 0.09 * t, radius * 0.72, radius * 0.72),
                     (rim + 0.14 * t, 0.05, 0.05)), who.extra, STRIPES, at=(x * 0.6, z * 0.4), nearer=0.3)  # fmt: skip
