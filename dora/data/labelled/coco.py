"""COCO 2017's layout: photos, and one JSON a subset with the objects of the categories that COCO has.

A mask is a list of polygons, exact to the pixel; as in COCO, only crowds are run lengths. A thing too small to be an
object is a crowd region, which detectors are neither rewarded nor punished for.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from dora.data.labelled.files import write_photo
from dora.data.labelled.moments import MIN_PIXELS, Still
from dora.data.labelled.outlines import polygons
from dora.data.miniature import CLASSES
from dora.data.street.truth import box_of

ROOT = "coco"

# id: name, by supercategory. The ids have gaps; COCO 2017 has 80 categories.
CATEGORIES: dict[str, dict[int, str]] = {
    "person": {1: "person"},
    "vehicle": {2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat"},
    "outdoor": {10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench"},
    "animal": {16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
               24: "zebra", 25: "giraffe"},
    "accessory": {27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"},
    "sports": {34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
               40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket"},
    "kitchen": {44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl"},
    "food": {52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog",
             59: "pizza", 60: "donut", 61: "cake"},
    "furniture": {62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet"},
    "electronic": {72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone"},
    "appliance": {78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator"},
    "indoor": {84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier",
               90: "toothbrush"},
}  # fmt: skip
_IDS = {name: number for group in CATEGORIES.values() for number, name in group.items()}
_OTHER_NAMES = {"plant": "potted plant"}
# Class index -> category id, for the classes that COCO has.
CATEGORY_IDS = {
    index: _IDS[_OTHER_NAMES.get(name, name)]
    for index, name in enumerate(CLASSES)
    if _OTHER_NAMES.get(name, name) in _IDS
}


def write(
    folder: Path, subsets: Mapping[str, Iterable[Still]], *, min_pixels: int = MIN_PIXELS
) -> None:  # fmt: skip
    """Write the data set into `folder`, which is what the field calls coco. No id is used twice in it.

    What is seen of an object are at least `min_pixels`; of less it is a crowd.
    """
    image_ids, annotation_ids = count(1), count(1)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for subset, pictures in subsets.items():
        photos = folder / f"{subset}2017"
        photos.mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for still, image_id in zip(pictures, image_ids, strict=False):
            height, width = still.frame.classes.shape
            name = f"{image_id:012d}.jpg"
            write_photo(photos / name, still.frame.image)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
            for annotation in _annotations(still, min_pixels):
                annotations.append({"id": next(annotation_ids), "image_id": image_id, **annotation})
        content = {
            "info": {"description": f"miniature walking tour in COCO's layout, {subset}", "version": "1.0"},
            "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
            "images": images, "annotations": annotations, "categories": categories(),
        }  # fmt: skip
        (folder / "annotations" / f"instances_{subset}2017.json").write_text(json.dumps(content))


def categories() -> list[dict[str, Any]]:
    """COCO's own list of categories."""
    return [
        {"supercategory": group, "id": number, "name": name}
        for group, members in CATEGORIES.items()
        for number, name in members.items()
    ]


def _annotations(still: Still, min_pixels: int) -> Iterable[dict[str, Any]]:
    """Things of COCO's categories, the largest first; the small ones as crowds."""
    for thing in still.things:
        if thing.class_index in CATEGORY_IDS:
            mask = still.frame.instances == thing.instance
            yield _annotation(mask, thing.class_index, is_crowd=thing.n_visible < min_pixels)


def _annotation(mask: Bool[np.ndarray, "Y X"], class_index: int, *, is_crowd: bool) -> dict[str, Any]:
    box = box_of(mask)
    return {
        "category_id": CATEGORY_IDS[class_index],
        "iscrowd": int(is_crowd),
        "area": int(np.count_nonzero(mask)),
        "bbox": [box.left, box.top, box.width, box.height],
        "segmentation": _run_lengths(mask) if is_crowd else polygons(mask),
    }


def _run_lengths(mask: Bool[np.ndarray, "Y X"]) -> dict[str, list[int]]:
    """COCO's uncompressed code: down one column after the other, how many pixels are out, in, out and so on."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}
