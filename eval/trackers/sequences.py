"""Reads GOT-10k's real layout: the sequences of a subset, their frames, boxes and what of the thing is seen.

<data>/val/list.txt names the sequences; <data>/val/GOT-10k_Val_000001/ has 00000001.jpg, …, groundtruth.txt with
`x,y,w,h` a line (of the first frame alone in the test subset), cover.label (0 … 8: how much is seen), absence.label
(0 or 1) and meta_info.ini with the resolution. dora/data/labelled/got10k.py writes the same.
"""

import configparser
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from PIL import Image, UnidentifiedImageError

from eval.benchmark import missing
from eval.names import plain

SUBSETS = ("train", "val", "test")
WITHOUT_TRUTH = "test"  # its boxes are with the test server, but for each sequence's first
DATASET = "got10k"
HOW_TO_GET = (
    "`dora data get got10k` says how to; the folder that holds train, val and test, each with its list.txt "
    "(got-10k.aitestunion.com)."
)
MOST_COVERED = 8
AGAIN = "Unpack the data set again."


class Sequence(NamedTuple):
    """A video with a box in each frame; in the test subset, in the first frame alone."""

    name: str
    frames: tuple[Path, ...]
    boxes: Float64[np.ndarray, "T 4"]  # x, y, w, h; one row in the test subset; NaN where nothing is seen, perhaps
    cover: Int64[np.ndarray, "T"] | None  # 0: hidden, … 8: all is seen; none in the test subset
    absent: Bool[np.ndarray, "T"] | None
    size: tuple[int, int]  # width, height
    kind: str = ""  # the object's class, "bus"; "" if nothing tells it

    @property
    def can_be_followed(self) -> bool:
        """Whether the first box has an area."""
        return bool((self.boxes[0, 2:] > 0).all())

    @property
    def visible(self) -> Bool[np.ndarray, "T"]:
        """Frames that have something to learn from: not absent, not hidden, and a box with an area."""
        assert self.cover is not None and self.absent is not None, f"{self.name} has no labels"
        return ~self.absent & (self.cover > 0) & (self.boxes[:, 2:] > 0).all(axis=1)


def listed(data: Path, subset: str) -> list[str]:
    """Names of the subset's sequences, in the list's order.

    Raises:
        FileNotFoundError: if there is no list.
        ValueError: for a list that names nothing, one sequence twice, or a path.
    """
    path = data / subset / "list.txt"
    if not path.is_file():
        raise missing(f"{subset}/list.txt", data, DATASET)
    names = plain(path.read_text().split(), path)
    if not names:
        raise ValueError(f"{path} lists no sequence. {AGAIN}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} lists {len(names)} sequences, but only {len(set(names))} different ones. {AGAIN}")
    return names


def frame_paths(data: Path, subset: str, name: str) -> tuple[Path, ...]:
    """The frames of a sequence, 00000001.jpg and on.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if their numbers have a gap.
    """
    folder = data / subset / name
    paths = tuple(sorted(folder.glob("*.jpg")))
    if not paths:
        raise missing(f"{subset}/{name}/*.jpg", data, DATASET)
    for number, path in enumerate(paths, start=1):
        if path.stem != f"{number:08d}":
            raise ValueError(f"{folder} has {len(paths)} frames, but no {number:08d}.jpg before {path.name}. {AGAIN}")
    return paths


def read_sequence(data: Path, subset: str, name: str) -> Sequence:
    """A sequence without its pixels.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for frames that are missing, boxes or labels that are no numbers or not one a frame, a first box
            without a number, or a box that is NaN where something is to be seen.
    """
    folder, frames = data / subset / name, frame_paths(data, subset, name)
    for needed in ("groundtruth.txt", *(() if subset == WITHOUT_TRUTH else ("cover.label", "absence.label"))):
        if not (folder / needed).is_file():
            raise missing(f"{subset}/{name}/{needed}", data, DATASET)
    told = _meta(folder / "meta_info.ini")
    size, kind = _size(told.get("resolution", ""), frames[0]), told.get("object_class", "")
    path = folder / "groundtruth.txt"
    boxes = read_boxes(path)
    if not np.isfinite(boxes[:1]).all():
        raise ValueError(f"{path}: the first box is {boxes[0].tolist()}, expected four finite numbers. {AGAIN}")
    if subset == WITHOUT_TRUTH:
        # Whoever has the true boxes of the test subset has them from somewhere else.
        return Sequence(name, frames, boxes[:1], None, None, size, kind)
    _one_a_frame(path, len(boxes), "boxes", frames)
    cover = _labels(folder / "cover.label", frames, highest=MOST_COVERED)
    absent = _labels(folder / "absence.label", frames, highest=1).astype(bool)
    odd = np.flatnonzero(~np.isfinite(boxes).all(axis=1) & (cover > 0) & ~absent)
    if odd.size:
        raise ValueError(
            f"{path}, line {odd[0] + 1}: the box is {boxes[odd[0]].tolist()}, though cover.label says that something "
            f"is seen there. {AGAIN}"
        )
    return Sequence(name, frames, boxes, cover, absent, size, kind)


def read_boxes(path: Path) -> Float64[np.ndarray, "T 4"]:
    """The boxes of a text file, `x,y,w,h` a line; tabs or spaces part them as well.

    Raises:
        ValueError: for a line that is not four numbers, or a file without any.
    """
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = [float(part) for part in re.split(r"[,\s]+", line.strip())]
        except ValueError:
            row = []
        if len(row) != 4:
            raise ValueError(f"{path}, line {number}: {line[:60]!r} is no box, expected x,y,w,h. {AGAIN}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no box. {AGAIN}")
    return np.array(rows, np.float64)


def _labels(path: Path, frames: tuple[Path, ...], *, highest: int) -> Int64[np.ndarray, "T"]:
    words = path.read_text(errors="replace").split()
    odd = next((word for word in words if not word.isdecimal() or int(word) > highest), None)
    if odd is not None:
        raise ValueError(f"{path} has the label {odd[:20]!r}, expected 0 to {highest}. {AGAIN}")
    _one_a_frame(path, len(words), "labels", frames)
    return np.array(words, np.int64)


def _one_a_frame(path: Path, n: int, what: str, frames: tuple[Path, ...]) -> None:
    if n != len(frames):
        raise ValueError(f"{path} has {n} {what}, but there are {len(frames)} frames beside it. {AGAIN}")


def _meta(path: Path) -> dict[str, str]:
    """What meta_info.ini says; nothing if there is none, for little depends on it."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(path.read_text(errors="replace") if path.is_file() else "")
    except configparser.Error:
        return {}
    return dict(parser["METAINFO"]) if parser.has_section("METAINFO") else {}


def _size(told: str, first_frame: Path) -> tuple[int, int]:
    """The resolution that is told, to which the toolkit clips boxes; else the first frame's."""
    numbers = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*\)?", told.strip())
    if numbers:
        return int(numbers[1]), int(numbers[2])
    try:
        with Image.open(first_frame) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{first_frame} is no readable image ({error}). {AGAIN}") from None
