"""One writer of a folder at a time, over processes and hosts, that outlives nobody.

The lease is a file with host, pid and the process's start time; its time stamp is the heartbeat. It is read and
written only under a kernel lock on a second file, so two who find a dead owner cannot both take over.
"""

import fcntl
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType

log = logging.getLogger("dora.lease")

HEARTBEAT_S = 10.0
POLL_S = 0.5


Meanwhile = Callable[[Path, str], None]  # called with the folder and its owner's name
_meanwhile: ContextVar[tuple[Meanwhile, ...]] = ContextVar("meanwhile", default=())
_held: ContextVar[tuple["Lease", ...]] = ContextVar("held", default=())


class LeaseLost(Exception):
    """Another took the lease over while its owner gave no sign of life."""

    def __init__(self, lease: "Lease") -> None:
        super().__init__(f"{lease.path.parent} was taken over from process {lease.me['pid']}")
        self.lease = lease


def raise_if_lost() -> None:
    """Called now and then by long work that this thread does under leases.

    Raises:
        LeaseLost: if one of them has been taken over, as its heartbeat found: seconds after a sleeper wakes up.
    """
    for lease in _held.get():
        if lease.lost.is_set():
            raise LeaseLost(lease)


@contextmanager
def while_waiting(act: Meanwhile) -> Generator[None]:
    """Inside, what this thread does about twice a second while it waits for another's lease.

    It may help the owner, or raise to give up.
    """
    token = _meanwhile.set((*_meanwhile.get(), act))
    try:
        yield
    finally:
        _meanwhile.reset(token)


class Lease:
    """`with Lease(folder):` waits for its turn, then keeps others out until the end of the block. To be used once."""

    def __init__(self, folder: Path, *, timeout_s: float):
        self.path, self.guard = folder / ".lease", folder / ".lease.guard"
        self.timeout_s = timeout_s
        self.stop, self.lost = threading.Event(), threading.Event()
        self.me = {
            "host": platform.node(),
            "space": process_space(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "at": time.time_ns(),
        }

    @staticmethod
    def owns(path: Path) -> bool:
        """Whether a file in the folder belongs to the lease and must be left alone by the folder's builder."""
        return path.name.startswith(".lease")

    def __enter__(self) -> "Lease":
        waiting_for: str | None = None
        while owner := self.claim():
            if owner != waiting_for:
                log.info("waiting for %s, which is making %s", owner, self.path.parent)
                waiting_for = owner
            for act in _meanwhile.get():
                act(self.path.parent, owner)
            time.sleep(POLL_S)
        self.token = _held.set((*_held.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.reset(self.token)
        self.release()

    def claim(self) -> str | None:
        """Take the lease, or return the living owner's name; nobody is waited for."""
        with self._guarded():
            owner = self._living_owner()
            if owner is not None:
                return owner
            if self.path.exists():
                log.warning("taking over %s, whose owner has died", self.path.parent)
            self.path.write_text(json.dumps(self.me))
        self.heart = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)
        self.heart.start()
        return None

    @contextmanager
    def holding(self) -> Generator[None]:
        """Around what only the owner may do: nobody takes the lease over meanwhile.

        Raises:
            LeaseLost: if somebody has, be it that the folder is gone with the work that another has finished.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._guarded())
            except FileNotFoundError:
                raise LeaseLost(self) from None
            if self._read() != self.me:
                raise LeaseLost(self)
            yield

    def owner(self) -> str | None:
        """Name of the living owner, None if there is none."""
        if self.path.exists():
            with suppress(FileNotFoundError), self._guarded():  # its owner may have just finished and tidied up
                return self._living_owner()
        return None

    def release(self) -> None:
        """Give the lease back."""
        self.stop.set()
        self.heart.join()
        with suppress(FileNotFoundError), self._guarded():  # the folder may be gone with the work of another
            if self._read() == self.me:  # a host that was asleep may have lost it meanwhile
                self.path.unlink()

    def _living_owner(self) -> str | None:
        owner = self._read()
        if owner is None:
            return None
        name = f"process {owner['pid']} on {owner['host']}"
        if (owner["host"], owner.get("space")) == (self.me["host"], self.me["space"]):
            alive = process_start(owner["pid"]) == owner["started"]
        else:
            # Both stamps come from the file server's clock: the guard was touched a moment ago.
            alive = self.guard.stat().st_mtime - self.path.stat().st_mtime < self.timeout_s
        return name if alive else None

    def _read(self) -> dict[str, str | int] | None:
        try:
            return json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # none, or its writer died half-way
            return None

    @contextmanager
    def _guarded(self) -> Generator[None]:
        with self.guard.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                os.utime(self.guard)
                yield
            finally:  # closing it would not do: a process that was forked meanwhile has it open too
                fcntl.flock(file, fcntl.LOCK_UN)

    def _beat(self) -> None:
        while not self.stop.wait(min(HEARTBEAT_S, self.timeout_s / 4)):
            try:
                if self._read() == self.me:
                    os.utime(self.path)
                else:
                    self.lost.set()
            except OSError as error:
                log.warning("cannot renew the lease %s: %s", self.path, error)


def process_space() -> str:
    """What a pid is worth something in: a boot of a machine and, in it, a container."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int | str) -> int:
    """When a living process started, 0 if there is none: pids are used again, pairs of the two are not.

    Clock ticks since boot on Linux; elsewhere 1 for any living process.
    """
    if sys.platform != "linux":
        return int(_is_alive(int(pid)))
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(fields[18])  # a zombie writes no more


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
