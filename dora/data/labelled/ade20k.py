"""ADE20K's layout, ADEChallengeData2016: photos, and grey PNGs with a class 1 … 150 for every pixel (0: none).

A street's classes become those of the 150 that mean them; all animals are one there.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dora.data.labelled.files import write_labels, write_lines, write_photo
from dora.data.labelled.moments import Still
from dora.data.miniature import CLASSES

ROOT = "ADEChallengeData2016"
FOLDERS = {"train": ("training", "ADE_train"), "val": ("validation", "ADE_val")}  # folder, prefix of file names

# Labels 1 … 150 in order, by the first of the names that the data set gives each.
NAMES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
OTHER_NAMES = {
    "pavement": "sidewalk", "motorcycle": "minibike", "dog": "animal", "cat": "animal", "bird": "animal",
    "lamp": "streetlight", "sign": "signboard", "bin": "ashcan",
}  # fmt: skip
LABELS = tuple(1 + NAMES.index(OTHER_NAMES.get(name, name)) for name in CLASSES)


def write(folder: Path, subsets: Mapping[str, Iterable[Still]]) -> None:
    """Write the data set into `folder`, which is what the field calls ADEChallengeData2016."""
    scenes: list[str] = []
    pixels: dict[str, list[Counter[int]]] = {}
    for subset, pictures in subsets.items():
        subfolder, prefix = FOLDERS[subset]
        for kind in ("images", "annotations"):
            (folder / kind / subfolder).mkdir(parents=True, exist_ok=True)
        pixels[subset] = []
        for number, still in enumerate(pictures, start=1):
            name, labels = f"{prefix}_{number:08d}", label_map(still.frame.classes)
            write_photo(folder / "images" / subfolder / f"{name}.jpg", still.frame.image)
            write_labels(folder / "annotations" / subfolder / f"{name}.png", labels, palette=None)
            scenes.append(f"{name} street")
            present, counts = np.unique(labels, return_counts=True)
            pixels[subset].append(Counter(dict(zip(present.tolist(), counts.tolist(), strict=True))))
    write_lines(folder / "sceneCategories.txt", scenes)
    write_lines(folder / "objectInfo150.txt", _object_info(pixels))


def label_map(classes: UInt8[np.ndarray, "Y X"]) -> UInt8[np.ndarray, "Y X"]:
    """ADE20K's label of every pixel."""
    return np.array(LABELS, np.uint8)[classes]


def _object_info(pixels: Mapping[str, list[Counter[int]]]) -> Iterable[str]:
    """A header, then for each class its share of the pixels and in how many pictures it is.

    "Stuff" is marked for the classes that a street has, not for all that ADE20K marks.
    """
    total = sum((picture for pictures in pixels.values() for picture in pictures), Counter[int]())
    yield "Idx\tRatio\tTrain\tVal\tStuff\tName"
    for label, name in enumerate(NAMES, start=1):
        share = total[label] / max(1, total.total())
        n_train, n_val = (sum(label in picture for picture in pixels.get(subset, ())) for subset in ("train", "val"))
        is_stuff = int(name in ("building", "sky", "road", "sidewalk", "tree"))
        yield f"{label}\t{share:.4f}\t{n_train}\t{n_val}\t{is_stuff}\t{name}"
