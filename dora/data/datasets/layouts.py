"""The data sets' layouts, one function each: counts what is there and says what is wrong.

`PARTS` are the folders without which a set is none, and what to do about each; a set is also known by them when it
lies in another place than the one that was named.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from dora.data.datasets import gated
from dora.data.datasets.look import AGAIN, Look, some
from dora.data.labelled import ade20k, davis, nyu, voc

JPEG = (".JPEG", ".jpeg", ".jpg", ".JPG")
VOID = 255

PARTS: Mapping[str, Mapping[str, str]] = {
    "ade20k": {
        f"{kind}/{subset}": AGAIN for kind in ("images", "annotations") for subset in ("training", "validation")
    },
    "coco": {
        "train2017": "Unpack train2017.zip there.",
        "val2017": "Unpack val2017.zip there.",
        "annotations": "Unpack annotations_trainval2017.zip there.",
    },
    "davis": {
        davis.IMAGES: "Get DAVIS-2017-trainval-480p.zip; the benchmark is at 480p.",
        davis.ANNOTATIONS: "Get DAVIS-2017-trainval-480p.zip; the test-dev archives have no annotations.",
        davis.LISTS: "Get DAVIS-2017-trainval-480p.zip; DAVIS 2016 has other lists.",
    },
    "voc2012": {"JPEGImages": AGAIN, "Annotations": AGAIN, "ImageSets/Main": AGAIN, "SegmentationClass": AGAIN},
    "voc2007": {"JPEGImages": AGAIN, "Annotations": AGAIN, "ImageSets/Main": AGAIN},
    "imagenet": {
        "train": "Unpack ILSVRC2012_img_train.tar there, then the tar of each class.",
        "val": "Unpack ILSVRC2012_img_val.tar there, then sort its images into class folders.",
    },
    "got10k": {"train": AGAIN, "val": AGAIN, "test": AGAIN},
    "nyu": {
        nyu.LISTS["train"]: "Take it from train_test_inputs/ of https://github.com/cleinc/bts.",
        nyu.LISTS["val"]: "Take it from train_test_inputs/ of https://github.com/cleinc/bts.",
    },
}  # fmt: skip


class Relative(NamedTuple):
    """Something that is taken for the set: known by a file, unless another is there."""

    sign: str  # pattern of a file or folder
    unless: str | None
    says: str  # after the folder's name


RELATIVES: Mapping[str, tuple[Relative, ...]] = {
    "ade20k": (
        Relative(
            "index_ade20k.pkl", "annotations",
            "is the full ADE20K with its 3,000 names, expected the 150 classes of SceneParsing (ADEChallengeData2016). "
            "Get it: dora data get ade20k.",
        ),
    ),
    "davis": (
        Relative(
            "JPEGImages/Full-Resolution", davis.IMAGES,
            "is DAVIS at full resolution, expected 480p. Get it: dora data get davis.",
        ),
        Relative(
            "ImageSets/480p", davis.LISTS, "is DAVIS 2016, expected DAVIS 2017. Get it: dora data get davis."
        ),
    ),
    "voc2012": (
        Relative(
            "ImageSets/Main/test.txt", "ImageSets/Main/trainval.txt",
            "is VOC's test set, expected training and validation. Get it: dora data get voc2012.",
        ),
    ),
    "nyu": (
        Relative(
            "sync/*", None,
            "has its training scenes in sync/, expected in itself. Move them:\n"
            f"{gated.HERE}\n    {gated.MOVE_NYU_TRAIN}",
        ),
        Relative(
            "official_splits/test/*", None,
            "has its test scenes in official_splits/, expected in itself. Move them:\n"
            f"{gated.HERE}\n    {gated.MOVE_NYU_TEST}",
        ),
    ),
}  # fmt: skip


def look_at_ade20k(look: Look) -> None:
    """Photos and grey label maps of the same names."""
    for subset in ("training", "validation"):
        images, annotations = look.files(f"images/{subset}", JPEG), look.files(f"annotations/{subset}", ".png")
        look.count(f"{subset} images", len(images))
        if look.has(f"images/{subset}") and look.has(f"annotations/{subset}"):
            look.pairs(f"{subset} images", _stems(images), _stems(annotations), other="annotations")
        for name in some(images):
            look.picture(f"images/{subset}/{name}")
        for name in some(annotations):
            look.labels(f"annotations/{subset}/{name}", "L", range(len(ade20k.NAMES) + 1))


def look_at_coco(look: Look) -> None:
    """Photos, and as many in the JSON of each subset."""
    for subset, what in (("train", "training images"), ("val", "validation images")):
        images = look.files(f"{subset}2017", JPEG)
        look.count(what, len(images))
        for name in some(images):
            look.picture(f"{subset}2017/{name}")
        part = f"annotations/instances_{subset}2017.json"
        if look.has("annotations") and look.need(part, PARTS["coco"]["annotations"]):
            listed, n_categories = _coco_listing(look, part)
            if look.has(f"{subset}2017"):
                look.pairs(f"images of {subset}2017", images, listed, other=f"entries of {part}")
            if subset == "val":
                look.count("categories", n_categories)


def look_at_davis(look: Look) -> None:
    """Frames and indexed label maps of the same names, for each sequence of the lists."""
    for subset in ("train", "val"):
        # A copy for evaluation alone may leave the training list out.
        sequences = look.lines(f"{davis.LISTS}/{subset}.txt")
        if not sequences and f"{subset} sequences" not in look.expected and subset == "train":
            continue
        look.count(f"{subset} sequences", len(sequences))
        n_frames = 0
        for sequence in sequences:
            frames = look.files(f"{davis.IMAGES}/{sequence}", JPEG)
            annotations = look.files(f"{davis.ANNOTATIONS}/{sequence}", ".png")
            n_frames += len(frames)
            if not look.has(davis.IMAGES) or not look.has(davis.ANNOTATIONS):
                continue
            if not frames and not annotations:
                look.wrong(f"no frame of {sequence} in {look.folder}, which {subset}.txt lists. {AGAIN}")
            look.pairs(f"frames of {sequence}", _stems(frames), _stems(annotations), other="annotations")
        look.count(f"frames of {subset}", n_frames)
        for sequence in some(sequences):
            for name in some(look.files(f"{davis.IMAGES}/{sequence}", JPEG)):
                look.picture(f"{davis.IMAGES}/{sequence}/{name}")
            for name in some(look.files(f"{davis.ANNOTATIONS}/{sequence}", ".png")):
                look.labels(f"{davis.ANNOTATIONS}/{sequence}/{name}", "P", range(VOID + 1))


def look_at_voc(look: Look) -> None:
    """Photos, an XML for each that the lists of boxes name, an indexed label map for each of the others' lists."""
    images = _stems(look.files("JPEGImages", JPEG))
    # Many keep the test set's images in the same folder; the lists tell them apart.
    look.count("images", len(images), or_more=True)
    boxes, maps = _stems(look.files("Annotations", ".xml")), _stems(look.files("SegmentationClass", ".png"))
    trainval = look.lines("ImageSets/Main/trainval.txt")
    look.count("images with boxes (trainval)", len(trainval))
    _all_there(look, "ImageSets/Main/trainval.txt", trainval, {"JPEGImages": images, "Annotations": boxes})
    for subset in ("train", "val"):
        listing = f"ImageSets/Segmentation/{subset}.txt"
        listed = look.lines(listing)
        look.count(f"label maps ({subset})", len(listed))
        _all_there(look, listing, listed, {"JPEGImages": images, "SegmentationClass": maps})
        for name in some(listed):
            if name in maps:
                look.labels(f"SegmentationClass/{name}.png", "P", (*range(len(voc.NAMES) + 1), VOID))
    for name in some(sorted(images)):
        look.picture(f"JPEGImages/{name}.jpg")


