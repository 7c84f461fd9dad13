"""One tar of stored frames: written whole or not at all, with no trace of when, where and by whom.

Beside each lies a record of what is in it, written after it. The records are what a killed run goes on from and what
the index is made of.
"""

import errno
import hashlib
import io
import os
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import ValidationError

from dora.cache import sha256
from dora.config import Frozen
from dora.data.disk import no_space, whole_file
from dora.data.index import Tar
from dora.lease import Lease

_HEADER_BYTES = tarfile.BLOCKSIZE  # of a USTAR entry, whatever its name


class Record(Frozen):
    """What is in a finished tar: its frames, and what went wrong in the stretch of video that they stand for."""

    key: str  # of the job
    tar: Tar
    offset: tuple[int, ...]
    size: tuple[int, ...]
    time_s: tuple[float, ...]
    n_faces: tuple[int, ...]
    bad_s: tuple[float, ...]  # times of the video's pictures that could not be decoded whole


class TarWriter:
    """Takes the frames of one tar in order."""

    def __init__(self, file: BinaryIO, video: str) -> None:
        self._file = _Hashing(file)
        self._tar = tarfile.open(fileobj=cast(BinaryIO, self._file), mode="w", format=tarfile.USTAR_FORMAT)
        self._video = video
        self._offset: list[int] = []
        self._size: list[int] = []
        self._time_s: list[float] = []
        self._n_faces: list[int] = []

    def add(self, frame: int, jpeg: bytes, *, time_s: float, n_faces: int) -> None:
        """Append stored frame number `frame` of the video."""
        entry = tarfile.TarInfo(f"{self._video}/{frame:08d}.jpg")
        entry.size = len(jpeg)
        self._offset.append(self._file.tell() + _HEADER_BYTES)
        self._size.append(len(jpeg))
        self._time_s.append(time_s)
        self._n_faces.append(n_faces)
        self._tar.addfile(entry, io.BytesIO(jpeg))

    def finish(self, name: str, *, key: str, bad_s: list[float]) -> Record:
        """End the tar; returns its record."""
        self._tar.close()
        tar = Tar(
            name=name, n_frames=len(self._size), size_bytes=self._file.tell(), sha256=self._file.sha256.hexdigest()
        )
        return Record(
            key=key, tar=tar, offset=tuple(self._offset), size=tuple(self._size), time_s=tuple(self._time_s),
            n_faces=tuple(self._n_faces), bad_s=tuple(bad_s),
        )  # fmt: skip


@contextmanager
def writing(path: Path, video: str) -> Generator[TarWriter]:
    """A tar under a name for unfinished ones; it is on the disk at the end of the block, and gone if that is cut short.

    Raises:
        OSError: ENOSPC with a message that says how much is free.
    """
    try:
        with path.open("wb") as file:
            yield TarWriter(file, video)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_space(path.parent, None, "write a tar") from error
        raise


def tar_name(number: int) -> str:
    """File name of a video's `number`-th tar."""
    return f"shard-{number:06d}.tar"


def keep(unfinished: Path, folder: Path, record: Record, *, lease: Lease, store: str | None) -> None:
    """Give a whole tar its name, here or in the store, then write its record.

    Raises:
        LeaseLost: if somebody else has taken the tar over meanwhile.
    """
    if store:
        from dora.data import store as stores

        try:
            stores.upload(unfinished, store, record.tar.name)
        except OSError:
            with lease.holding():  # else what was to be sent may be gone, with the folder
                raise
    with lease.holding():
        if store:
            unfinished.unlink()
        else:
            unfinished.replace(folder / record.tar.name)
        with whole_file(_record_path(folder, record.tar.name)) as file:
            file.write(record.model_dump_json().encode())


def finished(folder: Path, name: str, *, key: str, store: str | None) -> Record | None:
    """The record of a tar that is there, whole and of this very job; None if it is to be written."""
    try:
        record = Record.model_validate_json(_record_path(folder, name).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if record.key != key:
        return None
    tar = record.tar
    if store:
        from dora.data import store as stores

        return record if stores.stored_size(store, name) == tar.size_bytes else None
    path = folder / name
    is_whole = path.is_file() and path.stat().st_size == tar.size_bytes and sha256(path) == tar.sha256
    return record if is_whole else None


def _record_path(folder: Path, name: str) -> Path:
    return folder / f".{name}.json"


class _Hashing:
    """A file that is only ever written to its end, and the sha256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._n_bytes, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._n_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._n_bytes
