"""Stanford Cars' layout: two folders of photos, and MATLAB files that say what is on each.

Scipy reads and writes MATLAB's files; dora itself does not need it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dora.data.labelled.files import write_photo
from dora.data.labelled.matlab import write_matlab
from dora.data.labelled.portraits import Portraits, labelled

ROOT = "stanford_cars"
PHOTOS = {"train": "cars_train", "val": "cars_test"}
LABELS = {"train": "devkit/cars_train_annos.mat", "val": "cars_test_annos_withlabels.mat"}
NAMES = "devkit/cars_meta.mat"


def write(folder: Path, pictures: Mapping[str, Portraits]) -> None:
    """Write train and val into `folder`."""
    into = folder / ROOT
    (into / "devkit").mkdir(parents=True, exist_ok=True)
    for subset, photos in PHOTOS.items():
        (into / photos).mkdir(exist_ok=True)
        found = labelled(pictures[subset])
        table = np.empty(len(found), dtype=[("class", object), ("fname", object)])
        for number, (image, label) in enumerate(found):
            name = f"{number + 1:05d}.jpg"
            write_photo(into / photos / name, image)
            table[number] = (label + 1, name)
        write_matlab(into / LABELS[subset], {"annotations": table})
    names = np.array([name for name, _ in pictures["train"]], dtype=object)
    write_matlab(into / NAMES, {"class_names": names})
