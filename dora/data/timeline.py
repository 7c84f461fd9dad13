"""When every picture of a video is shown, from its packets alone, and which picture is stored for which moment."""

from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av.error
import av.video
import numpy as np
from jaxtyping import Int64

from dora.data.container import decoded, open_video

Packet = Any  # av.Packet: generic to a type checker, but not when it runs
_ENOUGH = 250  # pictures, of which one comes out of turn if any do


class Timeline(NamedTuple):
    """Presentation times of a video's pictures, in units of `time_base` seconds."""

    time_base: Fraction
    times: Int64[np.ndarray, "n"]  # of every picture, in order
    keys: Int64[np.ndarray, "k"]  # of those that can be decoded without others
    end: int  # when the last one ends

    def seconds(self, time: int) -> float:
        """Seconds from the first picture."""
        return float((time - int(self.times[0])) * self.time_base)


class Ticks(NamedTuple):
    """The moments at which a picture is stored: `fps` a second from the first picture on.

    Stored is the latest picture whose own time, rounded to the nearest moment (halves up), is not after it: the rule
    of ffmpeg's fps filter. So a faster video is thinned, a slower one repeats, and an uneven one does both. All in
    whole numbers, so that every part of a video is cut at the very same picture.
    """

    start: int
    end: int
    time_base: Fraction
    fps: Fraction

    @property
    def n(self) -> int:
        """How many there are; never none."""
        return max(1, self.of(self.end))

    def of(self, time: int) -> int:
        """The moment nearest to a picture's time."""
        position = (time - self.start) * self.time_base * self.fps
        return (2 * position.numerator + position.denominator) // (2 * position.denominator)

    def first_time(self, tick: int) -> int:
        """The earliest time whose nearest moment is `tick`."""
        least = Fraction(2 * tick - 1, 2) / (self.time_base * self.fps)
        return self.start - (-least.numerator // least.denominator)


class Times:
    """Collects the times of a stream's pictures, packet by packet."""

    def __init__(self, stream: av.video.VideoStream) -> None:
        assert stream.time_base is not None
        self.n_untimed = 0
        self.times: list[int] = []
        self._keys: list[int] = []
        self._end: int | None = None  # a clock may run below zero
        self._time_base = stream.time_base
        # Some containers do not say how long a picture stays.
        self._step = max(1, round(1 / (stream.average_rate * stream.time_base))) if stream.average_rate else 1

    def note(self, packet: Packet) -> None:
        """Count a packet, unless it is the end or what an edit list hides."""
        if packet.size == 0 or packet.is_discard:
            return
        if packet.pts is None:
            self.n_untimed += 1
            return
        self.times.append(packet.pts)
        end = packet.pts + (packet.duration or self._step)
        self._end = end if self._end is None else max(self._end, end)
        if packet.is_keyframe:
            self._keys.append(packet.pts)

    def timeline(self, path: Path) -> Timeline:
        """All times so far, in order.

        Raises:
            ValueError: if more than one in a hundred packets do not say when their picture is shown.
        """
        if self._end is None or self.n_untimed > 0.01 * len(self.times):
            raise ValueError(
                f"{path} does not say when its pictures are shown: {self.n_untimed} packets have no time stamp. "
                "Write it anew: ffmpeg -i FILE whole.mp4"
            )
        keys = np.unique(np.array(self._keys or self.times[:1], np.int64))
        return Timeline(self._time_base, np.unique(np.array(self.times, np.int64)), keys, self._end)


def read_timeline(path: Path) -> Timeline:
    """Read the times of all pictures. Nothing is decoded: this runs at the speed of the disk.

    Raises:
        FileNotFoundError, PermissionError: if it is not there, or not for this user.
        ValueError: if it is no video, or does not say when its pictures are shown.
    """
    with open_video(path) as (container, stream):
        times = Times(stream)
        try:
            for packet in container.demux(stream):
                times.note(packet)
        except av.error.FFmpegError:
            pass  # the file breaks off here; what is missing shows against its duration
    return times.timeline(path)


def check_order(path: Path) -> None:
    """Refuse an AVI that has but one time for each picture, when it is decoded, and shows them in another order.

    Raises:
        FileNotFoundError, PermissionError: if it is not there, or not for this user.
        ValueError: if it is one, or no video.
    """
    with open_video(path) as opened:
        if opened.container.format.name != "avi" or not opened.stream.has_b_frames:
            return
        times = [frame.pts for frame in islice(decoded(opened), _ENOUGH) if frame.pts is not None]
    if times != sorted(times):
        raise ValueError(
            f"{path} does not say when its pictures are shown: an AVI has no place for that, and these are stored in "
            "another order. Write it anew, not as a mere copy: ffmpeg -i FILE whole.mp4"
        )
