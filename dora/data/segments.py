"""A video in segments that yt-dlp appends one to the other, such that a kill at any moment leaves whole ones."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dora.data.disk import whole_file


class Journal:
    """How many bytes so many segments are: yt-dlp notes only how many it has, and a kill may fall in between."""

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = path, hashlib.sha256(identity.encode()).hexdigest()
        self.file = path.with_name(f".{path.name}.segments.json")
        self.part, self.ytdl = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.ytdl")
        self.noted = -1

    def recover(self) -> int:
        """Cut what is there to whole segments of the same video; how many these are."""
        for piece in self.path.parent.glob(f"{self.path.name}.part-Frag*"):
            piece.unlink()
        count, size = self._read()
        if not self.part.is_file() or self.part.stat().st_size < size:
            count = size = 0
        for path in (self.path, *(() if count else (self.part, self.ytdl))):
            path.unlink(missing_ok=True)
        if count:
            os.truncate(self.part, size)
            with whole_file(self.ytdl) as file:
                file.write(json.dumps({"downloader": {"current_fragment": {"index": count}}}).encode())
        self.noted = -1
        return count

    def note(self) -> None:
        """Remember how much is there. Called between two additions, when yt-dlp's own count is right."""
        size = self.part.stat().st_size if self.part.exists() else 0
        if size != self.noted:
            self.noted = size
            with contextlib.suppress(OSError, ValueError, KeyError):  # not begun yet
                count = json.loads(self.ytdl.read_text())["downloader"]["current_fragment"]["index"]
                self._write({"count": count, "size_bytes": size})

    def finish(self) -> None:
        """The file is whole and has its name."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self._write({"finished_bytes": self.path.stat().st_size})

    def is_finished(self) -> bool:
        """Whether the file is there whole already."""
        return self.path.is_file() and self._load().get("finished_bytes") == self.path.stat().st_size

    def _read(self) -> tuple[int, int]:
        known = self._load()
        return known.get("count", 0), known.get("size_bytes", 0)

    def _load(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self.file.read_text())
            if known.get("identity") == self.identity:
                return known
        return {}

    def _write(self, known: dict[str, Any]) -> None:
        with whole_file(self.file) as file:
            file.write(json.dumps(known | {"identity": self.identity}).encode())
