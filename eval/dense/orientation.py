"""The order in which detectors see images: upright and wide ones apart, so that little of a batch is padding."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dora.data.order import permuted
from dora.seeds import derived_seed


class Order(NamedTuple):
    """An endless stream of images."""

    at: Callable[[int], int]  # position in the stream -> number of an image
    pass_length: int  # images of a pass: all, and the few that are seen twice to fill the last groups


def in_groups(is_wide: Sequence[bool], *, group_size: int, seed: int) -> Order:
    """Pass after pass over all images, in shuffled groups of `group_size` that are all upright or all wide.

    mmdet's rule (2.28.2 GroupSampler): the images of an orientation are shuffled and cut into groups, what the last
    group lacks is filled with images of the pass, and the groups of both are shuffled together. A group there is what
    one GPU sees at once, so it depends on their number; and all depends on what was drawn before. This order is a pure
    function of seed and position: a resumed training sees the same, and with whole batches as groups one on any number
    of processes, in micro-batches of any size, does too.
    """
    members = [np.flatnonzero(np.equal(is_wide, wide)) for wide in (False, True)]
    members = [numbers for numbers in members if len(numbers)]
    n_groups = [-(-len(numbers) // group_size) for numbers in members]
    first_group = np.cumsum([0, *n_groups])
    pass_length = int(first_group[-1]) * group_size

    def at(position: int) -> int:
        number_of_pass, place = divmod(position, pass_length)
        group = _permuted(place // group_size, int(first_group[-1]), derived_seed(seed, "groups", number_of_pass))
        kind = int(np.searchsorted(first_group, group, "right")) - 1
        numbers = members[kind]
        slot = (group - int(first_group[kind])) * group_size + place % group_size
        key = derived_seed(seed, "images", kind, number_of_pass)
        return int(numbers[_permuted(slot % len(numbers), len(numbers), key)])

    return Order(at, pass_length)


def _permuted(number: int, n: int, key: int) -> int:
    return int(permuted(np.array([number], np.int64), n, key=key)[0])
