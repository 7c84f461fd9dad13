"""One pass over a stretch of a video that fills tar after tar: decode, choose, scale, blur faces, encode, write."""

import logging
import threading
import uuid
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from dora.artifacts import Video
from dora.config import ShardsConfig
from dora.data.claims import Claim, Claims
from dora.data.faces import FaceBlur
from dora.data.pictures import Faults, Run, pictures
from dora.data.tars import Record, keep, tar_name, writing
from dora.data.timeline import Ticks, Timeline, read_timeline
from dora.lease import LeaseLost

log = logging.getLogger("dora.shards")

# Bilinear widens its triangle when it shrinks, as torchvision's antialiased resizing does; Lanczos costs thrice that.
# The other flags give the same bytes on every processor. (Full chroma interpolation would double the cost, for a colour
# that the JPEG halves again.)
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}  # what hardware decoders give: the same pixels, laid out anew
_MOST = 0.9  # of the pictures of a tar
_IN_FLIGHT = 8  # decoded pictures that wait for their encoding: 100 MB of 4K


class Layout(NamedTuple):
    """What a video's tars will hold."""

    timeline: Timeline
    ticks: Ticks
    fps: float
    width: int
    height: int
    frames_per_shard: int

    @property
    def n_frames(self) -> int:
        """Stored frames of the video."""
        return self.ticks.n

    @property
    def n_source_frames(self) -> int:
        """Pictures of the video."""
        return len(self.timeline.times)

    @property
    def n_tars(self) -> int:
        """Tars of the video."""
        return -(-self.n_frames // self.frames_per_shard)

    def n_in(self, tar: int) -> int:
        """Frames in this tar."""
        return min(self.frames_per_shard, self.n_frames - tar * self.frames_per_shard)

    def n_source_in(self, tar: int) -> int:
        """Pictures of the video that this tar stands for."""
        first, end = np.searchsorted(self.timeline.times, self.bounds(tar))
        return int(end - first)

    def bounds(self, tar: int) -> tuple[int, int]:
        """The stretch of time [first, end) whose pictures this tar stands for; the outermost reach to infinity."""
        first = self.ticks.first_time(tar * self.frames_per_shard) if tar else -(2**62)
        return first, self.ticks.first_time((tar + 1) * self.frames_per_shard) if tar + 1 < self.n_tars else 2**62


class Encoded(NamedTuple):
    """A stored frame."""

    jpeg: bytes
    n_faces: int


@dataclass
class Work:
    """Everything that the passes over one video share."""

    key: str  # of the job
    video: Video
    config: ShardsConfig
    layout: Layout
    folder: Path
    store: str | None
    claims: Claims
    blur: FaceBlur | None
    threads: int  # of one pass
    device: str | None  # hardware decoder
    written: list[int]  # frames so far in each tar
    stop: threading.Event


class Stopped(Exception):
    """The run was told to stop; the unfinished tar is gone."""


def lay_out(video: Video, config: ShardsConfig) -> Layout:
    """What will be stored of a video, before anything is decoded.

    Raises:
        FileNotFoundError, PermissionError: if it is not there, or not for this user.
        ValueError: if it is no video, or does not say when its pictures are shown.
    """
    fps = min(config.fps, video.fps)
    timeline = read_timeline(video.path)
    rate = Fraction(fps).limit_denominator(1001)
    ticks = Ticks(int(timeline.times[0]), timeline.end, timeline.time_base, rate)
    return Layout(timeline, ticks, fps, *frame_size(video.width, video.height, config.short_side),
                config.frames_per_shard)  # fmt: skip


def frame_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of the stored frames: never enlarged, both even."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2 - 1e-9) * 2), max(2, round(height * scale / 2 - 1e-9) * 2)


def write_tars(work: Work, claim: Claim) -> None:
    """Write a claimed tar, and those after it until one is another's.

    What a decoder makes of damage depends on its threads. So a tar with any is written again, by a pass of its own on a
    single thread: then its bytes depend on nothing but the video.

    Raises:
        Stopped: soon after `work.stop` is set.
        ValueError: if there is nothing that can be decoded.
    """
    swift = Run(work.video.path, work.threads, work.device, strict=True)
    with ThreadPoolExecutor(work.threads, "encode") as pool, closing(_Pass(work, swift, claim.number, pool)) as going:
        following: Claim | None = claim
        while following:
            claim, record = following, None
            unfinished = claim.folder / f"{uuid.uuid4().hex}.tar"
            try:
                record = going.write(claim.number, unfinished)
                if record.bad_s:
                    record = _write_alone(work, claim.number, unfinished, pool)
                keep(unfinished, work.folder, record, lease=claim.lease, store=work.store)
            except LeaseLost as error:
                log.warning("%s; it writes the tar now", error)
                record = None
            finally:
                unfinished.unlink(missing_ok=True)
                work.claims.give_back(claim, record)
            following = work.claims.take(claim.number + 1)


class Scaler:
    """Scales decoded pictures: upright, full range, the file's own colour matrix undone. Any thread may call it."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self._of_thread = threading.local()

    def __call__(self, frame: VideoFrame) -> UInt8[np.ndarray, "Y X 3"]:
        """The pixels that are stored."""
        if not hasattr(self._of_thread, "scaler"):  # a scaler keeps tables for one kind of picture
            self._of_thread.scaler, self._of_thread.planar = VideoReformatter(), VideoReformatter()
        quarters = round(frame.rotation / 90) % 4
        width, height = self._size[::-1] if quarters % 2 else self._size
        if frame.format.name in _PLANAR:
            frame = self._of_thread.planar.reformat(frame, format=_PLANAR[frame.format.name], interpolation=SCALING)
        scaled = self._of_thread.scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=SCALING, threads=1
        )
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), quarters))


def _write_alone(work: Work, tar: int, path: Path, pool: ThreadPoolExecutor) -> Record:
    """Write a tar by a pass of its own.

    Some whole videos break rules that a strict decoder minds. Where it gives up nearly all of a tar, a milder one is
    asked, and believed if it has nothing to complain of.
    """

    def write(*, strict: bool) -> Record:
        with closing(_Pass(work, Run(work.video.path, threads=1, strict=strict), tar, pool)) as alone:
            return alone.write(tar, path)

    record = write(strict=True)
    if len(record.bad_s) <= _MOST * work.layout.n_source_in(tar):
        return record
    mild = write(strict=False)
    return mild if not mild.bad_s else write(strict=True)


class _Pass:
    """One decoding from a tar's first moment to the video's end, taken tar by tar."""

    def __init__(self, work: Work, run: Run, tar: int, pool: ThreadPoolExecutor) -> None:
        self._work, self._pool, self._faults = work, pool, Faults()
        self._frames = _stored(run, work.layout, tar, self._faults)

    def close(self) -> None:
        self._frames.close()

    def write(self, number: int, path: Path) -> Record:
        """Write the next tar of the pass."""
        work, layout, first = self._work, self._work.layout, number * self._work.layout.frames_per_shard
        scaler, in_flight = Scaler(layout.width, layout.height), deque[tuple[int, float, Future[Encoded]]]()
        with writing(path, work.video.name) as tar:

            def write_oldest() -> None:
                frame, time_s, encoded = in_flight.popleft()
                tar.add(frame, encoded.result().jpeg, time_s=time_s, n_faces=encoded.result().n_faces)
                work.written[number] += 1

            work.written[number] = 0
            shown: tuple[VideoFrame, Future[Encoded]] | None = None
            for tick in range(first, first + layout.n_in(number)):
                if work.stop.is_set():
                    raise Stopped
                frame = next(self._frames)
                assert frame.pts is not None
                if shown is None or frame is not shown[0]:  # else the same picture again
                    shown = frame, self._pool.submit(_encode, frame, scaler, work)
                in_flight.append((tick, layout.timeline.seconds(frame.pts), shown[1]))
                if len(in_flight) > _IN_FLIGHT:
                    write_oldest()
            while in_flight:
                write_oldest()
            if number + 1 == layout.n_tars:
                deque(self._frames, maxlen=0)  # a picture or two at the end for which there is no moment
            # The picture after the last one stored is decoded by now, and with it all that this tar stands for.
            bad = self._faults.between(layout.timeline, *layout.bounds(number))
            self._faults.forget(layout.bounds(number)[1])
            bad_s = [layout.timeline.seconds(time) for time in bad]
            return tar.finish(tar_name(number), key=work.key, bad_s=bad_s)


def _stored(run: Run, layout: Layout, tar: int, faults: Faults) -> Generator[VideoFrame]:
    """The picture for the tar's first moment, for the next, and so on to the video's last."""
    ticks, times, tick = layout.ticks, layout.timeline.times, tar * layout.frames_per_shard
    shown: VideoFrame | None = None
    # The picture shown at that moment, and all that the tar stands for, whether there is a moment for them or not.
    shown_at, owned = np.searchsorted(times, (ticks.first_time(tick + 1), layout.bounds(tar)[0]))
    begin = int(times[max(0, min(shown_at - 1, owned))])
    with closing(pictures(run, layout.timeline, begin, faults)) as decoded:
        for frame in decoded:
            assert frame.pts is not None
            if shown is None:
                shown = frame  # for moments before the first picture that can be decoded, too
            while tick < min(ticks.of(frame.pts), ticks.n):
                yield shown
                tick += 1
            shown = frame
        if shown is None:
            raise ValueError(f"{run.path} has no picture that can be decoded. Get the file again.")
        while tick < ticks.n:
            yield shown
            tick += 1


def _encode(frame: VideoFrame, scaler: Scaler, work: Work) -> Encoded:
    pixels, n_faces = scaler(frame), 0
    if work.blur:
        pixels, n_faces = work.blur.blur(pixels)
    return Encoded(simplejpeg.encode_jpeg(pixels, work.config.jpeg_quality, "RGB", "420"), n_faces)
