"""A data set from its publisher's archives to a folder that is there whole or not at all.

DIR/.downloads/NAME/   archives, as far as they have come
DIR/.NAME-unpacking/   being unpacked; what a kill leaves of it is begun again
DIR/NAME/              the set, with a manifest that says what it was made of
"""

import logging
import os
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from dora.artifacts import Machine
from dora.cache import human_size
from dora.config import Frozen
from dora.data.datasets.check import Report, check, how_to_get
from dora.data.datasets.table import Archive, DataSet
from dora.data.datasets.unpack import unpack
from dora.data.disk import require_space, whole_file
from dora.data.download import Fetched, download
from dora.lease import Lease
from dora.progress import Progress, silent

log = logging.getLogger("dora.datasets")

MANIFEST = ".complete"
USED = ".used"  # beside archives of which the whole set has come, and that nobody wants to keep
# The table's sizes are about right; more than this is no rounding.
MOST_OVER_SIZE = 1.5


class ArchiveFacts(Frozen):
    """An archive that a set was unpacked from."""

    name: str
    url: str
    size_bytes: int
    sha256: str


class Manifest(Frozen):
    """What a folder was made of; written last."""

    name: str
    archives: tuple[ArchiveFacts, ...]
    n_files: int
    size_bytes: int
    unpacked_at: str
    tool: str


class Got(NamedTuple):
    """A data set that is there."""

    folder: Path
    report: Report
    reused: bool  # it was there already


def get(
    wanted: DataSet, folder: Path, machine: Machine, *, keep_archives: bool = False, progress: Progress = silent
) -> Got:
    """The set in `folder`: downloaded and unpacked, or left alone if it is there.

    What a killed run has downloaded is kept, and resumed; unpacking is begun again.

    Raises:
        PermissionError: for a gated set, with what a person does instead.
        FileExistsError: if the folder holds something else.
        ValueError: for archives that are not what they should be.
        OSError: for a network that does not answer, or a disk that is too small.
    """
    folder = folder.expanduser().absolute()
    if not wanted.is_open:
        raise PermissionError(how_to_get(wanted, folder))
    downloads = folder.parent / ".downloads" / folder.name
    if (there := _already(wanted, folder)) and not (downloads / USED).exists():
        return there
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"no folder can be made at {downloads} ({error.strerror}). Choose a place with --into.") from None
    with Lease(downloads, timeout_s=machine.lease_timeout_s):
        there = _already(wanted, folder)  # by another process while this one waited, or by one that was killed
        if keep_archives or not there:
            (downloads / USED).unlink(missing_ok=True)
        if there:
            _remove_used(downloads)
            return there
        unpacking = folder.with_name(f".{folder.name}-unpacking")
        shutil.rmtree(unpacking, ignore_errors=True)  # a killed run's
        _require_room(wanted, folder, downloads)
        fetched = _download(wanted, downloads, machine, progress)
        unpacking.mkdir()
        try:
            _unpack(wanted, fetched, unpacking, progress)
            os.sync()  # the files before the folder's name: whoever sees the folder sees all of it, even after a crash
            if not keep_archives:
                (downloads / USED).touch()
            _put_in_place(unpacking, folder)
        except BaseException:
            shutil.rmtree(unpacking, ignore_errors=True)
            raise
        _remove_used(downloads)
    return Got(folder, check(wanted, folder), False)


def read_manifest(folder: Path) -> Manifest | None:
    """What a folder was made of, None for one that `get` did not make."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        log.warning("%s cannot be read; the folder is taken for one that was made by hand", folder / MANIFEST)
        return None


def _already(wanted: DataSet, folder: Path) -> Got | None:
    """The set if the folder has it; None if the folder is not there, or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        report = check(wanted, folder)
    except FileNotFoundError:
        report = None
    if report and (not report.problems or read_manifest(folder)):
        return Got(folder, report, True)
    problem = report.problems[0] if report else f"{folder} holds something else."
    raise FileExistsError(
        f"{folder} is there and is no whole {wanted.name}: {problem}\n"
        f"Mend it, or move it away, or get the set elsewhere: dora data get {wanted.name} --into DIR."
    )


def _require_room(wanted: DataSet, folder: Path, downloads: Path) -> None:
    """Refuse to start what cannot end: archives and what comes out of them lie side by side for a while."""
    have = sum(file.stat().st_size for file in downloads.iterdir())
    archives = sum(archive.size_bytes or 0 for archive in wanted.archives)
    purpose = f"get {wanted.name} ({human_size(archives)} of archives, {human_size(wanted.size_bytes)} unpacked)"
    require_space(folder.parent, max(0, archives - have) + wanted.size_bytes, purpose)


def _download(wanted: DataSet, downloads: Path, machine: Machine, progress: Progress) -> list[Fetched]:
    """Every archive; progress is of all of them together."""
    sizes = [(archive.size_bytes or 0) / 1e6 for archive in wanted.archives]
    fetched: list[Fetched] = []
    for number, archive in enumerate(wanted.archives):
        path = downloads / archive.name
        listen = _of_all(archive, sum(sizes[:number]), sum(sizes), progress)
        fetched.append(
            download(
                archive.url, path, machine.network, size_bytes=archive.size_bytes, md5=archive.md5,
                sha256=archive.sha256, progress=listen,
            )
        )  # fmt: skip
        log.info("have %s (%s)", archive.name, human_size(fetched[-1].size_bytes))
    return fetched


def _of_all(archive: Archive, before: float, in_all: float, progress: Progress) -> Progress:
    """Turn progress of one archive into progress of all; reading it again for its checksum is told apart."""

    def listen(done: float, total: float, unit: str, note: str = "") -> None:
        what = f"{archive.name} {note}".strip()
        if note == "checking":
            progress(done, total, f"{unit} checked", what)
        else:
            progress(before + done, max(in_all, before + total), unit, what)

    return listen


def _unpack(wanted: DataSet, fetched: list[Fetched], folder: Path, progress: Progress) -> None:
    n_files = size_bytes = 0
    for archive, file in zip(wanted.archives, fetched, strict=True):
        try:
            came = unpack(
                file.path, folder, top=archive.top, max_bytes=MOST_OVER_SIZE * wanted.size_bytes - size_bytes,
                progress=progress,
            )  # fmt: skip
        except ValueError:
            file.path.unlink(missing_ok=True)  # else the next run would find it there and fail again
            raise
        n_files, size_bytes = n_files + came.n_files, size_bytes + came.size_bytes
    manifest = Manifest(
        name=wanted.name, n_files=n_files, size_bytes=size_bytes,
        archives=tuple(
            ArchiveFacts(name=file.path.name, url=file.url, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in fetched
        ),
        unpacked_at=datetime.now(UTC).isoformat(timespec="seconds"), tool=f"dora {metadata.version('dora')}",
    )  # fmt: skip
    with whole_file(folder / MANIFEST) as file:
        file.write(manifest.model_dump_json(indent=1).encode())


def _remove_used(downloads: Path) -> None:
    """Remove archives that are marked as used, the mark last of all."""
    if (downloads / USED).exists():
        for path in sorted(downloads.iterdir(), key=lambda path: path.name == USED):
            if path.is_file() and not Lease.owns(path):
                path.unlink()


def _put_in_place(unpacking: Path, folder: Path) -> None:
    try:
        unpacking.replace(folder)  # an empty folder of that name is replaced too
    except OSError as error:
        raise OSError(
            f"{folder} cannot be given to what was unpacked ({error.strerror}). If it is a mount point, get the set "
            "into a folder below it: --into DIR."
        ) from None
