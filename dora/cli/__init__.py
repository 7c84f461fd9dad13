"""The commands of `dora`, a file each: `add` says what it takes, and sets the function that runs it as `run`."""

import argparse
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
