"""The pictures of a video from any of its key frames on, just as one pass over the whole file would give them."""

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.frame import PictureType, VideoFrame

from dora.data.container import open_video
from dora.data.timeline import Timeline

log = logging.getLogger("dora.pictures")

# In the order of preference; what the decoder's library was built with and the machine has is tried.
HARDWARE = ("cuda", "videotoolbox", "vaapi", "qsv", "d3d11va")
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dri", "/dev/dxg")
_COMPARED = 12  # pictures
_GROUPS_BACK = 2
_REFRESHED = 3  # groups that have begun


class Faults:
    """What went wrong in one pass, by the time of the picture it happened to."""

    def __init__(self) -> None:
        self.whole: set[int] = set()
        self.refused: set[int] = set()  # packets given up (met late, after as many as there are threads), and pictures
        self.interlaced = False  # then a packet may hold half a picture, and not each gives one

    def between(self, timeline: Timeline, first: int, end: int) -> list[int]:
        """Times of the pictures in [first, end) that were missing, damaged, or decoded from one that was."""
        low, high = np.searchsorted(timeline.times, (first, end))
        promised = self.refused if self.interlaced else set(timeline.times[low:high].tolist())
        return sorted(time for time in promised - self.whole if first <= time < end)

    def forget(self, before: int) -> None:
        """Drop what is no longer asked about."""
        self.whole = {time for time in self.whole if time >= before}
        self.refused = {time for time in self.refused if time >= before}


class _Chain:
    """Tells which pictures are whole: all of a group up to a damaged one, none after it until the next group."""

    def __init__(self, timeline: Timeline, faults: Faults, *, starts_inside: bool) -> None:
        self._times, self._keys, self._faults = timeline.times, set(timeline.keys.tolist()), faults
        # Place of the picture that should come. Inside a file that is not known, and a group has to begin first.
        self._next = None if starts_inside else 0
        self._is_broken, self._n_groups = starts_inside, 0

    def is_whole(self, frame: VideoFrame) -> bool:
        """Whether this picture, the next in order of time, is what was filmed."""
        time = _time(frame)
        self._faults.interlaced |= frame.interlaced_frame
        place = int(np.searchsorted(self._times, time))
        is_missing_one = self._next is not None and place > self._next and not self._faults.interlaced
        self._next = place + 1
        if frame.is_corrupt or is_missing_one:
            self._is_broken, self._n_groups = True, 0
        if self._is_broken and time in self._keys and not frame.is_corrupt:
            # A stream that is refreshed bit by bit is whole again a group and a picture later.
            self._n_groups += 1
            self._is_broken = frame.pict_type != PictureType.I and self._n_groups < _REFRESHED
        (self._faults.refused if self._is_broken else self._faults.whole).add(time)
        return not self._is_broken


class Run(NamedTuple):
    """A way to decode a file."""

    path: Path
    threads: int
    hardware: str | None = None  # a name of libav's
    strict: bool = False  # give up a picture rather than make up its damaged parts without a word


def pictures(run: Run, timeline: Timeline, first: int, faults: Faults) -> Generator[VideoFrame]:
    """Whole pictures in order of time, beginning with the one shown at time `first` or an earlier one.

    A decoder that starts in the middle gives exact pictures only from a key frame on, and for some streams (open
    groups of pictures, gradual refresh) only a group and a picture later: it starts two groups early, which is nothing
    in a pass of minutes. If those are damaged, it starts further back, for what a single pass would show must be met.
    """
    back, latest = _GROUPS_BACK, _key_before(timeline, first, _GROUPS_BACK)
    while True:
        start = _key_before(timeline, first, back)
        passed = _from(run, timeline, start, faults)
        opening = list(islice(passed, 1))
        if start is None or (opening and latest is not None and _time(opening[0]) <= latest):
            yield from opening
            yield from passed
            return
        passed.close()
        faults.forget(2**62)  # all of it is met again
        back *= 2


def choose_hardware(path: Path, timeline: Timeline, convert: Callable[[VideoFrame], np.ndarray]) -> str | None:
    """A hardware decoder that this machine has and that gives the very pictures of the software one, else None."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in _DEVICE_FILES):
        return None  # to try each takes a while
    available = set(hwdevices_available())
    for device in (name for name in HARDWARE if name in available):
        try:
            theirs = _opening(Run(path, 1, device), timeline, convert)
        except (av.error.FFmpegError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            log.debug("no hardware decoder %s: %s", device, error)
            continue
        ours = _opening(Run(path, 0), timeline, convert)
        if len(theirs) == len(ours) and all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True)):
            log.info("decoding %s with %s", path.name, device)
            return device
        log.warning("%s decodes %s to other pixels than the software does; it is not used", device, path.name)
    return None


def _opening(run: Run, timeline: Timeline, convert: Callable[[VideoFrame], np.ndarray]) -> list[np.ndarray]:
    with closing(_from(run, timeline, None, Faults())) as decoded:
        return [convert(frame) for frame in islice(decoded, _COMPARED)]


def _from(run: Run, timeline: Timeline, start: int | None, faults: Faults) -> Generator[VideoFrame]:
    """Whole pictures from the key frame at `start` on, or from the beginning."""
    hardware = HWAccel(run.hardware, allow_software_fallback=False) if run.hardware else None
    chain = _Chain(timeline, faults, starts_inside=start is not None)
    with open_video(run.path, hardware=hardware) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = run.threads
        if run.strict:
            stream.codec_context.options = {"err_detect": "explode"}
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
                    if chain.is_whole(frame):
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
