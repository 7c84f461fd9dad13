"""COCO's annotation files, read once, checked whole, and kept small.

The training file has 860 000 objects: parsed JSON of it takes gigabytes, in each process. What is kept here is flat
arrays, which processes that read samples share; an object becomes a dict again when its image is read.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int64

from dora.data.labelled.coco import CATEGORIES

AGAIN = "Unpack annotations_trainval2017.zip again."
# Name of each category in the order of the ids: a network's class 0 is the person.
NAMES: tuple[str, ...] = tuple(name for group in CATEGORIES.values() for name in group.values())
CATEGORY_IDS: tuple[int, ...] = tuple(number for group in CATEGORIES.values() for number in group)


class Annotations:
    """The images of a subset and their objects, image by image, in the file's order."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        images: list[dict[str, Any]] = content["images"]
        number_of = {image["id"]: number for number, image in enumerate(images)}
        # Sorted by image; of one image in the file's order.
        objects = sorted(content["annotations"], key=lambda thing: number_of[thing["image_id"]])
        labels = {number: label for label, number in enumerate(CATEGORY_IDS)}
        polygons = [_polygons(thing) for thing in objects]

        self.path = path
        self.image_ids: list[int] = [image["id"] for image in images]
        self.file_names: list[str] = [image["file_name"] for image in images]
        self.sizes: Int64[np.ndarray, "n 2"] = _array([(i["height"], i["width"]) for i in images], 2, np.int64)
        self.boxes: Float[np.ndarray, "m 4"] = _array([thing["bbox"] for thing in objects], 4, np.float64)
        self.areas: Float[np.ndarray, " m"] = np.array([thing["area"] for thing in objects], np.float64)
        self.labels: Int64[np.ndarray, " m"] = np.array([labels[t["category_id"]] for t in objects], np.int64)
        self.is_crowd: Bool[np.ndarray, " m"] = np.array([bool(t.get("iscrowd", 0)) for t in objects], np.bool_)
        self._ignored: Bool[np.ndarray, " m"] = np.array([bool(t.get("ignore", 0)) for t in objects], np.bool_)
        self._first = _starts(np.bincount([number_of[t["image_id"]] for t in objects], minlength=len(images)).tolist())
        self._first_polygon = _starts(len(parts) for parts in polygons)
        self._first_point = _starts(len(points) for parts in polygons for points in parts)
        self._points = np.fromiter((x for parts in polygons for points in parts for x in points), np.float64)
        # Run lengths, which only crowds have, and whatever else is no list of polygons.
        self._codes = {m: t["segmentation"] for m, t in enumerate(objects) if not isinstance(t["segmentation"], list)}

    def __len__(self) -> int:
        return len(self.image_ids)

    def objects_of(self, number: int) -> range:
        """Which rows of the arrays belong to an image."""
        return range(int(self._first[number]), int(self._first[number + 1]))

    def segmentation(self, row: int) -> Any:
        """An object's outline as the file has it: polygons, or run lengths."""
        if row in self._codes:
            return self._codes[row]
        parts = range(int(self._first_polygon[row]), int(self._first_polygon[row + 1]))
        return [self._points[self._first_point[part] : self._first_point[part + 1]].tolist() for part in parts]

    def trainable(self, *, min_side: int) -> list[int]:
        """Numbers of the images that mmdet trains on: of at least that many pixels, and with any annotation.

        Its filter_empty_gt asks for an annotation, of whatever kind: an image that shows a crowd alone stays
        (mmdet 2.28.2 CocoDataset._filter_imgs; 3.3.0 CocoDataset.filter_data is the same).
        """
        return [
            number for number in range(len(self)) if self.objects_of(number) and self.sizes[number].min() >= min_side
        ]

    def instances(self, number: int) -> list[dict[str, Any]]:
        """An image's objects as mmdet wants them; crowds are marked to be ignored.

        Left out, as in its CocoDataset, is what lies outside the image, or is less than a pixel wide or high.
        """
        height, width = self.sizes[number].tolist()
        instances: list[dict[str, Any]] = []
        for row in self.objects_of(number):
            x, y, w, h = self.boxes[row].tolist()
            is_outside = min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0)
            if self._ignored[row] or is_outside or self.areas[row] <= 0 or w < 1 or h < 1:
                continue
            instances.append({
                "bbox": [x, y, x + w, y + h],
                "bbox_label": int(self.labels[row]),
                "ignore_flag": int(self.is_crowd[row]),
                "mask": self.segmentation(row),
            })  # fmt: skip
        return instances


