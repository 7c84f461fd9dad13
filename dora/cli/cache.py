"""`dora cache`: list, explain, check and remove artifacts."""

import argparse

from dora import inventory
from dora.artifacts import Machine
from dora.cli import Commands


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser("cache", help="list, explain, check and remove artifacts")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="every artifact: made when, from what, how big").set_defaults(run=_list)
    why = actions.add_parser("why", help="why a stage would run again, and what that would cost")
    why.add_argument("stage", help="video, shards, checkpoint, score-davis, report, …")
    why.set_defaults(run=_why)
    actions.add_parser("verify", help="read every file and compare with the manifests").set_defaults(run=_verify)
    remove = actions.add_parser("remove", help="delete one artifact")
    remove.add_argument("artifact", help="stage/digits as `dora cache list` prints it; a few digits do")
    remove.set_defaults(run=_remove)
    gc = actions.add_parser("gc", help="delete what nobody has asked for lately or needs")
    gc.add_argument("--keep-days", type=float, default=30, metavar="N", help="asked for in the last N days (30)")
    gc.add_argument("--yes", action="store_true", help="delete; without it only say what would go")
    gc.set_defaults(run=_gc)


def _list(options: argparse.Namespace) -> int:
    print("\n".join(inventory.table(Machine().root)))
    return 0


def _why(options: argparse.Namespace) -> int:
    print("\n".join(inventory.why(Machine().root, options.stage)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    n_damaged = 0
    for entry, damage in inventory.verify(Machine().root):
        print(f"{entry.name:42} {damage or 'as made'}")
        n_damaged += damage is not None
    print(f"{n_damaged} damaged; they are made again when next asked for" if n_damaged else "all as made")
    return 1 if n_damaged else 0


def _remove(options: argparse.Namespace) -> int:
    machine = Machine()
    entry = inventory.find(machine.root, options.artifact)
    _delete(entry, machine)
    return 0


def _gc(options: argparse.Namespace) -> int:
    machine = Machine()
    for entry in inventory.garbage(machine, keep_days=options.keep_days):
        if options.yes:
            _delete(entry, machine)
        else:
            print(f"would remove {entry.name}")
    return 0


def _delete(entry: inventory.Entry, machine: Machine) -> None:
    stays = inventory.remove(machine, entry)
    print(f"removed {entry.name}{f', but {stays}' if stays else ''}")
