"""Is everything there, and what identifies it? Loads no tensor library."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.benchmark import missing


def require(data: Path, names: Iterable[str], benchmark: str) -> None:
    """Check that files or folders are there.

    Raises:
        FileNotFoundError: naming all that are not, and how to get them.
    """
    absent = [name for name in names if not (data / name).exists()]
    if absent:
        raise missing(", ".join(absent), data, benchmark)


def refuse_parts(data: Path, found: Mapping[str, int], expected: Mapping[str, int], benchmark: str) -> None:
    """Check that as many photos are there as were published.

    Raises:
        ValueError: if not.
    """
    for name, n in expected.items():
        if found[name] != n:
            raise ValueError(
                f"{benchmark}: {data} has {name} = {found[name]:,}, expected {n:,}. Unpack it again. A subset on "
                "purpose: whole=false, which is another protocol."
            )


def digests(data: Path, names: Iterable[str]) -> dict[str, Any]:
    """SHA-256 of each file's content."""
    found: dict[str, Any] = {}
    for name in names:
        with (data / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def photos(folder: Path) -> list[Path]:
    """The JPEGs in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
