"""A video becomes JPEG frames in WebDataset tars, decoded once, and an index to read any frame by offset.

shard-000000.tar …   <video name>/<frame, 8 digits>.jpg, in time order
index.safetensors    one row a frame: tar, offset and size of its JPEG in the tar, time_s in the video
"""

import io
import json
import logging
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import Float64, Int32, Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dora.artifacts import Machine, Shards, Video
from dora.cache import build
from dora.config import ShardsConfig
from dora.data.disk import require_space, whole_file
from dora.data.ffmpeg import Decoding, binary, decode_command
from dora.progress import Progress, silent

log = logging.getLogger("dora.shards")

VERSION = 1
INDEX = "index.safetensors"
_HEADER_BYTES = tarfile.BLOCKSIZE  # of a USTAR entry, whatever its name
_LEAST_BYTES_PER_PIXEL = 0.05  # smooth pictures at quality 90 take more; a guess below that would refuse too much
_REPORT_EVERY = 25  # frames


class ShardIndex(NamedTuple):
    """Where every frame of one video lies."""

    name: str
    fps: float
    width: int
    height: int
    tars: tuple[str, ...]  # file names in the folder
    tar: Int32[np.ndarray, "T"]  # which of `tars`
    offset: Int64[np.ndarray, "T"]  # bytes, of the JPEG itself
    size: Int32[np.ndarray, "T"]  # bytes
    time_s: Float64[np.ndarray, "T"]


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
    index = _index(video.name, fps, width, height, places)
    _write_index(folder / INDEX, index)
    return {
        "name": video.name, "n_frames": decoding.n_frames, "n_tars": len(places), "size_bytes": int(index.size.sum()),
        "fps": fps, "width": width, "height": height, "n_decode_errors": decoding.n_errors,
    }  # fmt: skip


def open_index(folder: Path) -> ShardIndex:
    """Read the index of a shards folder and check it against the tars' sizes.

    Raises:
        FileNotFoundError: if the folder has no index, or a tar that it names is gone.
        ValueError: if the index is damaged, or a tar is shorter than it says.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"no shards in {folder} ({INDEX} missing). Make them with the shard stage.")
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads(file.metadata()["shards"])
            arrays = {name: file.get_tensor(name) for name in ("tar", "offset", "size", "time_s")}
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove {folder} and make the shards again.") from None
    index = ShardIndex(facts["name"], facts["fps"], facts["width"], facts["height"], tuple(facts["tars"]), **arrays)
    for number, name in enumerate(index.tars):
        tar = folder / name
        if not tar.is_file():
            raise FileNotFoundError(f"{tar} is gone, but the index names it. Make the shards again.")
        expected = int((index.offset + index.size)[index.tar == number].max())
        if tar.stat().st_size < expected:
            found = tar.stat().st_size
            raise ValueError(f"{tar} has {found} bytes, the index needs {expected}. Make the shards again.")
    return index


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


def _index(name: str, fps: float, width: int, height: int, places: list[list[_Place]]) -> ShardIndex:
    flat = [place for tar in places for place in tar]
    return ShardIndex(
        name, fps, width, height, tuple(_tar_name(number) for number in range(len(places))),
        tar=np.repeat(np.arange(len(places), dtype=np.int32), [len(tar) for tar in places]),
        offset=np.array([place.offset for place in flat], np.int64),
        size=np.array([place.size for place in flat], np.int32),
        time_s=np.arange(len(flat)) / fps,
    )  # fmt: skip


def _write_index(path: Path, index: ShardIndex) -> None:
    facts = {"name": index.name, "fps": index.fps, "width": index.width, "height": index.height, "tars": index.tars}
    arrays = {"tar": index.tar, "offset": index.offset, "size": index.size, "time_s": index.time_s}
    # One metadata key: safetensors writes several in any order, and the bytes are to be the same each time.
    with whole_file(path) as file:
        file.write(save(arrays, metadata={"shards": json.dumps(facts)}))
