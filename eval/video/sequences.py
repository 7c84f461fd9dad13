"""DAVIS' folders: which sequences a split lists, their files, and what is wrong with them. Loads no tensor library."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from dora.data.labelled.davis import ANNOTATIONS, IMAGES, LISTS
from eval.benchmark import missing
from eval.names import plain
from eval.region_contour import VOID

# Other data sets of the same name: a folder that only they have, and what it says.
OTHERS = {
    LISTS: ("ImageSets/480p", "is DAVIS 2016, whose lists are in ImageSets/480p"),
    IMAGES: ("JPEGImages/Full-Resolution", "is DAVIS at full resolution"),
    ANNOTATIONS: ("Annotations/Full-Resolution", "is DAVIS at full resolution"),
}


class Sequence(NamedTuple):
    """A video, frame by frame."""

    name: str
    photos: tuple[Path, ...]
    annotations: tuple[Path, ...]


def sequences(data: Path, split: str) -> list[Sequence]:
    """What the split's list names, in its order.

    Raises:
        FileNotFoundError: for a folder, list or sequence that is not there.
        ValueError: for a list without names or with paths, or frames that have no annotation each.
    """
    for part in (IMAGES, ANNOTATIONS, LISTS):
        if not (data / part).exists():
            other, what = OTHERS[part]
            raise missing(f"{part} ({data} {what})" if (data / other).exists() else part, data, "davis")
    listing = data / LISTS / f"{split}.txt"
    if not listing.exists():
        raise missing(f"{LISTS}/{listing.name}", data, "davis")
    names = plain(list(dict.fromkeys(listing.read_text().split())), listing)
    if not names:
        raise ValueError(f"{listing} lists no sequence. Fetch the data set again.")
    return [_sequence(data, name) for name in names]


def first_labels(sequence: Sequence) -> UInt8[np.ndarray, "Y X"]:
    """The given masks: labels of the first frame, void as background.

    Raises:
        ValueError: if the annotation is no label map, or has no object in it.
    """
    from eval.images import read_labels

    labels = read_labels(sequence.annotations[0])
    labels[labels == VOID] = 0
    if not labels.any():
        raise ValueError(
            f"davis: the first annotation of {sequence.name}, {sequence.annotations[0]}, has no object to follow: it "
            "is all background. Fetch it again."
        )
    return labels


def look_at(sequence: Sequence) -> None:
    """Open a sequence's first frame and annotation, which takes milliseconds.

    Raises:
        ValueError: if they differ in size, or the annotation is of no use (`first_labels`).
    """
    from PIL import Image, UnidentifiedImageError

    height, width = first_labels(sequence).shape
    try:
        with Image.open(sequence.photos[0]) as photo:
            size = photo.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{sequence.photos[0]} is no readable image ({error}). Fetch it again.") from None
    if size != (width, height):
        raise ValueError(
            f"davis: the first frame of {sequence.name} is {size[0]} x {size[1]} pixels, its annotation {width} x "
            f"{height}. Frames and annotations must be of one resolution, 480p."
        )


def _sequence(data: Path, name: str) -> Sequence:
    photos = sorted((data / IMAGES / name).glob("*.jpg"))
    annotations = sorted((data / ANNOTATIONS / name).glob("*.png"))
    if not photos:
        raise missing(f"{IMAGES}/{name}/*.jpg", data, "davis")
    odd = sorted({path.stem for path in photos} ^ {path.stem for path in annotations})
    if odd and [path.stem for path in annotations] == [photos[0].stem]:
        raise ValueError(
            f"davis: sequence {name} has {len(photos)} frames, of which only the first has an annotation: the truth "
            "of DAVIS' test splits is not public. Take split=val or split=train."
        )
    if odd:
        raise ValueError(
            f"davis: sequence {name} has {len(photos)} frames and {len(annotations)} annotations, which must match by "
            f"name; {odd[0]} lacks one of them. Unpack the data set again."
        )
    return Sequence(name, tuple(photos), tuple(annotations))
