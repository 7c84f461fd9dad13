"""`dora video`: look through video files before hours are spent on them."""

import argparse
import sys
from pathlib import Path

from dora.cli import Commands, positive
from dora.config import Defect
from dora.progress import progress_bar

DESCRIPTION = """\
Looks through whole video files, from the first picture to the last, and says what is wrong with them:

  duration     cut off, pictures that end before the sound, another length than expected
  resolution   fewer rows than asked for
  undecodable  pictures that are damaged or missing, or a file that cannot be read to its end
  uneven       no picture for a second and more, time that goes back, no time stamps
  black        blank for 5 s and more
  frozen       the same picture for 5 s and more

All of a file is read, but only its key frames are decoded, and everything near its ends and where they raise doubt:
a minute or two for hours of 4K from a fast disk. --every-frame decodes all of it. A run does the same by itself, once
for each video, before it makes shards.
"""
EXAMPLES = """\
examples:
  dora video verify walk.mp4                              one line a check, the verdict first
  dora video verify walk.mp4 --out seen                   and a sheet of pictures, seen/walk.mp4.jpg
  dora video verify venice.webm --expect-minutes 110 --min-height 2160
  dora video verify --every-frame *.mp4                   finds a damaged picture anywhere

exit codes: 0 nothing wrong, 1 a defect was found, 2 a file cannot be read as a video (the message says why)
"""


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser("video", help="look through video files before hours are spent on them")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    verify = actions.add_parser(
        "verify", help="is it whole, even, and neither black nor frozen anywhere?", description=DESCRIPTION,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verify.add_argument("files", nargs="+", type=Path, metavar="FILE")
    verify.add_argument("--every-frame", action="store_true", help="decode every picture, not only key frames")
    verify.add_argument("--expect-minutes", type=positive, metavar="M", help="how long it should be, within 2 %%")
    verify.add_argument("--min-height", type=int, default=1, metavar="ROWS", help="refuse a lower resolution")
    verify.add_argument("--out", type=Path, metavar="DIR", help="write a sheet of pictures of each file there")
    verify.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    from dora.artifacts import Machine

    threads, worst = Machine().threads, 0
    for path in options.files:
        try:
            is_good = _report(path, options, threads=threads)
        except (ValueError, OSError) as error:
            print(f"{path}: cannot be read\n  {error}", file=sys.stderr)
            worst = 2
        else:
            worst = max(worst, 0 if is_good else 1)
    return worst


def _report(path: Path, options: argparse.Namespace, *, threads: int) -> bool:
    """Look through one file and print what was found; whether it is good."""
    from dora.data.defects import checks, keep_best
    from dora.data.verify import inspect
    from dora.data.watch import WatchConfig

    sheet = None
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        sheet = options.out / f"{path.name}.jpg"  # with its ending: walk.mp4 and walk.webm may be compared
    with progress_bar() as progress:
        findings = inspect(
            path, WatchConfig(every_frame=options.every_frame), sheet=sheet, threads=threads,
            progress=progress,
        )  # fmt: skip
    expected_s = options.expect_minutes and options.expect_minutes * 60
    found = checks(findings, expected_s=expected_s, min_height=options.min_height)
    wrong: list[Defect] = [check.name for check in found if check.is_defect]
    print(f"{path}: {'refused, for ' + ', '.join(wrong) if wrong else 'good'}")
    for check in found:
        print(f"  {'BAD' if check.is_defect else 'ok '} {check.name:12} {check.says}")
        if check.is_defect and check.remedy:
            print(f"  {'':16} {check.advice(path, path.stem)}")
    if best := keep_best(findings, wrong, path, path.stem):
        print(f"  {best}")
    if sheet:
        print(f"  pictures: {sheet}")
    return not wrong
