"""`dora pretrain join`: this host takes part in a training that another one leads."""

import argparse
import logging
import time

from dora.artifacts import Machine
from dora.cli import Commands

DESCRIPTION = """Run this on other hosts that see the same DORA_ROOT, at the same path, while a run with [hosts] in its
machine.toml waits for them: each brings its GPUs. It needs neither a number nor an address. It stays for a while, and
takes part again when the run is started again."""
POLL_S = 1.0


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser("pretrain", help="have several hosts pretrain together")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    join = actions.add_parser("join", help="bring this host's GPUs to a training", description=DESCRIPTION)
    join.add_argument("--wait", type=float, default=600, metavar="S", help="for something to do (600)")
    join.set_defaults(run=_join)


def _join(options: argparse.Namespace) -> int:
    from dora.hosts import join
    from dora.launch import LaunchError

    logging.getLogger("dora").setLevel(logging.INFO)
    machine, done, failed, waited_since = Machine(), 0, False, time.monotonic()
    while True:
        try:
            folder = join(machine)
        except LaunchError as error:
            logging.getLogger("dora.hosts").error("%s", error)
            failed, waited_since = True, time.monotonic()
        else:
            if folder:
                done, failed, waited_since = done + 1, False, time.monotonic()
            elif time.monotonic() - waited_since >= options.wait:
                break
        time.sleep(min(POLL_S, options.wait))
    print(f"took part in {done} trainings" if done else f"no training below {machine.root} waited for this host")
    return int(failed)
