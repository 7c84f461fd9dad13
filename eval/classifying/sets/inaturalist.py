"""iNaturalist 2018 and 2019: photos and classes as the competition's own lists have them.

torchvision reads these folders too, but it knows no lists: training and validation photos lie side by side, and only
the lists tell them apart. So the lists are read here, and no photo that they do not name.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dora.data.labelled.inaturalist import SUBSETS, listing, photos
from eval.classifying.sets import there
from eval.identity import sampled, some

if TYPE_CHECKING:
    from eval.classifying.photos import Sets


class Listed(NamedTuple):
    """Classes in the order of their ids, and a list's photos: where below the data's folder, and which class."""

    classes: tuple[str, ...]
    photos: list[tuple[str, int]]


def check(data: Path, year: int, benchmark: str, *, whole: bool, expected: dict[str, int]) -> dict[str, Any]:
    """The numbers of photos, the hashes of the lists and of some photos, which are looked for."""
    lists = [listing(year, subset) for subset in SUBSETS]
    folder = photos_folder(data, year)
    there.require(data, [*lists, folder], benchmark)
    found: dict[str, int] = {}
    sample = ""
    for subset in SUBSETS:
        listed = [name for name, _ in read_list(data, year, subset).photos]
        found[f"n_{subset}"] = len(listed)
        there.require(data, some(listed), benchmark)
        sample += sampled([data / name for name in listed])
    if whole:
        there.refuse_parts(data, found, expected, benchmark)
    return found | there.digests(data, lists) | {"sample_sha256": sample}


def read(data: Path, year: int) -> "Sets":
    """Training and validation set.

    Raises:
        ValueError: for lists that have other classes, or are damaged.
    """
    from eval.classifying.photos import Files, Sets

    train, val = (read_list(data, year, subset) for subset in SUBSETS)
    if train.classes != val.classes:
        raise ValueError(f"the lists of iNaturalist {year} in {data} have other classes. Fetch both again.")
    files = ([(data / name, label) for name, label in listed.photos] for listed in (train, val))
    return Sets(train.classes, *map(Files, files))


def read_list(data: Path, year: int, subset: str) -> Listed:
    """A list's photos, in its order.

    Raises:
        ValueError: if it is damaged.
    """
    path = data / listing(year, subset)
    try:
        content = json.loads(path.read_bytes())
        species = sorted((row["id"], row["name"]) for row in content["categories"])
        numbers = {number: label for label, (number, _) in enumerate(species)}
        label_of = {row["image_id"]: numbers[row["category_id"]] for row in content["annotations"]}
        named = [(row["file_name"], label_of[row["id"]]) for row in content["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no list of iNaturalist {year}: {error!r}. Fetch it again.") from None
    folder = photos_folder(data, year)
    return Listed(
        tuple(name for _, name in species), [(f"{folder}/{name.partition('/')[2]}", label) for name, label in named]
    )


def photos_folder(data: Path, year: int) -> str:
    """As unpacked, train_val2018; or 2018, as torchvision calls it."""
    return f"{year}" if (data / f"{year}").is_dir() and not (data / photos(year)).is_dir() else photos(year)
