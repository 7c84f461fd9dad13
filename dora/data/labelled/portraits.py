"""Photographs of single things as classification sets want them: a few of each class, drawn once in a process."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dora.data.labelled.files import write_lines, write_photo
from dora.data.labelled.imagenet import SYNSETS, collect, wnid_of
from dora.data.miniature import World

N_EACH = {"train": 4, "val": 2}
Portraits = tuple[tuple[str, tuple[UInt8[np.ndarray, "Y X 3"], ...]], ...]


def few(world: World, times: int) -> dict[str, Portraits]:
    """Four photographs of each class for train, and two from other streets for val; `times` as many."""
    return {subset: portraits(world, subset, n * times) for subset, n in N_EACH.items()}


def portraits(world: World, subset: str, n_each: int) -> Portraits:
    """Every class of things with `n_each` photographs of it, as high and wide as `world` is high.

    Raises:
        ValueError: if the streets do not have enough things of some class.
    """
    return _drawn(world.model_dump_json(), subset, n_each)


@lru_cache(maxsize=4)
def _drawn(world: str, subset: str, n_each: int) -> Portraits:
    return tuple(
        (name, tuple(picture.frame.image for picture in pictures))
        for name, pictures in collect(World.model_validate_json(world), subset, n_each).items()
    )


def labelled(found: Portraits) -> list[tuple[UInt8[np.ndarray, "Y X 3"], int]]:
    """Each photograph with its class's number, one of each class after the other."""
    n_each = max(len(pictures) for _, pictures in found)
    return [
        (pictures[number], label)
        for number in range(n_each)
        for label, (_, pictures) in enumerate(found)
        if number < len(pictures)
    ]


def write_folders(folder: Path, pictures: Mapping[str, Portraits]) -> None:
    """ImageNet's layout of them."""
    for subset, found in pictures.items():
        for name, images in found:
            into = folder / subset / wnid_of(name)
            into.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                write_photo(into / f"{into.name}_{subset}_{number}.JPEG", image)
    write_lines(folder / SYNSETS, (f"{wnid_of(name)} {name}" for name, _ in pictures["train"]))
