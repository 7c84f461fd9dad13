"""The last stage of a study: one page about many encoders, from several seeds each, all measured alike.

root/study/<fingerprint>/index.html  study.md  study.tex  study.json  scores.svg  curves.svg     root/study/latest
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dora import cache
from dora.artifacts import Artifact, Machine
from dora.progress import Progress, silent
from eval.report import point_latest_at
from eval.report.data import RunFacts
from eval.study.cells import Cell, cells, unlearnt
from eval.study.made import Made

__all__ = ["VERSION", "Cell", "Made", "Study", "cells", "study", "unlearnt"]

VERSION = 4


class Study(Artifact):
    """A finished study. The page holds everything; the others say the same for programs, READMEs and papers."""

    path: Path
    data_path: Path
    markdown_path: Path


def study(
    title: str, made: Sequence[Made], machine: Machine, *, reference: str, failures: Mapping[str, str], run: RunFacts,
    rerun: bool = False, progress: Progress = silent,
) -> Study:  # fmt: skip
    """Write the tables and plots of a study and point `root/study/latest` at them.

    `made` are the encoders that there are, with their scores, in the order of the table; `reference` is the variant
    that the others are compared with, as far as it was made; `failures` says of a cell, or of a cell and a benchmark,
    why it has no score. `run` is printed but does not enter the fingerprint.
    """

    def make(folder: Path) -> dict[str, Any]:
        from eval.study.collect import collect
        from eval.study.page import write

        data = collect(title, made, reference=reference, failures=failures, run=run)
        write(data, folder)
        progress(1, 1, "pages")
        return {"title": data.title}

    inputs: dict[str, Artifact] = {}
    for one in made:
        name = one.cell.name
        inputs[f"checkpoint {name}"] = one.checkpoint
        if one.covering:
            inputs[f"covering {name}"] = one.covering
        inputs |= {f"score {name} {score.benchmark}": score for score in one.scores}
    asked = {
        "title": title, "reference": reference, "failures": dict(failures),
        "cells": [one.cell.model_dump(mode="json") for one in made],
    }  # fmt: skip
    built = cache.build(machine, "study", VERSION, asked, inputs, make, rerun=rerun)
    point_latest_at(built.folder)
    return Study(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        path=built.folder / "index.html", data_path=built.folder / "study.json",
        markdown_path=built.folder / "study.md",
    )  # fmt: skip
