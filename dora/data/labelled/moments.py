"""Moments of streets that no video shows, and everything that is known about each.

A set has subsets ("train", "val"); each subset has streets of its own, so nothing is measured on a street that was
learnt from, be it by pretraining (videos have seeds below 1000) or by a head that is trained on frozen features.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from dora.data.miniature import Frame, World, annotations, photograph, view
from dora.data.street.truth import Annotation

FIRST_SEED = 1000  # of the labelled sets; those below are the videos' (dora/config.py)
SUBSETS = ("train", "val", "test")
STREETS_PER_SUBSET = 300  # seeds set aside for each subset
MOMENTS_PER_STREET, MOMENT_EVERY_S = 8, 11.0
MIN_PIXELS = 24  # a thing of fewer visible pixels is too small for an object of its own


class Moment(NamedTuple):
    """A street at a time."""

    world: World
    time_s: float


class Still(NamedTuple):
    """A picture with everything that is known about it."""

    moment: Moment
    frame: Frame
    things: tuple[Annotation, ...]  # the largest first

    @property
    def objects(self) -> tuple[Annotation, ...]:
        """Things that are large enough to be told apart."""
        return tuple(thing for thing in self.things if thing.n_visible >= MIN_PIXELS)


def streets(world: World, subset: str) -> Iterator[World]:
    """The worlds of one subset, in order.

    Raises:
        ValueError: if the seed belongs to the videos.
    """
    if world.seed < FIRST_SEED:
        raise ValueError(
            f"seed {world.seed} belongs to the videos (0 … {FIRST_SEED - 1}); labelled sets begin at {FIRST_SEED}, so "
            "that nothing is measured on a street that was learnt from. Choose a larger seed."
        )
    first = world.seed + STREETS_PER_SUBSET * SUBSETS.index(subset)
    for seed in range(first, first + STREETS_PER_SUBSET):
        yield world.model_copy(update={"seed": seed})


def moments(world: World, subset: str, n: int) -> list[Moment]:
    """`n` moments of one subset, some from each street."""
    times = [MOMENT_EVERY_S * number for number in range(MOMENTS_PER_STREET)]
    return list(islice((Moment(street, time_s) for street in streets(world, subset) for time_s in times), n))


def still(moment: Moment) -> Still:
    """Render a moment and look up what is in it."""
    world, time_s = moment
    camera = view(world, time_s)
    frame = photograph(world.seed, camera, time_s)
    return Still(moment, frame, annotations(world.seed, camera, time_s, frame))
