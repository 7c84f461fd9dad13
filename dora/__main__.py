"""`dora`: look after what the runs need and leave behind. Runs are started through Prefect, see the README."""

import argparse
import logging
import sys
from collections.abc import Sequence

from dora.cli import cache, data, export, miniature, plan, pretrain, recipe, shards, video, viz


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(prog="dora", description=__doc__, epilog="Everything lives below DORA_ROOT.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (recipe, plan, data, video, shards, pretrain, cache, export, viz, miniature):
        command.add(commands)
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "overrides") and all("=" in one and one[0] != "-" for one in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes path=value only before the options that may stand between
        options.overrides += rest
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"dora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
