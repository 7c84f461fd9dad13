"""A video as one whole, playable file of the cache: rendered, downloaded, or a file of the user's."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import av
import av.error

from dora.artifacts import Machine, Network, Video
from dora.cache import build, fingerprint, read_manifest, sha256
from dora.config import Defect, FileVideo, MiniatureVideo, UrlVideo, VideoConfig, WalkingTour
from dora.data import miniature, remote
from dora.data.container import NoVideo, Opened, check_readable, decoded, open_video, shown_size, turned
from dora.data.disk import require_space, whole_file
from dora.data.source import Source
from dora.data.timeline import check_order
from dora.data.walking_tours import tour
from dora.data.web import public
from dora.progress import Progress, silent

log = logging.getLogger("dora.video")

VERSION = 1
# Where a download is on its way, and where it came from: scratch of the cache, gone once the video is finished.
_SCRATCH, _ORIGIN = ".download", ".origin.json"
_HDR = {16: "PQ", 18: "HLG"}  # color_trc, as ITU-T H.273 numbers them
_TONE_MAP = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
)


class Probe(NamedTuple):
    """What a video file says of itself; width and height as shown, upright and with square pixels."""

    duration_s: float
    fps: float
    width: int
    height: int
    n_frames: int


def acquire(
    config: VideoConfig, machine: Machine, *, index: int | None = None, rerun: bool = False, progress: Progress = silent
) -> Video:
    """Return the video as a file of the cache: rendered, downloaded, or linked from a file of the user's.

    A user's file counts by its content: moved or renamed it is the same video, altered it is another. A download
    counts by its address, or by its content where the recipe names that; one that was ended goes on where it was.
    `index` is the video's place in the recipe, for messages.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: if there is no such video, or no way to it.
        ValueError: if it is no whole video, of too low a resolution or frame rate, to be shown mirrored, or has a
            defect that the recipe does not accept (dora/data/verify.py).
    """
    from dora.data import verify

    request, download = _request(config), _downloaded(config, machine)
    if isinstance(config, MiniatureVideo):
        make = _rendering(config, progress)
    elif download:
        make = _downloading(download, machine.network, progress)
    else:
        assert not isinstance(config, UrlVideo)
        path = source_file(config, machine)
        found = probe(path, accept=config.accept)
        _check_quality(config, str(path), found)
        request["sha256"] = _content(path, machine.root / "video" / ".hashes.json", progress)
        make = _linking(path, found)
    built = build(machine, "video", VERSION, request, {}, make, rerun=rerun)
    facts = dict(built.manifest.facts)
    path = built.folder / facts.pop("file")
    source = facts.pop("source", "")
    origin = Source(**source) if isinstance(source, dict) else None
    video = Video(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        name=config.name, path=path, sha256=built.manifest.files[path.name].sha256,
        source=str(origin or source), **facts,
    )  # fmt: skip
    if origin:
        # Only now: a file that is too small stays, for a recipe that accepts it.
        _check_quality(config, f"{video.path} (from {origin.url})", video)
    if not isinstance(config, MiniatureVideo):  # that one is ours
        _warn_of_hdr(video)
        verify.require(
            video, expected_s=_expected_s(config, origin), min_height=getattr(config, "min_height", 1),
            accept=config.accept, machine=machine, index=index, rerun=rerun, progress=progress,
        )  # fmt: skip
    return video


def check(config: VideoConfig, machine: Machine) -> None:
    """Refuse, before anything starts, a video that could not be acquired on this machine.

    Raises:
        FileNotFoundError, PermissionError, ValueError: for a file that is not there, or what a download lacks.
    """
    if isinstance(config, MiniatureVideo):
        return
    if _downloaded(config, machine):
        if file_here(config, machine) is None:
            remote.check(machine.network)
    elif not isinstance(config, UrlVideo):
        source_file(config, machine)


def file_here(config: FileVideo | UrlVideo | WalkingTour, machine: Machine) -> Path | None:
    """The video's file on this machine, None if it is still to be downloaded.

    Raises:
        FileNotFoundError, PermissionError, ValueError: for a file of the user's that is no readable file.
    """
    if not isinstance(config, UrlVideo) and not _downloaded(config, machine):
        return source_file(config, machine)
    folder = machine.root / "video" / fingerprint("video", VERSION, _request(config), {})[:16]
    manifest = read_manifest(folder)
    return folder / manifest.facts["file"] if manifest else None


def source_file(config: FileVideo | WalkingTour, machine: Machine) -> Path:
    """The user's file behind a video, before anything of it is read.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError, PermissionError: if it can be no video.
    """
    path = (config.path if isinstance(config, FileVideo) else machine.videos[config.name]).expanduser().resolve()
    check_readable(path)
    return path


def probe(path: Path, *, accept: Sequence[Defect] = ()) -> Probe:
    """Duration, frame rate and size of a video, after a look at its first and last frames.

    Raises:
        FileNotFoundError, PermissionError: if it cannot be opened.
        ValueError: if it is no video, empty, to be shown mirrored, or cut off and that is not accepted ("duration").
    """
    check_order(path)
    with open_video(path) as opened:
        return _probe(path, opened, accept)


def _rendering(config: MiniatureVideo, progress: Progress) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        path = folder / "video.mp4"
        miniature.write_video(config, path, progress)
        return {"file": path.name, "source": f"rendered from seed {config.seed}", **probe(path)._asdict()}

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


def _downloaded(config: VideoConfig, machine: Machine) -> UrlVideo | WalkingTour | None:
    """The video if it comes from the network; a walking tour does unless the machine names its file."""
    if isinstance(config, WalkingTour):
        tour(config.name)
        return None if config.name in machine.videos else config
    return config if isinstance(config, UrlVideo) else None


def _request(config: VideoConfig) -> dict[str, Any]:
    """What decides which video it is: neither where a file lies, nor what is secret in an address."""
    request = config.model_dump(mode="json", exclude={"accept", "path", "url"})
    if isinstance(config, MiniatureVideo):
        request["renderer"] = miniature.VERSION
    if isinstance(config, UrlVideo) and not config.sha256:
        parts = urlsplit(config.url)
        request["url"] = public(config.url)
        request["query"] = hashlib.sha256(parts.query.encode()).hexdigest() if parts.query else None
    return request


def _downloading(
    config: UrlVideo | WalkingTour, network: Network, progress: Progress
) -> Callable[[Path], dict[str, Any]]:
    url = tour(config.name).url if isinstance(config, WalkingTour) else config.url
    said = url if isinstance(config, WalkingTour) else public(url)

    def make(folder: Path) -> dict[str, Any]:
        arrived = _arrived(folder) or _fetch(config, url, folder, network, progress)
        path, source = arrived.path, arrived.source
        try:
            found = probe(path, accept=config.accept)
        except NoVideo as error:
            _forget(folder)
            raise ValueError(f"{error} (It came from {said} and was removed.)") from None
        except ValueError as error:
            raise ValueError(
                f"{error} (It came from {said} and stays there; remove it to download it again.)"
            ) from None
        return {"file": path.name, "source": source.model_dump(mode="json"), **found._asdict()}

    return make


def _fetch(
    config: UrlVideo | WalkingTour, url: str, folder: Path, network: Network, progress: Progress
) -> remote.Fetched:
    """The whole video in `folder`, with its origin noted beside it before it gets its name there."""
    min_fps, sha = (config.min_fps, config.sha256) if isinstance(config, UrlVideo) else (0, None)
    fetched = remote.fetch(
        url,
        folder / _SCRATCH,
        network,
        min_height=_least_height(config),
        min_fps=min_fps,
        sha256=sha,
        progress=progress,
    )
    if sha and (content := fetched.sha256 or sha256(fetched.path)) != sha:
        _forget(folder)
        raise ValueError(
            f"{public(url)} is another video than expected: sha256 {content}, expected {sha}. It was removed. "
            "Check the address and the checksum."
        )
    record = {"file": fetched.path.name, "source": fetched.source.model_dump(mode="json")}
    with whole_file(folder / _ORIGIN) as file:
        file.write(json.dumps(record).encode())
    path = folder / fetched.path.name
    fetched.path.replace(path)
    return remote.Fetched(path, fetched.source)


def _arrived(folder: Path) -> remote.Fetched | None:
    """What a run that was killed had downloaded whole."""
    try:
        record = json.loads((folder / _ORIGIN).read_text())
        name, source = Path(record["file"]).name, Source(**record["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for path in (folder / name, folder / _SCRATCH / name):
        if path.is_file() and path.stat().st_size == source.size_bytes:
            return remote.Fetched(path.replace(folder / name), source)
    return None


def _forget(folder: Path) -> None:
    """Remove a download that turned out wrong, so that it is not taken for a good one."""
    shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
    for path in (folder / _ORIGIN, *folder.glob("video.*")):
        path.unlink(missing_ok=True)


def _check_quality(config: VideoConfig, said: str, found: Probe | Video) -> None:
    """Refuse what is smaller or slower than the recipe wants, by the file's own word."""
    if found.height < _least_height(config):
        better = f" of {tour(config.name).url}" if isinstance(config, WalkingTour) else ""
        raise ValueError(
            f"{said} is {found.width}x{found.height}, {config.name} is wanted with {_least_height(config)} rows. "
            f'Download a higher format{better}, or take this one as it is: accept=["resolution"].'
        )
    if isinstance(config, UrlVideo) and found.fps < 0.99 * config.min_fps:  # 59.94 is called 60
        raise ValueError(
            f"{said} has {found.fps:g} frames a second, {config.name} is wanted with {config.min_fps:g}. "
            "Find another source, or lower min_fps in the recipe."
        )


