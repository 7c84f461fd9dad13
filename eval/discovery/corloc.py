"""CorLoc: in how many photos the box that was found is that of an object; and how they look.

A record is what the benchmark keeps of a photo: its name, boxes by method, seed, and the truth as (class, box).
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from eval.discovery.boxes import Box, overlaps
from eval.images import read_video_frame
from eval.pictures import RIGHT, WRONG, evenly
from eval.pictures import write_sheet as write_rows

Record = Mapping[str, Any]

TRUE = (255, 255, 255)
N_ROWS, N_COLUMNS, HEIGHT = 3, 4, 150


def corloc(records: Collection[Record], method: str, least_overlap: float) -> float:
    """Share of the photos, in percent, whose box overlaps any true one by `least_overlap` at least."""
    hits = sum(best_overlap(record, method) >= least_overlap for record in records)
    return 100 * hits / len(records)


def best_overlap(record: Record, method: str) -> float:
    """With the true box that it is most like."""
    return float(overlaps(record[method], [box for _, *box in record["truth"]]).max())


def by_class(records: Collection[Record], least_overlap: float) -> list[dict[str, Any]]:
    """CorLoc of each class: of the photos that have one, the share whose box is one of its objects'."""
    n_photos: dict[str, int] = {}
    n_hits: dict[str, int] = {}
    for record in records:
        for name in {name for name, *_ in record["truth"]}:
            boxes = [box for one, *box in record["truth"] if one == name]
            n_photos[name] = n_photos.get(name, 0) + 1
            n_hits[name] = n_hits.get(name, 0) + int(overlaps(record["lost"], boxes).max() >= least_overlap)
    return [
        {"name": name, "CorLoc": 100 * n_hits[name] / n_photos[name], "n_photos": n_photos[name]}
        for name in sorted(n_photos)
    ]


def write_sheet(path: Path, records: Mapping[int, Record], photo: Callable[[int], Path], least_overlap: float) -> None:
    """Photos spread over all, each with true boxes in white and what was found: green for a hit, red for a miss."""
    numbers = list(records)
    chosen = [numbers[i] for i in evenly(len(numbers), N_ROWS * N_COLUMNS)]
    rows: list[tuple[str, list[UInt8[np.ndarray, "_ _ 3"]]]] = []
    for start in range(0, len(chosen), N_COLUMNS):
        part = [(records[i], read_video_frame(photo(i))) for i in chosen[start : start + N_COLUMNS]]
        shares = [best_overlap(record, "lost") for record, _ in part]
        said = ", ".join(
            f"{record['photo']} {100 * share:.0f} %" for (record, _), share in zip(part, shares, strict=True)
        )
        cells = [drawn(*one, hit=share >= least_overlap) for one, share in zip(part, shares, strict=True)]
        rows.append((f"overlap: {said}", cells))
    write_rows(path, rows, cell_height=HEIGHT)


def drawn(record: Record, image: UInt8[np.ndarray, "Y X 3"], *, hit: bool) -> UInt8[np.ndarray, "Y X 3"]:
    """The photo with true boxes, the seed's patch, and the box that was found over them."""
    picture, thin = image.copy(), max(1, round(min(image.shape[:2]) / HEIGHT))
    for _, *box in record["truth"]:
        _outline(picture, tuple(box), TRUE, thin)
    colour, patch = RIGHT if hit else WRONG, record["patch"]
    row, column = record["seed"]
    seed = picture[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
    seed[:] = seed // 2 + np.array(colour, np.uint8) // 2
    _outline(picture, tuple(record["lost"]), colour, 3 * thin)
    return picture


def _outline(
    picture: UInt8[np.ndarray, "Y X 3"], box: Box | tuple[float, ...], colour: tuple[int, int, int], thickness: int
) -> None:
    left, top, right, bottom = (round(side) for side in box)
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, thickness)
