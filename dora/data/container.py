"""Opening a video file: its container and the stream of its pictures; or a sentence that says what is wrong with it."""

import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import av
import av.container
import av.error
import av.video
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

# What libav would also play: pictures, playlists (which may point anywhere) and text.
_NOT_VIDEOS = {"image2", "hls", "dash", "concat", "tty"}


class NoVideo(ValueError):
    """A file that cannot be opened as a video at all."""


class Opened(NamedTuple):
    """An open video file."""

    container: av.container.InputContainer
    stream: av.video.VideoStream


def check_readable(path: Path) -> None:
    """Refuse what can be no video, before libav says it in its own words.

    Raises:
        FileNotFoundError: if it is not there.
        PermissionError: if this user may not read it.
        NoVideo: if it is a folder, a device or empty.
    """
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}. Check the path.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise NoVideo(f"{path} is {kind}, expected one video file.")
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except PermissionError:
        raise PermissionError(f"{path} may not be read by this user. Give it read permission (chmod a+r).") from None
    if is_empty:
        raise NoVideo(f"{path} is empty (0 bytes), expected a video. Copy or download it again.")


def why_unreadable(path: Path, error: av.error.FFmpegError) -> str:
    """What is wrong with a file that could be opened and then not be read, and what to do."""
    return f"{path} cannot be read ({error.strerror}). Copy or download it again."


@contextmanager
def open_video(path: Path, *, hardware: HWAccel | None = None) -> Generator[Opened]:
    """Open a file for reading its pictures.

    Raises:
        FileNotFoundError, PermissionError: if it is not there, or not for this user.
        NoVideo: if it holds no video.
        ValueError: if nobody here knows its codec.
    """
    check_readable(path)
    try:
        container = av.open(str(path), options={"protocol_whitelist": "file"}, hwaccel=hardware)
    except av.error.FFmpegError as error:
        raise NoVideo(_why_no_video(path, error)) from None
    with container:
        yield Opened(container, video_stream(path, container))


def video_stream(path: Path, container: av.container.InputContainer) -> av.video.VideoStream:
    """The stream of the pictures; covers of albums are none.

    Raises:
        NoVideo: if there is none.
        ValueError: if nobody here knows its codec.
    """
    names = set(container.format.name.split(","))
    if names & _NOT_VIDEOS or any(name.endswith("_pipe") for name in names):
        raise NoVideo(f"{path} is no video ({container.format.long_name}), expected a file such as mp4, mkv or webm.")
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise NoVideo(f"{path} has no pictures (its streams: {kinds}), expected a video.")
    if not streams[0].codec_context:
        raise ValueError(
            f"{path} is in a codec that FFmpeg {av.ffmpeg_version_info} here does not know, expected one such as "
            "H.264, HEVC, VP9 or AV1. Write it anew as H.264 with a program that plays it."
        )
    return streams[0]


def decoded(opened: Opened) -> Generator[VideoFrame]:
    """Pictures up to where reading breaks off or ends; packets that cannot be decoded are passed over."""
    with suppress(av.error.FFmpegError):
        for packet in opened.container.demux(opened.stream):
            with suppress(av.error.FFmpegError):
                yield from packet.decode()


def turned(path: Path, frame: VideoFrame) -> int:
    """Degrees by which a picture is turned to be shown upright: a quarter turn, several, or none.

    Raises:
        ValueError: if it would have to be mirrored, or turned by another angle: both are done nowhere here.
    """
    quarters = round(frame.rotation / 90)
    says = f"turned by {frame.rotation} degrees" if abs(frame.rotation - 90 * quarters) > 1 else ""
    if "DISPLAYMATRIX" in frame.side_data:
        a, b, _, c, d, *_ = struct.unpack("9i", bytes(frame.side_data["DISPLAYMATRIX"]))
        says = "mirrored" if a * d < b * c else says
    if says:
        raise ValueError(
            f"{path} asks to be shown {says}, expected a quarter turn or none. "
            "Write it anew upright: ffmpeg -i FILE upright.mp4"
        )
    return 90 * quarters


def shown_size(stream: av.video.VideoStream, width: int, height: int, *, rotation: int) -> tuple[int, int]:
    """Width and height as shown: upright and with square pixels."""
    width = round(width * float(stream.sample_aspect_ratio or 1))
    return (height, width) if rotation % 180 else (width, height)


def _why_no_video(path: Path, error: av.error.FFmpegError) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"{path} is a cut-off mp4: its table of contents (moov) is missing. Copy or download it again."
    return f"{path} is no video that can be read ({error.strerror}), expected a file such as mp4, mkv or webm."


def _is_cover(stream: av.video.VideoStream) -> bool:
    return bool(stream.disposition & stream.disposition.attached_pic)
