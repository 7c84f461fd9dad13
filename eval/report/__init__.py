"""The last stage: one page that says what was measured, beside the paper's numbers, and how to repeat it.

root/report/<fingerprint>/index.html  report.md  report.json  clip-1.jpg …      root/report/latest -> the newest
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Machine, Shards, Video
from dora.config import MiniatureVideo, Recipe
from dora.progress import Progress, silent
from eval.benchmark import Score
from eval.report.data import RunFacts

__all__ = ["VERSION", "Report", "RunFacts", "report"]

log = logging.getLogger("dora.report")

VERSION = 5


class Report(Artifact):
    """A finished report. The page holds everything; the other two say the same for programs and for READMEs."""

    path: Path
    data_path: Path
    markdown_path: Path


def report(
    recipe: Recipe, videos: Sequence[Video], shards: Sequence[Shards], checkpoint: Checkpoint, scores: Sequence[Score],
    machine: Machine, *, failures: Mapping[str, str], run: RunFacts, rerun: bool = False, progress: Progress = silent,
) -> Report:  # fmt: skip
    """Write the report of one run and point `root/report/latest` at it.

    Scores may be of several protocols, also of one benchmark: each has columns of its own.
    `failures` says, for each benchmark without a score, why. `run` is printed but does not enter the fingerprint:
    a report whose artifacts are all the same is served as it is, with the facts of the run that first made it.
    Without videos and shards the checkpoint is a file of unknown origin: `recipe` is not said to have made it.

    Raises:
        ValueError: for two scores of one protocol.
    """

    def make(folder: Path) -> dict[str, Any]:
        # Heavy: torch for the pictures, jinja2 for the page.
        from dora.data.miniature import world_of
        from eval.report.collect import collect
        from eval.report.figures import draw_clips
        from eval.report.page import write

        progress(0, 2, "parts", "drawing what the teacher tracks")
        folders = [artifact.folder for artifact in shards]
        worlds = {config.name: world_of(config) for config in recipe.videos if isinstance(config, MiniatureVideo)}
        clips = draw_clips(checkpoint.path, folders, recipe.pretrain, folder, worlds=worlds) if shards else ()
        progress(1, 2, "parts", "writing the page")
        data = collect(recipe, videos, shards, checkpoint, scores, failures=failures, run=run, clips=clips, out=folder)
        write(data, folder)
        progress(2, 2, "parts")
        return {"title": data.title, "summary": data.summary}

    inputs: dict[str, Artifact] = {"checkpoint": checkpoint}
    inputs |= {f"video-{number}": video for number, video in enumerate(videos)}
    inputs |= {f"shards-{number}": made for number, made in enumerate(shards)}
    inputs |= {f"score-{score.protocol}": score for score in scores}
    protocols = [score.protocol for score in scores]
    if twice := sorted({one for one in protocols if protocols.count(one) > 1}):
        raise ValueError(f"expected one score of a protocol, got several of {', '.join(twice)}. Leave one out.")
    built = cache.build(machine, "report", VERSION, {"failures": dict(failures)}, inputs, make, rerun=rerun)
    point_latest_at(built.folder)
    return Report(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        path=built.folder / "index.html", data_path=built.folder / "report.json",
        markdown_path=built.folder / "report.md",
    )  # fmt: skip


def point_latest_at(folder: Path) -> None:
    """Replace the link in one step, so that it never points nowhere."""
    temporary = folder.parent / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(folder.parent / "latest")
