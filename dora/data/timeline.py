"""When every picture of a video is shown, from its packets alone, and which picture is stored for which moment."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from jaxtyping import Int64

from dora.data.container import open_video


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


def read_timeline(path: Path) -> Timeline:
    """Read the times of all pictures. Nothing is decoded: this runs at the speed of the disk.

    Raises:
        ValueError: if the file does not say when its pictures are shown.
        av.error.FFmpegError: if it cannot be read at all.
    """
    times: list[int] = []
    keys: list[int] = []
    end, n_untimed = 0, 0
    with open_video(path) as (container, stream):
        assert stream.time_base is not None and stream.average_rate is not None
        step = max(1, round(1 / (stream.average_rate * stream.time_base)))
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:  # the end; or what an edit list hides
                    continue
                if packet.pts is None:
                    n_untimed += 1
                    continue
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
                end = max(end, packet.pts + (packet.duration or step))
        except av.error.FFmpegError:
            pass  # the file breaks off here; what is missing shows against its duration
    if not times or n_untimed > 0.01 * len(times):
        raise ValueError(f"{path} does not say when its frames are shown. Write it anew: ffmpeg -i FILE whole.mp4")
    return Timeline(stream.time_base, np.unique(np.array(times)), np.unique(np.array(keys or times[:1])), end)
