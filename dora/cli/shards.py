"""`dora shards join`: help another host that is sharding."""

import argparse
import time

from dora.artifacts import Machine
from dora.cli import Commands
from dora.progress import progress_bar

DESCRIPTION = """Run this on other hosts that see the same DORA_ROOT (and, at the same path, the same videos) while a
run is sharding: each writes tars that nobody else is writing. What comes out is the same, byte for byte. It may be
killed at any time, and ends when there is nothing left to write."""
POLL_S = 2.0


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser("shards", help="have several hosts shard one video")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    join = actions.add_parser("join", help="write tars of videos that are being sharded", description=DESCRIPTION)
    join.add_argument("--wait", type=float, default=0, metavar="S", help="for something to do (0)")
    join.set_defaults(run=_join)


def _join(options: argparse.Namespace) -> int:
    from dora.data.shards import join

    machine, n_tars, waited_since = Machine(), 0, time.monotonic()
    while True:
        with progress_bar() as progress:
            written = join(machine, progress=progress)
        if written:
            n_tars, waited_since = n_tars + written, time.monotonic()
        elif time.monotonic() - waited_since >= options.wait:
            break
        else:
            time.sleep(min(POLL_S, options.wait))
    print(f"wrote {n_tars} tars" if n_tars else f"nothing is being sharded below {machine.root}")
    return 0
