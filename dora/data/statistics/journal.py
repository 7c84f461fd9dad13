"""What a pass has measured so far, line by line: after a kill the next one goes on behind the last whole line."""

import fcntl
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dora.config import Frozen


class Part(Frozen):
    """What was measured of a stretch of pictures."""

    end: int  # number of the first picture that is not in it
    samples: list[dict[str, Any]]
    jumps: list[int]  # numbers of pictures that differ much from the one before
    n_damaged: int


class Journal:
    """A file of parts that follow on each other, for one video and one way to measure."""

    def __init__(self, file: BinaryIO, parts: list[Part]) -> None:
        self._file, self.parts = file, parts

    @property
    def end(self) -> int:
        """How many pictures are done."""
        return self.parts[-1].end if self.parts else 0

    def add(self, part: Part) -> None:
        """Keep a part; once this returns it is on the disk."""
        self.write(part.model_dump())
        self.parts.append(part)

    def write(self, value: Mapping[str, Any]) -> None:
        """Append one line, to the disk."""
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def opened(path: Path, key: Mapping[str, Any], *, afresh: bool) -> Generator[Journal]:
    """The journal at `path`: what is there goes on if it is of the same `key`, else it begins anew.

    Raises:
        ValueError: if another process writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another process is measuring into {path.parent}. Wait for it, or name another --out."
            ) from None
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        whole = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
        goes_on = bool(whole) and not afresh and json.loads(whole[0]) == dict(key)
        file.truncate(sum(map(len, whole)) if goes_on else 0)
        journal = Journal(file, [Part.model_validate_json(line) for line in whole[1:]] if goes_on else [])
        if not goes_on:
            journal.write(key)
        yield journal