def _least_height(config: VideoConfig) -> int:
    """Rows below which a video is refused; the highest format is taken in any case."""
    if isinstance(config, UrlVideo | WalkingTour) and "resolution" not in config.accept:
        return config.min_height
    return 1


def _expected_s(config: VideoConfig, origin: Source | None) -> float | None:
    """How long the video should be, if anybody but its file says so."""
    if isinstance(config, MiniatureVideo):
        return config.duration_s
    known = tour(config.name).duration_s if isinstance(config, WalkingTour) else None
    return (origin and origin.duration_s) or known


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


def _warn_of_hdr(video: Video) -> None:
    with open_video(video.path) as (_, stream):
        curve = _HDR.get(stream.color_trc)
    if curve:
        log.warning(
            "%s is in HDR (%s), whose pictures are stored washed out: nothing here maps its tones. Write it anew "
            "before: ffmpeg -i FILE -vf %s sdr.mp4", video.name, curve, _TONE_MAP,
        )  # fmt: skip


def _probe(path: Path, opened: Opened, accept: Sequence[Defect]) -> Probe:
    container, stream = opened
    first, fps = next(decoded(opened), None), stream.average_rate
    if first is None or not fps or stream.time_base is None:
        raise ValueError(f"{path} has no frame that can be decoded. Copy or download it again.")
    promised_s = (
        float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / av.time_base
    )
    ends = _ends(opened, promised_s - 5)
    if not ends.pictures_s or ends.file_s < promised_s - 0.5:
        ends = _ends(opened, 0.0)  # reads the whole file
    is_cut = ends.file_s < promised_s - max(0.5, 0.01 * promised_s)
    if is_cut and "duration" not in accept:
        raise ValueError(
            f"{path} is cut off: it says {promised_s:.1f} s, but it ends at {ends.file_s:.1f} s. "
            'Copy or download it again, or take what there is: accept=["duration"].'
        )
    if not ends.pictures_s:
        raise ValueError(f"{path} does not say when its frames are shown. Write it anew: ffmpeg -i FILE whole.mp4")
    width, height = shown_size(stream, first.width, first.height, rotation=turned(path, first))
    n_frames = (0 if is_cut else stream.frames) or round(ends.pictures_s * float(fps))
    return Probe(ends.pictures_s, float(fps), width, height, n_frames)


