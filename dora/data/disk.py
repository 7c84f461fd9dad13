"""Files that are there whole or not at all, and a disk that is asked before it is filled."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dora.cache import human_size


@contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """Write a file under a temporary name; at the end of the block it is on the disk and has its own name.

    Of several who write it at once each has a temporary name of its own, and the last to end is who counts.

    Raises:
        OSError: ENOSPC with a message that says how much is free.
    """
    unfinished, file = _begin(path)
    try:
        with file:  # and its lock, to the end
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)  # a full disk gets its room back
                raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(path.parent, None, f"write {path.name}") from error
        raise


def _begin(path: Path) -> tuple[Path, BinaryIO]:
    """The temporary name and an empty file of it. What a kill has left is written over, but not what another writes."""
    unfinished = path.with_name(f".{path.name}")
    file = open(unfinished, "wb", opener=_keeping)  # the caller closes it
    if not _is_taken(unfinished, file):
        if os.fstat(file.fileno()).st_size:
            file.truncate(0)
        return unfinished, file
    file.close()
    unfinished = path.with_name(f"{unfinished.name}.{uuid.uuid4().hex[:8]}")
    return unfinished, unfinished.open("xb")


def _keeping(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _is_taken(unfinished: Path, file: BinaryIO) -> bool:
    """Whether another writes this file, or has just given it its own name; else it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)  # else it is a file system without locks
    try:
        return not os.path.samestat(unfinished.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True


def sync_folder(folder: Path) -> None:
    """Bring a new name in the folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_space(folder: Path, needed_bytes: float, purpose: str) -> None:
    """Refuse to start what cannot end.

    Raises:
        OSError: ENOSPC if the disk of `folder` has less than `needed_bytes` free.
    """
    if shutil.disk_usage(folder).free < needed_bytes:
        raise no_space(folder, needed_bytes, purpose)


def no_space(folder: Path, needed_bytes: float | None, purpose: str) -> OSError:
    """The error for a full disk, with what is needed (if known) and what is free."""
    free = human_size(shutil.disk_usage(folder).free)
    needed = f"needs about {human_size(needed_bytes)}, " if needed_bytes else ""
    sentence = (
        f"no space left to {purpose} in {folder}: {needed}{free} free. "
        "Free some (`dora cache gc`) or set DORA_ROOT to a bigger disk; a rerun goes on from here."
    )
    return _Full(errno.ENOSPC, sentence, str(folder))


class _Full(OSError):
    def __str__(self) -> str:
        return str(self.strerror)  # the sentence alone, without errno and file name around it
