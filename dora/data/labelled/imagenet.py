"""ImageNet's layout: a folder a class, each picture a photograph of one thing of that class where it stands.

The walker would see most things small and half hidden, so a photographer walks the same streets, steps up to things
and points the camera at them. Each is photographed once.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dora.data.labelled.files import write_lines, write_photo
from dora.data.labelled.moments import streets
from dora.data.miniature import CLASSES, Frame, World, photograph, view
from dora.data.street.layout import SCENERY, WALL_M, Camera
from dora.data.street.residents import Thing, things
from dora.data.street.shapes import FORMS, N_CORNERS
from dora.data.street.things import shape_of
from dora.data.street.truth import is_whole
from dora.seeds import derived_seed

ROOT = "imagenet"
SYNSETS = "LOC_synset_mapping.txt"  # class names, beside train and val in one of the ways ImageNet is handed out
THINGS = tuple(name for index, name in enumerate(CLASSES) if index not in SCENERY)
LOOK_EVERY_S, LOOKS_PER_STREET = 19.0, 4
NEAREST_M, FARTHEST_M = 4.0, 45.0  # ahead of the walker
LEAST_VISIBILITY = 0.75
LEAST_DISTANCE_M, FROM_WALL_M = 1.2, 0.6  # of the photographer from the thing and from house fronts
# The photographer's choices: distance in sizes of the thing, share of the picture that it fills, height of the camera
# in metres, and how far the camera turns from the street's direction.
DISTANCE, FILLS, EYE_M, TURN = (1.6, 3.0), (0.6, 0.85), (0.7, 1.8), 1.0


class Portrait(NamedTuple):
    """A photograph of one thing."""

    instance: int
    frame: Frame


def write(folder: Path, world: World, n_pictures: Mapping[str, int]) -> None:
    """Write the data set into `folder`, so many pictures of each class a subset, as high and wide as `world` is high.

    Raises:
        ValueError: if the streets do not have enough things of some class.
    """
    for subset, n_each in n_pictures.items():
        written = Counter[str]()
        for name in THINGS:
            (folder / subset / wnid_of(name)).mkdir(parents=True)
        for name, picture in shoot(world, subset, n_each):
            wnid, index = wnid_of(name), written[name]
            number = n_each * THINGS.index(name) + index + 1  # as if class after class
            file = f"{wnid}_{index}" if subset == "train" else f"ILSVRC2012_{subset}_{number:08d}"
            write_photo(folder / subset / wnid / f"{file}.JPEG", picture.frame.image)
            written[name] += 1
    write_lines(folder / SYNSETS, (f"{wnid_of(name)} {name}" for name in THINGS))


def wnid_of(class_name: str) -> str:
    """Folder of a class: of a WordNet id's form, but not WordNet's number."""
    return f"n{CLASSES.index(class_name):08d}"


def collect(
    world: World, subset: str, n_each: int, names: Sequence[str] = THINGS
) -> dict[str, list[Portrait]]:  # fmt: skip
    """`n_each` photographs of every class of things in `names`; the same ones, whatever other classes are asked for.

    Raises:
        ValueError: if the streets do not have enough of some class.
    """
    pictures: dict[str, list[Portrait]] = {name: [] for name in names}
    for name, picture in shoot(world, subset, n_each, names):
        pictures[name].append(picture)
    return pictures


def shoot(
    world: World, subset: str, n_each: int, names: Sequence[str] = THINGS
) -> Iterator[tuple[str, Portrait]]:  # fmt: skip
    """The photographs of `collect` with their classes, in the order in which they are taken.

    Raises:
        ValueError: after the last, if the streets do not have enough of some class.
    """
    taken = dict.fromkeys(names, 0)
    photographed: set[tuple[int, int]] = set()
    for street, time_s in looks(world, subset):
        missing = {name for name, n in taken.items() if n < n_each}
        if not missing:
            return
        for thing in near(street, time_s):
            name, who = FORMS[thing.kind].of, (street.seed, thing.instance)
            if name not in missing or who in photographed:
                continue
            picture = portrait(thing, street, time_s)
            if picture is not None:
                yield name, picture
                taken[name] += 1
                photographed.add(who)
                missing.discard(name)  # one of a class a look, so that streets and hours vary
    fewest = min(taken, key=lambda name: taken[name])
    if taken[fewest] < n_each:
        raise ValueError(
            f"the streets of {subset} from seed {world.seed} gave {taken[fewest]} pictures of the class "
            f"{fewest}, {n_each} are wanted. Ask for fewer."
        )


def portrait(thing: Thing, street: World, time_s: float) -> Portrait | None:
    """A photograph of the thing, None if something stands in the way or it does not fit."""
    camera = pointed_at(thing, street)
    if not is_whole(thing.instance, things(street.seed, camera, time_s), camera, visibility=LEAST_VISIBILITY):
        return None
    return Portrait(thing.instance, photograph(street.seed, camera, time_s))


def looks(world: World, subset: str) -> Iterator[tuple[World, float]]:
    """Streets and times at which to look about."""
    for street in streets(world, subset):
        for number in range(LOOKS_PER_STREET):
            yield street, LOOK_EVERY_S * number


def near(street: World, time_s: float) -> list[Thing]:
    """Things before the walker, in an order of chance."""
    camera = view(street, time_s)
    found = [t for t in things(street.seed, camera, time_s) if NEAREST_M < t.z - camera.z < FARTHEST_M]
    order = np.random.default_rng(derived_seed("photographer", street.seed, str(time_s))).permutation(len(found))
    return [found[index] for index in order]


def pointed_at(thing: Thing, street: World, fills: tuple[float, float] = FILLS) -> Camera:
    """A camera in the street that has the thing in its middle; it fills so much of the picture, between the two."""
    rng = np.random.default_rng(derived_seed("portrait", street.seed, thing.instance))
    turn, eye, share = rng.uniform(-TURN, TURN), rng.uniform(*EYE_M), rng.uniform(*fills)
    low, high, size = _extent(thing, street)
    distance = max(LEAST_DISTANCE_M, size * rng.uniform(*DISTANCE))
    x = within_walls(thing.x - distance * math.sin(turn))
    z = thing.z - distance * math.cos(turn)
    distance = math.hypot(thing.x - x, thing.z - z)
    side = street.height
    focal = share * side * distance / size
    # The row in which a point at the thing's middle height appears is the picture's middle.
    horizon = side / 2 + focal * ((low + high) / 2 - eye) / distance
    yaw = math.atan2(thing.x - x, thing.z - z)
    return Camera(x=x, y=eye, z=z, yaw=yaw, focal=focal, horizon=horizon, width=side, height=side)


def within_walls(x: float) -> float:
    """`x`, or the nearest place at which a photographer can stand before the house fronts."""
    return float(np.clip(x, FROM_WALL_M - WALL_M, WALL_M - FROM_WALL_M))


def _extent(thing: Thing, street: World) -> tuple[float, float, float]:
    """Lowest and highest point of the thing in metres, and its size: height, or width from its broadest side."""
    here = Camera(thing.x, 1.6, thing.z - 5, 0.0, float(street.height), street.height / 2, street.height, street.height)
    x, y, z = shape_of(thing, here).corners.reshape(-1, 3, N_CORNERS).transpose(1, 0, 2)
    return float(y.min()), float(y.max()), float(max(np.ptp(y), np.ptp(x), np.ptp(z)))
