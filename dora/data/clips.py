"""Clips read from shards by offset.

A clip is `n_frames` stored frames, `gap_s` apart. Every stored frame (or one every `start_stride_s`) from which a
whole clip fits is a start; starts of several videos are numbered one after the other.
"""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from dora.config import ClipConfig
from dora.data.index import ShardIndex, open_index


class Clips:
    """The clips of one or several shard folders. Holds no open file, so it can be sent to loader processes."""

    def __init__(self, shards: Sequence[Path], config: ClipConfig) -> None:
        """Open the indices.

        Raises:
            ValueError: if a gap is less than one stored frame, or a video is too short for one clip.
            FileNotFoundError: if a folder holds no shards.
        """
        self._shards = list(shards)
        self._indices = [open_index(folder) for folder in shards]
        self._n_frames = config.n_frames
        self._gaps = [_in_frames("gap_s", config.gap_s, index) if config.n_frames > 1 else 1 for index in self._indices]
        stride_s = config.start_stride_s
        self._strides = [_in_frames("start_stride_s", stride_s, index) if stride_s else 1 for index in self._indices]
        self._first_starts = np.cumsum([0, *map(self._n_starts_of, range(len(self._indices)))])
        self.n_starts = int(self._first_starts[-1])

    def __len__(self) -> int:
        return self.n_starts

    def read(self, start: int) -> UInt8[np.ndarray, "T Y X 3"]:
        """The decoded RGB frames of clip `start`.

        Raises:
            ValueError: if a frame's JPEG is broken; names tar and frame.
            OSError: if a tar is gone or cannot be read.
        """
        video, rows = self._rows(start)
        index = self._indices[video]
        clip = np.empty((len(rows), index.facts.height, index.facts.width, 3), np.uint8)
        done = 0
        for tar, frames in groupby(rows, key=index.tar_of):
            path = self._shards[video] / index.facts.tars[tar].name
            with path.open("rb", buffering=0) as file:
                for row in frames:
                    jpeg = os.pread(file.fileno(), int(index.size[row]), int(index.offset[row]))
                    _decode(jpeg, clip[done], f"frame {row} of {index.facts.name} (in {path})")
                    done += 1
        return clip

    def times_s(self, start: int) -> list[float]:
        """When in the video each frame of clip `start` is shown."""
        video, rows = self._rows(start)
        return [float(self._indices[video].time_s[row]) for row in rows]

    def source(self, start: int) -> str:
        """Name of the video that clip `start` is from."""
        return self._indices[self._rows(start)[0]].facts.name

    def _rows(self, start: int) -> tuple[int, range]:
        """Which video, and which of its stored frames."""
        if not 0 <= start < self.n_starts:
            raise IndexError(f"expected a start from 0 to {self.n_starts - 1}, got {start}")
        video = int(np.searchsorted(self._first_starts, start, side="right")) - 1
        gap = self._gaps[video]
        first = (start - int(self._first_starts[video])) * self._strides[video]
        return video, range(first, first + (self._n_frames - 1) * gap + 1, gap)

    def _n_starts_of(self, video: int) -> int:
        index, gap = self._indices[video], self._gaps[video]
        needed, found = (self._n_frames - 1) * gap + 1, index.n_frames
        if found < needed:
            raise ValueError(
                f"a clip needs {self._n_frames} frames {gap} apart ({needed} stored frames, "
                f"{needed / index.facts.fps:.3g} s), but {index.facts.name} has {found}. "
                "Lower clip.n_frames or clip.gap_s, or use a longer video."
            )
        return (found - needed) // self._strides[video] + 1


def _in_frames(name: str, seconds: float, index: ShardIndex) -> int:
    frames = round(seconds * index.facts.fps)
    if frames < 1:
        raise ValueError(
            f"clip.{name} is {seconds:g} s, less than one stored frame of {index.facts.name} "
            f"({index.facts.fps:g} a second). "
            f"Raise clip.{name} to at least {1 / index.facts.fps:.3g} or store more frames (shards.fps)."
        )
    return frames


def _decode(jpeg: bytes, out: UInt8[np.ndarray, "Y X 3"], where: str) -> None:
    try:
        image = simplejpeg.decode_jpeg(jpeg, "RGB")
    except ValueError as error:
        raise ValueError(f"{where} is no readable JPEG: {error}. Make the shards again.") from None
    if image.shape != out.shape:
        expected, got = (f"{shape[1]}x{shape[0]}" for shape in (out.shape, image.shape))
        raise ValueError(f"{where} is {got} pixels, its index says {expected}. Make the shards again.")
    out[:] = image
