"""An array on disk that several processes fill in, some rows each, and that is never half right after a kill.

Rows are written to their own bytes of one .npy file; when those of a block are on the disk, an empty file with the
block's number is made beside it. Who finds that file believes the block; every other block is written again.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

MARKS = ".blocks"


class Rows:
    """A float32 array of a known shape in `path`, begun here or before."""

    def __init__(self, path: Path, shape: Sequence[int], *, rows_per_block: int) -> None:
        self.path, self.shape, self.rows_per_block = path, tuple(shape), rows_per_block
        self._marks = path.parent / MARKS

    @property
    def n_blocks(self) -> int:
        """How many blocks there are; the last one may be shorter."""
        return math.ceil(self.shape[0] / self.rows_per_block)

    def begin(self) -> None:
        """Make the file, or keep what a run before has left of it. One process does, before all others write.

        Raises:
            OSError: if the disk has no room for it, said before hours are spent.
        """
        if not self._is_whole():
            for mark in self._marks.glob("*"):
                mark.unlink()
            self._marks.mkdir(exist_ok=True)
            array = np.lib.format.open_memmap(self.path, "w+", np.float32, self.shape)
            size_bytes = array.offset + array.nbytes
            del array
            with self.path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size_bytes)

    def left(self) -> list[int]:
        """Numbers of the blocks that nobody has finished, in order."""
        done = {mark.name for mark in self._marks.glob("*")}
        return [number for number in range(self.n_blocks) if str(number) not in done]

    def span(self, block: int) -> range:
        """The rows of a block."""
        first = block * self.rows_per_block
        return range(first, min(first + self.rows_per_block, self.shape[0]))

    def write(self, block: int, values: Float[np.ndarray, "n ..."]) -> None:
        """The rows of one block; when this returns, they outlast a power cut."""
        expected = (len(self.span(block)), *self.shape[1:])
        assert values.shape == expected, f"expected rows {expected}, got {values.shape}"
        with self.path.open("r+b") as file:
            offset = _header_bytes(self.path) + self.span(block).start * math.prod(self.shape[1:]) * 4
            file.seek(offset)
            file.write(np.ascontiguousarray(values, np.float32).data)
            file.flush()
            os.fsync(file.fileno())
        (self._marks / str(block)).touch()

    def _is_whole(self) -> bool:
        try:
            return self._marks.is_dir() and np.load(self.path, mmap_mode="r").shape == self.shape
        except (OSError, ValueError):  # not begun, or torn while it was begun
            return False


def _header_bytes(path: Path) -> int:
    return np.load(path, mmap_mode="r").offset
