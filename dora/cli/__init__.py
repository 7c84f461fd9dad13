"""The commands of `dora`, a file each: `add` says what it takes, and sets the function that runs it as `run`."""

from typing import Any

Commands = Any  # what ArgumentParser.add_subparsers returns; argparse gives it no public name
