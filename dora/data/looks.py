"""Black and frozen stretches of a video, from looks at its pictures: the definitions of ffmpeg's filters.

A look is every n-th pixel of a picture, in grey. Pixels are picked and not averaged: averages of many would hide the
noise by which a camera that stands still differs from a picture that is stuck.
"""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from pydantic import Field

from dora.config import Frozen, Share

_WIDTH = 160
# After so long without change, a key frame that differs but slightly is the same picture, coded anew; encoders take as
# long again to improve it.
_CODED_ANEW_S = 0.5

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LookConfig(Frozen):
    """What counts as black and as frozen."""

    span_s: Seconds = Field(default=5.0, description="shorter spans are not reported; a clip of the paper lasts 8 s")
    black_level: Share = Field(default=0.10, description="of the range of grey, below which a pixel is black")
    black_share: Share = Field(default=0.98, description="of black pixels in a black picture")
    # freezedetect's -60 dB. A stuck picture stays below it from one key frame to the next, whatever the codec; the
    # noise of one grey level that a still camera shows is 0.004.
    frozen_difference: Share = Field(default=0.001, description="mean, of the range of grey, up to which all is still")
    # Key frames of a stuck picture, coded at low rates, were met with 0.0008 of difference, those of a real, empty hall
    # with 0.0045.
    quiet_difference: Share = Field(default=0.0025, description="the same for a key frame, which is coded anew")


class Span(Frozen):
    """A stretch of time, in seconds from the first picture."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """From start to end."""
        return self.end_s - self.start_s


class Look(NamedTuple):
    """One picture, as little of it as is needed."""

    time_s: float
    is_key: bool
    is_black: bool
    grey: UInt8[np.ndarray, "Y X"]


class Looker:
    """Makes looks of decoded pictures."""

    def __init__(self, config: LookConfig) -> None:
        self._config = config
        self._reformatter = VideoReformatter()

    def look(self, frame: VideoFrame, time_s: float) -> Look:
        """The picture at a glance. Grey runs from 0 to 255 whatever the range and depth of the video."""
        width = min(_WIDTH, frame.width)
        height = max(1, round(frame.height * width / frame.width))
        small = self._reformatter.reformat(
            frame, width=width, height=height, format="gray", interpolation="POINT", dst_color_range="JPEG", threads=1
        )
        grey = small.to_ndarray()
        dark = np.mean(grey <= self._config.black_level * 255)
        return Look(time_s, bool(frame.key_frame), bool(dark >= self._config.black_share), grey)


def difference(first: Look, second: Look) -> float:
    """Mean absolute difference of two pictures, as a share of the range; 1 if they have not even the same size."""
    if first.grey.shape != second.grey.shape:
        return 1.0
    return float(np.mean(np.abs(first.grey.astype(np.int16) - second.grey))) / 255


class Spans(NamedTuple):
    """What was found."""

    black: tuple[Span, ...]
    frozen: tuple[Span, ...]


def find_spans(looks: Iterable[Look], end_s: float, config: LookConfig) -> Spans:
    """Black and frozen spans in looks that come in order of time; what is black is not called frozen as well.

    Frozen is as in ffmpeg's freezedetect: no picture differs from the one the span began with. A single picture that
    is shown for long does not count; that is a gap, which the packets tell.
    """
    black, frozen = _BlackRun(), _FrozenRun(config)
    for look in looks:
        black.add(look)
        frozen.add(look)
    black.close(end_s)
    frozen.close(end_s)
    return Spans(*(tuple(s for s in run.spans if s.length_s >= config.span_s) for run in (black, frozen)))


class _BlackRun:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._start_s: float | None = None

    def add(self, look: Look) -> None:
        if not look.is_black:
            self.close(look.time_s)
        elif self._start_s is None:
            self._start_s = look.time_s

    def close(self, time_s: float) -> None:
        if self._start_s is not None:
            self.spans.append(Span(start_s=self._start_s, end_s=time_s))
        self._start_s = None


class _FrozenRun:
    def __init__(self, config: LookConfig) -> None:
        self.spans: list[Span] = []
        self._config = config
        self._start_s = self._settled_s = 0.0
        self._first: Look | None = None  # the picture that the others are compared with
        self._is_still = False

    def add(self, look: Look) -> None:
        if look.is_black:
            self.close(look.time_s)
        elif self._first is None:
            self._first, self._start_s = look, look.time_s
        else:
            change = difference(look, self._first)
            if change <= self._config.frozen_difference:
                self._is_still = True
            elif self._is_still and change <= self._config.quiet_difference and self._is_coded_anew(look):
                self._first = look
            else:
                self.close(look.time_s)
                self._first, self._start_s = look, look.time_s

    def close(self, time_s: float) -> None:
        if self._first is not None and self._is_still:
            self.spans.append(Span(start_s=self._start_s, end_s=time_s))
        self._first, self._is_still, self._settled_s = None, False, 0.0

    def _is_coded_anew(self, look: Look) -> bool:
        assert self._first is not None
        if look.is_key and look.time_s - self._first.time_s >= _CODED_ANEW_S:
            self._settled_s = look.time_s + _CODED_ANEW_S
        return look.time_s <= self._settled_s
