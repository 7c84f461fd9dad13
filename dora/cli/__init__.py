"""The commands of `dora`, a file each: `add` says what it takes, and sets the function that runs it as `run`."""

import argparse
from pathlib import Path
from typing import Any

Commands = Any  # what ArgumentParser.add_subparsers returns; argparse gives it no public name


def positive(text: str) -> float:
    """The number above zero that an option was given."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above zero, such as 110, got {text!r}")
    return value


def checkpoint_path(named: str) -> Path:
    """The checkpoint that a user names, by its place or as `dora cache list` prints it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such artifact, or several.
    """
    from dora import inventory
    from dora.artifacts import Machine

    path = Path(named).expanduser()
    if path.exists():
        return path
    if path.suffix:  # which no artifact's name has
        raise FileNotFoundError(f"no file of weights at {named}. Check the path.")
    return inventory.find(Machine().root, named).folder
