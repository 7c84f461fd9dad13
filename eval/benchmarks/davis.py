"""DAVIS-2017: label propagation with frozen features, region similarity J and contour accuracy F, in percent.

No training: the first frame's masks wander through the video along the similarity of patch features (DINO's
procedure, eval/propagation.py), and the official measure tells how well (eval/region_contour.py). The result PNGs,
results/<sequence>/<frame>.png, are what the official tool reads; films/<sequence>.mp4 shows them; objects.json and
sequences.json have mean, recall and decay of J and F of each. docs/davis.md tells more.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import davis as layout
from dora.data.miniature import World
from dora.launch import Interrupted
from dora.progress import Progress
from eval.benchmark import Result
from eval.identity import sampled
from eval.video.how import Propagation
from eval.video.sequences import Sequence, look_at, sequences

if TYPE_CHECKING:
    from eval.finetune.team import Team
    from eval.region_contour import Statistics
    from eval.video.following import Record

log = logging.getLogger("dora.davis")

VERSION = 2
PROTOCOL = "davis2017-val-480p-propagation"
DATASET = "davis"
HOW_TO_GET = (
    "`dora data get davis` does; or unpack DAVIS-2017-trainval-480p.zip (davischallenge.org): "
    "the folder that holds JPEGImages/480p, Annotations/480p and ImageSets/2017."
)
HEADLINE = "J_and_F_mean"
COST = "estimated, not measured: 1,999 frames of 480p, an hour on a few CPU cores, minutes on a GPU. No training."

PARALLEL = True

IMAGES, ANNOTATIONS, LISTS = layout.IMAGES, layout.ANNOTATIONS, layout.LISTS
N_SHEET_SEQUENCES, N_SHEET_FRAMES = 4, 6


class Config(Propagation):
    """DINO's setting on the official split."""

    split: str = Field(default="val", description="30 sequences with 61 objects in ImageSets/2017/val.txt")


class _Broken(Exception):
    """A sequence that cannot be measured: without it there is no score, and the others need not be waited for."""

    def __init__(self, error: ValueError | OSError) -> None:
        super().__init__(str(error))
        self.error = error


def check(data: Path, config: Config) -> dict[str, Any]:
    """Number of sequences and frames, and the hash of the list."""
    listed = sequences(data, config.split)
    for sequence in listed:
        look_at(sequence)
    digest = hashlib.sha256((data / LISTS / f"{config.split}.txt").read_bytes()).hexdigest()
    n_frames = sum(len(sequence.photos) for sequence in listed)
    photos = sampled([path for sequence in listed for path in sequence.photos])
    labels = sampled([path for sequence in listed for path in sequence.annotations])
    return {
        "n_sequences": len(listed), "n_frames": n_frames, "list_sha256": digest, "sample_sha256": photos + labels,
    }  # fmt: skip


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """J&F over all objects. A sequence that is complete in `out` is not measured again."""
    from eval.finetune.team import joined

    listed = sequences(machine.datasets[DATASET], config.split)
    with joined(machine, out) as team:
        records = _measure(checkpoint, config, machine, out, listed, team, progress)
        if team.ranks.rank:
            return Result({}, (), n_samples=0)
        return _result(out, listed, records, team)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Three walks of twelve frames, a tenth of a second apart, each with two or three things to follow."""
    layout.write(folder, {"val": layout.walks(world, "val", 3 * times)})
    # Patches of 8 or 16 px: a radius that covers the same share of the grid as 12 does at 480p.
    return Config(short_side=96, long_side_multiple=16, radius=5)


def _measure(
    checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, listed: list[Sequence], team: "Team",
    progress: Progress,
) -> dict[str, "Record"]:  # fmt: skip
    """Each sequence's scores by name, on rank 0; the processes share the sequences."""
    from eval.features import frozen_backbone
    from eval.finetune.records import measure_each
    from eval.video.following import RESULTS, follow

    vit = frozen_backbone(checkpoint, machine)
    # The longest first and dealt out in turn: the processes are done at about the same time.
    order = sorted(listed, key=lambda sequence: -len(sequence.photos))
    n_frames = sum(len(sequence.photos) for sequence in order)
    done = sum(len(sequence.photos) for sequence in order if (out / RESULTS / sequence.name).exists())

    def work(number: int) -> "Record":
        sequence = order[number]

        def told(t: int) -> None:
            nonlocal done
            done += team.ranks.world_size  # the others are about as far
            team.tell(number)
            if team.should_stop():
                raise Interrupted
            progress(min(done, n_frames), n_frames, "frames", sequence.name)

        try:
            return follow(vit, sequence, config, out, n_threads=machine.n_workers, told=told)
        except (ValueError, OSError) as error:
            raise _Broken(error) from error

    try:
        measured = measure_each(out, len(order), work, team, what="sequence")
    except _Broken as broken:
        raise broken.error from None
    progress(n_frames, n_frames, "frames", "")
    return {order[number].name: record for number, record in measured.records.items()}


