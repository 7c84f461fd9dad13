"""Tars in a store: a folder that any of fsspec's file systems keeps, named by a URL (s3://…, gs://…, file:///…).

Who may read and write it is found where the store's own library looks (environment, configuration files, the
machine's role), never in the URL. A lost connection is tried again by that library. Whatever goes wrong is raised as
a sentence that names the store.
"""

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from dora.data.claims import JOB
from dora.data.disk import whole_file
from dora.data.index import STORE, open_index

_PACKAGES = {"s3": "pip install -e '.[remote]'", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}
_AT_ONCE = 16  # questions to a store: each waits for the network alone
_MISTAKES = (TypeError, AttributeError, NameError, AssertionError)


class Range(NamedTuple):
    """Some bytes of one of a store's tars."""

    name: str
    offset: int
    size: int


def check_store(store: str) -> None:
    """Write, read and remove a few bytes, so that a store that cannot be used is known before hours are spent.

    Raises:
        ValueError: if it is no URL, holds a password, or needs a package that is not installed.
        OSError: if it cannot be reached, written or read; says why and what to do.
    """
    if "://" not in store:
        raise ValueError(
            f"Machine.store is {store!r}, expected a URL such as s3://bucket/dora, or file:///folder for a folder."
        )
    if redacted(store) != store:
        raise ValueError(
            f"Machine.store {redacted(store)} holds a name, password or key, and it is kept beside the index. "
            "Leave it out: credentials come from the environment (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, …)."
        )
    name = f".dora-probe-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / name
        probe.write_bytes(b"dora")
        upload(probe, store, name)
    found = read_ranges(store, [Range(name, 1, 3)])
    with _in_words(store, f"remove {name} from"), suppress(PermissionError):  # who may only add may stay so
        file_system, path = _open(store, name)
        file_system.rm_file(path)
    if found != [b"ora"]:
        raise OSError(f"{store} gave back other bytes than it was given. Use another store.")


def upload(local: Path, store: str, name: str) -> None:
    """Put a file into the store as `name`; until its last byte is there, nobody sees it.

    Raises:
        ValueError, OSError: as `check_store`; also if the store does not hold the whole file afterwards.
    """
    with _in_words(store, f"write {name} to"):
        file_system, path = _open(store, name)
        if isinstance(file_system, LocalFileSystem):  # which would show a file that is being written
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with local.open("rb") as source, whole_file(target) as copy:
                shutil.copyfileobj(source, copy, 1 << 22)
        else:  # an object appears when it is complete
            file_system.put_file(str(local), path)
    expected, found = local.stat().st_size, stored_size(store, name)
    if found != expected:
        got = "it is not there" if found is None else f"it has {found}"
        raise OSError(f"{_place(store, name)} should have {expected} bytes, but {got}. Run again to write it anew.")


def stored_size(store: str, name: str) -> int | None:
    """Bytes of a file in the store, None if it is not there.

    Raises:
        ValueError, OSError: as `check_store`.
    """
    with _in_words(store, f"look for {name} in"):
        file_system, path = _open(store, name)
        try:
            return file_system.info(path)["size"]
        except FileNotFoundError:
            return None


def remove(store: str, names: Sequence[str]) -> None:
    """Remove files from the store, as far as they are there.

    Raises:
        ValueError, OSError: as `check_store`.
    """
    for name in names:
        with _in_words(store, f"remove {name} from"), suppress(FileNotFoundError):
            file_system, path = _open(store, name)
            file_system.rm_file(path)


def damage(folder: Path) -> str | None:
    """What is wrong with the tars of a shards folder that a store keeps, by their sizes alone, or None.

    Raises:
        FileNotFoundError, ValueError: if the folder's index cannot be read.
        ValueError, OSError: as `check_store`.
    """
    if not (folder / STORE).is_file():
        return None
    facts = open_index(folder).facts
    store, tars = facts.store or "", [tar for tar in facts.tars if not (folder / tar.name).exists()]
    with ThreadPoolExecutor(_AT_ONCE, "look") as pool:
        sizes = pool.map(partial(stored_size, store), [tar.name for tar in tars])
        for tar, found in zip(tars, sizes, strict=True):
            if found is None:
                return f"its tar {_place(store, tar.name)} is gone"
            if found != tar.size_bytes:
                return f"its tar {_place(store, tar.name)} has {found} bytes, the index says {tar.size_bytes}"
    return None