def look_at_imagenet(look: Look) -> None:
    """The same class folders in both subsets, each with photos."""
    classes = {subset: look.folders(subset) for subset in ("train", "val")}
    if look.files("train", ".tar"):
        look.wrong(f"{look.folder}/train holds a tar for each class. Unpack them:\n{gated.UNPACK_CLASSES}")
    flat = look.files("val", JPEG)
    if flat:
        look.wrong(f"{look.folder}/val holds {len(flat):,} images that are in no class folder. {_how_to_sort(look)}")
    for subset, what in (("train", "training"), ("val", "validation")):
        n_images = len(flat) if subset == "val" else 0
        for name in classes[subset]:
            images = look.files(f"{subset}/{name}", JPEG)
            n_images += len(images)
            if not images:
                look.wrong(f"{look.folder}/{subset}/{name} holds no image. {AGAIN}")
            elif name in some(classes[subset]):
                look.picture(f"{subset}/{name}/{images[-1]}")
        look.count(f"{what} classes", len(classes[subset]))
        look.count(f"{what} images", n_images)
    if all(classes.values()):
        look.pairs("class folders of train", classes["train"], classes["val"], other="class folders of val")


def _how_to_sort(look: Look) -> str:
    """By Kaggle's list if it is at hand: in the folder, or where Kaggle has it, above ILSVRC/Data/CLS-LOC."""
    for place in (look.folder, *islice(look.folder.parents, 3)):
        if (place / "LOC_val_solution.csv").exists():
            return gated.SORT_KAGGLE_VAL.replace("LIST", shlex.quote(str(place / "LOC_val_solution.csv")))
    return gated.SORT_VAL


