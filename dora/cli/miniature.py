"""`dora miniature`: render a walk and its labelled sets."""

import argparse
from pathlib import Path

from pydantic import ValidationError

from dora import recipes
from dora.cli import Commands
from dora.progress import progress_bar


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser(
        "miniature",
        help="render a walk and every labelled set in its real layout, to look at",
        description="Renders walk.mp4, a contact sheet with ground truth (sheet.jpg), and ADE20K, COCO, VOC, "
        "NYU depth, DAVIS, GOT-10k and ImageNet in miniature, each in the layout that its readers expect.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for all of it")
    parser.add_argument("--seconds", type=float, default=20, help="length of the video (20)")
    parser.add_argument("--seed", type=int, default=0, help="which street, 0 … 999 (0)")
    parser.add_argument("--size", type=_size, default=(320, 180), metavar="WxH", help="of every picture (320x180)")
    parser.add_argument("--fps", type=float, default=12, help="frames a second of the video (12)")
    parser.set_defaults(run=_miniature)


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
