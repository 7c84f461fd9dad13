"""iNaturalist's layout of 2018 and 2019: photos by kingdom or class and by number of the species, and lists as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dora.data.labelled.files import write_photo
from dora.data.labelled.portraits import Portraits, labelled

SUBSETS = ("train", "val")
OF_ALL = "Street"  # the one group that all things of a street are of


def write(folder: Path, year: int, pictures: Mapping[str, Portraits]) -> None:
    """Write both subsets into `folder`."""
    first = 1
    for subset in SUBSETS:
        found = labelled(pictures[subset])
        images: list[dict[str, Any]] = []
        labels: list[dict[str, Any]] = []
        for number, (image, label) in enumerate(found, start=first):
            name = f"{photos(year)}/{OF_ALL}/{label}/{number:032x}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_photo(folder / name, image)
            images.append({"id": number, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
            labels.append({"id": number, "image_id": number, "category_id": label})
        first += len(found)
        species = [
            {"id": label, "name": name, "supercategory": OF_ALL} for label, (name, _) in enumerate(pictures[subset])
        ]
        content = {"images": images, "annotations": labels, "categories": species}
        (folder / listing(year, subset)).write_text(json.dumps(content))


def photos(year: int) -> str:
    """The folder of both subsets' photos."""
    return f"train_val{year}"


def listing(year: int, subset: str) -> str:
    """The file that lists a subset."""
    return f"{subset}{year}.json"
