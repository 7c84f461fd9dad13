"""PASCAL VOC 2012's layout: photos, an XML of boxes for each, indexed PNGs of classes and of objects, and lists.

Things too small to be told apart are void (255) in the PNGs and have no box, as in VOC. Classes that VOC lacks are its
background.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt8

from dora.data.labelled.files import voc_palette, write_labels, write_lines, write_photo
from dora.data.labelled.moments import Still
from dora.data.miniature import CLASSES
from dora.data.street.truth import Annotation

ROOT = "VOCdevkit/VOC2012"  # as torchvision and LOST expect it
VOID = 255
# What is hidden further than this is marked difficult, or occluded; VOC's annotators judged by eye.
DIFFICULT_BELOW, OCCLUDED_BELOW = 0.25, 0.95

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_OTHER_NAMES = {"motorcycle": "motorbike", "plant": "pottedplant"}
# Class index -> label 1 … 20, for the classes that VOC has.
LABELS = {
    index: 1 + NAMES.index(_OTHER_NAMES.get(name, name))
    for index, name in enumerate(CLASSES)
    if _OTHER_NAMES.get(name, name) in NAMES
}


class Maps(NamedTuple):
    """What VOC says of each pixel."""

    classes: UInt8[np.ndarray, "Y X"]
    objects: UInt8[np.ndarray, "Y X"]  # 1, 2, … in the order of the XML


def write(folder: Path, subsets: Mapping[str, Iterable[Still]]) -> None:
    """Write the data set into `folder`, which is what the field calls VOCdevkit/VOC2012."""
    number = 0
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    listed: dict[str, dict[str, dict[int, int]]] = {}  # subset -> picture -> label -> 1, or 0: only difficult ones
    for subset, pictures in subsets.items():
        listed[subset] = {}
        for still in pictures:
            number += 1
            name, things = f"2012_{number:06d}", objects(still)
            write_photo(folder / "JPEGImages" / f"{name}.jpg", still.frame.image)
            maps = label_maps(still)
            write_labels(folder / "SegmentationClass" / f"{name}.png", maps.classes, voc_palette())
            write_labels(folder / "SegmentationObject" / f"{name}.png", maps.objects, voc_palette())
            (folder / "Annotations" / f"{name}.xml").write_bytes(_xml(name, still, things))
            listed[subset][name] = _listed(things)
    listed["trainval"] = {name: labels for pictures in listed.values() for name, labels in pictures.items()}
    for subset, pictures in listed.items():
        write_lines(folder / "ImageSets" / "Segmentation" / f"{subset}.txt", pictures)
        write_lines(folder / "ImageSets" / "Main" / f"{subset}.txt", pictures)
        for label, class_name in enumerate(NAMES, start=1):
            rows = (f"{name} {labels.get(label, -1):2d}" for name, labels in pictures.items())
            write_lines(folder / "ImageSets" / "Main" / f"{class_name}_{subset}.txt", rows)


def objects(still: Still) -> list[Annotation]:
    """The things of a picture that VOC has a class for."""
    return [thing for thing in still.objects if thing.class_index in LABELS]


def label_maps(still: Still) -> Maps:
    """Classes and objects of every pixel."""
    shape = still.frame.classes.shape
    classes, numbers = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    things = objects(still)
    for number, thing in enumerate(things, start=1):
        mask = still.frame.instances == thing.instance
        classes[mask], numbers[mask] = LABELS[thing.class_index], number
    known = {thing.instance for thing in things}
    small = [t.instance for t in still.things if t.class_index in LABELS and t.instance not in known]
    void = np.isin(still.frame.instances, small)
    classes[void] = numbers[void] = VOID
    return Maps(classes, numbers)


def _listed(things: Iterable[Annotation]) -> dict[int, int]:
    """1 for each label that is there, 0 where all of that label are difficult."""
    labels: dict[int, int] = {}
    for thing in things:
        label = LABELS[thing.class_index]
        labels[label] = max(labels.get(label, 0), int(not _is_difficult(thing)))
    return labels


def _is_difficult(thing: Annotation) -> bool:
    return thing.visibility < DIFFICULT_BELOW


def _xml(name: str, still: Still, things: Iterable[Annotation]) -> bytes:
    height, width = still.frame.classes.shape
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2012", filename=f"{name}.jpg")
    _add(_add(root, "source"), database="miniature walking tour", annotation="PASCAL VOC2012", image="rendered")
    _add(_add(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=1)
    for thing in things:
        element = _add(root, "object")
        is_cut = thing.is_cut(width, height)
        _add(
            element, name=NAMES[LABELS[thing.class_index] - 1], pose="Unspecified", truncated=int(is_cut),
            occluded=int(thing.visibility < OCCLUDED_BELOW and not is_cut), difficult=int(_is_difficult(thing)),
        )  # fmt: skip
        box = thing.box  # VOC counts pixels from 1 and includes the last
        _add(_add(element, "bndbox"), xmin=box.left + 1, ymin=box.top + 1, xmax=box.right, ymax=box.bottom)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root) + b"\n"


def _add(parent: ElementTree.Element, tag: str = "", **texts: str | int) -> ElementTree.Element:
    """Add an element, and an element of text for each keyword; without a tag the texts go to the parent."""
    element = ElementTree.SubElement(parent, tag) if tag else parent
    for name, text in texts.items():
        ElementTree.SubElement(element, name).text = str(text)
    return element
