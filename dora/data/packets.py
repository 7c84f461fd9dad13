"""A video's packets, all of them read and only its key frames decoded: how its time runs, and what to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import av.stream
import av.video
import numpy as np
from av.video.frame import PictureType, VideoFrame
from jaxtyping import Int64
from pydantic import Field

from dora.config import Frozen
from dora.data.container import Opened, open_video, shown_size, turned
from dora.data.timeline import Packet, Timeline, Times
from dora.progress import Progress

_REPORT_EVERY = 2000  # packets
_KEYS_APART_S = 1.0  # some cameras write nothing but key frames


class Timing(Frozen):
    """How a video's time runs, in seconds from its first picture."""

    duration_s: float = Field(description="from the first picture to the end of the last")
    end_s: float = Field(description="when the last packet ends, of pictures or (if the promise is about it) sound")
    promised_s: float | None = Field(description="when the container says that it ends; null: it does not")
    n_pictures: int
    n_untimed: int = Field(description="packets without a time stamp")
    n_duplicates: int = Field(description="pictures at the very time of another")
    n_backwards: int = Field(description="packets that come before one they should follow")
    gap_s: float = Field(description="median from picture to picture")
    uneven_share: float = Field(description="of the gaps that differ from the median by more than its half")
    largest_gap_s: float = Field(description="from a picture to the next, or of the last to the end")
    largest_gap_at_s: float


class Packets(NamedTuple):
    """What one pass over a file gave."""

    timing: Timing
    timeline: Timeline
    width: int  # as shown, upright and with square pixels
    height: int
    looked_at: Int64[np.ndarray, "k"]  # times of the key frames that were decoded, or should have been
    breaks_off: str | None  # libav's words where it could not read on


def read_packets(path: Path, see: Callable[[VideoFrame], None], progress: Progress) -> Packets:
    """Read every packet at the speed of the disk; `see` is called with the key frames, at most one a second.

    A key frame that cannot be decoded is left out: what is broken there, a full decoding of its surroundings says.

    Raises:
        FileNotFoundError, PermissionError: if it is not there, or not for this user.
        ValueError: if the file holds no video, does not say when its pictures are shown, or wants them mirrored.
    """
    with open_video(path) as opened:
        size_mb = path.stat().st_size / 1e6
        container, stream = opened
        stream.thread_type = "AUTO"
        reading, breaks_off = _Reading(stream), None
        try:
            for number, packet in enumerate(container.demux(*_heard(opened))):
                reading.note(packet, is_picture=packet.stream.index == stream.index)
                if packet.stream.index == stream.index and (packet.size == 0 or reading.wants(packet)):
                    for frame in _decode(packet):
                        reading.rotation = turned(path, frame)
                        see(frame)
                if number % _REPORT_EVERY == 0 and packet.pos:
                    progress(packet.pos / 1e6, size_mb, "MB", f"reading {path.name}")
        except av.error.FFmpegError as error:
            breaks_off = error.strerror
        progress(size_mb, size_mb, "MB", "")
        timeline = reading.times.timeline(path)
        looked_at = np.unique(np.array([timeline.times[0], *reading.wanted], np.int64))
        timing = _timing(reading, timeline, _promised_s(opened))
        width, height = shown_size(stream, stream.width, stream.height, rotation=reading.rotation)
        return Packets(timing, timeline, width, height, looked_at, breaks_off)


class _Reading:
    """What is kept of the packets."""

    def __init__(self, stream: av.video.VideoStream) -> None:
        self.times = Times(stream)
        self.wanted: list[int] = []
        self.file_end_s = 0.0
        self.n_backwards = 0
        self.rotation = 0  # degrees, of the last frame seen
        self._last: int | None = None

    def note(self, packet: Packet, *, is_picture: bool) -> None:
        if packet.size == 0 or packet.is_discard:  # the end; or what an edit list hides
            return
        if packet.pts is not None:
            self.file_end_s = max(self.file_end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if not is_picture:
            return
        if packet.dts is not None:
            self.n_backwards += self._last is not None and packet.dts < self._last
            self._last = packet.dts
        self.times.note(packet)

    def wants(self, packet: Packet) -> bool:
        """Whether to look at its picture."""
        if not packet.is_keyframe or packet.is_discard or packet.pts is None:
            return False
        if self.wanted and (packet.pts - self.wanted[-1]) * packet.time_base < _KEYS_APART_S:
            return False
        self.wanted.append(packet.pts)
        return True


def _heard(opened: Opened) -> list[av.stream.Stream]:
    """The pictures; and the sounds too where the duration promised is that of the longest of all."""
    container, stream = opened
    return [stream] if stream.duration else [stream, *container.streams.audio]


def _decode(packet: Packet) -> list[VideoFrame]:
    try:
        frames = packet.decode()
    except av.error.FFmpegError:
        return []
    return [frame for frame in frames if frame.pts is not None and not frame.is_corrupt and _stands_alone(frame)]


def _stands_alone(frame: VideoFrame) -> bool:
    """Whether it can be right without others: where a stream is refreshed bit by bit, "key frames" only begin that."""
    return frame.pict_type not in (PictureType.P, PictureType.B)


def _timing(reading: _Reading, timeline: Timeline, promised_s: float | None) -> Timing:
    start_s = float(int(timeline.times[0]) * timeline.time_base)
    duration_s = timeline.seconds(timeline.end)
    held = np.diff(timeline.times, append=timeline.end)  # the last picture, too, may be shown for an hour
    gaps = held[:-1] if len(held) > 1 else held
    median = float(np.median(gaps))
    largest = int(np.argmax(held))
    return Timing(
        duration_s=duration_s,
        end_s=max(duration_s, reading.file_end_s - start_s),
        promised_s=promised_s,
        n_pictures=len(reading.times.times),
        n_untimed=reading.times.n_untimed,
        n_duplicates=len(reading.times.times) - len(timeline.times),
        n_backwards=reading.n_backwards,
        gap_s=median * float(timeline.time_base),
        uneven_share=float(np.mean(np.abs(gaps - median) > median / 2)),
        largest_gap_s=float(int(held[largest]) * timeline.time_base),
        largest_gap_at_s=timeline.seconds(int(timeline.times[largest])),
    )


def _promised_s(opened: Opened) -> float | None:
    """How long after its first picture the file promises to end."""
    container, stream = opened
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if not container.duration:
        return None
    promised_s = container.duration / av.time_base
    if "matroska" in container.format.name:  # which counts from zero, not from what comes first
        promised_s -= float((stream.start_time or 0) * (stream.time_base or 0))
    return promised_s
