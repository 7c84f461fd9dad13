"""`dora viz`: what a checkpoint sees in a clip, as sheets and films."""

import argparse
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dora import recipes
from dora.cli import Commands, checkpoint_path, positive
from dora.progress import progress_bar

DESCRIPTION = """\
Draws what a checkpoint's ViT sees in a clip of a video, the figures of the paper:

  attention.png, .mp4  where each head's [CLS] token looks, in every frame
  tracking.png, .mp4   the objects that some heads find in the first frame, and where they are in every frame:
                       tracking maps and masks, without and with Sinkhorn-Knopp side by side
  viz.json             the numbers behind them: frames, times, heads, how much of a frame each mask covers

The checkpoint may be ours (a file, its folder, or its name in `dora cache list`), DINO's, iBOT's, timm's or Hugging
Face's. The video is a file, or a folder of images in the order of their names. Frames keep their shape: they are
scaled, not cropped, and each side is rounded to whole patches.
"""
EXAMPLES = """\
examples:
  dora viz --checkpoint checkpoint/77e1 --video walk.mp4            eight frames in the middle of it, into ./viz
  dora viz --checkpoint dino_vits16.pth --video walk.mp4 --at 65 --size 480
                                                       sharper maps: 480 pixels on the short side
  dora viz --checkpoint FILE --video walk.mp4 --heads 0,2,5         these heads, rather than three drawn from --seed
  dora viz --checkpoint FILE --video frames/ --fps 30 --gap 0.5     a folder of images taken 30 a second

docs/pictures.md says how to read them.
"""


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser(
        "viz", help="draw attention heads and tracked objects of a checkpoint in a video", description=DESCRIPTION,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="weights of a plain ViT, anybody's")
    parser.add_argument("--video", required=True, type=Path, metavar="FILE", help="or a folder of images")
    parser.add_argument("--out", type=Path, default=Path("viz"), metavar="FOLDER", help="for what is drawn (viz)")
    clip = parser.add_argument_group("the clip")
    clip.add_argument("--at", type=float, metavar="SECONDS", help="of the first frame (so that it lies in the middle)")
    clip.add_argument("--frames", type=int, default=8, metavar="N", help="of the clip (8, as in the paper)")
    clip.add_argument("--gap", type=positive, default=1.0, metavar="SECONDS", help="between them (1, as in the paper)")
    clip.add_argument("--between", type=int, default=3, metavar="N", help="more frames between two, in the films (3)")
    clip.add_argument("--fps", type=positive, default=1.0, metavar="N", help="images a second, of a folder (1)")
    seeing = parser.add_argument_group("how it is seen")
    seeing.add_argument("--size", type=int, metavar="PIXELS", help="of the short side (as the ViT was trained)")
    objects = seeing.add_mutually_exclusive_group()
    objects.add_argument("--objects", type=int, default=3, metavar="K", help="that are followed, a head each (3)")
    objects.add_argument("--heads", type=_heads, metavar="0,2,5", help="that find them (drawn)")
    seeing.add_argument("--seed", type=int, default=0, help="of the draw of heads (0)")
    seeing.add_argument("--which", choices=("teacher", "student"), default="teacher", help="of a training (teacher)")
    seeing.add_argument("--architecture", metavar="NAME", help="timm's name, if neither the file nor shapes tell it")
    seeing.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(auto: a GPU if there is one)")
    parser.set_defaults(run=_viz)


def _viz(options: argparse.Namespace) -> int:
    from dora.artifacts import Machine
    from dora.viz import ViewConfig, visualise

    machine: dict[str, Any] = {"device": options.device} if options.device else {}
    try:
        config = ViewConfig(
            at_s=options.at, n_frames=options.frames, gap_s=options.gap, between=options.between, fps=options.fps,
            n_objects=options.objects, heads=options.heads, seed=options.seed, short_side=options.size,
            which=options.which, architecture=options.architecture,
        )  # fmt: skip
    except ValidationError as error:
        raise ValueError(recipes.explain(error)) from None
    with progress_bar() as progress:
        shown = visualise(
            checkpoint_path(options.checkpoint), options.video, options.out, config, machine=Machine(**machine),
            progress=progress,
        )  # fmt: skip
    print("\n".join(_told(shown.facts)))
    print(f"wrote {', '.join(path.name for path in shown.files)} in {shown.folder}; look at tracking.png first")
    return 0


def _told(facts: dict[str, Any]) -> list[str]:
    seen, video, frames = facts["seen"], facts["video"], facts["frames"]
    stretch = "" if seen["stretched"] == 1 else f" (stretched by {abs(seen['stretched'] - 1):.1%} to whole patches)"
    moment = f"{frames[0]['time_s']:.2f} s"
    clip = f"{len(frames)} frames from {moment} to {frames[-1]['time_s']:.2f} s" if len(frames) > 1 else f"at {moment}"
    lines = [
        f"{video['name']} {video['width']} x {video['height']}, {clip}, nothing cropped, "
        f"seen at {seen['width']} x {seen['height']}{stretch}",
        f"heads {', '.join(map(str, facts['heads']['used']))} of {facts['checkpoint']['heads']}",
    ]
    without, with_it = (facts[key]["mask_overlap"] for key in ("without_sinkhorn", "with_sinkhorn"))
    if without is not None:
        lines.append(f"the objects' masks overlap by {without:.0%} without Sinkhorn-Knopp, by {with_it:.0%} with it")
    return lines


def _heads(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected numbers of heads such as 0,2,5, got {text!r}")
    return tuple(int(part) for part in parts)