def look_at_got10k(look: Look) -> None:
    """Sequences as listed; in some of them a box for each frame, in the test subset for the first alone."""
    if any(name.startswith("GOT-10k_Train_split_") for name in look.folders("train")):
        look.wrong(f"{look.folder}/train holds the parts of the download. Bring them together:\n{gated.MERGE_SPLITS}")
    for subset in ("train", "val", "test"):
        present = [name for name in look.folders(subset) if re.fullmatch(r"GOT-10k_[A-Za-z]+_\d+", name)]
        listed = look.lines(f"{subset}/list.txt")
        if present and not listed:
            look.wrong(
                f"no {subset}/list.txt in {look.folder}. Copy it from the download, or write it: "
                f"cd {shlex.quote(str(look.folder / subset))} && {gated.LIST_SEQUENCES}"
            )
        look.count(f"{subset} sequences", len(present))
        if listed:
            look.pairs(f"sequences of {subset}", present, listed, other=f"lines of {subset}/list.txt")
        for name in some(present):
            _look_at_track(look, f"{subset}/{name}", is_test=subset == "test")


def _look_at_track(look: Look, sequence: str, *, is_test: bool) -> None:
    frames, boxes = look.files(sequence, ".jpg"), look.lines(f"{sequence}/groundtruth.txt")
    expected = 1 if is_test else len(frames)
    if len(boxes) != expected or not frames:
        look.wrong(
            f"{look.folder / sequence} has {len(frames)} frames and {len(boxes)} boxes in groundtruth.txt, "
            f"expected {expected or 'some'} boxes. {AGAIN}"
        )
    for name in frames[:1] + frames[-1:]:
        look.picture(f"{sequence}/{name}")
    if not is_test:
        for kind in ("absence", "cover", "cut_by_image"):
            look.need(f"{sequence}/{kind}.label")


def look_at_nyu(look: Look) -> None:
    """Photos and depth maps of 16 bits, as the two lists name them."""
    for subset, what in (("train", "training pairs"), ("val", "test pairs")):
        pairs = [line.split()[:2] for line in look.lines(nyu.LISTS[subset])]
        look.count(what, len(pairs))
        if odd := [pair for pair in pairs if len(pair) < 2]:
            look.wrong(f"{look.folder / nyu.LISTS[subset]} has the line {odd[0]}, expected photo, depth, focal length.")
            continue
        # The lists' paths begin with a slash, and mean the folder.
        paths = [(photo.lstrip("/"), depth.lstrip("/")) for photo, depth in pairs]
        lacking = [part for pair in paths for part in pair if not look.has(part)]
        if lacking:
            look.wrong(
                f"{lacking[0]} and {len(lacking) - 1:,} more files of {nyu.LISTS[subset]} are not in {look.folder}. "
                "Unpack the pairs there, scene folders directly in it."
            )
            continue
        for number in some(list(map(str, range(len(paths))))):
            photo, depth = paths[int(number)]
            look.picture(photo)
            look.labels(depth, "I;16", range(1 << 16))


LAYOUTS: Mapping[str, Callable[[Look], None]] = {
    "ade20k": look_at_ade20k, "coco": look_at_coco, "davis": look_at_davis, "voc2012": look_at_voc,
    "voc2007": look_at_voc, "imagenet": look_at_imagenet, "got10k": look_at_got10k, "nyu": look_at_nyu,
}  # fmt: skip


def _stems(names: list[str]) -> set[str]:
    return {PurePosixPath(name).stem for name in names}


def _all_there(look: Look, listing: str, listed: list[str], parts: Mapping[str, set[str]]) -> None:
    """A problem for each folder that lacks a listed name."""
    for part, names in parts.items():
        lacking = [name for name in listed if name not in names]
        if lacking and look.has(part):
            look.wrong(
                f"{part} lacks {len(lacking):,} of the {len(listed):,} names of {listing}, {lacking[0]} first. {AGAIN}"
            )


# Searched for, not parsed: the training file has 470 MB and would take gigabytes of memory.
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*"([^"]+)"')
_CATEGORY = re.compile(rb'"supercategory"\s*:')


def _coco_listing(look: Look, part: str) -> tuple[list[str], int]:
    """Names of the images in a COCO JSON, and the number of its categories."""
    path = look.folder / part
    if path.stat().st_size < 2:
        look.wrong(f"{path} is empty. {PARTS['coco']['annotations']}")
        return [], 0
    content = np.memmap(path, np.uint8, "r").data
    if content[0] != ord("{") or content[-64:].tobytes().rstrip()[-1:] != b"}":
        look.wrong(f"{path} is no whole JSON: it was cut short. {PARTS['coco']['annotations']}")
    names = [match[1].decode(errors="replace") for match in _FILE_NAME.finditer(content)]
    return names, sum(1 for _ in _CATEGORY.finditer(content))
