"""Files that are there whole or not at all, and a disk that is asked before it is filled."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dora.cache import human_size


@contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """Write a file under a temporary name; at the end of the block it is on the disk and has its own name.

    Raises:
        OSError: ENOSPC with a message that says how much is free.
    """
    unfinished = path.with_name(f".{path.name}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        unfinished.unlink(missing_ok=True)  # a full disk gets its room back
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_space(path.parent, None, f"write {path.name}") from error
        raise
    unfinished.replace(path)


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
