"""A file from an http(s) address, byte for byte, whatever the network or a kill does in between.

    .NAME.part       what has arrived
    .NAME.part.json  of which file: its validators and its length
    NAME             only once everything has arrived, is on the disk and was checked

Bytes of two files are never mixed: a download goes on only from a part whose file the server still has.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dora.artifacts import Network
from dora.cache import human_size
from dora.config import Frozen
from dora.data.disk import no_space, require_space, sync_folder, whole_file
from dora.data.web import PROXY_LOGIN, Answer, Interrupted, Web, public, retry_after_s
from dora.progress import Progress, silent

log = logging.getLogger("dora.download")

MAX_WAIT_S = 60.0
MAX_RETRY_AFTER_S = 600.0
# Asked for again and compared: validators may be missing or wrong, and a crash of the host may leave zeros at the end.
OVERLAP_BYTES = 4096
PASSING = {408, 425, 429}  # and all of 500 and more
STATUS_ERRORS: dict[int, tuple[type[OSError], str]] = {
    401: (PermissionError, "It wants a login: give an address that needs none, or https://user:password@… ."),
    403: (
        PermissionError,
        "It refuses this machine: the address may have expired (get a new one), or want a login or another network.",
    ),
    404: (FileNotFoundError, "There is no such file: check the address."),
    407: (PermissionError, f"That is, {PROXY_LOGIN}"),
    410: (FileNotFoundError, "The file was removed for good: find a mirror."),
}
_NO_FILE = (OSError, "That is no file: open the address in a browser to see what it is.")


class Patience:
    """How long passing trouble is borne: tries in a row without any progress, at growing intervals."""

    def __init__(self, network: Network, url: str):
        self.network, self.said = network, public(url)
        self.failures = 0

    def wait_s(self, trouble: Exception, *, has_grown: bool, kept: str = "") -> float:
        """Seconds before the next try.

        Raises:
            ConnectionError: if there were enough.
        """
        self.failures = 0 if has_grown else self.failures + 1
        if self.failures > self.network.retries:
            raise ConnectionError(
                f"{self.said} gave nothing new in {self.failures} tries in a row (the last: {trouble}). "
                f"{f'{kept} are kept. ' if kept else ''}Run again to go on, or raise network.retries."
            ) from None
        growing_s = self.network.first_wait_s * 2 ** min(max(self.failures - 1, 0), 30)
        wait_s = max(min(growing_s, MAX_WAIT_S), min(getattr(trouble, "wait_s", 0.0), MAX_RETRY_AFTER_S))
        tries = f"try {self.failures} of {self.network.retries + 1}"
        log.warning("%s: %s (%s); again in %.3g s", self.said, trouble, tries, wait_s)
        return wait_s


class Fetched(NamedTuple):
    """A whole file, and where it came from."""

    path: Path
    size_bytes: int
    sha256: str
    url: str  # after redirects, without its secrets
    etag: str | None


def download(
    url: str, path: Path, network: Network, *, size_bytes: int | None = None, md5: str | None = None,
    sha256: str | None = None, progress: Progress = silent, identity: str | None = None,
    headers: Mapping[str, str] | None = None, chunk_bytes: int | None = None,
) -> Fetched:  # fmt: skip
    """Return the file at `path`: downloaded, or resumed, or left alone if it is there with the right checksum.

    What has arrived stays for the next call, whatever ends this one; `progress` may raise to end it. `identity`
    names a file whose address changes; without it the address does. `headers` are sent with every request, and each
    asks for at most `chunk_bytes` (YouTube is slow for whoever asks for everything).

    Raises:
        FileNotFoundError, PermissionError: if the server has no such file, or not for us.
        ConnectionError: after `network.retries` tries in a row without a new byte.
        ValueError: if what came is not what was expected (length, checksum), or the address is none.
        OSError: if the disk is full, or another process downloads to the same path.
    """
    wanted = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value}
    if wanted and path.is_file() and size_bytes in (None, path.stat().st_size):
        found = _digests(path, progress)
        if found | wanted == found:
            return Fetched(path, path.stat().st_size, found["sha256"], public(url), None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_name(f".{path.name}.part")) as part, Web(network) as web:
        transfer = _Transfer(
            url, path, part, network, web, size_bytes=size_bytes, progress=progress, identity=identity or url,
            headers=headers or {}, chunk_bytes=chunk_bytes,
        )  # fmt: skip
        transfer.run()
        os.fsync(part.fileno())
        found = _digests(Path(part.name), progress)
        if found | wanted != found:
            transfer.start_over()
            raise ValueError(
                f"{public(url)} is another file than expected: "
                + ", ".join(f"{name} {found[name]}, expected {value}" for name, value in wanted.items())
                + ". It was removed. Check the address and the checksum."
            )
        origin = transfer.origin
        Path(part.name).replace(path)
        transfer.record.unlink(missing_ok=True)
        sync_folder(path.parent)
        return Fetched(path, path.stat().st_size, found["sha256"], origin.url, origin.etag)


class _Origin(Frozen):
    """Which file a part is of, as the server told it."""

    asked: str  # a hash of the address asked for: it may hold secrets
    url: str = ""
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def is_named(self) -> bool:
        """Whether the server vouches for every byte, wherever the file is asked for."""
        return bool(self.etag and not self.etag.startswith("W/"))

    @property
    def validator(self) -> str | None:
        """What If-Range may say: a strong ETag, else a date."""
        return self.etag if self.is_named else self.last_modified


class _Changed(Exception):
    """The server's file is not the part's, in words."""


class _Transfer:
    """One download from the state of its part to the end."""

    def __init__(
        self, url: str, path: Path, part: BinaryIO, network: Network, web: Web, *, size_bytes: int | None,
        progress: Progress, identity: str, headers: Mapping[str, str], chunk_bytes: int | None,
    ):  # fmt: skip
        self.url, self.path, self.part, self.network, self.web = url, path, part, network, web
        self.size_bytes, self.progress, self.headers, self.chunk_bytes = size_bytes, progress, headers, chunk_bytes
        self.asked = _hash(identity)
        self.record = path.with_name(f".{path.name}.part.json")
        self.origin = self._recorded()
        if not self.origin.url:
            self.start_over()

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        return os.fstat(self.part.fileno()).st_size

    @property
    def total(self) -> int | None:
        """Bytes that there will be, if anybody knows."""
        return self.origin.total if self.size_bytes is None else self.size_bytes

    def run(self) -> None:
        """Try until the part is whole. Every try either adds to the most that was ever there or counts as failed."""
        patience, most = Patience(self.network, self.url), self.offset
        while True:
            try:
                if self._try():
                    return
                patience.failures, most = 0, self.offset
            except (_Changed, Interrupted) as trouble:
                if isinstance(trouble, _Changed) and self.offset:
                    # The next try asks for the whole file and can only succeed or count, so this ends.
                    log.warning("%s: %s; starting over", public(self.url), trouble)
                    self.start_over()
                    continue
                kept = f"{human_size(self.offset)} of {human_size(self.total)}" if self.total else ""
                wait_s = patience.wait_s(trouble, has_grown=self.offset > most, kept=kept)
                most = max(most, self.offset)
                pause(wait_s, partial(self._tell, str(trouble)))

    def start_over(self) -> None:
        """Forget what is there."""
        os.ftruncate(self.part.fileno(), 0)
        self.record.unlink(missing_ok=True)
        self.origin = _Origin(asked=self.asked)

    def _try(self) -> bool:
        """One request, from where the part ends; true if the part is whole then."""
        have = self.offset
        if have and have == self.total:
            return True  # killed before it got its name
        start, headers = max(0, have - OVERLAP_BYTES), dict(self.headers)
        if have or self.chunk_bytes:
            end = have + self.chunk_bytes - 1 if self.chunk_bytes else ""
            headers["Range"] = f"bytes={start}-{end}"
        if have and self.origin.validator:
            headers["If-Range"] = self.origin.validator
        with self.web.get(self.url, headers) as answer:
            self._check_answer(answer, is_range="Range" in headers)
            if answer.status == 206 and have:
                self._check_same_file(answer, start)
            else:  # from the first byte, asked for or not
                self._begin(answer)
                start = 0
            self._receive(answer, known=self._tail(start))
        return self.offset == self.total

    def _check_answer(self, answer: Answer, *, is_range: bool) -> None:
        """Let pass what carries the file.

        Raises:
            ValueError: for a file that is packed for the way.
            _Changed: if there is nothing at the place where the part ends.
            Whatever check_status does.
        """
        said = public(self.url)
        if answer.status == 416 and self.offset:
            raise _Changed("the server has nothing at the place where the part ends")
        check_status(answer, said, known=(200, 206) if is_range else (200,))
        encoding = answer.headers.get("content-encoding", "identity")
        # Old servers call a .tar.gz a gzipped tar: its bytes are the file's.
        if encoding != "identity" and self.path.suffix not in (".gz", ".tgz"):
            raise ValueError(
                f"{said} comes packed as {encoding} although the file as it is was asked for, so neither its length "
                "nor its place can be known. Find another mirror."
            )

    def _check_same_file(self, answer: Answer, start: int) -> None:
        """Let pass a rest that belongs to the part.

        Raises:
            _Changed: if it does not, or may not.
        """
        total = _total(answer, start)
        now = answer.headers.get("etag"), answer.headers.get("last-modified"), total
        before = self.origin.etag, self.origin.last_modified, self.origin.total
        for name, was, is_now in zip(("ETag", "Last-Modified", "length"), before, now, strict=True):
            if was is not None and is_now is not None and was != is_now:
                raise _Changed(f"its {name} was {was} and is {is_now}")
        if self.origin.total is None and total is not None:
            self._write(self.origin.model_copy(update={"total": total}))

    def _begin(self, answer: Answer) -> None:
        """Start the part of the file that this answer carries from its first byte."""
        if answer.status == 206:
            total = _total(answer, 0)
        else:
            length = answer.headers.get("content-length", "")
            total = int(length) if length.isascii() and length.isdigit() else None
        if self.size_bytes is not None and total is not None and total != self.size_bytes:
            raise ValueError(
                f"{public(self.url)} is another file than expected: {total} bytes, expected {self.size_bytes}. "
                "Check the address."
            )
        self.start_over()  # the part is emptied before it is said to be of another file
        etag, last_modified = answer.headers.get("etag"), answer.headers.get("last-modified")
        origin = _Origin(asked=self.asked, url=answer.url, etag=etag, last_modified=last_modified, total=total)
        self._write(origin)

    def _tail(self, start: int) -> bytes:
        """What the part already has from `start` on."""
        return os.pread(self.part.fileno(), OVERLAP_BYTES, start) if start < self.offset else b""

    def _receive(self, answer: Answer, *, known: bytes) -> None:
        """Append the body to the part; its first bytes must be the `known` ones.

        Raises:
            Interrupted: if it ends too early.
            _Changed, ValueError: if it is another file, or more than one.
        """
        if self.total:
            require_space(self.path.parent, self.total - self.offset, f"download {self.path.name}")
        self._tell()
        started, received = time.monotonic(), 0
        for chunk in answer.chunks:
            received += len(chunk)
            overlap = min(len(known), len(chunk))
            if chunk[:overlap] != known[:overlap]:
                raise _Changed("the bytes before the place where the part ends are others now")
            known, new = known[overlap:], chunk[overlap:]
            if self.total is not None and self.offset + len(new) > self.total:
                self.start_over()
                raise ValueError(
                    f"{public(self.url)} sends more than the {self.total} bytes that were expected. Check the address."
                )
            self._append(new)
            self._tell()
            if self.network.rate_limit:
                pause(received / self.network.rate_limit - (time.monotonic() - started), self._tell)
        if self.total is None and answer.status == 200:
            self._write(self.origin.model_copy(update={"total": self.offset}))
        elif self.offset != self.total and (received < (self.chunk_bytes or received + 1)):
            raise Interrupted(f"the server ended after {self.offset} of {self.total} bytes")

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[self.part.write(data) :]
        except OSError as error:
            if error.errno == errno.ENOSPC:
                rest = self.total - self.offset if self.total else None
                raise no_space(self.path.parent, rest, f"download {self.path.name}") from None
            raise

    def _tell(self, note: str = "") -> None:
        if self.total != 0:
            self.progress(self.offset / 1e6, (self.total or float("inf")) / 1e6, "MB", note)

    def _recorded(self) -> _Origin:
        """What is known about the part, or nothing if it cannot be gone on with."""
        try:
            origin = _Origin.model_validate_json(self.record.read_bytes())
        except (OSError, ValueError):  # none, or from a crash
            return _Origin(asked=self.asked)
        is_ours = origin.asked == self.asked or origin.is_named  # signed addresses change, their files do not
        fits = origin.total is None or self.size_bytes in (None, origin.total)
        if is_ours and fits and self.offset <= (origin.total or self.offset):
            return origin
        return _Origin(asked=self.asked)

    def _write(self, origin: _Origin) -> None:
        with whole_file(self.record) as file:
            file.write(origin.model_dump_json().encode())
        self.origin = origin


def pause(seconds: float, tell: Callable[[], None]) -> None:
    """Wait, but `tell` something every second, so that a cancelled run ends soon."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        tell()


