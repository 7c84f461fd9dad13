"""Pictures of a video, or of a folder of images, shown at given moments."""

import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from dora.data.contact_sheet import clock
from dora.data.container import Opened, check_readable, open_video, shown_size, turned, why_unreadable
from dora.data.tar_pass import Scaler
from dora.data.timeline import read_timeline

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_SEEK_S = 4.0  # further ahead than this, the next key frame is sought rather than decoded up to

Pixels = UInt8[np.ndarray, "Y X 3"]


class Picture(NamedTuple):
    """One picture, upright and with square pixels."""

    time_s: float  # when it begins to be shown, from the first picture of all
    pixels: Pixels


class Footage(NamedTuple):
    """A video file, or the images of a folder in the order of their names."""

    path: Path
    images: tuple[Path, ...]  # none: it is a video
    fps: float  # of the images
    duration_s: float

    def pictures(self, times_s: Sequence[float]) -> Iterator[Picture]:
        """What is shown at these moments, which are in order. One picture is held at a time.

        Raises:
            ValueError: if there is no picture at one of them, or it cannot be decoded.
        """
        return _of_images(self, times_s) if self.images else _of_video(self, times_s)


def open_footage(path: Path, *, fps: float) -> Footage:
    """A video or folder, whose images come `fps` a second.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if it is no video that can be read, or a folder without images.
    """
    if path.is_dir():
        images = sorted((one for one in path.iterdir() if one.suffix.lower() in SUFFIXES), key=_natural)
        if not images:
            raise ValueError(f"no images in {path}: expected files that end in {', '.join(sorted(SUFFIXES))}.")
        return Footage(path, tuple(images), fps, len(images) / fps)
    check_readable(path)
    try:
        with open_video(path) as opened:
            promised_s = _promised_s(opened)
        if promised_s is None:  # some streams have no header that says it
            timeline = read_timeline(path)
            promised_s = timeline.seconds(timeline.end)
    except av.error.FFmpegError as error:
        raise ValueError(why_unreadable(path, error)) from None
    return Footage(path, (), 0.0, promised_s)


def clip_start(footage: Footage, *, at_s: float | None, span_s: float, n_frames: int) -> float:
    """When the clip begins; by default so that it lies in the middle.

    Raises:
        ValueError: if it is not all in the video, with what would fit.
    """
    length_s, name = footage.duration_s, footage.path.name
    start_s = max(0.0, (length_s - span_s) / 2) if at_s is None else at_s
    if start_s >= length_s:
        raise ValueError(f"no frame at {start_s:g} s: {name} ends at {length_s:.2f} s ({clock(length_s)}).")
    if start_s + span_s >= length_s:
        gap_s = span_s / (n_frames - 1)
        fits = int((length_s - start_s) / gap_s - 1e-9) + 1
        raise ValueError(
            f"{n_frames} frames {gap_s:g} s apart from {start_s:g} s on reach to {start_s + span_s:g} s, but {name} "
            f"ends at {length_s:.2f} s. {fits} fit: take fewer frames, a smaller gap or an earlier moment."
        )
    if footage.images or at_s is not None:
        return start_s
    return round(start_s, 1) if round(start_s, 1) + span_s < length_s else start_s


def _promised_s(opened: Opened) -> float | None:
    container, stream = opened
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if not container.duration:
        return None
    start_s = float((stream.start_time or 0) * (stream.time_base or 0)) if "matroska" in container.format.name else 0.0
    return container.duration / av.time_base - start_s


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """img2 before img10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def _of_images(footage: Footage, times_s: Sequence[float]) -> Generator[Picture]:
    shape: tuple[int, ...] | None = None
    for time_s in times_s:
        number = int(time_s * footage.fps + 1e-6)
        path = footage.images[number]
        try:
            with Image.open(path) as image:
                pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error}). Mend it or take it away.") from None
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise ValueError(
                f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, the first frame {shape[1]} x {shape[0]}: "
                "a clip's frames have one size."
            )
        yield Picture(number / footage.fps, pixels)


def _of_video(footage: Footage, times_s: Sequence[float]) -> Generator[Picture]:
    path, scaler = footage.path, None
    try:
        with open_video(path) as opened:
            stream = opened.stream
            stream.thread_type = "AUTO"
            assert stream.time_base is not None
            start, base = stream.start_time or 0, stream.time_base
            shown = _Shown(opened)
            for time_s in times_s:
                frame = shown.at(start + round(time_s / base))
                if frame is None:
                    raise ValueError(
                        f"no frame at {time_s:g} s of {path}: it breaks off or is damaged there. "
                        "`dora video verify` says where it is whole."
                    )
                size = shown_size(stream, frame.width, frame.height, rotation=turned(path, frame))
                scaler = scaler or Scaler(*size)
                assert frame.pts is not None
                yield Picture(max(0.0, float((frame.pts - start) * base)), scaler(frame))
    except av.error.FFmpegError as error:
        raise ValueError(why_unreadable(path, error)) from None


class _Shown:
    """Goes forward through a video to the pictures shown at given times."""

    def __init__(self, opened: Opened) -> None:
        self._container, self._stream = opened
        assert self._stream.time_base is not None
        self._far = round(_SEEK_S / self._stream.time_base)
        self._frame: VideoFrame | None = None
        self._next: VideoFrame | None = None
        self._frames: Iterator[VideoFrame] = iter(())

    def at(self, time: int) -> VideoFrame | None:
        """The latest picture that is not after `time`; the first one, if there is none."""
        if self._frame is None or time - _pts(self._frame) > self._far:
            self._seek(time)
        while self._next is not None and _pts(self._next) <= time:
            self._step()
        return None if self._has_ended(time) else self._frame

    def _has_ended(self, time: int) -> bool:
        """Whether the last picture there is was over long before: the file promises more than it has."""
        if self._frame is None or self._next is not None:
            return False
        assert self._stream.time_base is not None
        return time > _pts(self._frame) + max(self._frame.duration or 0, round(1 / self._stream.time_base))

    def _seek(self, time: int) -> None:
        """To a picture at or before `time`: from where a key frame makes it whole."""
        back, first = 0, self._stream.start_time or 0
        while True:
            target = max(first, time - back)
            self._container.seek(target, stream=self._stream)
            self._frames = self._decoded()
            self._frame = self._next = None
            self._step()
            self._step()
            if (self._frame is not None and _pts(self._frame) <= time) or target == first:
                return
            back = max(2 * back, self._far)  # an index that is wrong, or pictures before a key frame that need others

    def _step(self) -> None:
        self._frame, self._next = self._next or self._frame, next(self._frames, None)

    def _decoded(self) -> Generator[VideoFrame]:
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if frame.pts is not None and not frame.is_corrupt:
                    yield frame


def _pts(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
