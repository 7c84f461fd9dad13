"""One pass over a video: every picture decoded once, one at a time; what is measured is kept as it goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Int64, UInt8

from dora.data.container import decoded, open_video, shown_size, turned
from dora.data.pictures import Faults, Run, pictures
from dora.data.statistics import cuts, motion
from dora.data.statistics.config import StatisticsConfig
from dora.data.statistics.journal import Journal, Part, opened
from dora.data.statistics.light import light
from dora.data.statistics.pixels import Converter
from dora.data.statistics.schema import File
from dora.data.timeline import Timeline, check_order, read_timeline
from dora.progress import Progress

KEEP_EVERY_S = 5.0  # of the clock on the wall: what a kill costs
_REPORT_EVERY = 25  # pictures

Pixels = UInt8[np.ndarray, "Y X 3"]


class Wishes(NamedTuple):
    """What is done with the sampled pictures in their full size."""

    objects: Callable[[Pixels], dict[str, int]] | None = None
    write: Callable[[int, Pixels], None] | None = None


class Surveyed(NamedTuple):
    """All that a pass gave."""

    file: File
    timeline: Timeline
    samples: list[dict[str, Any]]
    jumps: list[int]


class Layout(NamedTuple):
    """What there is to see."""

    timeline: Timeline
    codec: str
    width: int
    height: int
    sampled: Int64[np.ndarray, "s"]  # numbers of pictures


def lay_out(path: Path, config: StatisticsConfig) -> Layout:
    """The times of all pictures, and which are sampled: the first one shown in each 1 / sample_fps seconds.

    Raises:
        FileNotFoundError, PermissionError, ValueError: if it is no video that can be read.
    """
    check_order(path)
    timeline = read_timeline(path)
    with open_video(path) as opened:
        frame, stream = next(decoded(opened), None), opened.stream
        rotation = turned(path, frame) if frame else 0
        width, height = shown_size(stream, stream.width, stream.height, rotation=rotation)
        codec = stream.codec_context.name
    rate = Fraction(config.sample_fps).limit_denominator(1_000_000) * timeline.time_base
    passed = timeline.times - timeline.times[0]
    spans = passed.astype(object) * rate.numerator // rate.denominator  # exact, whatever the time base
    _, sampled = np.unique(spans.astype(np.int64), return_index=True)
    return Layout(timeline, codec, width, height, sampled)


def survey(
    path: Path, journal_path: Path, config: StatisticsConfig, wishes: Wishes, *, key: dict[str, Any], threads: int,
    afresh: bool = False, progress: Progress,
) -> Surveyed:  # fmt: skip
    """Measure a video; after a kill, go on where the journal ends, to the same numbers.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as `lay_out`, or if no picture can be decoded.
    """
    layout = lay_out(path, config)
    times = layout.timeline.times
    with opened(journal_path, key, afresh=afresh) as journal:
        if journal.end < len(times):
            _go_on(path, layout, journal, config, wishes, threads=threads, progress=progress)
        parts = journal.parts
    n_damaged = sum(part.n_damaged for part in parts)
    if n_damaged == len(times):
        raise ValueError(f"{path} has no picture that can be decoded. Copy or download it again.")
    duration_s = layout.timeline.seconds(layout.timeline.end)
    file = File(
        size_bytes=path.stat().st_size, codec=layout.codec, width=layout.width, height=layout.height,
        duration_s=round(duration_s, 3), fps=round(len(times) / duration_s, 3), n_pictures=len(times),
        n_damaged=n_damaged,
    )  # fmt: skip
    samples = [sample for part in parts for sample in part.samples]
    return Surveyed(file, layout.timeline, samples, [jump for part in parts for jump in part.jumps])


def _go_on(
    path: Path, layout: Layout, journal: Journal, config: StatisticsConfig, wishes: Wishes, *, threads: int,
    progress: Progress,
) -> None:  # fmt: skip
    times, begin, faults = layout.timeline.times, journal.end, Faults()
    eye, kept_at = _Eye(layout, config, wishes), time.monotonic()
    first = int(times[max(0, begin - 1)])
    end = begin
    with closing(pictures(Run(path, threads), layout.timeline, first, faults)) as decoded:
        for number, frame in _numbered(decoded, times):
            if number < begin:
                eye.prime(number, frame)
                continue
            if time.monotonic() - kept_at >= KEEP_EVERY_S and number > end:
                journal.add(_part(eye, layout.timeline, faults, end, number))
                end, kept_at = number, time.monotonic()
            eye.see(number, frame)
            if number % _REPORT_EVERY == 0:
                progress(number, len(times), "frames", path.name)
    journal.add(_part(eye, layout.timeline, faults, end, len(times)))
    progress(len(times), len(times), "frames", path.name)


def _numbered(decoded: Iterator[VideoFrame], times: Int64[np.ndarray, "n"]) -> Iterator[tuple[int, VideoFrame]]:
    for frame in decoded:
        assert frame.pts is not None
        yield int(np.searchsorted(times, frame.pts)), frame


def _part(eye: "_Eye", timeline: Timeline, faults: Faults, begin: int, end: int) -> Part:
    """What was seen since the last part, which the pictures from `begin` up to `end` are."""
    times = timeline.times
    until = int(times[end]) if end < len(times) else 2**62
    damaged = faults.between(timeline, int(times[begin]), until)
    faults.forget(until)
    part = Part(end=end, samples=eye.samples, jumps=eye.jumps, n_damaged=len(damaged))
    eye.samples, eye.jumps = [], []
    return part


@dataclass
class _Eye:
    """Looks at pictures in order, and remembers no more of them than one, small."""

    layout: Layout
    config: StatisticsConfig
    wishes: Wishes
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    jumps: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        width, height = self.layout.width, self.layout.height
        small = min(self.config.width, width)
        self._shrink, self._whole = Converter(small, max(1, round(height * small / width))), Converter(width, height)
        self._sampled = {int(number): place for place, number in enumerate(self.layout.sampled)}
        self._jumps = cuts.Jumps(self.config) if self.config.cuts else None
        self._before: tuple[int, Pixels] | None = None

    def prime(self, number: int, frame: VideoFrame) -> None:
        """Take a picture that was seen before, so that the next one can be compared with it."""
        if self._jumps:
            self._jumps.see(number, frame)
        self._remember(number, frame)

    def see(self, number: int, frame: VideoFrame) -> None:
        """Measure a picture."""
        if self._jumps and self._jumps.see(number, frame):
            self.jumps.append(number)
            self._before = None  # across a cut nothing moves
        place = self._sampled.get(number)
        if place is not None:
            self.samples.append(self._sample(place, number, frame, self._shrink(frame)))
        self._remember(number, frame)

    def _remember(self, number: int, frame: VideoFrame) -> None:
        if self.config.motion and number + 1 in self._sampled:
            self._before = number, self._shrink(frame)

    def _sample(self, place: int, number: int, frame: VideoFrame, small: Pixels) -> dict[str, Any]:
        seen, at_s = light(small), self.layout.timeline.seconds
        times = self.layout.timeline.times
        sample: dict[str, Any] = {
            "place": place, "time_s": round(at_s(int(times[number])), 4), "lightness": round(seen.lightness, 4),
            "contrast": round(seen.contrast, 4), "chroma": round(seen.chroma, 4), "colour": list(seen.colour),
        }  # fmt: skip
        if self.config.motion:
            sample["motion"] = None
            if self._before and self._before[0] == number - 1:  # else that one is damaged
                gap_s = at_s(int(times[number])) - at_s(int(times[self._before[0]]))
                sample["motion"] = round(motion.speed(self._before[1], small, gap_s), 5)
        if self.wishes.objects or self.wishes.write:
            pixels = self._whole(frame)
            if self.wishes.write:
                self.wishes.write(place, pixels)
            if self.wishes.objects:
                sample["objects"] = self.wishes.objects(pixels)
        return sample