@contextlib.contextmanager
def _alone(part: Path) -> Generator[BinaryIO]:
    """The part, opened to append, while no other process of this host writes it; an empty one is removed again."""
    while True:
        with part.open("ab+", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"another process downloads to {part.parent}. Wait for it, or end it.") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                    raise  # a file system without locks is the user's to keep apart
            if not part.exists() or not os.path.samestat(part.stat(), os.fstat(file.fileno())):
                continue  # another process has finished it between our two calls
            try:
                yield file  # pyright: ignore[reportReturnType]  # FileIO is all we need
            finally:
                if part.exists() and not os.fstat(file.fileno()).st_size:
                    part.unlink()
            return


def check_status(answer: Answer, said: str, *, known: Sequence[int]) -> None:
    """Let pass an answer of a `known` status, to a request of the address that we call `said`.

    Raises:
        FileNotFoundError, PermissionError, OSError: for an answer that will not change.
        Interrupted: for one that may.
    """
    status = answer.status
    if status in PASSING or status >= 500:
        raise Interrupted(f"the server answers {status}", retry_after_s(answer.headers))
    if status not in known:
        kind, what_to_do = STATUS_ERRORS.get(status, _NO_FILE)
        raise kind(f"{said} answers {status}. {what_to_do}")


def _total(answer: Answer, start: int) -> int | None:
    """The whole file's length in a partial answer that begins at `start`.

    Raises:
        _Changed: if it does not begin there.
    """
    said = answer.headers.get("content-range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said)
    if not match or int(match[1]) != start:
        raise _Changed(f"asked for bytes from {start} on, it sends {said or 'what it does not say'}")
    return None if match[2] == "*" else int(match[2])


def _digests(path: Path, progress: Progress) -> dict[str, str]:
    """Sha256 and md5 of a file in one reading."""
    hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            for one in hashes.values():
                one.update(piece)
            done += len(piece)
            progress(done / 1e6, size / 1e6, "MB", "checking")
    return {name: one.hexdigest() for name, one in hashes.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
