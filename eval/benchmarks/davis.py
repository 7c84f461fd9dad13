"""DAVIS-2017: label propagation with frozen features, region similarity J and contour accuracy F, in percent.

No training: the first frame's masks wander through the video along the similarity of patch features (DINO's
procedure, eval/propagation.py), and the official measure tells how well (eval/region_contour.py). The result PNGs,
results/<sequence>/<frame>.png, are what the official tool reads.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.config import Frozen
from dora.data.labelled import davis as layout
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result, missing

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from eval.region_contour import SequenceScore, Statistics

log = logging.getLogger("dora.davis")

VERSION = 1
PROTOCOL = "davis2017-val-480p-propagation"
DATASET = "davis"
HOW_TO_GET = (
    "`dora data get davis` does; or unpack DAVIS-2017-trainval-480p.zip (davischallenge.org): "
    "the folder that holds JPEGImages/480p, Annotations/480p and ImageSets/2017."
)
HEADLINE = "J_and_F_mean"

IMAGES, ANNOTATIONS, LISTS = layout.IMAGES, layout.ANNOTATIONS, layout.LISTS
# The red channel's 0.228 is what DINO's script has, where everything else has 0.229.
STD = (0.228, 0.224, 0.225)
# Bounds memory; frames are independent, so it changes no score.
FRAMES_PER_BATCH = 8
N_SHEET_SEQUENCES, N_SHEET_FRAMES = 4, 6


class Config(Frozen):
    """DINO's setting, which the paper's comparison uses (facebookresearch/dino eval_video_segmentation, 7c446df)."""

    split: str = Field(default="val", description="30 sequences with 61 objects in ImageSets/2017/val.txt")
    short_side: int = Field(default=480, ge=1, description="pixels, to which frames are resized")
    long_side_multiple: int = Field(default=64, ge=1, description="the long side is floored to a multiple of this")
    n_last_frames: int = Field(default=7, ge=0, description="context besides the first frame; --n_last_frames")
    top_k: int = Field(default=5, ge=1, description="patches that vote for a patch's label; --topk")
    radius: int = Field(default=12, ge=1, description="patches; how far away they may be; --size_mask_neighborhood")
    temperature: float = Field(default=0.1, gt=0, description="of the votes' weights; fixed in the script")


def check(data: Path, config: Config) -> dict[str, Any]:
    """Number of sequences and frames, and the hash of the list."""
    listing = data / LISTS / f"{config.split}.txt"
    for path in (data / IMAGES, data / ANNOTATIONS, listing):
        if not path.exists():
            raise missing(str(path.relative_to(data)), data, "davis")
    sequences = _sequences(data, config)
    if not sequences:
        raise ValueError(f"{listing} lists no sequence. Fetch the data set again.")
    n_frames = sum(len(_frame_names(data, name)) for name in sequences)
    digest = hashlib.sha256(listing.read_bytes()).hexdigest()
    return {"n_sequences": len(sequences), "n_frames": n_frames, "list_sha256": digest}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """J&F over all objects. A sequence whose results are complete in `out` is not propagated again."""
    from eval.features import frozen_backbone
    from eval.region_contour import object_statistics, summary

    data, vit = machine.datasets[DATASET], frozen_backbone(checkpoint, machine)
    frames = {name: _frame_names(data, name) for name in _sequences(data, config)}
    n_frames, done = sum(map(len, frames.values())), 0
    scores: dict[str, SequenceScore] = {}
    for name, frame_names in frames.items():
        for t in _propagate(vit, config, machine, data, name, out):
            progress(done + t, n_frames, "frames", name)
        scores[name] = _score(data, name, out)
        done += len(frame_names)
        progress(done, n_frames, "frames", name)
    objects = object_statistics(scores)
    _write_objects(out / "objects.json", objects)
    _write_contact_sheet(out / "davis.jpg", data, out, frames)
    metrics = {name: 100 * share for name, share in summary(objects).items()}
    return Result(metrics, ("davis.jpg",), n_samples=len(objects))


def miniature(world: World, folder: Path) -> Config:
    """Three walks of twelve frames, a tenth of a second apart, each with two or three things to follow."""
    layout.write(folder, {"val": layout.walks(world, "val", 3)})
    # Patches of 8 or 16 px: a radius that covers the same share of the grid as 12 does at 480p.
    return Config(short_side=96, long_side_multiple=16, radius=5)


def _sequences(data: Path, config: Config) -> list[str]:
    return (data / LISTS / f"{config.split}.txt").read_text().split()


def _frame_names(data: Path, sequence: str) -> list[str]:
    images = {path.stem for path in (data / IMAGES / sequence).glob("*.jpg")}
    annotations = {path.stem for path in (data / ANNOTATIONS / sequence).glob("*.png")}
    if not images:
        raise missing(f"{IMAGES}/{sequence}/*.jpg", data, "davis")
    if images != annotations:
        odd = sorted(images ^ annotations)
        raise ValueError(
            f"davis: sequence {sequence} has {len(images)} frames and {len(annotations)} annotations, which must "
            f"match by name; {odd[0]} lacks one of them. Unpack the data set again."
        )
    return sorted(images)


def _propagate(
    vit: "VisionTransformer", config: Config, machine: Machine, data: Path, sequence: str, out: Path
) -> Iterator[int]:
    """Write a sequence's result PNGs, telling each frame's number when it is written."""
    from dora.data.labelled.files import write_labels
    from eval.features import patch_features, patch_size
    from eval.images import read_ahead, read_labels, read_palette, read_video_frame, resized
    from eval.propagation import grid_labels, label_map, network_size, propagate
    from eval.region_contour import VOID

    results = out / "results" / sequence
    if results.exists():
        return
    names = _frame_names(data, sequence)
    first_path = data / ANNOTATIONS / sequence / f"{names[0]}.png"
    first, palette = read_labels(first_path), read_palette(first_path)
    first[first == VOID] = 0
    size = network_size(*first.shape, short_side=config.short_side, multiple=config.long_side_multiple)
    patch = patch_size(vit, *size)
    labels = grid_labels(first, (size[0] // patch, size[1] // patch))
    lost = sorted(set(np.unique(first).tolist()) - set(labels.flatten(0, 1).argmax(1).tolist()))
    if lost:
        log.warning("%s: objects %s are smaller than a patch and cannot be followed", sequence, lost)

    def read(name: str) -> np.ndarray:
        return resized(read_video_frame(data / IMAGES / sequence / f"{name}.jpg"), *size)

    unfinished = out / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    write_labels(unfinished / f"{names[0]}.png", first, palette)
    images = read_ahead(read, names, n_threads=machine.n_workers)
    features = patch_features(vit, images, batch_size=FRAMES_PER_BATCH, std=STD)
    soft_labels = propagate(
        features, labels, n_last_frames=config.n_last_frames, top_k=config.top_k, radius=config.radius,
        temperature=config.temperature,
    )  # fmt: skip
    for t, soft in enumerate(soft_labels, start=1):
        write_labels(unfinished / f"{names[t]}.png", label_map(soft, patch_size=patch, size=first.shape), palette)
        yield t
    # Renamed when complete: what is in results need not be done again after an interruption.
    results.parent.mkdir(exist_ok=True)
    unfinished.rename(results)


def _score(data: Path, sequence: str, out: Path) -> "SequenceScore":
    from eval.images import read_labels
    from eval.region_contour import score_sequence

    paths = sorted((out / "results" / sequence).iterdir())
    try:
        return score_sequence(
            (read_labels(data / ANNOTATIONS / sequence / path.name), read_labels(path)) for path in paths
        )
    except ValueError as error:
        raise ValueError(f"davis, sequence {sequence}: {error}") from None


def _write_objects(path: Path, objects: dict[str, tuple["Statistics", "Statistics"]]) -> None:
    """Percentages of each object and, averaged over its objects, of each sequence."""
    rows = {name: _percentages(*both) for name, both in objects.items()}
    sequences: dict[str, list[dict[str, float]]] = {}
    for name, row in rows.items():
        sequences.setdefault(name.rpartition("_")[0], []).append(row)
    means = {
        name: {metric: float(np.mean([row[metric] for row in group])) for metric in group[0]}
        for name, group in sequences.items()
    }
    path.write_text(json.dumps({"objects": rows, "sequences": means}, indent=1))


def _percentages(J: "Statistics", F: "Statistics") -> dict[str, float]:
    return {
        f"{letter}_{name}": 100 * share
        for letter, statistics in (("J", J), ("F", F))
        for name, share in statistics._asdict().items()
    }


def _write_contact_sheet(path: Path, data: Path, out: Path, frames: dict[str, list[str]]) -> None:
    """Ground truth above result, for a few sequences and frames spread over all."""
    from eval.images import read_labels, read_palette, read_video_frame
    from eval.pictures import evenly, overlay, write_sheet

    rows: list[tuple[str, list[np.ndarray]]] = []
    sequences = list(frames)
    for sequence in (sequences[i] for i in evenly(len(sequences), N_SHEET_SEQUENCES)):
        names = [frames[sequence][t] for t in evenly(len(frames[sequence]), N_SHEET_FRAMES)]
        for what, folder in (("ground truth", data / ANNOTATIONS), ("result", out / "results")):
            labels = [folder / sequence / f"{name}.png" for name in names]
            images = [read_video_frame(data / IMAGES / sequence / f"{name}.jpg") for name in names]
            cells = [overlay(i, read_labels(p), read_palette(p)) for i, p in zip(images, labels, strict=True)]
            rows.append((f"{sequence}: {what}, frames {', '.join(names)}", cells))
    write_sheet(path, rows, cell_height=120)
