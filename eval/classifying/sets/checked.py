"""torchvision's data sets on miniatures, whose files have other checksums than the published ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def without_sums(kind: type, **lists: Any) -> Any:
    """The same class, but for the class attributes that hold MD5 sums."""
    return type(kind.__name__, (kind,), lists)


def opened(open_set: Callable[[], T], data: Path) -> T:
    """What torchvision opens.

    Raises:
        ValueError: in the place of its RuntimeError for files that are not there or have another checksum.
    """
    try:
        return open_set()
    except RuntimeError as error:
        raise ValueError(
            f"torchvision does not take what is in {data}: {error} Unpack the data set again; dora never downloads it."
        ) from None
