"""A foreign zip or tar, unpacked with suspicion: only plain files, only below the folder, only as much as was said."""

import errno
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from dora.data.disk import no_space, require_space
from dora.progress import Progress, silent

MAX_FILES = 2_000_000
_JUNK = {"__MACOSX", ".DS_Store"}
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)


class Unpacked(NamedTuple):
    """What came out."""

    n_files: int
    size_bytes: int


class _Member(NamedTuple):
    path: PurePosixPath  # below the archive's top folder
    size_bytes: int
    open: Callable[[], IO[bytes] | None]  # None never comes of a plain file


def unpack(archive: Path, folder: Path, *, top: str = "", max_bytes: float, progress: Progress = silent) -> Unpacked:
    """Write the files below `top` of an archive into `folder`, which may hold others already.

    Everything is looked at before the first byte is written, so a bad archive leaves nothing. Contents are checked
    against the archive's own checksums and lengths.

    Raises:
        ValueError: for what is no readable archive, is damaged, or would write outside of `folder`, links, devices,
            a file twice, or more than `max_bytes`.
        OSError: if the disk is too small.
    """
    with _members(archive, top) as members:
        total = sum(member.size_bytes for member in members)
        if total > max_bytes or len(members) > MAX_FILES:
            raise ValueError(
                f"{archive} would unpack to {len(members)} files of {total / 1e9:.3g} GB, expected at most {MAX_FILES} "
                f"of {max_bytes / 1e9:.3g} GB. It is not the file it should be: remove it and get it again."
            )
        folder.mkdir(parents=True, exist_ok=True)
        require_space(folder, total, f"unpack {archive.name}")
        for done, member in enumerate(members):
            progress(done, len(members), "files", archive.name)
            _write(archive, member, folder)
        progress(len(members), len(members), "files", archive.name)
    return Unpacked(len(members), total)


@contextmanager
def _members(archive: Path, top: str) -> Generator[list[_Member]]:
    """The files below `top` of a zip or tar, while it is open."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                yield _below(archive, top, _zip_members(archive, opened))
        else:
            with tarfile.open(archive) as opened:
                yield _below(archive, top, _tar_members(archive, opened))
    except _UNREADABLE as error:
        raise ValueError(
            f"{archive} is no whole zip or tar ({_in_short(error)}). Remove it and get it again."
        ) from None


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterable[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.filename, "is a link or a device")
        if info.flag_bits & 1:
            raise _refused(archive, info.filename, "is encrypted")
        path = _safe(archive, info.filename)
        if not info.is_dir():
            yield _Member(path, info.file_size, lambda info=info: opened.open(info))


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterable[_Member]:
    for info in opened:
        path = _safe(archive, info.name)
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise _refused(archive, info.name, "is a link, a device or has holes")
        try:
            tarfile.data_filter(info, "/nowhere")
        except tarfile.FilterError as error:
            raise _refused(archive, info.name, f"is refused ({error})") from None
        if info.isreg():
            yield _Member(path, info.size, lambda info=info: opened.extractfile(info))


def _safe(archive: Path, name: str) -> PurePosixPath:
    """The name as a path that stays below the folder it is put in."""
    path = PurePosixPath(name)
    has_drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or ".." in path.parts or "\\" in name or has_drive or not name.isprintable():
        raise _refused(archive, name, "leads out of the folder")
    return path


def _refused(archive: Path, name: str, why: str) -> ValueError:
    return ValueError(
        f"{archive}: {name!r} {why}. No data set needs that, so nothing was unpacked. "
        "It is not the file it should be: remove it and get it again from the publisher."
    )


def _below(archive: Path, top: str, members: Iterable[_Member]) -> list[_Member]:
    """Members below `top`, their paths relative to it, without a Mac's leftovers."""
    found = [
        member._replace(path=member.path.relative_to(top))
        for member in members
        if member.path.is_relative_to(top) and not _JUNK.intersection(member.path.parts)
    ]
    if not found:
        raise ValueError(f"{archive} holds no file below {top or '.'}/, expected a data set. Get it again.")
    paths = {member.path for member in found}
    if len(paths) < len(found) or any(parent in paths for path in paths for parent in path.parents):
        raise ValueError(f"{archive} holds a file twice, or a file as a folder too. Remove it and get it again.")
    return found


def _write(archive: Path, member: _Member, folder: Path) -> None:
    path = folder / member.path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        source = member.open()
        assert source is not None, "a plain file"
        with source, path.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            size = target.tell()
    except _UNREADABLE as error:
        raise ValueError(
            f"{archive} is damaged at {member.path} ({_in_short(error)}). Remove it and get it again."
        ) from None
    except FileExistsError:
        raise ValueError(f"{archive} holds {member.path}, which is in {folder} already. Remove that folder.") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(folder, None, f"unpack {archive.name}") from None
        raise
    if size != member.size_bytes:
        raise ValueError(
            f"{archive} is damaged at {member.path}: {size} bytes, expected {member.size_bytes}. "
            "Remove it and get it again."
        )


def _in_short(error: Exception) -> str:
    """The first line: tarfile lists everything that it has tried."""
    return str(error).partition("\n")[0].rstrip(":") or type(error).__name__
