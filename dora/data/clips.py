"""Clips read from shards by offset: from tars in their folder, on this node, or in the store that keeps them.

A clip is `n_frames` stored frames, `gap_s` apart. Every stored frame (or one every `start_stride_s`) from which a
whole clip fits is a start; starts of several videos are numbered one after the other. A clip may be cut: from some
frame on it then shows another clip of the same video.
"""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from dora.config import ClipConfig
from dora.data.index import Tar, open_index
from dora.data.order import permuted
from dora.data.store import Range, read_ranges, redacted
from dora.data.tar_cache import TarCache
from dora.seeds import derived_seed


class Cut(NamedTuple):
    """From the `frame`-th frame on a clip shows those of clip `start`."""

    frame: int
    start: int


class Clips:
    """The clips of one or several shard folders; their frames may differ in size.

    Holds no open file and no row of an index: its memory does not depend on how long the videos are.
    """

    def __init__(self, shards: Sequence[Path], config: ClipConfig, cache: TarCache | None = None) -> None:
        """Open the indices; without a cache, what a store keeps is read from it frame by frame.

        Raises:
            ValueError: if a gap is less than one stored frame, or a video is too short for one clip, or for a cut one.
            FileNotFoundError: if a folder holds no shards.
        """
        self._shards, self._config, self._cache = list(shards), config, cache
        self._indices = [open_index(folder) for folder in shards]
        self._n_frames = config.n_frames
        facts = [index.facts for index in self._indices]
        frames = [index.n_frames for index in self._indices]
        self._layouts = [
            clip_layout(config, name=one.name, fps=one.fps, n_frames=n) for one, n in zip(facts, frames, strict=True)
        ]
        self._first_starts = np.cumsum([0, *(layout.n_starts for layout in self._layouts)])
        self.n_starts = int(self._first_starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        # Loader processes open the indices themselves; a mapped column would be sent as a copy.
        return Clips, (self._shards, self._config, self._cache)

    def __len__(self) -> int:
        return self.n_starts

    def cuts(self, start: int, seed: int) -> list[Cut]:
        """Where clip `start` is cut, and to what: `n_cuts` different frames, each to any other start of its video."""
        n_cuts = self._config.n_cuts
        if not n_cuts:
            return []
        video = self._video(start)
        first, n_others = int(self._first_starts[video]), self._layouts[video].n_starts - 1
        frames = 1 + np.sort(permuted(np.arange(n_cuts), self._n_frames - 1, key=derived_seed(seed, "frames")))
        others = [first + derived_seed(seed, "start", number) % n_others for number in range(n_cuts)]
        return [Cut(frame, other + (other >= start)) for frame, other in zip(frames.tolist(), others, strict=True)]

    def read(self, start: int, cuts: Sequence[Cut] = ()) -> UInt8[np.ndarray, "T Y X 3"]:
        """The decoded RGB frames of clip `start`, with `cuts` in their order.

        Raises:
            IndexError: if there is no such start.
            ValueError: if a frame's JPEG is broken; names tar and frame.
            OSError: if a tar is gone or cannot be read.
        """
        video, rows = self._rows(start, cuts)
        try:
            return self._decoded(video, rows)
        except ValueError:
            if not self._discard_altered(video, rows):
                raise
            return self._decoded(video, rows)

    def times_s(self, start: int, cuts: Sequence[Cut] = ()) -> list[float]:
        """When in the video each frame of clip `start` is shown."""
        video, rows = self._rows(start, cuts)
        return [float(self._indices[video].time_s[row]) for row in rows]

    def source(self, start: int) -> str:
        """Name of the video that clip `start` is from."""
        return self._indices[self._video(start)].facts.name

    def _decoded(self, video: int, rows: Sequence[int]) -> UInt8[np.ndarray, "T Y X 3"]:
        facts = self._indices[video].facts
        clip = np.empty((len(rows), facts.height, facts.width, 3), np.uint8)
        jpegs = self._jpegs(video, rows)
        for number, row in enumerate(rows):
            try:
                clip[number] = _decode(jpegs[row], clip.shape[1:])
            except ValueError as error:
                where = f"frame {row} of {facts.name} (in {self._place(video, row)})"
                raise ValueError(f"{where} {error}. Make the shards again.") from None
        return clip

    def _jpegs(self, video: int, rows: Sequence[int]) -> dict[int, bytes]:
        """What is stored of each row; the rows of all tars that are not here are read at once."""
        index = self._indices[video]
        near: dict[int, bytes] = {}
        far: dict[int, Range] = {}
        for number, of_tar in groupby(sorted({*rows}), key=index.tar_of):
            tar = index.facts.tars[number]
            ranges = {row: Range(tar.name, int(index.offset[row]), int(index.size[row])) for row in of_tar}
            file = self._open(video, tar)
            if file is None:
                far |= ranges
                continue
            with file:
                near |= {row: os.pread(file.fileno(), part.size, part.offset) for row, part in ranges.items()}
        if far:
            assert index.facts.store is not None
            near |= zip(far, read_ranges(index.facts.store, [*far.values()]), strict=True)
        return near

    def _open(self, video: int, tar: Tar) -> BinaryIO | None:
        """The tar as a file of this node, None if its frames are to be read from the store."""
        path, store = self._shards[video] / tar.name, self._indices[video].facts.store
        try:
            # Opened for each clip: that takes 5 us of 9 ms, and nothing has to be closed before a fork.
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            if store is None:
                raise FileNotFoundError(f"{path} is gone, but the index names it. Make the shards again.") from None
        return self._cache.open(store, tar) if self._cache else None

    def _place(self, video: int, row: int) -> str:
        index = self._indices[video]
        name = index.facts.tars[index.tar_of(row)].name
        path = self._shards[video] / name
        return str(path) if index.facts.store is None or path.exists() else f"{redacted(index.facts.store)}/{name}"

    def _discard_altered(self, video: int, rows: Sequence[int]) -> bool:
        """Whether a tar of these rows was altered in the node's cache, and so is no longer in it."""
        index, cache = self._indices[video], self._cache
        if cache is None or index.facts.store is None:
            return False
        return any([cache.discard_if_altered(index.facts.tars[tar]) for tar in {*map(index.tar_of, rows)}])

    def _rows(self, start: int, cuts: Sequence[Cut] = ()) -> tuple[int, list[int]]:
        """Which video, and which of its stored frames."""
        video = self._video(start)
        gap, stride, _ = self._layouts[video]
        first = (start - int(self._first_starts[video])) * stride
        rows = [*range(first, first + (self._n_frames - 1) * gap + 1, gap)]
        for cut in cuts:
            other, after = self._rows(cut.start)
            assert other == video
            rows[cut.frame :] = after[cut.frame :]
        return video, rows

    def _video(self, start: int) -> int:
        if not 0 <= start < self.n_starts:
            raise IndexError(f"expected a start from 0 to {self.n_starts - 1}, got {start}")
        return int(np.searchsorted(self._first_starts, start, side="right")) - 1


class ClipLayout(NamedTuple):
    """How the clips of one video lie in its stored frames."""

    gap: int  # frames from one frame of a clip to the next
    stride: int  # frames from one start to the next
    n_starts: int


def clip_layout(config: ClipConfig, *, name: str, fps: float, n_frames: int) -> ClipLayout:
    """Where clips start in a video of `n_frames` stored frames, `fps` a second.

    Raises:
        ValueError: if a gap is less than one stored frame, or the video is too short for one clip, or for a cut one.
    """
    gap = _in_frames("gap_s", config.gap_s, name, fps) if config.n_frames > 1 else 1
    stride = _in_frames("start_stride_s", config.start_stride_s, name, fps) if config.start_stride_s else 1
    needed = (config.n_frames - 1) * gap + 1
    if n_frames < needed:
        raise ValueError(
            f"a clip needs {config.n_frames} frames {gap} apart ({needed} stored frames, {needed / fps:.3g} s), "
            f"but {name} has {n_frames}. "
            "Lower pretrain.clip.n_frames or pretrain.clip.gap_s, or use a longer video."
        )
    n_starts = (n_frames - needed) // stride + 1
    if config.n_cuts and n_starts == 1:
        raise ValueError(
            f"a clip is cut to another start of its video, but {name} has only one. "
            "Set pretrain.clip.n_cuts to 0, lower pretrain.clip.start_stride_s, or use a longer video."
        )
    return ClipLayout(gap, stride, n_starts)


def _in_frames(option: str, seconds: float, name: str, fps: float) -> int:
    frames = round(seconds * fps)
    if frames < 1:
        raise ValueError(
            f"pretrain.clip.{option} is {seconds:g} s, less than one stored frame of {name} ({fps:g} a second). "
            f"Raise it to at least {1 / fps:.3g} or store more frames (shards.fps)."
        )
    return frames


def _decode(jpeg: bytes, shape: tuple[int, ...]) -> UInt8[np.ndarray, "Y X 3"]:
    try:
        image = simplejpeg.decode_jpeg(jpeg, "RGB")
    except ValueError as error:
        raise ValueError(f"is no readable JPEG: {error}") from None
    if image.shape != shape:
        expected, got = (f"{size[1]}x{size[0]}" for size in (shape, image.shape))
        raise ValueError(f"is {got} pixels, its index says {expected}")
    return image
