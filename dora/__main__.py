"""`dora`: look after what the runs leave behind. Runs themselves are started through Prefect, see the README."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dora import inventory, recipes
from dora.artifacts import Machine
from dora.progress import progress_bar


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(prog="dora", description=__doc__, epilog="Everything lives below DORA_ROOT.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_cache(commands.add_parser("cache", help="list, explain, check and remove artifacts"))
    miniature = commands.add_parser(
        "miniature",
        help="render a walk and every labelled set in its real layout, to look at",
        description="Renders walk.mp4, a contact sheet with ground truth (sheet.jpg), and ADE20K, COCO, VOC, "
        "NYU depth, DAVIS, GOT-10k and ImageNet in miniature, each in the layout that its readers expect.",
    )
    miniature.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for all of it")
    miniature.add_argument("--seconds", type=float, default=20, help="length of the video (20)")
    miniature.add_argument("--seed", type=int, default=0, help="which street, 0 … 999 (0)")
    miniature.add_argument("--size", type=_size, default=(320, 180), metavar="WxH", help="of every picture (320x180)")
    miniature.add_argument("--fps", type=float, default=12, help="frames a second of the video (12)")
    miniature.set_defaults(run=_miniature)
    recipe = commands.add_parser("recipe", help="print a recipe as JSON, e.g. dora recipe demo pretrain.epochs=10")
    recipe.add_argument("name", help=f"one of {', '.join(recipes.names())}")
    recipe.add_argument("overrides", nargs="*", metavar="path=value", help="single values to replace")
    recipe.set_defaults(run=_recipe)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"dora: {error}", file=sys.stderr)
        return 2


def _add_cache(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("list", help="every artifact: made when, from what, how big").set_defaults(run=_list)
    why = commands.add_parser("why", help="why a stage would run again, and what that would cost")
    why.add_argument("stage", help="video, shards, checkpoint, score-davis, report, …")
    why.set_defaults(run=_why)
    commands.add_parser("verify", help="read every file and compare with the manifests").set_defaults(run=_verify)
    remove = commands.add_parser("remove", help="delete one artifact")
    remove.add_argument("artifact", help="stage/digits as `dora cache list` prints it; a few digits do")
    remove.set_defaults(run=_remove)
    gc = commands.add_parser("gc", help="delete what nobody has asked for lately")
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
    inventory.remove(machine, entry)
    print(f"removed {entry.name}")
    return 0


def _gc(options: argparse.Namespace) -> int:
    machine = Machine()
    for entry in inventory.garbage(machine.root, keep_days=options.keep_days):
        if options.yes:
            inventory.remove(machine, entry)
        print(f"{'removed' if options.yes else 'would remove'} {entry.name}")
    return 0


def _miniature(options: argparse.Namespace) -> int:
    from dora.config import MiniatureVideo
    from dora.data.labelled.sets import SHEET, write_everything

    width, height = options.size
    try:
        video = MiniatureVideo(
            seed=options.seed, duration_s=options.seconds, fps=options.fps, width=width, height=height
        )
    except ValidationError as error:
        raise ValueError(recipes.explain(error)) from None
    with progress_bar() as progress:
        out = write_everything(options.out, video, progress)
    print(f"wrote {out}; look at {out / SHEET} first")
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels, such as 320x180, got {text!r}")
    return int(width), int(height)


def _recipe(options: argparse.Namespace) -> int:
    print(recipes.override(recipes.load(options.name), options.overrides).model_dump_json(indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
