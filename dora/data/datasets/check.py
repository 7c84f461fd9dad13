"""Whether a folder holds a data set: looked through in seconds, nothing is changed."""

import os
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dora.data.datasets.gated import filled_in
from dora.data.datasets.layouts import LAYOUTS, PARTS, RELATIVES
from dora.data.datasets.look import Look
from dora.data.datasets.table import DataSet

MOST_FOLDERS, MOST_LEVELS = 300, 4  # where a misplaced set is looked for


class Report(NamedTuple):
    """What is in a folder; it is the data set if nothing is wrong."""

    folder: Path
    counts: dict[str, int]
    problems: list[str]


def check(wanted: DataSet, folder: Path, *, any_size: bool = False) -> Report:
    """Folders, counts, pairs of images and labels, and a few files that are opened.

    `any_size` does not compare the counts: for a subset, or a set in miniature.

    Raises:
        FileNotFoundError: if there is nothing of the data set; says how to get it.
    """
    folder = folder.expanduser().absolute()
    parts = PARTS[wanted.name]
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"no {wanted.name} in {folder}.\n{how_to_get(wanted, folder)}")
    for relative in RELATIVES.get(wanted.name, ()):
        is_whole = relative.unless and (folder / relative.unless).exists()
        if any(folder.glob(relative.sign)) and not is_whole:
            return Report(folder, {}, [filled_in(f"{folder} {relative.says}", folder)])
    if not is_there(wanted, folder):
        place = misplaced(wanted, folder)
        if place is None:
            raise FileNotFoundError(
                f"no {wanted.name} in {folder} (expected {', '.join(parts)}).\n{how_to_get(wanted, folder)}"
            )
        level = "high" if place.is_relative_to(folder) else "low"
        problem = (
            f"{folder} is a level or more too {level}: {wanted.name} is in {place}. Name that folder: "
            f"dora data check {wanted.name} {shlex.quote(str(place))}"
        )
        return Report(folder, {}, [problem])
    look = Look(folder, {} if any_size else wanted.counts)
    for part, what_to_do in parts.items():
        look.need(part, what_to_do)
    LAYOUTS[wanted.name](look)
    return Report(folder, look.counts, [filled_in(problem, folder) for problem in look.problems])


def is_there(wanted: DataSet, folder: Path) -> bool:
    """Whether the folder has any of the set's parts."""
    return any((folder / part).exists() for part in PARTS[wanted.name])


def how_to_get(wanted: DataSet, folder: Path) -> str:
    """What to type, or for a gated set everything that a person does."""
    if wanted.is_open:
        return f"Get it: dora data get {wanted.name} (terms: {wanted.terms})."
    return filled_in(wanted.how_to_get, folder)


def misplaced(wanted: DataSet, folder: Path) -> Path | None:
    """Where the set is instead: some levels below, or one or two above; None if nowhere."""
    parts = PARTS[wanted.name]
    for above in list(folder.parents)[:2]:
        is_inside = any(folder.is_relative_to(above / part) or (above / part).is_relative_to(folder) for part in parts)
        if is_inside and all((above / part).exists() for part in parts):
            return above
    return next((below for below in islice(_below(folder), MOST_FOLDERS) if is_there(wanted, below)), None)


def _below(folder: Path) -> Iterator[Path]:
    """Folders below, level by level; those that may not be read are passed over."""
    level = [folder]
    for _ in range(MOST_LEVELS):
        level = [below for each in level for below in _folders(each)][:MOST_FOLDERS]
        yield from level


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except PermissionError:
        return []