class _Ends(NamedTuple):
    pictures_s: float  # from the first picture to the end of the last, 0 if none was met
    file_s: float  # end of the last packet on the file's own clock


def _ends(opened: Opened, from_s: float) -> _Ends:
    """Where things end, from the packets after `from_s` alone: nothing is decoded."""
    container, stream = opened
    assert stream.time_base is not None and stream.average_rate is not None
    start = float((stream.start_time or 0) * stream.time_base)
    frame_s = 1 / float(stream.average_rate)
    # A duration of the stream's own is about pictures; the container's may be that of a longer sound.
    streams = [stream] if stream.duration else [s for s in container.streams if s.type in ("video", "audio")]
    pictures_s = file_s = 0.0
    with contextlib.suppress(av.error.FFmpegError):  # a cut-off file ends in an error or just ends
        container.seek(round((start + max(0.0, from_s)) / stream.time_base), stream=stream)
        for packet in container.demux(*streams):
            if packet.pts is not None:
                is_picture = packet.stream.index == stream.index
                length = float((packet.duration or 0) * packet.time_base) or (frame_s if is_picture else 0.0)
                end_s = float(packet.pts * packet.time_base) + length
                file_s = max(file_s, end_s - min(start, 0.0))  # a clock may run below zero
                pictures_s = max(pictures_s, end_s - start if is_picture else 0.0)
    return _Ends(pictures_s, file_s)
