"""What is found when a data set's folder is looked through, and what is wrong with it."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

AGAIN = "Unpack the archive again: it was cut short, or the disk was full."


class Look:
    """Collects counts and problems; a problem says what was expected, what was got and what to do."""

    def __init__(self, folder: Path, expected: Mapping[str, int]) -> None:
        self.folder = folder
        self.expected = expected
        self.counts: dict[str, int] = {}
        self.problems: list[str] = []

    def wrong(self, problem: str) -> None:
        """Note a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def has(self, part: str) -> bool:
        """Whether a file or folder of that name is there."""
        return (self.folder / part).exists()

    def need(self, part: str, what_to_do: str = AGAIN) -> bool:
        """Whether it is there; a problem if not."""
        if not self.has(part):
            self.wrong(f"no {part} in {self.folder}. {what_to_do}")
        return self.has(part)

    def files(self, part: str, suffix: str | tuple[str, ...]) -> list[str]:
        """Names of the files of that ending in a folder, sorted; none if the folder is not there."""
        try:
            names = os.listdir(self.folder / part)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # A dot: what a Mac leaves beside each file on other systems' disks.
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def folders(self, part: str) -> list[str]:
        """Names of the folders in a folder, sorted; none if it is not there."""
        try:
            with os.scandir(self.folder / part) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def lines(self, part: str) -> list[str]:
        """Lines of a list that are not empty; none if it is not there."""
        try:
            text = (self.folder / part).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except UnicodeDecodeError:
            self.wrong(f"{self.folder / part} is no text, expected a list. {AGAIN}")
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def count(self, what: str, n: int, *, or_more: bool = False) -> None:
        """Note how many there are; a problem if it is another number than expected, or none."""
        self.counts[what] = n
        expected = self.expected.get(what)
        if not n and self.problems:
            return  # what is missing was said
        if expected is not None and n != expected and not (or_more and n > expected):
            why = AGAIN if n < expected else "Something else was put in between: unpack into an empty folder."
            self.wrong(f"{what}: expected {expected:,}, got {n:,}. {why}")
        elif not n:
            self.wrong(f"{what}: got none. {AGAIN}")

    def pairs(self, what: str, left: Collection[str], right: Collection[str], *, other: str) -> None:
        """A problem if not each of the one has its counterpart among the other."""
        odd = sorted(set(left) ^ set(right))
        if odd:
            lacking = other if odd[0] in set(left) else what
            self.wrong(
                f"{len(set(left)):,} {what} and {len(set(right)):,} {other} should go together by name; "
                f"{odd[0]} has no counterpart among the {lacking}, and so {len(odd):,} in all. {AGAIN}"
            )

    def picture(self, part: str) -> None:
        """A problem if the photo cannot be decoded to its end."""
        self._decoded(part)

    def labels(self, part: str, mode: str, allowed: Iterable[int]) -> None:
        """A problem unless it is an indexed (P) or grey (L) PNG that holds the allowed labels alone."""
        image = self._decoded(part)
        if image is None:
            return
        path = self.folder / part
        if image.mode != mode:
            kinds = {"P": "an indexed PNG (a palette)", "L": "a grey PNG of 8 bits", "I;16": "a grey PNG of 16 bits"}
            self.wrong(f"{path} is {image.mode}, expected {kinds[mode]}. Something converted it: {AGAIN}")
            return
        if odd := sorted(set(np.unique(np.asarray(image)).tolist()) - set(allowed)):
            self.wrong(f"{path} holds the label {odd[0]}, which the data set has not. It is of another version.")

    def _decoded(self, part: str) -> Image.Image | None:
        path = self.folder / part
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except FileNotFoundError:
            self.wrong(f"no {part} in {self.folder}. {AGAIN}")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            self.wrong(f"{path} is no whole picture ({error}). {AGAIN}")
        return None


def some(names: Sequence[str]) -> list[str]:
    """The first, the middle one and the last: unpacking that was cut short shows at the end."""
    return [names[index] for index in sorted({0, len(names) // 2, len(names) - 1})] if names else []