def read(path: Path) -> Annotations:
    """A whole annotation file, every reference in it checked.

    Raises:
        ValueError: if it is cut short, of other categories than COCO's 80, or contradicts itself; says how often.
    """
    return Annotations(path, load(path))


def load(path: Path) -> dict[str, Any]:
    """The checked JSON of an annotation file.

    Raises:
        ValueError: as `read`.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{path} is no whole JSON ({error}). {AGAIN}") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(f"{path} holds no lists called images, annotations and categories, as COCO 2017's do. {AGAIN}")
    found = cast(dict[str, Any], content)
    try:
        require_categories(path, found["categories"])
        _require_whole(path, found["images"], found["annotations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks {error} in one of its entries, which COCO 2017's have. {AGAIN}") from None
    return found


def require_categories(path: Path, categories: Iterable[dict[str, Any]]) -> None:
    """Nothing, if they are COCO's 80 ids with their names.

    Raises:
        ValueError: if not; names those that differ.
    """
    found = {category["id"]: category["name"] for category in categories}
    wanted = dict(zip(CATEGORY_IDS, NAMES, strict=True))
    differing = [
        f"{number} is {_named(found.get(number))}, expected {_named(wanted.get(number))}"
        for number in sorted({*found, *wanted}, key=str)
        if found.get(number) != wanted.get(number)
    ]
    if differing:
        raise ValueError(
            f"{path} has other categories than COCO 2017's 80: {_some(differing)}. A network that is trained and "
            f"judged on others gives another number. Take instances_train2017.json and instances_val2017.json."
        )


def _require_whole(path: Path, images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]) -> None:
    n = f"of its {len(annotations):,} annotations"
    image_ids = {image["id"] for image in images}
    category_ids = set(CATEGORY_IDS)
    faults = {
        f"{len(images) - len(image_ids):,} images share their id with another": len(images) - len(image_ids),
    }
    for what, ids in (
        (f"name an image that is not there (image_id %s) {n}", [
            a["image_id"] for a in annotations if a["image_id"] not in image_ids]),
        (f"name a category that is not there (category_id %s) {n}", [
            a["category_id"] for a in annotations if a["category_id"] not in category_ids]),
        (f"share their id with another (id %s) {n}", [
            number for number, times in Counter(a["id"] for a in annotations).items() if times > 1]),
        (f"have no box of four numbers or no area (id %s) {n}", [
            a["id"] for a in annotations if not _has_box(a)]),
        (f"have no outline (id %s) {n}", [a["id"] for a in annotations if not a.get("segmentation")]),
    ):  # fmt: skip
        if ids:
            faults[f"{len(ids):,} {what % _some(list(map(str, dict.fromkeys(ids))))}"] = len(ids)
    for image in images:
        if image["height"] < 1 or image["width"] < 1 or not image["file_name"]:
            faults[f"image {image['id']} has no size or no name"] = 1
    faults = [fault for fault, times in faults.items() if times]
    if faults:
        raise ValueError(f"{path} contradicts itself: {_some(faults, '; ')}. {AGAIN}")
    if not images or not annotations:
        raise ValueError(f"{path} has {len(images)} images and {len(annotations)} annotations. {AGAIN}")


def _has_box(annotation: dict[str, Any]) -> bool:
    numbers = [*annotation["bbox"], annotation["area"]]
    return len(numbers) == 5 and all(isinstance(x, int | float) and np.isfinite(x) for x in numbers)


def _polygons(thing: dict[str, Any]) -> list[list[float]]:
    segmentation = thing["segmentation"]
    return segmentation if isinstance(segmentation, list) else []


def _starts(lengths: Iterable[int]) -> Int64[np.ndarray, " k"]:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _array(rows: Sequence[Any], n_columns: int, kind: type) -> np.ndarray:
    return np.array(rows, kind).reshape(-1, n_columns)


def _named(name: str | None) -> str:
    return "missing" if name is None else repr(name)


def _some(items: Sequence[str], joint: str = ", ") -> str:
    return joint.join(items[:3]) + (f"{joint}and {len(items) - 3:,} more" if len(items) > 3 else "")
