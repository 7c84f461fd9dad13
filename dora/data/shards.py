"""A video becomes JPEG frames in WebDataset tars, decoded once, and an index to read any frame by offset.

shard-000000.tar …   <video name>/<frame, 8 digits>.jpg, in time order
index.safetensors    one row a frame: tar, offset and size of its JPEG in the tar, time_s in the video
"""

import io
import logging
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from dora.artifacts import Machine, Shards, Video
from dora.cache import build, sha256
from dora.config import ShardsConfig
from dora.data.disk import require_space, whole_file
from dora.data.ffmpeg import Decoding, binary, decode_command
from dora.data.index import INDEX, Facts, Tar, write_index
from dora.progress import Progress, silent

log = logging.getLogger("dora.shards")

VERSION = 1
_HEADER_BYTES = tarfile.BLOCKSIZE  # of a USTAR entry, whatever its name
_LEAST_BYTES_PER_PIXEL = 0.05  # smooth pictures at quality 90 take more; a guess below that would refuse too much
_REPORT_EVERY = 25  # frames


class _Place(NamedTuple):
    offset: int
    size: int


def shard(
    video: Video, config: ShardsConfig, machine: Machine, *, rerun: bool = False, progress: Progress = silent
) -> Shards:
    """Decode a video in one pass and store its frames.

    A slower video than `config.fps` and a smaller one than `config.short_side` are stored as they are. A killed run
    goes on after the last finished tar and ends in the same bytes.

    Raises:
        ValueError: if the video breaks off or cannot be decoded.
        OSError: ENOSPC if the frames do not fit on the disk.
    """
    built = build(
        machine, "shards", VERSION, config, {"video": video},
        lambda folder: write_shards(video, config, machine, folder, progress), rerun=rerun,
    )  # fmt: skip
    facts = {
        name: built.manifest.facts[name]
        for name in ("name", "n_frames", "n_tars", "size_bytes", "fps", "width", "height")
    }
    return Shards(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest,
        reused=built.reused, **facts,
    )  # fmt: skip


def stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of the stored frames: never enlarged, both even."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2 - 1e-9) * 2), max(2, round(height * scale / 2 - 1e-9) * 2)


def write_shards(
    video: Video, config: ShardsConfig, machine: Machine, folder: Path, progress: Progress = silent
) -> dict[str, Any]:
    """Write tars and index into the folder; tars that a killed run finished are kept. Returns the facts."""
    fps = min(config.fps, video.fps)
    width, height = stored_size(video.width, video.height, config.short_side)
    expected = max(1, round(video.duration_s * fps))
    require_space(
        folder, expected * width * height * _LEAST_BYTES_PER_PIXEL, f"store {expected} frames of {video.name}"
    )
    command = decode_command(
        binary(machine), video.path, fps=fps, width=width, height=height, threads=machine.threads
    )  # fmt: skip
    places: list[list[_Place]] = []
    with Decoding(video.path, command, width=width, height=height) as decoding:
        frames = _reported(decoding, expected, progress)
        for first in frames:
            path, start = folder / _tar_name(len(places)), decoding.n_frames - 1
            group = islice(frames, config.frames_per_shard - 1)
            jpeg = _encode(first, config.jpeg_quality)
            kept = _finished(path, video.name, start, config.frames_per_shard, jpeg)
            if kept:
                deque(group, maxlen=0)  # decoded again, for there is no exact seek; not encoded again
            rest = (_encode(frame, config.jpeg_quality) for frame in group)
            places.append(kept or _write_tar(path, video.name, start, chain([jpeg], rest)))
    _check_complete(video, decoding, expected, fps)
    progress(decoding.n_frames, decoding.n_frames, "frames")
    _write_index(folder, video.name, fps, width, height, places)
    return {
        "name": video.name, "n_frames": decoding.n_frames, "n_tars": len(places), "size_bytes": sum(place.size for tar in places for place in tar),
        "fps": fps, "width": width, "height": height, "n_decode_errors": decoding.n_errors,
    }  # fmt: skip


def _tar_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _reported(decoding: Decoding, expected: int, progress: Progress) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    for frame in decoding:
        if decoding.n_frames % _REPORT_EVERY == 0:
            progress(decoding.n_frames, expected, "frames")
        yield frame


def _encode(frame: UInt8[np.ndarray, "Y X 3"], quality: int) -> bytes:
    return simplejpeg.encode_jpeg(frame, quality=quality, colorspace="RGB", colorsubsampling="420")


def _write_tar(path: Path, name: str, start: int, jpegs: Iterable[bytes]) -> list[_Place]:
    """Write frames `start`, start+1, … with no trace of when, where and by whom."""
    places: list[_Place] = []
    with whole_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for frame, jpeg in enumerate(jpegs, start):
            entry = tarfile.TarInfo(_entry_name(name, frame))
            entry.size = len(jpeg)
            places.append(_Place(file.tell() + _HEADER_BYTES, len(jpeg)))
            tar.addfile(entry, io.BytesIO(jpeg))
    return places


def _entry_name(name: str, frame: int) -> str:
    return f"{name}/{frame:08d}.jpg"


def _finished(path: Path, name: str, start: int, n_frames: int, first_jpeg: bytes) -> list[_Place] | None:
    """The places in a full tar that an earlier run finished, None if there is none or it is not what we would write."""
    if not path.is_file():
        return None
    try:
        with tarfile.open(path, "r:") as tar:
            entries = tar.getmembers()
            names = [entry.name for entry in entries]
            found = tar.extractfile(entries[0]) if entries else None
            same_start = found is not None and found.read() == first_jpeg
    except tarfile.TarError:
        return None
    if not same_start or names != [_entry_name(name, start + i) for i in range(n_frames)]:
        return None
    log.info("keeping %s: %d frames from an earlier run", path.name, n_frames)
    return [_Place(entry.offset_data, entry.size) for entry in entries]


def _check_complete(video: Video, decoding: Decoding, expected: int, fps: float) -> None:
    n_frames, reason = decoding.n_frames, ""
    if decoding.n_errors:
        reason = f" ({decoding.n_errors} errors, the last: {decoding.last_error})"
        log.warning("%s was decoded with errors%s", video.path, reason)
    if expected - n_frames > max(2, 0.01 * expected):
        raise ValueError(
            f"{video.path} breaks off at {n_frames / fps:.1f} s of {video.duration_s:.1f} s: "
            f"expected {expected} frames, got {n_frames}{reason}. Get the file again, or cut it there with ffmpeg."
        )


def _write_index(folder: Path, name: str, fps: float, width: int, height: int, places: list[list[_Place]]) -> None:
    tars = tuple(
        Tar(name=_tar_name(i), n_frames=len(p), size_bytes=(folder / _tar_name(i)).stat().st_size,
            sha256=sha256(folder / _tar_name(i)))
        for i, p in enumerate(places)
    )  # fmt: skip
    flat = [place for tar in places for place in tar]
    write_index(
        folder / INDEX, Facts(name=name, fps=fps, width=width, height=height, store=None, tars=tars),
        offset=[place.offset for place in flat], size=[place.size for place in flat],
        time_s=[row / fps for row in range(len(flat))],
    )  # fmt: skip
