"""Photo, true depth and predicted depth side by side, in the colours of a scale."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from eval.dense.depth import Depth, Pair, Photo, errors, evaluated, read
from eval.pictures import evenly
from eval.pictures import write_sheet as write_rows

N_ROWS, HEIGHT, SCALE_WIDTH, N_MARKS = 6, 120, 70, 5
UNKNOWN = (90, 90, 90)


def write_sheet(
    path: Path,
    pairs: Sequence[Pair],
    predict: Callable[[Photo], Depth],
    *,
    nearest: float,
    farthest: float,
    eigen: bool,
) -> None:
    """Some pairs spread over all; broken ones are passed over. Near is bright; what is not known is grey."""
    rows: list[tuple[str, list[Photo]]] = []
    for index in evenly(len(pairs), N_ROWS):
        try:
            photo, depth = read(pairs[index])
        except (ValueError, OSError):
            continue
        counts = evaluated(depth, nearest=nearest, farthest=farthest, eigen=eigen)
        predicted = predict(photo)
        said = ""
        if counts.any():
            found = errors(predicted, depth, counts)
            said = f" RMSE {found['RMSE_m']:.2f} m, {found['delta1']:.0f} % within a quarter."
        truth = np.where((depth > nearest)[..., None], coloured(depth, nearest, farthest), np.array(UNKNOWN, np.uint8))
        cells = [photo, truth, coloured(predicted, nearest, farthest), scale(photo.shape[0], nearest, farthest)]
        rows.append((f"{pairs[index].name}: photo, truth, prediction.{said}", cells))
    write_rows(path, rows, cell_height=HEIGHT)


def coloured(depth: Depth, nearest: float, farthest: float) -> UInt8[np.ndarray, "Y X 3"]:
    """Bright where near, on a scale of logarithms."""
    share = np.log(np.clip(depth, nearest, farthest) / farthest) / np.log(nearest / farthest)
    colours = cv2.applyColorMap(np.round(255 * share).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(np.asarray(colours)[..., ::-1])


def scale(height: int, nearest: float, farthest: float) -> UInt8[np.ndarray, "Y X 3"]:
    """The colours from near (above) to far, with metres beside them."""
    metres = np.geomspace(nearest, farthest, height, dtype=np.float32)
    size = height / HEIGHT
    picture = np.full((height, round(SCALE_WIDTH * size), 3), 255, np.uint8)
    width = round(18 * size)
    picture[:, :width] = coloured(metres[:, None], nearest, farthest)
    for row in np.linspace(0, height - 1, N_MARKS).round().astype(int).tolist():
        place = (width + round(3 * size), min(height - 2, max(round(10 * size), row + round(3 * size))))
        cv2.putText(
            picture, f"{metres[row]:.2g} m", place, cv2.FONT_HERSHEY_SIMPLEX, 0.35 * size, (0, 0, 0), 1, cv2.LINE_AA
        )
    return picture
