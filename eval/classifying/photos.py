"""Labelled photos as training and validation read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

from eval.images import open_photo


@runtime_checkable
class Photos(Protocol):
    """As torchvision's data sets: RGB photo and label by number. Raises ValueError or OSError for a broken one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class Sets(NamedTuple):
    """A data set; a label is a number in `classes`."""

    classes: tuple[str, ...]
    train: Photos
    val: Photos


class Files:
    """Photos that lie in files of their own."""

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        path, label = self._files[index]
        return open_photo(path), label


class Joined:
    """One set of photos after the other."""

    def __init__(self, first: Photos, second: Photos) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        n = len(self._first)
        return self._first[index] if index < n else self._second[index - n]
