"""DAVIS-2017's layout at 480p: frames, and indexed PNGs in which label i is the i-th thing to follow."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from dora.data.labelled.files import voc_palette, write_labels, write_lines, write_photo
from dora.data.labelled.moments import Moment, still, streets
from dora.data.miniature import World, render

ROOT = "DAVIS"
IMAGES, ANNOTATIONS, LISTS = "JPEGImages/480p", "Annotations/480p", "ImageSets/2017"
N_FRAMES, EVERY_S = 12, 0.1
LOOK_EVERY_S, LOOK_UNTIL_S = 4, 120
LOOK_AGAIN_AT = (3, 6, 9, N_FRAMES - 1)  # frames
MAX_THINGS, MOST_STREETS = 3, 60


class Walk(NamedTuple):
    """Some seconds of a street, and the things to follow."""

    start: Moment
    instances: tuple[int, ...]

    @property
    def name(self) -> str:
        """The sequence's name."""
        return f"street-{self.start.world.seed}"


def write(folder: Path, subsets: Mapping[str, Iterable[Walk]]) -> None:
    """Write the data set into `folder`, which is what the field calls DAVIS."""
    for subset, walks in subsets.items():
        names: list[str] = []
        for walk in walks:
            _write_walk(folder, walk)
            names.append(walk.name)
        write_lines(folder / LISTS / f"{subset}.txt", names)


def walks(world: World, subset: str, n: int) -> list[Walk]:
    """One walk in each of the subset's first `n` streets that show several large things at once.

    Raises:
        ValueError: if there are fewer.
    """
    found = list(islice(filter(None, map(_walk, islice(streets(world, subset), MOST_STREETS))), n))
    if len(found) < n:
        raise ValueError(
            f"only {len(found)} of {MOST_STREETS} streets from seed {world.seed} show two large things for a second, "
            f"{n} are wanted. Ask for fewer, or for wider pictures than {world.width}x{world.height}."
        )
    return found


def label_map(instances: Int32[np.ndarray, "Y X"], followed: Sequence[int]) -> UInt8[np.ndarray, "Y X"]:
    """1, 2, … where the things to follow are, in their order; 0 elsewhere."""
    labels = np.zeros(instances.shape, np.uint8)
    for label, instance in enumerate(followed, start=1):
        labels[instances == instance] = label
    return labels


def _write_walk(folder: Path, walk: Walk) -> None:
    images, annotations = folder / IMAGES / walk.name, folder / ANNOTATIONS / walk.name
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    for t in range(N_FRAMES):
        frame = render(walk.start.world, walk.start.time_s + EVERY_S * t)
        write_photo(images / f"{t:05d}.jpg", frame.image)
        write_labels(annotations / f"{t:05d}.png", label_map(frame.instances, walk.instances), voc_palette())


def _walk(street: World) -> Walk | None:
    """When two or three large things are in the picture for all of a walk, if they ever are."""
    for start_s in range(0, LOOK_UNTIL_S, LOOK_EVERY_S):
        start = Moment(street, float(start_s))
        large = _large(start)
        for later in LOOK_AGAIN_AT:
            still_large = _large(Moment(street, start_s + EVERY_S * later)) if len(large) >= 2 else []
            large = [instance for instance in large if instance in still_large]
        if len(large) >= 2:
            return Walk(start, tuple(large[:MAX_THINGS]))
    return None


def _large(moment: Moment) -> list[int]:
    """Things that fill at least a 64th of the picture, the largest first."""
    least = moment.world.width * moment.world.height / 64
    return [thing.instance for thing in still(moment).things if thing.n_visible >= least]
