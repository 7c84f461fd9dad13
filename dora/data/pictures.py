"""The pictures of a video from any of its key frames on, just as one pass over the whole file would give them."""

import logging
from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.frame import VideoFrame

from dora.data.container import open_video
from dora.data.timeline import Timeline

log = logging.getLogger("dora.pictures")

# In the order of preference; what the decoder's library was built with and the machine has is tried.
HARDWARE = ("cuda", "videotoolbox", "vaapi", "qsv", "d3d11va")
_COMPARED = 12  # pictures


class Faults:
    """What went wrong in one pass, by the time of the picture it happened to."""

    def __init__(self) -> None:
        self.decoded: set[int] = set()
        self.broken: set[int] = set()
        self.refused: set[int] = set()  # packets; which one is met late, after as many as there are threads
        self.interlaced = False  # then a packet may hold half a picture, and not each gives one

    def between(self, timeline: Timeline, first: int, end: int) -> list[int]:
        """Times of the pictures in [first, end) that were damaged, or that should have been there and were not."""
        low, high = np.searchsorted(timeline.times, (first, end))
        missing = self.refused if self.interlaced else set(timeline.times[low:high].tolist()) - self.decoded
        return sorted(time for time in missing | self.broken if first <= time < end)

    def forget(self, before: int) -> None:
        """Drop what is no longer asked about."""
        self.decoded = {time for time in self.decoded if time >= before}
        self.broken = {time for time in self.broken if time >= before}
        self.refused = {time for time in self.refused if time >= before}


class Run(NamedTuple):
    """A way to decode a file."""

    path: Path
    threads: int
    hardware: str | None = None  # a name of libav's


def pictures(run: Run, timeline: Timeline, first: int, faults: Faults) -> Generator[VideoFrame]:
    """Decoded pictures in order of time, beginning with the one shown at time `first` or an earlier one.

    A decoder that starts in the middle gives exact pictures only from a key frame on, and for some streams (open
    groups of pictures, gradual refresh) only a group and a picture later: it starts two groups early, which is nothing
    in a pass of minutes. If the picture wanted is broken, it starts further back, for the one that a single pass
    would show instead must be met.
    """
    back = 2
    while True:
        start = _key_before(timeline, first, back)
        passed = _from(run, start, faults)
        opening = list(islice(passed, 1))
        if start is None or (opening and _time(opening[0]) <= first):
            yield from opening
            yield from passed
            return
        passed.close()
        faults.decoded.clear()  # met again
        back *= 2


def choose_hardware(path: Path, convert: Callable[[VideoFrame], np.ndarray]) -> str | None:
    """A hardware decoder that this machine has and that gives the very pictures of the software one, else None."""
    available = set(hwdevices_available())
    for device in (name for name in HARDWARE if name in available):
        try:
            theirs = [convert(frame) for frame in islice(_from(Run(path, 1, device), None, Faults()), _COMPARED)]
        except (av.error.FFmpegError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            log.debug("no hardware decoder %s: %s", device, error)
            continue
        ours = [convert(frame) for frame in islice(_from(Run(path, 0), None, Faults()), _COMPARED)]
        if len(theirs) == len(ours) and all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True)):
            log.info("decoding %s with %s", path.name, device)
            return device
        log.warning("%s decodes %s to other pixels than the software does; it is not used", device, path.name)
    return None


def _from(run: Run, start: int | None, faults: Faults) -> Generator[VideoFrame]:
    """Pictures from the key frame at `start` on, or from the beginning."""
    hardware = HWAccel(run.hardware, allow_software_fallback=False) if run.hardware else None
    with open_video(run.path, hardware=hardware) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = run.threads
        if start is not None:
            container.seek(start, stream=stream)
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    log.debug("%s at %s: %s", run.path, packet.pts, error)
                    if packet.pts is not None and not packet.is_discard:
                        faults.refused.add(packet.pts)
                    continue
                for frame in frames:
                    if frame.pts is None or (start is not None and frame.pts < start):
                        continue
                    faults.decoded.add(frame.pts)
                    faults.interlaced |= frame.interlaced_frame
                    if frame.is_corrupt:
                        faults.broken.add(frame.pts)
                    yield frame
        except av.error.FFmpegError as error:
            log.debug("%s breaks off: %s", run.path, error)


def _key_before(timeline: Timeline, first: int, back: int) -> int | None:
    """The key frame `back` groups before the one that `first` belongs to; None for the beginning of the file."""
    number = int(np.searchsorted(timeline.keys, first, side="right")) - 1 - back
    return int(timeline.keys[number]) if number > 0 else None


def _time(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
