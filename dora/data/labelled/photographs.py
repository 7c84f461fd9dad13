"""Photographs of something, as those of VOC and COCO are: somebody has pointed a camera at a thing, others are around.

What a walker sees of a street is small, half hidden and in a crowd; a detector would need days of it.
"""

from collections.abc import Collection, Iterator

import numpy as np

from dora.data.labelled.imagenet import Portrait, collect
from dora.data.labelled.moments import Moment, Still
from dora.data.miniature import CLASSES, World
from dora.data.street.truth import Annotation, box_of


def photographs(world: World, subset: str, n_each: int, classes: Collection[int]) -> Iterator[Still]:
    """`n_each` of every class of things in `classes` (indices in CLASSES), as high and wide as the world is high.

    Of each thing only what is seen counts: nothing is known here of what is hidden or outside.

    Raises:
        ValueError: if the streets do not have enough things of some class.
    """
    names = [CLASSES[index] for index in classes]
    pictures = collect(world, subset, n_each, names)
    for number in range(n_each):
        for name in names:
            yield _still(world, pictures[name][number])


def _still(world: World, portrait: Portrait) -> Still:
    frame = portrait.frame
    things: list[Annotation] = []
    for instance in np.unique(frame.instances).tolist():
        if instance:
            mask = frame.instances == instance
            n, box = int(mask.sum()), box_of(mask)
            things.append(
                Annotation(instance, int(frame.classes[mask][0]), box, box, n, n, float(frame.depth[mask].min()))
            )
    return Still(Moment(world, 0.0), frame, tuple(sorted(things, key=lambda one: (-one.n_visible, one.instance))))
