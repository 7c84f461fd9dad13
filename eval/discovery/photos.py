"""The photos in which objects are to be found, and the boxes of what is in them. Loads no tensor library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from eval.benchmark import missing

Year = Literal[2007, 2012]
Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels, the last two excluded

COCO_IDS = "coco_20k_filenames.txt"  # as valeoai/LOST has it
# COCO 2014's training photos are all in 2017's training set, under shorter names.
COCO_FOLDERS = {"train2014": "COCO_train2014_{:012d}.jpg", "train2017": "{:012d}.jpg"}


class Thing(NamedTuple):
    """An annotated object."""

    name: str  # of its class
    box: Corners
    is_hard: bool = False  # truncated or difficult, as VOC marks it; COCO marks none


class Photos(NamedTuple):
    """Photos by number. `things` raises ValueError or OSError for an annotation that cannot be read."""

    names: list[str]
    path: Callable[[int], Path]
    things: Callable[[int], list[Thing]]


def voc_folder(data: Path, year: Year) -> Path:
    """The folder of that year's set: `data` itself, or what is below it or beside it in VOCdevkit."""
    candidates = [data.parent / f"VOC{year}", data / f"VOC{year}", data / "VOCdevkit" / f"VOC{year}"]
    other = next(one for one in (2007, 2012) if one != year)
    if data.name != f"VOC{other}":
        candidates.insert(0, data)
    return next((folder for folder in candidates if (folder / "ImageSets" / "Main").is_dir()), data)


def voc_photos(data: Path, year: Year, split: str) -> Photos:
    """What ImageSets/Main lists of a year.

    Raises:
        FileNotFoundError: for a part that is not there.
        ValueError: for an empty list or one of another year.
    """
    folder = voc_folder(data, year)
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    for part in ("JPEGImages", "Annotations", f"ImageSets/Main/{split}.txt"):
        if not (folder / part).exists():
            raise _missing(f"{part} of VOC {year}", data)
    names = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
    if not names:
        raise ValueError(f"voc_lost: {listing} lists no photo. Unpack VOC {year} again.")
    # 2007 has 000005, later years have 2008_000002.
    found = 2012 if "_" in names[0] else 2007
    if found != year:
        raise ValueError(
            f"voc_lost: {listing} lists {names[0]} first, which is of VOC {found}, expected {year}. "
            f"Name the folder VOCdevkit/VOC{year}, or say year={found}."
        )

    def path_of(i: int) -> Path:
        return folder / "JPEGImages" / f"{names[i]}.jpg"

    def things_of(i: int) -> list[Thing]:
        return voc_things(folder / "Annotations" / f"{names[i]}.xml")

    return Photos(names, path_of, things_of)


def voc_things(path: Path) -> list[Thing]:
    """The objects of an XML file. VOC counts pixels from 1 and includes the last one.

    Raises:
        ValueError: if it is no annotation; names the file.
    """
    try:
        return [_thing(element) for element in ElementTree.parse(path).iter("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no annotation of VOC's ({error}). Unpack it again.") from None


def coco_photos(data: Path, ids: Path | None) -> Photos:
    """The photos of COCO's training set that a file lists, with their boxes; those of crowds are left out.

    `ids` has a photo a line: a number, or a file name that ends in it. Without it `data` has COCO_IDS. The whole of
    COCO's annotations is read, which takes half a minute and 3.5 GB.

    Raises:
        FileNotFoundError, ValueError: for a part that is not there, or a listed photo that COCO does not know.
    """
    numbers, folder, path = coco_listing(data, ids)
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"voc_lost: {path} is no whole JSON: it was cut short. Unpack it again.") from None
    known = {image["id"] for image in content["images"]}
    if strangers := [number for number in numbers if number not in known]:
        raise ValueError(
            f"voc_lost: {path} has no photo {strangers[0]} ({len(strangers)} such ids). They must be of COCO's 2014 "
            "training set."
        )
    classes = {category["id"]: category["name"] for category in content["categories"]}
    things: dict[int, list[Thing]] = {number: [] for number in numbers}
    for one in content["annotations"]:
        if one["image_id"] in things and not one["iscrowd"]:
            left, top, width, height = one["bbox"]
            # To whole pixels, as LOST's main_lost.py takes them.
            left, top, right, bottom = (float(round(x)) for x in (left, top, left + width, top + height))
            box = (left, top, right, bottom)
            things[one["image_id"]].append(Thing(classes[one["category_id"]], box))

    def path_of(i: int) -> Path:
        return data / folder / COCO_FOLDERS[folder].format(numbers[i])

    def things_of(i: int) -> list[Thing]:
        return things[numbers[i]]

    return Photos([str(number) for number in numbers], path_of, things_of)


def coco_listing(data: Path, ids: Path | None) -> tuple[list[int], str, Path]:
    """The listed photos' ids, the folder of the photos (2014's, else 2017's), and the file of annotations.

    Raises:
        FileNotFoundError, ValueError: as coco_photos.
    """
    listing = ids or data / COCO_IDS
    if not listing.is_file():
        raise _missing(f"list of ids {listing.name}" if ids is None else f"file {listing}", data)
    folder = next((name for name in COCO_FOLDERS if (data / name).is_dir()), None)
    if folder is None:
        raise _missing(f"folder {' or '.join(COCO_FOLDERS)}", data)
    annotations = data / "annotations" / f"instances_{folder}.json"
    if not annotations.is_file():
        raise _missing(f"annotations/{annotations.name}", data)
    lines = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    try:
        numbers = [int(Path(line).stem.rpartition("_")[2]) for line in lines]
    except ValueError:
        raise ValueError(f"voc_lost: {listing} must have an id or a file name in each line.") from None
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"voc_lost: {listing} lists {'a photo twice' if numbers else 'no photo'}. Fetch it again.")
    return numbers, folder, annotations


def _missing(what: str, data: Path) -> FileNotFoundError:
    return missing(what, data, "voc_lost")


def _thing(element: ElementTree.Element) -> Thing:
    def number(path: str) -> float:
        text = element.findtext(path)
        if text is None:
            raise ValueError(f"an object has no {path}")
        return float(text)

    box = (number("bndbox/xmin") - 1, number("bndbox/ymin") - 1, number("bndbox/xmax"), number("bndbox/ymax"))
    is_hard = "1" in (element.findtext("truncated"), element.findtext("difficult"))
    return Thing(element.findtext("name") or "", box, is_hard)
