"""The annotations of all training sequences, read once, in a few arrays that loader processes share."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from dora.data.ahead import read_ahead
from eval.finetune import broken
from eval.trackers.sequences import listed, read_sequence

log = logging.getLogger("dora.seqtrack")

LOG_EVERY_S = 10.0
N_THREADS = 16  # most of the time goes by waiting for the disk


class Tracks(NamedTuple):
    """Boxes of all frames of all sequences, one sequence after the other: 21 MB for GOT-10k's 1.4 million frames."""

    folder: Path
    names: tuple[str, ...]
    starts: Int64[np.ndarray, "S1"]  # of each sequence in the arrays below, and the end of the last one
    boxes: Float32[np.ndarray, "F 4"]  # x, y, w, h
    visible: Bool[np.ndarray, "F"]  # not absent, cover above 0, w and h above 0

    def n_frames(self, sequence: int) -> int:
        """Frames of a sequence."""
        return int(self.starts[sequence + 1] - self.starts[sequence])

    def visible_frames(self, sequence: int) -> Int64[np.ndarray, "V"]:
        """Numbers, from 0, of the frames in which its thing is seen."""
        return np.flatnonzero(self.visible[self.starts[sequence] : self.starts[sequence + 1]])

    def path(self, sequence: int, frame: int) -> Path:
        """A frame's file."""
        return self.folder / self.names[sequence] / f"{frame + 1:08d}.jpg"

    def box(self, sequence: int, frame: int) -> Float32[np.ndarray, "4"]:
        """A frame's box."""
        return self.boxes[self.starts[sequence] + frame]


class _Read(NamedTuple):
    boxes: Float32[np.ndarray, "T 4"]
    visible: Bool[np.ndarray, "T"]
    error: str


def read_tracks(data: Path, subset: str, *, max_broken_share: float) -> tuple[Tracks, tuple[str, ...]]:
    """The annotations of the sequences in the subset's list, and what is to be said of broken ones, which are left out.

    Raises:
        FileNotFoundError, ValueError: if there is no list, or more than `max_broken_share` of the sequences are broken.
    """
    names = listed(data, subset)
    found: list[_Read] = []
    started = told_at = time.monotonic()

    def read(name: str) -> _Read:
        try:
            sequence = read_sequence(data, subset, name)
        except (ValueError, OSError) as error:
            return _Read(np.empty((0, 4), np.float32), np.empty(0, bool), broken.reason(error))
        return _Read(sequence.boxes.astype(np.float32), sequence.visible, "")

    for one in read_ahead(read, names, n_threads=min(N_THREADS, 4 * (os.cpu_count() or 1))):
        found.append(one)
        if time.monotonic() - told_at > LOG_EVERY_S:
            log.info("read the annotations of %d of %d sequences of %s", len(found), len(names), subset)
            told_at = time.monotonic()
    errors = {number: one.error for number, one in enumerate(found) if one.error}
    broken.warn(errors, what=f"sequence of {subset}")
    broken.refuse_too_many(errors, len(names), max_share=max_broken_share, what=f"sequences of {subset}")
    tracks = _joined(data / subset, [(name, one) for name, one in zip(names, found, strict=True) if not one.error])
    log.info(
        "%d sequences of %s with %d frames, the thing seen in %d (%.1f s)",
        len(tracks.names), subset, len(tracks.boxes), int(tracks.visible.sum()), time.monotonic() - started,
    )  # fmt: skip
    said = broken.notes(errors, len(names), what=f"sequences of {subset}", consequence="were not learnt from")
    return tracks, said


def _joined(folder: Path, parts: Sequence[tuple[str, _Read]]) -> Tracks:
    lengths = [len(one.boxes) for _, one in parts]
    return Tracks(
        folder=folder, names=tuple(name for name, _ in parts),
        starts=np.cumsum([0, *lengths], dtype=np.int64),
        boxes=np.concatenate([np.empty((0, 4), np.float32), *(one.boxes for _, one in parts)]),
        visible=np.concatenate([np.empty(0, bool), *(one.visible for _, one in parts)]),
    )  # fmt: skip
