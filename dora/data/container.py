"""Opening a video file: its container and the stream of its pictures; or a sentence that says what is wrong with it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import av.container
import av.error
import av.video
from av.codec.hwaccel import HWAccel

# What libav would also play: pictures, playlists (which may point anywhere) and text.
_NOT_VIDEOS = {"image2", "hls", "dash", "concat", "tty"}


class Opened(NamedTuple):
    """An open video file."""

    container: av.container.InputContainer
    stream: av.video.VideoStream


def check_readable(path: Path) -> None:
    """Refuse what can be no video, before libav says it in its own words.

    Raises:
        FileNotFoundError: if it is not there.
        PermissionError: if this user may not read it.
        ValueError: if it is a folder, a device or empty.
    """
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}. Check the path.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {kind}, expected one video file.")
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except PermissionError:
        raise PermissionError(f"{path} may not be read by this user. Give it read permission (chmod a+r).") from None
    if is_empty:
        raise ValueError(f"{path} is empty (0 bytes), expected a video. Copy or download it again.")


def why_unreadable(path: Path, error: av.error.FFmpegError) -> str:
    """What is wrong with a file that libav cannot open, and what to do."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"{path} is a cut-off mp4: its table of contents (moov) is missing. Copy or download it again."
    return f"{path} is no video that can be read ({error.strerror}), expected a file such as mp4, mkv or webm."


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


def shown_size(stream: av.video.VideoStream, width: int, height: int, *, rotation: int) -> tuple[int, int]:
    """Width and height as shown: upright and with square pixels."""
    width = round(width * float(stream.sample_aspect_ratio or 1))
    return (height, width) if rotation % 180 else (width, height)


def _is_cover(stream: av.video.VideoStream) -> bool:
    return bool(stream.disposition & stream.disposition.attached_pic)
