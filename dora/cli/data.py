"""`dora data`: the benchmarks' data sets, got and checked, and statistics of videos."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dora.artifacts import Machine
from dora.cache import human_size
from dora.cli import Commands, statistics
from dora.progress import progress_bar

DESCRIPTION = """\
The data sets that the benchmarks measure on. Open ones are downloaded, compared with their known sizes and checksums,
and unpacked; for those that want a registration you are told what to do. A set lies where DORA_DATASETS__NAME or
[datasets] in machine.toml says, else in DORA_ROOT/datasets/NAME.
"""
EXAMPLES = """\
examples:
  dora data list                            what is here, what can be got, how big it is
  dora data get davis voc2012               download and unpack; after a stop, the same command goes on
  dora data get coco --into /data           into /data/coco
  dora data check                           every set that is here
  dora data check imagenet /data/imagenet   is this folder right, and if not, what is to be done?
  dora data get imagenet                    how to get it by hand
  dora data statistics walk.mp4             light, cuts, objects and motion of any video

exit codes: 0 all well, 1 something is wrong with a set, 2 it cannot be done as asked (the message says why)
"""


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser(
        "data", help="get and check the benchmarks' data sets; statistics of videos", description=DESCRIPTION,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="what is here, what can be got, how big it is").set_defaults(run=_list)

    getting = actions.add_parser(
        "get", help="download and unpack open sets; say how to get the others",
        description="Needs room for the archives and for what comes out of them. Run again to go on after a stop.",
    )  # fmt: skip
    getting.add_argument("names", nargs="+", metavar="NAME", help="as `dora data list` prints them")
    getting.add_argument("--into", type=Path, metavar="DIR", help="into DIR/NAME")
    getting.add_argument("--keep-archives", action="store_true", help="leave them in DIR/.downloads/NAME")
    getting.set_defaults(run=_get)

    checking = actions.add_parser(
        "check", help="look through a set's folder and say what is wrong",
        description="Folders, counts, pairs of images and labels, and a few files that are opened; seconds, not hours. "
        "Nothing is changed.",
    )  # fmt: skip
    checking.add_argument(
        "what",
        nargs="*",
        metavar="NAME … [FOLDER]",
        help="sets; after a single one its folder. None: all that are here",
    )
    checking.add_argument("--any-size", action="store_true", help="a subset or miniature: do not compare the counts")
    checking.set_defaults(run=_check)
    statistics.add(actions)


def _list(options: argparse.Namespace) -> int:
    from dora.data.datasets.check import is_there
    from dora.data.datasets.table import SETS, folder_of

    machine = Machine()
    for wanted in SETS.values():
        folder = folder_of(wanted, machine)
        here = f"in {folder}" if is_there(wanted, folder) else "not here"
        download = human_size(sum(archive.size_bytes or 0 for archive in wanted.archives))
        way = f"dora data get {wanted.name} ({download})" if wanted.is_open else "by hand"
        print(f"{wanted.name:9} {human_size(wanted.size_bytes):>8}  {way:32}  {here}")
    print("\n`dora data check` looks through those that are here.")
    return 0


def _get(options: argparse.Namespace) -> int:
    from dora.data.datasets.get import get
    from dora.data.datasets.table import find, folder_of, how_to_name

    machine = Machine()
    exit_code = 0
    for wanted in [find(name) for name in options.names]:
        folder = options.into / wanted.name if options.into else folder_of(wanted, machine)
        try:
            with progress_bar() as progress:
                if wanted.is_open:
                    print(f"{wanted.title}; terms: {wanted.terms}", file=sys.stderr)
                got = get(wanted, folder, machine, keep_archives=options.keep_archives, progress=progress)
        except (OSError, ValueError) as error:  # the other sets are got all the same
            print(f"dora: {error}", file=sys.stderr)
            exit_code = 2
            continue
        print(f"{wanted.name} is {'there already' if got.reused else 'there'}: {got.folder}")
        if machine.datasets.get(wanted.name) != got.folder:
            print(f"Name it to the benchmarks: {how_to_name(wanted, got.folder)}")
        exit_code = max(exit_code, _print_problems(got.report.problems))
    return exit_code


def _check(options: argparse.Namespace) -> int:
    from dora.data.datasets.check import check, is_there
    from dora.data.datasets.table import SETS, find, folder_of

    machine = Machine()
    names, folder = _names_and_folder(options.what, list(SETS))
    wanted = [find(name) for name in names] or [s for s in SETS.values() if is_there(s, folder_of(s, machine))]
    if not wanted:
        raise FileNotFoundError(
            "none of the data sets is here. `dora data list` says which there are, `dora data get NAME` gets one."
        )
    exit_code = 0
    for each in wanted:
        try:
            report = check(each, folder or folder_of(each, machine), any_size=options.any_size)
        except FileNotFoundError as error:
            print(f"dora: {error}", file=sys.stderr)
            exit_code = 2
            continue
        counts = ", ".join(f"{n:,} {what}" for what, n in report.counts.items())
        verdict = f"{len(report.problems)} problem(s)" if report.problems else "as it should be"
        print(f"{each.name} in {report.folder}: {verdict}" + (f" ({counts})" if counts else ""))
        exit_code = max(exit_code, _print_problems(report.problems))
    return exit_code


def _names_and_folder(given: Sequence[str], known: Sequence[str]) -> tuple[list[str], Path | None]:
    """Names of sets, and the folder if there is one: what stands after a single name and is none itself."""
    if len(given) == 2 and given[0] in known and (given[1] not in known or "/" in given[1]):
        return [given[0]], Path(given[1])
    return list(given), None


def _print_problems(problems: Sequence[str]) -> int:
    """Print them; the exit code."""
    for problem in problems:
        print("- " + problem.replace("\n", "\n  "))
    return 1 if problems else 0
