"""Decoded pictures as RGB, true to a grey level."""

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

# Means over areas. Without full chroma interpolation, which stored frames do without for speed, swscale gives pixels
# that are two grey levels too dark: 1 L* in a dark picture.
_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT


class Converter:
    """Scales pictures to one size: upright, full range, the file's own colour matrix undone."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height, self._scaler = width, height, VideoReformatter()

    def __call__(self, frame: VideoFrame) -> UInt8[np.ndarray, "Y X 3"]:
        """The pixels."""
        quarters = round(frame.rotation / 90) % 4
        width, height = (self._height, self._width) if quarters % 2 else (self._width, self._height)
        scaled = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_SCALING, threads=1
        )
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), quarters))
