"""Miniature photos as PASCAL VOC's are: of something, at which somebody has pointed a camera."""

from collections.abc import Iterator

import numpy as np

from dora.data.labelled.imagenet import Portrait, collect
from dora.data.labelled.moments import Moment, Still
from dora.data.labelled.voc import LABELS
from dora.data.miniature import CLASSES, World
from dora.data.street.truth import Annotation, box_of


def portraits(world: World, subset: str, n_each: int) -> Iterator[Still]:
    """`n_each` photographs of every class that VOC has, things around them included, as high and wide as the world.

    Of each thing only what is seen counts: nothing is known here of what is hidden or outside.
    """
    pictures = collect(world, subset, n_each)
    names = [CLASSES[index] for index in LABELS]
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
