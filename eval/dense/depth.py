"""NYU Depth v2 as the depth benchmark has it: pairs of photo and depth, crops to learn from, what is evaluated."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dora.data.labelled.nyu import LISTS
from eval.benchmark import missing
from eval.images import read_video_frame

Photo = UInt8[np.ndarray, "Y X 3"]
Depth = Float32[np.ndarray, "Y X"]

EIGEN_SIZE = (480, 640)
# Rows 45 to 470 and columns 41 to 600: what depth estimators evaluate (Eigen et al., arXiv:1406.2283; BTS's test code).
EIGEN_ROWS, EIGEN_COLUMNS = slice(45, 471), slice(41, 601)


class Pair(NamedTuple):
    """A photo and the depth of its pixels."""

    photo: Path
    depth: Path

    @property
    def name(self) -> str:
        """Scene and file name."""
        return f"{self.photo.parent.name}/{self.photo.stem}"


class Sample(NamedTuple):
    """A crop to learn from; a depth of 0 is unknown."""

    photo: Photo
    depth: Depth


def pairs(data: Path, subset: str) -> list[Pair]:
    """What the list of "train" or "val" names, in its order. Its paths may begin with a slash, and mean the folder.

    Raises:
        FileNotFoundError: if there is no such list.
        ValueError: for a line that names no pair.
    """
    listing = data / LISTS[subset]
    if not listing.is_file():
        raise missing(LISTS[subset], data, "depth")
    found: list[Pair] = []
    for line in listing.read_text().splitlines():
        if parts := line.split():
            if len(parts) < 2:
                raise ValueError(f"depth: {listing} has the line {line!r}, expected photo, depth and focal length.")
            found.append(Pair(data / parts[0].lstrip("/"), data / parts[1].lstrip("/")))
    if not found:
        raise ValueError(f"depth: {listing} lists no pair. Fetch it again.")
    return found


def read(pair: Pair) -> Sample:
    """Pixels, and depth in metres.

    Raises:
        ValueError: if one cannot be read whole, or their sizes differ; names the file.
    """
    photo = read_video_frame(pair.photo)
    content = pair.depth.read_bytes()
    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if stored is None or stored.dtype != np.uint16 or stored.shape != photo.shape[:2]:
        raise ValueError(
            f"{pair.depth} is no depth of {pair.photo.name}: expected a PNG of 16 bits with {photo.shape[1]} x "
            f"{photo.shape[0]} pixels. Fetch both again."
        )
    return Sample(photo, stored.astype(np.float32) / np.float32(1000))


def require_size(pair: Pair, *, crop: tuple[int, int] | None, eigen: bool) -> None:
    """Refuse pictures of which no `crop` (height, width) can be learnt or which, without one, Eigen's does not fit.

    One that cannot be read is no matter of size.

    Raises:
        ValueError: naming the photo.
    """
    try:
        height, width = read(pair).depth.shape
    except ValueError:
        return
    if crop and (height < crop[0] or width < crop[1]):
        wanted, what = f"at least {crop[1]} x {crop[0]}", "Lower crop"
    elif not crop and eigen and (height, width) != EIGEN_SIZE:
        wanted, what = f"{EIGEN_SIZE[1]} x {EIGEN_SIZE[0]}, of which Eigen's crop is", "Say eigen_crop=false"
    else:
        return
    raise ValueError(f"depth: {pair.photo} has {width} x {height} pixels, expected {wanted}. {what}.")


def reader(train: Sequence[Pair], crop: tuple[int, int]) -> Callable[[int], Sample]:
    """Reads a pair by its number, crops it to `crop` (height, width) and mirrors every other one (NumPy's generator).

    The reader raises ValueError for a picture that is smaller than the crop.
    """

    def read_one(index: int) -> Sample:
        photo, depth = read(train[index])
        spare = (depth.shape[0] - crop[0], depth.shape[1] - crop[1])
        if min(spare) < 0:
            raise ValueError(f"{train[index].photo} has {depth.shape} pixels, fewer than the crop {crop}. Lower crop.")
        top, left = (int(np.random.randint(0, most + 1)) for most in spare)
        window = np.s_[top : top + crop[0], left : left + crop[1]]
        step = -1 if np.random.random() < 0.5 else 1
        return Sample(*(np.ascontiguousarray(part[window][:, ::step]) for part in (photo, depth)))

    return read_one


def evaluated(depth: Depth, *, nearest: float, farthest: float, eigen: bool) -> Bool[np.ndarray, "Y X"]:
    """The pixels that count: their depth is known and within the range, and they lie in Eigen's crop.

    Raises:
        ValueError: if Eigen's crop is asked for and the picture is not of its size.
    """
    counts = (depth > nearest) & (depth < farthest)
    if not eigen:
        return counts
    if depth.shape != EIGEN_SIZE:
        raise ValueError(
            f"Eigen's crop is of pictures of 640 x 480, got {depth.shape[1]} x {depth.shape[0]}. Say eigen_crop=false."
        )
    inside = np.zeros_like(counts)
    inside[EIGEN_ROWS, EIGEN_COLUMNS] = True
    return counts & inside


def errors(predicted: Depth, truth: Depth, counts: Bool[np.ndarray, "Y X"]) -> dict[str, float]:
    """Of one picture: RMSE_m in metres; AbsRel and the shares delta1, delta2, delta3 in percent; log10.

    delta1 is the share of the pixels whose depth is within a factor of 1.25 of the true one, delta2 of 1.25², delta3
    of 1.25³ (Eigen et al., arXiv:1406.2283, Sec. 4.3).
    """
    p, t = predicted[counts].astype(np.float64), truth[counts].astype(np.float64)
    factor = np.maximum(p / t, t / p)
    return {
        **{f"delta{n}": 100 * float((factor < 1.25**n).mean()) for n in (1, 2, 3)},
        "RMSE_m": float(np.sqrt(np.square(p - t).mean())),
        "AbsRel": 100 * float((np.abs(p - t) / t).mean()),
        "log10": float(np.abs(np.log10(p) - np.log10(t)).mean()),
    }
