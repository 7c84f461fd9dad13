"""Tars of a store on this node's disk, shared by all its processes and bounded in size.

<sha256>.tar              a whole tar, named by its content; its time stamp says when it was last used
<sha256>.<bytes>.part     one that a process is fetching, locked by it; the bytes are reserved
.lock                     held while it is decided what comes in and what goes

Whatever else lies there is somebody else's.
Clips come in random order over all tars: a cache that made room for each would fetch the whole set for every batch.
So it is filled once and stays as it is; what does not fit is read from the store frame by frame.
"""

import errno
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from dora.artifacts import Machine
from dora.cache import human_size, sha256
from dora.data.disk import require_space
from dora.data.index import Tar
from dora.data.store import fetch, redacted, stored_size

log = logging.getLogger("dora.tar_cache")

IDLE_S = 3600.0  # a tar that nobody has read for so long belongs to no running training
TOUCH_EVERY_S = 60.0
RETRY_S = 60.0  # after the cache was found full, or a tar could not be fetched; doubles up to an hour
_OURS = re.compile(r"[0-9a-f]{64}\.(?:tar|(?P<reserved>\d+)\.part)")


class TarCache:
    """`open` a tar that is here; one that is not is fetched beside the reading, one at a time a process."""

    def __init__(self, folder: Path, bound_bytes: float) -> None:
        self._folder, self._bound_bytes = folder, bound_bytes
        self._fetcher: threading.Thread | None = None
        self._not_before, self._pause_s = 0.0, RETRY_S  # the former on the monotonic clock
        self._altered: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that is sent a cache has a fetcher of its own.
        return TarCache, (self._folder, self._bound_bytes)

    def open(self, store: str, tar: Tar) -> BinaryIO | None:
        """The whole tar, None while it is not on this node: its frames are then read from the store.

        Raises:
            ValueError: if a tar that was fetched is not the one that the index names.
        """
        if self._altered:
            raise ValueError(self._altered)
        try:
            file = self._path(tar).open("rb", buffering=0)
        except OSError:  # not there, or a folder that this user may not read
            self._fetch_soon(store, tar)
            return None
        found = os.fstat(file.fileno())
        if found.st_size != tar.size_bytes:
            file.close()
            self._fetch_soon(store, tar)
            return None
        if time.time() - found.st_mtime > TOUCH_EVERY_S:
            with suppress(OSError):  # another user's tar may be read, but not touched
                os.utime(file.fileno())
        return file

    def discard_if_altered(self, tar: Tar) -> bool:
        """Whether a tar on this node was not what it should be; it is here no more."""
        path = self._path(tar)
        try:
            if sha256(path) == tar.sha256:
                return False
        except OSError:
            return False
        log.warning("%s was altered on the disk; it is fetched again", path)
        with self._locked():
            path.unlink(missing_ok=True)
        return True

    def _path(self, tar: Tar) -> Path:
        return self._folder / f"{tar.sha256}.tar"

    def _fetch_soon(self, store: str, tar: Tar) -> None:
        busy = self._fetcher is not None and self._fetcher.is_alive()
        if busy or tar.size_bytes > self._bound_bytes or time.monotonic() < self._not_before:
            return
        # Not waited for: the first batch alone may be spread over a hundred tars.
        self._fetcher = threading.Thread(target=self._fetch, args=(store, tar), name="tar fetch", daemon=True)
        self._fetcher.start()

    def _fetch(self, store: str, tar: Tar) -> None:
        try:
            with self._reserved(tar) as part:
                if part is None:
                    return
                if not self._get(store, tar, part):
                    self._altered = (
                        f"{redacted(store)}/{tar.name} is not the file that the index names ({tar.size_bytes} bytes, "
                        f"sha256 {tar.sha256[:8]}…). Put the right one back, or make the shards again."
                    )
                    return
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                with self._locked():
                    part.replace(self._path(tar))
                self._pause_s = RETRY_S
        except (OSError, ValueError) as error:
            self._pause()
            log.warning("%s is not kept on this node, its frames are read from the store: %s", tar.name, error)

    def _get(self, store: str, tar: Tar, part: Path) -> bool:
        """Fetch the tar; whether it is the one that the index names."""
        found = stored_size(store, tar.name)
        if found is None:
            raise FileNotFoundError(f"it is not in {redacted(store)}")  # who reads it is told the same
        if found != tar.size_bytes:
            return False
        fetch(store, tar.name, part)
        if part.stat().st_size != found:
            raise OSError(f"it came as {part.stat().st_size} bytes of {found}")
        return sha256(part) == tar.sha256

    def _pause(self) -> None:
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, 3600.0)

    @contextmanager
    def _reserved(self, tar: Tar) -> Generator[Path | None]:
        """A file to fetch into with its room reserved, None if there is no room or no need."""
        part = self._folder / f"{tar.sha256}.{tar.size_bytes}.part"
        with self._locked():
            lock = self._admit(tar, part)
        if lock is None:
            yield None
            return
        with lock:
            try:
                yield part
            finally:
                with self._locked():
                    part.unlink(missing_ok=True)

    def _admit(self, tar: Tar, part: Path) -> BinaryIO | None:
        """Under the lock: reserve the room for a tar, throwing away what was long unused if need be."""
        reserved, others = 0, list[tuple[float, int, Path]]()
        for path in [*self._folder.iterdir()]:
            if not (name := _OURS.fullmatch(path.name)):
                continue
            if name["reserved"]:
                if _is_abandoned(path):
                    continue
                if path == part:
                    return None  # another process is fetching it
                reserved += int(name["reserved"])
            else:
                stat = path.stat()
                if path == self._path(tar):
                    if stat.st_size == tar.size_bytes:
                        return None  # another process has just fetched it
                    log.warning("%s has %d bytes, not %d; it is fetched again", path, stat.st_size, tar.size_bytes)
                    path.unlink()
                else:
                    others.append((stat.st_mtime, stat.st_size, path))
        if not self._make_room(tar.size_bytes + reserved, others):
            return None
        require_space(self._folder, tar.size_bytes, f"keep {tar.name}")
        lock = part.open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock

    def _make_room(self, needed_bytes: int, tars: list[tuple[float, int, Path]]) -> bool:
        """Throw the longest unused tars away, but only if that makes room enough."""
        excess = needed_bytes + sum(size for _, size, _ in tars) - self._bound_bytes
        chosen: list[Path] = []
        for used_at, size, path in sorted(tars):
            if excess <= 0 or time.time() - used_at < IDLE_S:
                break
            chosen.append(path)
            excess -= size
        if excess > 0:
            log.info("%s is full (%s); what is not in it is read by range", self._folder, human_size(self._bound_bytes))
            self._pause()
            return False
        for path in chosen:  # a process that has it open keeps it until it closes it
            log.info("throwing away %s, unused for more than %.3g h", path, IDLE_S / 3600)
            path.unlink()
        return True

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:  # closing it would not do: a process that was forked meanwhile has it open too
                fcntl.flock(file, fcntl.LOCK_UN)


def tar_cache(machine: Machine) -> TarCache:
    """The node's cache, as the machine says."""
    folder = machine.store_cache.expanduser().absolute() if machine.store_cache else machine.root / ".tars"
    return TarCache(folder, machine.store_cache_gb * 1e9)


def _is_abandoned(part: Path) -> bool:
    """Whether the process that was fetching has died: its lock went with it, and now its file goes."""
    with part.open("rb+") as file:  # to write: NFS gives no exclusive lock else
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        log.info("removing %s of a process that has died", part)
        part.unlink()
        return True
