"""Films of results: H.264 in an mp4 that every browser plays, the same bytes for the same frames."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.error
import av.video
import numpy as np
from jaxtyping import UInt8

# One thread and no mbtree: with either, x264 decides from run to run otherwise where bits go.
OPTIONS = {"crf": "23", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0:colormatrix=bt470bg"}


def write_film(path: Path, frames: Iterable[UInt8[np.ndarray, "Y X 3"]], *, fps: float) -> None:
    """An mp4 of RGB frames of one size, which `path` names as soon as it is whole; odd sides get one pixel more.

    Frames are taken one at a time, so a film may be longer than memory. Bits are where a browser wants them to start
    before all is loaded (faststart).

    Raises:
        ValueError: if there is no frame, or one has another size than the first.
        OSError: if it cannot be written.
    """
    waiting = iter(frames)
    first = next(waiting, None)
    if first is None:
        raise ValueError(f"no frame for the film {path}: it needs one at least.")
    # By name and not as an open file: for faststart FFmpeg opens what it wrote a second time.
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        _encode(unfinished, chain([first], waiting), first.shape, fps)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)  # a full disk gets its room back
        if isinstance(error, av.error.FFmpegError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    unfinished.replace(path)


def _encode(path: Path, frames: Iterable[UInt8[np.ndarray, "Y X 3"]], shape: tuple[int, ...], fps: float) -> None:
    height, width = shape[:2]
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=OPTIONS)
        assert isinstance(stream, av.video.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        for number, pixels in enumerate(frames):
            if pixels.shape != shape:
                raise ValueError(f"frame {number} of a film is {pixels.shape[:2]} pixels, the first {shape[:2]}.")
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
