"""Flowers-102's layout: numbered photos in one folder, and two MATLAB files that say of which class and subset each is.

Scipy reads and writes MATLAB's files; dora itself does not need it.
"""

from collections.abc import Mapping
from pathlib import Path

from dora.data.labelled.files import write_photo
from dora.data.labelled.matlab import write_matlab
from dora.data.labelled.portraits import Portraits, labelled

ROOT = "flowers-102"
LABELS, SUBSETS = "imagelabels.mat", "setid.mat"
KEYS = ("trnid", "valid", "tstid")


def write(folder: Path, pictures: Mapping[str, Portraits]) -> None:
    """Write the pictures of train, by turns, as train and val, and those of val as test, which is what is measured."""
    into = folder / ROOT
    (into / "jpg").mkdir(parents=True, exist_ok=True)
    labels: list[int] = []
    numbers: dict[str, list[int]] = {}
    train = pictures["train"]
    halves = [tuple((name, images[start::2]) for name, images in train) for start in (0, 1)]
    for key, part in zip(KEYS, (*halves, pictures["val"]), strict=True):
        found = labelled(part)
        numbers[key] = list(range(len(labels) + 1, len(labels) + len(found) + 1))
        for number, (image, label) in zip(numbers[key], found, strict=True):
            write_photo(into / "jpg" / f"image_{number:05d}.jpg", image)
            labels.append(label + 1)
    write_matlab(into / LABELS, {"labels": labels})
    write_matlab(into / SUBSETS, numbers)