def _result(out: Path, listed: list[Sequence], records: dict[str, "Record"], team: "Team") -> Result:
    from eval.pictures import evenly
    from eval.region_contour import object_statistics, summary
    from eval.video.following import FILMS, scores_of

    objects = object_statistics({sequence.name: scores_of(records[sequence.name]) for sequence in listed})
    _write_parts(out, objects)
    shown = [listed[i] for i in evenly(len(listed), N_SHEET_SEQUENCES)]
    _write_contact_sheet(out / "davis.jpg", out, shown)
    lost = [f"{sequence.name} {label}" for sequence in listed for label in records[sequence.name]["lost"]]
    notes = (f"objects smaller than a patch, which cannot be followed: {', '.join(lost)}",) if lost else ()
    for note in notes:
        log.warning("%s", note)
    return Result(
        {name: 100 * share for name, share in summary(objects).items()},
        ("davis.jpg", *(f"{FILMS}/{sequence.name}.mp4" for sequence in shown)),
        n_samples=len(objects), notes=notes, cost=team.cost(),
    )  # fmt: skip


def _write_parts(out: Path, objects: dict[str, tuple["Statistics", "Statistics"]]) -> None:
    """Percentages of each object and, averaged over its objects, of each sequence: lists of rows with a name."""
    rows = {name: _percentages(*both) for name, both in objects.items()}
    sequences: dict[str, list[dict[str, float]]] = {}
    for name, row in rows.items():
        sequences.setdefault(name.rpartition("_")[0], []).append(row)
    means = {
        name: {metric: float(np.mean([row[metric] for row in group])) for metric in group[0]}
        for name, group in sequences.items()
    }
    for file, table in (("objects.json", rows), ("sequences.json", means)):
        (out / file).write_text(json.dumps([{"name": name, **row} for name, row in table.items()], indent=1))


def _percentages(J: "Statistics", F: "Statistics") -> dict[str, float]:
    each = {
        f"{letter}_{name}": 100 * share
        for letter, statistics in (("J", J), ("F", F))
        for name, share in statistics._asdict().items()
    }
    return {"J_and_F_mean": (each["J_mean"] + each["F_mean"]) / 2, **each}


def _write_contact_sheet(path: Path, out: Path, shown: list[Sequence]) -> None:
    """Ground truth above result, for a few sequences and frames spread over all."""
    from eval.images import read_labels, read_palette, read_video_frame
    from eval.pictures import evenly, overlay, write_sheet
    from eval.video.following import RESULTS

    rows: list[tuple[str, list[np.ndarray]]] = []
    for sequence in shown:
        chosen = evenly(len(sequence.photos), N_SHEET_FRAMES)
        photos = [read_video_frame(sequence.photos[t]) for t in chosen]
        truth = [sequence.annotations[t] for t in chosen]
        result = [out / RESULTS / sequence.name / annotation.name for annotation in truth]
        for what, labels in (("ground truth", truth), ("result", result)):
            cells = [overlay(i, read_labels(p), read_palette(p)) for i, p in zip(photos, labels, strict=True)]
            rows.append((f"{sequence.name}: {what}, frames {', '.join(p.stem for p in labels)}", cells))
    write_sheet(path, rows, cell_height=120)
