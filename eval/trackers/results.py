"""Results as GOT-10k's toolkit keeps them, and the zip that its test server takes.

    <out>/results/GOT-10k/<tracker>/<sequence>/<sequence>_001.txt    x,y,w,h of each frame, three decimals
    <out>/results/GOT-10k/<tracker>/<sequence>/<sequence>_time.txt   seconds each frame took, eight decimals
    <out>/results/GOT-10k/<tracker>.zip                              the tracker's folder, without itself as a root

as got-10k/toolkit at commit 956e728 writes and reads them: copy results/ to where its experiments keep theirs, and it
reports on our tracker beside others. Only 001: a tracker that draws nothing is run once.
"""

import io
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from dora.data.disk import whole_file
from eval.trackers.sequences import read_boxes

ROOT = Path("results", "GOT-10k")
RUN = "001"
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in a zip, so that equal results are equal bytes
REGULAR, READABLE = 0o100000, 0o644


def results_folder(out: Path, tracker: str) -> Path:
    """Where the tracker's sequences are.

    Raises:
        ValueError: for a name that is no folder's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", tracker):
        raise ValueError(f"a tracker's name names a folder, got {tracker!r}. Take letters, digits, '-', '_' and '.'.")
    return out / ROOT / tracker


def is_written(folder: Path, sequence: str) -> bool:
    """Whether the sequence's results are there, whole."""
    return (folder / sequence).is_dir()


def write_results(
    folder: Path, sequence: str, boxes: Float64[np.ndarray, "T 4"], seconds: Float64[np.ndarray, "T"]
) -> None:
    """A sequence's two files in the tracker's `folder`, which appear together."""
    unfinished = folder / f".{sequence}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    np.savetxt(unfinished / f"{sequence}_{RUN}.txt", boxes, fmt="%.3f", delimiter=",")
    np.savetxt(unfinished / f"{sequence}_time.txt", seconds, fmt="%.8f")
    shutil.rmtree(folder / sequence, ignore_errors=True)
    unfinished.rename(folder / sequence)


def read_results(folder: Path, sequence: str, *, n_frames: int) -> Float64[np.ndarray, "T 4"]:
    """A sequence's boxes as they were written, rounded to a thousandth of a pixel.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are no boxes, or not one a frame.
    """
    path = folder / sequence / f"{sequence}_{RUN}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no results {path}. Track the sequence.")
    boxes = read_boxes(path)
    if len(boxes) != n_frames:
        raise ValueError(f"{path} has {len(boxes)} boxes, but the sequence has {n_frames} frames. Track it again.")
    return boxes


def read_seconds(folder: Path, sequence: str) -> Float64[np.ndarray, "T"]:
    """What each frame of a sequence took."""
    return np.loadtxt(folder / sequence / f"{sequence}_time.txt", np.float64, ndmin=1)


def write_submission(folder: Path, sequences: Sequence[str], *, whole_pixels: bool) -> Path:
    """Zip the tracker's `folder` beside it, for the test server; the same bytes for the same results.

    The sequences' folders are at its root, as in what the toolkit zips. `whole_pixels` cuts what is behind the point
    off, as SeqTrack does where it writes its results.
    """
    path = folder.with_name(f"{folder.name}.zip")
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for sequence in sequences:
            boxes = folder / sequence / f"{sequence}_{RUN}.txt"
            times = folder / sequence / f"{sequence}_time.txt"
            _add(archive, boxes, _whole(boxes) if whole_pixels else boxes.read_bytes())
            _add(archive, times, times.read_bytes())
    return path


def _whole(path: Path) -> bytes:
    text = io.StringIO()
    np.savetxt(text, np.trunc(read_boxes(path)), fmt="%d", delimiter=",")
    return text.getvalue().encode()


def _add(archive: zipfile.ZipFile, path: Path, content: bytes) -> None:
    entry = zipfile.ZipInfo(f"{path.parent.name}/{path.name}", DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (REGULAR | READABLE) << 16
    archive.writestr(entry, content)
