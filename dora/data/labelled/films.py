"""Films of one thing each: a photographer keeps beside it, with an unsteady camera, and others get in the way.

GOT-10k's films are such: the thing is a large part of the picture and near its middle, and does not stay where it was.
Seen by the walker it would be twenty pixels of a crowd, of which a tracker learns nothing in a minute.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from dora.data.labelled.imagenet import LEAST_VISIBILITY, THINGS, looks, near, pointed_at, within_walls
from dora.data.labelled.moments import Moment
from dora.data.miniature import World, annotations, photograph
from dora.data.street.layout import Camera
from dora.data.street.residents import Thing, things
from dora.data.street.shapes import FORMS
from dora.data.street.truth import Annotation, is_whole
from dora.seeds import derived_seed

# The thing's share of the picture's side, how far it is off the middle at most, in sides, and the zoom's logarithm.
FILLS, REACH, ZOOM = (0.35, 0.55), 0.22, 0.2
# Each of a camera's three motions is two swings of so many a second, the second a third as wide.
SWINGS_PER_S, WIDTHS = (0.15, 0.5), (0.75, 0.25)
LEAST_TIME_SEEN = 0.6


class Shot(NamedTuple):
    """One picture of a film."""

    image: UInt8[np.ndarray, "Y X 3"]
    thing: Annotation | None  # None: hidden


class Film(NamedTuple):
    """What is to be followed, and pictures of it at equal intervals."""

    start: Moment
    fps: float
    shots: tuple[Shot, ...]


def films(world: World, subset: str, n_each: int, *, n_frames: int, fps: float) -> Iterator[Film]:
    """`n_each` of every class of things, as high and wide as `world` is high; a thing is filmed once.

    Each begins with its thing whole and well seen, and shows it most of the time.

    Raises:
        ValueError: if the streets do not have enough things of some class.
    """
    taken: Counter[str] = Counter()
    filmed: set[tuple[int, int]] = set()
    for street, start_s in looks(world, subset):
        missing = {name for name in THINGS if taken[name] < n_each}
        if not missing:
            return
        for thing in near(street, start_s):
            name, who = FORMS[thing.kind].of, (street.seed, thing.instance)
            if name not in missing or who in filmed:
                continue
            made = film(thing, Moment(street, start_s), n_frames=n_frames, fps=fps)
            if made is not None:
                yield made
                filmed.add(who)
                taken[name] += 1
                missing.discard(name)  # one of a class a look, so that streets and hours vary
    fewest = min(THINGS, key=lambda name: taken[name])
    if taken[fewest] < n_each:
        raise ValueError(
            f"the streets of {subset} from seed {world.seed} gave {taken[fewest]} films of the class {fewest}, "
            f"{n_each} are wanted. Ask for fewer."
        )


def film(thing: Thing, start: Moment, *, n_frames: int, fps: float) -> Film | None:
    """The thing from then on, None if something stands in the way, or it goes."""
    street = start.world
    first = camera = pointed_at(thing, street, FILLS)
    swing = _swings(street.seed, thing.instance)
    shots: list[Shot] = []
    for number in range(n_frames):
        time_s = start.time_s + number / fps
        now = next((one for one in things(street.seed, camera, time_s) if one.instance == thing.instance), None)
        if now is None:
            return None
        camera = _beside(now, thing, first, swing(number / fps))
        if number == 0:
            around = things(street.seed, camera, time_s)
            if not is_whole(now.instance, around, camera, visibility=LEAST_VISIBILITY):
                return None
        shots.append(_shot(now.instance, street, camera, time_s))
    n_seen = sum(shot.thing is not None for shot in shots)
    return Film(start, fps, tuple(shots)) if n_seen >= LEAST_TIME_SEEN * n_frames else None


def _swings(seed: int, instance: int) -> Callable[[float], tuple[float, float, float]]:
    """How far, from -1 to 1, the camera is off to a side, off in height, and drawn nearer, at a time of the film."""
    rng = np.random.default_rng(derived_seed("unsteady camera", seed, instance))
    phases, rates = rng.uniform(0, 2 * math.pi, (3, 2)), rng.uniform(*SWINGS_PER_S, (3, 2))

    def at(time_s: float) -> tuple[float, float, float]:
        across, up, near = (np.sin(2 * math.pi * rates * time_s + phases) @ np.array(WIDTHS)).tolist()
        return across, up, near

    return at


def _beside(now: Thing, then: Thing, first: Camera, swing: tuple[float, float, float]) -> Camera:
    """The first camera, which has gone as far as the thing, if houses let it; the thing is nearly in the middle."""
    across, up, near = swing
    side = first.width
    x, z = within_walls(first.x + now.x - then.x), first.z + now.z - then.z
    nearer = math.hypot(now.x - x, now.z - z) / math.hypot(then.x - first.x, then.z - first.z)
    focal = first.focal * nearer * math.exp(ZOOM * near)
    # Rows from the horizon to the thing's middle height: as before, for what is farther is enlarged as much.
    below = (side / 2 - first.horizon) * math.exp(ZOOM * near)
    return first._replace(
        x=x, z=z, focal=focal, horizon=side / 2 - below + up * REACH * side,
        yaw=math.atan2(now.x - x, now.z - z) - math.atan(across * REACH * side / focal),
    )  # fmt: skip


def _shot(instance: int, street: World, camera: Camera, time_s: float) -> Shot:
    frame = photograph(street.seed, camera, time_s)
    alone = np.where(frame.instances == instance, frame.instances, 0)  # what else is there need not be measured
    seen = annotations(street.seed, camera, time_s, frame._replace(instances=alone))
    return Shot(frame.image, seen[0] if seen else None)
