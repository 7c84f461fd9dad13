"""Looks at a whole video: at key frames where that is enough, at every picture where it is not."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from dora.data.looks import Look, LookConfig, Looker, Seconds, Spans, difference, find_spans
from dora.data.packets import Packets
from dora.data.pictures import Faults, Run, pictures
from dora.progress import Progress

_REPORT_EVERY_S = 2.0


class WatchConfig(LookConfig):
    """What is looked at, and what counts as black and as frozen."""

    every_frame: bool = Field(
        default=False, description="decode all pictures; else key frames and where they raise doubt"
    )
    key_gap_s: Seconds = Field(
        default=6.0, description="key frames further apart do not suffice: decode what is between"
    )
    edge_s: Seconds = Field(default=1.0, description="at the beginning and the end, always decoded")


class Watched(NamedTuple):
    """What was seen."""

    spans: Spans
    bad_s: list[float]  # times of pictures that are damaged or missing
    n_looked: int
    whole_s: float  # seconds of which every picture was decoded
    n_backwards: int  # pictures that the decoder gave after later ones


class _Stretch(NamedTuple):
    start: int
    end: int


def watch(
    path: Path, packets: Packets, keys: Mapping[int, Look], config: WatchConfig, *, threads: int, progress: Progress
) -> Watched:
    """Look at the video in order of time; `keys` are the looks at its key frames by their time."""
    watching = _Watching(path, packets, keys, config, threads, progress)
    spans = find_spans(watching.looks(), packets.timing.duration_s, config)
    return Watched(spans, watching.bad_s, watching.n_looked, watching.whole_s, watching.n_backwards)


class _Watching:
    def __init__(
        self, path: Path, packets: Packets, keys: Mapping[int, Look], config: WatchConfig, threads: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.bad_s: list[float] = []
        self.n_looked = self.n_backwards = 0
        self.whole_s = 0.0
        self._timeline = packets.timeline
        self._run = Run(path, threads)
        self._keys = keys
        self._config = config
        self._looker = Looker(config)
        starts = packets.looked_at.tolist()
        self._stretches = [_Stretch(a, b) for a, b in zip(starts, [*starts[1:], packets.timeline.end], strict=True)]
        self._doubtful = self._find_doubtful()
        self._progress = progress
        self._total_s = sum(self._seconds(s) for s, bad in zip(self._stretches, self._doubtful, strict=True) if bad)

    def looks(self) -> Iterator[Look]:
        last_s = -1.0
        pairs = zip(self._doubtful, self._stretches, strict=True)
        for is_doubtful, group in groupby(pairs, key=lambda pair: pair[0]):
            stretches = [stretch for _, stretch in group]
            if is_doubtful:
                found = self._decode(_Stretch(stretches[0].start, stretches[-1].end))
            else:
                found = (self._keys[stretch.start] for stretch in stretches)
            for look in found:
                self.n_looked += 1
                if look.time_s > last_s:
                    last_s = look.time_s
                    yield look
                else:
                    self.n_backwards += 1

    def _decode(self, stretch: _Stretch) -> Iterator[Look]:
        faults, timeline, reported_s = Faults(), self._timeline, 0.0
        start_s = timeline.seconds(stretch.start)
        with closing(pictures(self._run, timeline, stretch.start, faults)) as decoded:
            for frame in decoded:
                if frame.pts is None or frame.pts < stretch.start:
                    continue
                if frame.pts >= stretch.end:
                    break
                look = self._looker.look(frame, timeline.seconds(frame.pts))
                if look.time_s - start_s > reported_s + _REPORT_EVERY_S:
                    reported_s = look.time_s - start_s
                    self._progress(self.whole_s + reported_s, self._total_s, "s", "decoding")
                yield look
        self.bad_s += [timeline.seconds(time) for time in faults.between(timeline, stretch.start, stretch.end)]
        self.whole_s += self._seconds(stretch)
        self._progress(self.whole_s, self._total_s, "s", "decoding")

    def _seconds(self, stretch: _Stretch) -> float:
        return float((stretch.end - stretch.start) * self._timeline.time_base)

    def _find_doubtful(self) -> list[bool]:
        """Which stretches from key frame to key frame are to be decoded."""
        config = self._config
        last = len(self._stretches) - 1
        end_s = self._timeline.seconds(self._timeline.end)
        looks = [self._keys.get(stretch.start) for stretch in self._stretches]
        doubtful = np.zeros(len(looks), bool)
        for number, stretch in enumerate(self._stretches):
            doubtful[number] |= config.every_frame or looks[number] is None
            doubtful[number] |= self._seconds(stretch) > config.key_gap_s
            doubtful[number] |= self._timeline.seconds(stretch.start) < config.edge_s
            doubtful[number] |= self._timeline.seconds(stretch.end) > end_s - config.edge_s
            now, then = looks[number], looks[number + 1] if number < last else None
            if now is None or then is None:
                continue
            if now.is_black != then.is_black:  # where exactly it begins or ends
                doubtful[number] = True
            elif not now.is_black and difference(now, then) <= config.quiet_difference:
                # Frozen, perhaps, and already before this key frame and still after the next.
                doubtful[max(0, number - 1) : number + 2] = True
        return doubtful.tolist()
