import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.container
import av.error
import av.video

from dora.artifacts import Machine, Video
from dora.cache import build, sha256
from dora.config import FileVideo, MiniatureVideo, VideoConfig, WalkingTour
from dora.data.disk import require_space, whole_file
from dora.data.walking_tours import tour
from dora.progress import Progress, silent

log = logging.getLogger("dora.video")

VERSION = 1
# What ffmpeg would also play: pictures, playlists (which may point anywhere) and text.
_NOT_VIDEOS = {"image2", "hls", "dash", "concat", "tty"}


class Probe(NamedTuple):
    """What a video file says of itself; width and height as shown, upright and with square pixels."""

    duration_s: float
    fps: float
    width: int
    height: int
    n_frames: int


def acquire(config: VideoConfig, machine: Machine, *, rerun: bool = False, progress: Progress = silent) -> Video:
    """Return the video as a file of the cache: rendered, or linked from a file of the user's.

    A user's file counts by its content: moved or renamed it is the same video, altered it is another.

    Raises:
        FileNotFoundError: if there is no such file; says how to get a walking tour.
        ValueError: if the file is no whole video, or a walking tour of too low a resolution.
    """
    if isinstance(config, MiniatureVideo):
        request, make = config, _rendering(config, progress)
    else:
        source = config.path.expanduser().resolve() if isinstance(config, FileVideo) else _tour_file(config, machine)
        found = probe(source)
        if isinstance(config, WalkingTour):
            _check_resolution(config, source, found)
        content = _content(source, machine.root / "video" / ".hashes.json", progress)
        request = config.model_dump(mode="json", exclude={"path"}) | {"sha256": content}
        make = _linking(source, found)
    built = build(machine, "video", VERSION, request, {}, make, rerun=rerun)
    facts = dict(built.manifest.facts)
    path = built.folder / facts.pop("file")
    facts.pop("source", None)
    return Video(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        name=config.name, path=path, sha256=built.manifest.files[path.name].sha256, **facts,
    )  # fmt: skip


def probe(path: Path) -> Probe:
    """Duration, frame rate and size of a video, after a look at its first and last frames.

    Raises:
        FileNotFoundError, PermissionError: if it cannot be opened.
        ValueError: if it is no video, empty, or cut off.
    """
    _check_readable(path)
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            stream = _video_stream(path, container)
            return _probe(path, container, stream)
    except av.error.FFmpegError as error:
        raise ValueError(_what_it_is(path, error)) from None


def _rendering(config: MiniatureVideo, progress: Progress) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        from dora.data.miniature import write_video  # draws only when there is something to draw

        path = folder / "video.mp4"
        write_video(config, path, progress)
        return {"file": path.name, **probe(path)._asdict()}

    return make


def _linking(source: Path, found: Probe) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        path = folder / f"video{source.suffix.lower()}"
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
        except OSError:  # another disk, or one without links
            require_space(folder, source.stat().st_size, f"copy {source}")
            with source.open("rb") as original, whole_file(path) as copy:
                shutil.copyfileobj(original, copy, 1 << 22)
        return {"file": path.name, "source": str(source), **found._asdict()}

    return make


def _tour_file(config: WalkingTour, machine: Machine) -> Path:
    wanted = tour(config.name)
    path = machine.videos.get(config.name)
    if path is None:
        raise FileNotFoundError(
            f"no file for the walking tour {config.name}. Download {wanted.url} (at least {config.min_height} pixels "
            f"high, without sound will do) and name it: DORA_VIDEOS__{config.name.upper()}=/path/to/{config.name}.mp4, "
            f"or {config.name} = … under [videos] in machine.toml."
        )
    return path.expanduser().resolve()


def _check_resolution(config: WalkingTour, path: Path, found: Probe) -> None:
    if found.height < config.min_height:
        raise ValueError(
            f"{path} is {found.width}x{found.height}, {config.name} is wanted with {config.min_height} rows. "
            f"Download a higher format of {tour(config.name).url}, or lower min_height in the recipe."
        )


def _content(path: Path, memo: Path, progress: Progress) -> str:
    """Sha256 of a file, remembered by path, size and time stamp: reading 25 GB takes a minute or two."""
    stat = path.stat()
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # none yet, or not readable: read the video
        known = json.loads(memo.read_text())
    entry = known.get(str(path), {})
    if entry.get("size_bytes") == stat.st_size and entry.get("mtime_ns") == stat.st_mtime_ns:
        return entry["sha256"]
    progress(0, stat.st_size / 1e6, "MB", "reading")
    known[str(path)] = {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256(path)}
    with contextlib.suppress(OSError):  # a root that cannot be written is the cache's to report
        memo.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(memo) as file:
            file.write(json.dumps(known, indent=1).encode())
    return known[str(path)]["sha256"]


def _check_readable(path: Path) -> None:
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


def _video_stream(path: Path, container: av.container.InputContainer) -> av.video.VideoStream:
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


def _probe(path: Path, container: av.container.InputContainer, stream: av.video.VideoStream) -> Probe:
    fps = stream.average_rate or stream.guessed_rate
    duration_s = _duration_s(container, stream)
    if not fps or not duration_s:
        raise ValueError(f"{path} does not say how long it is. Write it anew: ffmpeg -i {path.name} -c copy whole.mp4")
    first = next(container.decode(stream), None)
    if first is None:
        raise ValueError(f"{path} has no frame that can be decoded. Copy or download it again.")
    end_s = _end_s(container, stream, duration_s)
    if end_s < duration_s - max(0.5, 0.01 * duration_s):
        raise ValueError(
            f"{path} is cut off: it says {duration_s:.1f} s, but its pictures end at {end_s:.1f} s. "
            "Copy or download it again."
        )
    ratio = float(stream.sample_aspect_ratio or 1)
    size = round(first.width * ratio), first.height
    width, height = size[::-1] if first.rotation % 180 else size
    return Probe(duration_s, float(fps), width, height, stream.frames or round(duration_s * float(fps)))


def _duration_s(container: av.container.InputContainer, stream: av.video.VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _end_s(container: av.container.InputContainer, stream: av.video.VideoStream, duration_s: float) -> float:
    """When the last picture ends, from the packets alone; the whole file is read only if its end is missing."""
    assert stream.time_base is not None
    end_s = 0.0
    for from_s in (duration_s - 2, 0.0):
        if end_s < duration_s - 0.5:
            end_s = max(end_s, _last_packet_s(container, stream, from_s))
    return end_s


def _last_packet_s(container: av.container.InputContainer, stream: av.video.VideoStream, from_s: float) -> float:
    assert stream.time_base is not None
    start = stream.start_time or 0
    end = 0
    with contextlib.suppress(av.error.FFmpegError):  # a cut-off file ends in an error or just ends
        container.seek(start + int(max(0.0, from_s) / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0) - start)
    return float(end * stream.time_base)


def _what_it_is(path: Path, error: av.error.FFmpegError) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"{path} is a cut-off mp4: its table of contents (moov) is missing. Copy or download it again."
    return f"{path} is no video that can be read ({error.strerror}), expected a file such as mp4, mkv or webm."
