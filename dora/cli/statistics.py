"""`dora data statistics`: the paper's analysis of its data set, for any video."""

import argparse
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dora import recipes
from dora.cli import Commands, positive
from dora.progress import progress_bar

DESCRIPTION = """\
Measures videos as the paper's Figure 2 and Table 1 do its own: lightness over time, cuts, objects in a frame and
distinct classes; and colour, motion, duration, resolution and size. Every picture is decoded once, one at a time;
what is measured is kept as it goes, so the same command goes on after a stop, to the same bytes.

  statistics.json  all of it (the schema is in docs/statistics.md); --compare takes it
  statistics.png   six panels, a colour a video
  statistics.md    a table, with what is known of the paper's own
"""
EXAMPLES = """\
examples:
  dora data statistics walk.mp4                              into ./statistics
  dora data statistics walk.mp4 traffic.mp4 --out compared   side by side
  dora data statistics walk.mp4 --compare venice/statistics.json
  dora data statistics walk.mp4 --detector fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth
  dora data statistics walk.mp4 --write-frames               then run any detector over statistics/frames/walk, and:
  dora data statistics walk.mp4 --detector results.json      nothing is decoded again

Objects need a detector; without one their panels say so. It is weights of torchvision.models.detection, or a file of
detections in COCO's results format, whose image_id is the number of the sampled picture (frames/*/images.json).
"""


def add(actions: Commands) -> None:
    """Add this command to the parser of `dora data`."""
    parser = actions.add_parser(
        "statistics", help="light, cuts, objects and classes of any video, as the paper's Figure 2 has them",
        description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--out", type=Path, default=Path("statistics"), metavar="FOLDER", help="(statistics)")
    parser.add_argument("--compare", nargs="+", action="extend", type=Path, default=[], metavar="JSON",
                        help="statistics.json of other videos, drawn beside these")  # fmt: skip
    parser.add_argument("--sample-fps", type=positive, default=1.0, metavar="N", help="pictures measured a second (1)")
    parser.add_argument("--detector", metavar="FILE", default="none", help="detections or weights, see below (none)")
    parser.add_argument("--detector-model", metavar="NAME", help="torchvision's, where the file's name does not tell")
    parser.add_argument("--score", type=float, default=0.5, metavar="S", help="least score of an object (0.5)")
    parser.add_argument("--write-frames", action="store_true", help="keep the sampled pictures, for a detector")
    parser.add_argument("--no-cuts", action="store_true", help="do not look for cuts: no need of PySceneDetect")
    parser.add_argument("--no-motion", action="store_true", help="do not measure motion: no need of OpenCV")
    parser.set_defaults(run=_statistics)


def _statistics(options: argparse.Namespace) -> int:
    from dora.artifacts import Machine
    from dora.data.statistics import StatisticsConfig, analyse

    try:
        config = StatisticsConfig(
            sample_fps=options.sample_fps, min_score=options.score, cuts=not options.no_cuts,
            motion=not options.no_motion,
        )  # fmt: skip
    except ValidationError as error:
        raise ValueError(recipes.explain(error)) from None
    pace, detector = _Pace(), None if options.detector == "none" else Path(options.detector)
    with progress_bar() as progress:

        def listen(done: float, total: float, unit: str, note: str = "") -> None:
            pace.note(done, note)
            progress(done, total, unit, note)

        analysis = analyse(
            options.videos, options.out, config, detector=detector,
            architecture=options.detector_model, compare=options.compare, write_frames=options.write_frames,
            machine=Machine(), progress=listen,
        )  # fmt: skip
    for video in analysis.statistics.videos:
        print("\n".join(_told(video)))
    print(f"wrote statistics.png, .md and .json in {analysis.folder}{pace}")
    return 0


class _Pace:
    """Pictures a second, of those that were decoded now."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._began = time.monotonic()

    def note(self, done: float, name: str) -> None:
        self._first.setdefault(name, done)
        self._last[name] = done

    def __str__(self) -> str:
        n_pictures = sum(self._last[name] - self._first[name] for name in self._last)
        seconds = time.monotonic() - self._began
        return f" ({n_pictures:,.0f} pictures, {n_pictures / seconds:,.0f} a second)" if n_pictures else ""


def _told(video: Any) -> list[str]:
    from dora.data.contact_sheet import clock

    file, summary = video.file, video.summary
    lines = [
        f"{video.name}: {clock(file.duration_s)}, {file.width}x{file.height}, {file.fps:.4g} pictures a second",
        f"  lightness  L* {summary.lightness_mean:.1f} ({summary.lightness_min:.1f} to {summary.lightness_max:.1f})",
    ]
    if summary.n_cuts is not None:
        lines.append(f"  cuts       {summary.n_cuts} ({summary.cuts_per_hour:.1f} an hour)")
    if summary.motion_mean is not None:
        lines.append(f"  motion     {summary.motion_mean:.3f} picture widths a second")
    if video.detector is None:
        lines.append("  objects    not counted: no detector (see --help)")
    else:
        lines.append(f"  objects    {summary.objects_mean:.1f} in a frame, {summary.n_classes} classes")
    if file.n_damaged:
        lines.append(f"  damaged    {file.n_damaged} of {file.n_pictures} pictures were left out")
    return lines
