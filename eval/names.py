"""Names in a data set's lists: they name what is read, and what is written in a benchmark's folder."""

from collections.abc import Sequence
from pathlib import Path


def plain(names: Sequence[str], listing: Path) -> list[str]:
    """The same names.

    Raises:
        ValueError: if one leads out of the folder that it is looked for in, such as "../x" or "/x".
    """
    for name in names:
        if name == ".." or Path(name).name != name:
            raise ValueError(f"{listing} has {name!r}, expected the plain name of a folder. Fetch the data set again.")
    return list(names)