def remove_tars(folder: Path) -> str | None:
    """Remove the tars of a shards folder from the store that keeps them: those that its index names.

    Returns what stays there, and why, in words.
    """
    if (folder / STORE).is_file():
        try:
            facts = open_index(folder).facts
            remove(facts.store or "", [tar.name for tar in facts.tars])
        except (ValueError, OSError) as error:
            return f"its tars stay in {redacted((folder / STORE).read_text())}: {error}"
        return None
    try:
        begun = json.loads((folder / JOB).read_bytes())["store"]
    except (OSError, ValueError, KeyError):
        return None
    return f"tars stay in {redacted(begun)}: it is unfinished, and has no index that names them" if begun else None


def fetch(store: str, name: str, to: Path) -> None:
    """Copy a file of the store into an existing local file, piece by piece.

    Raises:
        ValueError, OSError: as `check_store`.
    """
    with _in_words(store, f"read {name} from"):
        file_system, path = _open(store, name)
        file_system.get_file(path, str(to))


def read_ranges(store: str, ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of each range; a store that can serves them all at once.

    Raises:
        ValueError, OSError: as `check_store`; also if a file ends before its range does.
    """
    names = ", ".join(dict.fromkeys(part.name for part in ranges))
    with _in_words(store, f"read {names} from"):
        file_system, _ = _open(store, "")
        paths = [_open(store, part.name)[1] for part in ranges]
        starts, ends = [part.offset for part in ranges], [part.offset + part.size for part in ranges]
        found: list[bytes] = file_system.cat_ranges(paths, starts, ends, on_error="raise")
    for part, content in zip(ranges, found, strict=True):
        if len(content) != part.size:
            raise OSError(
                f"{_place(store, part.name)} ends before byte {part.offset + part.size}, up to which the index wants "
                "to read. It was altered: put the right file back, or make the shards again."
            )
    return found


def redacted(url: str) -> str:
    """The URL without what stands before an @ or after a question mark: it may be a password."""
    return re.sub(r"(://[^\s?]*)\?\S+", r"\1?***", re.sub(r"//[^/@\s]*@", "//***@", url))


def _place(store: str, name: str) -> str:
    return f"{redacted(store).rstrip('/')}/{name}"


def _open(store: str, name: str) -> tuple[Any, str]:
    """The file system and the file's path in it."""
    # fsspec keeps one file system a process: asked for each time, none is carried into a fork's child.
    file_system, folder = fsspec.url_to_fs(store)
    return file_system, f"{folder.rstrip('/')}/{name}"


@contextmanager
def _in_words(store: str, doing: str) -> Generator[None]:
    try:
        yield
    except _MISTAKES:
        raise
    except Exception as error:  # each store's library has errors of its own
        # Not chained: a library's message may repeat the URL with all that it holds.
        raise _sentence(error, store, doing) from None


def _sentence(error: Exception, store: str, doing: str) -> Exception:
    place, kind = redacted(store), type(error).__name__
    protocol = store.partition("://")[0]
    reason = redacted(" ".join(str(error).split())).rstrip(".") or kind
    said = f"cannot {doing} {place}"
    if isinstance(error, ImportError):
        known = known_implementations.get(protocol, {}).get("err", reason)
        return ValueError(f"{said}: a package for {protocol}:// is missing. {_PACKAGES.get(protocol, known)}")
    if isinstance(error, ValueError):
        return ValueError(
            f"{said}: {reason}. Expected a URL such as s3://bucket/dora, gs://bucket/dora, file:///folder."
        )
    if isinstance(error, PermissionError) or "Credential" in kind or "Token" in kind:
        return PermissionError(
            f"{said}: {reason}. Give this user the right to it; credentials come from the environment (AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS), configuration files or the machine's role."
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{said}: {reason}. Check that bucket and file are there, or make the shards again.")
    return ConnectionError(
        f"{said}: {kind}: {reason}. Check the network and the store's address (AWS_ENDPOINT_URL for an S3 of your "
        "own); a rerun goes on from here."
    )
