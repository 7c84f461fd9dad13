"""Opening a video file: its container and the stream of its pictures, nothing else, nothing from the network."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import av.container
import av.video
from av.codec.hwaccel import HWAccel

# What libav would also play: pictures, playlists (which may point anywhere) and text.
_NOT_VIDEOS = {"image2", "hls", "dash", "concat", "tty"}


class Opened(NamedTuple):
    """An open video file."""

    container: av.container.InputContainer
    stream: av.video.VideoStream


@contextmanager
def open_video(path: Path, *, hardware: HWAccel | None = None) -> Generator[Opened]:
    """Open a file for reading its pictures.

    Raises:
        ValueError: if it holds no video.
        av.error.FFmpegError: if it cannot be read.
    """
    with av.open(str(path), options={"protocol_whitelist": "file"}, hwaccel=hardware) as container:
        yield Opened(container, video_stream(path, container))


def video_stream(path: Path, container: av.container.InputContainer) -> av.video.VideoStream:
    """The stream of the pictures; covers of albums are none.

    Raises:
        ValueError: if there is none.
    """
    names = set(container.format.name.split(","))
    if names & _NOT_VIDEOS or any(name.endswith("_pipe") for name in names):
        raise ValueError(
            f"{path} is no video ({container.format.long_name}), expected a file such as mp4, mkv or webm."
        )
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise ValueError(f"{path} has no pictures (its streams: {kinds}), expected a video.")
    return streams[0]


def _is_cover(stream: av.video.VideoStream) -> bool:
    return bool(stream.disposition & stream.disposition.attached_pic)
