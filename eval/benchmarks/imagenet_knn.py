"""ImageNet-1k: weighted k-nearest-neighbour classification of frozen [CLS] features, top-1 and top-5 in percent.

No training: each validation image is given the class of the training images most like it (eval/nearest_neighbours.py).
`top1_k10`, `top5_k10`, ... are the accuracies at each k; `top1` and `top5` those at the k that is quoted. Features come
from the store that all benchmarks share (eval/frozen/store.py); the processes share photos and queries, and a job that
is killed goes on where it was. docs/imagenet.md tells more.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.config import Finite
from dora.data.labelled import imagenet as layout
from dora.data.miniature import World
from dora.launch import Interrupted
from dora.progress import Progress
from eval.benchmark import Result, missing
from eval.identity import sampled

if TYPE_CHECKING:
    from eval.finetune.team import Team
    from eval.frozen.unit import UnitFeatures

log = logging.getLogger("dora.imagenet_knn")

VERSION = 2
PROTOCOL = "imagenet1k-knn20-t0.07-224"
DATASET = "imagenet"
HOW_TO_GET = (
    "`dora data get imagenet` says how. ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org), unpacked, "
    "the validation images sorted into class folders: the folder that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG."
)
HEADLINE = "top1"
COST = (
    "estimated, not measured: features of 1.33 million photos take about as long as decoding their JPEGs on a GPU's "
    "host, 50 000 x 1.28 million comparisons minutes on a GPU. No training; 2.3 GB of disk for the features."
)

PARALLEL = True

SUFFIXES = (".jpeg", ".jpg", ".png")
# Of validation photos more than k-NN needs are kept, at no cost: those that linear classifiers read.
N_KEPT_BLOCKS = 4
N_SHEET_QUERIES, N_SHEET_NEIGHBOURS = 8, 7
TOPS = (1, 5)
TOY_PICTURES = {"train": 12, "val": 6}  # of each class


class Config(Finite):
    """DINO's setting, which the paper uses (facebookresearch/dino eval_knn, 7c446df)."""

    crop: int = Field(default=224, ge=8, description="pixels; the short side is resized to 256/224 of it first")
    k: tuple[int, ...] = Field(default=(10, 20, 100, 200), min_length=1, description="--nb_knn")
    quoted_k: int = Field(default=20, ge=1, description="of `top1`: the k that papers quote")
    temperature: float = Field(default=0.07, gt=0, description="of the votes' weights; --temperature")


class Photo(NamedTuple):
    """One labelled file."""

    path: Path
    label: int


class _Shown(NamedTuple):
    """A query on the sheet: its nearest training images, and how similar the first is."""

    nearest: list[int]
    similarity: float


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of classes and images, and the hash of all file names."""
    classes, train, val = listing(data)
    if len(train) < min(config.k):
        raise ValueError(f"imagenet_knn: k = {min(config.k)} needs as many training images, {data} has {len(train)}.")
    return facts(classes, train, val)


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Accuracy of the votes of the k nearest training images, for each k that there are images for."""
    from eval.finetune.team import joined

    classes, train, val = listing(machine.datasets[DATASET])
    usable = sorted(k for k in config.k if k <= len(train))
    if len(usable) < len(config.k):
        log.warning("only k = %s: there are %d training images", usable, len(train))
    with joined(machine, out) as team:
        records = _measure(checkpoint, config, usable, machine, out, len(classes), train, val, team, progress)
        if team.ranks.rank:
            return Result({}, (), n_samples=0)
        metrics = {
            name: 100 * sum(sum(record["correct"][name]) for record in records) / len(val)
            for name in records[0]["correct"]
        }
        quoted_k = min(usable, key=lambda k: abs(k - config.quoted_k))
        metrics |= {f"top{top}": metrics[f"top{top}_k{quoted_k}"] for top in TOPS}
        shown = {int(query): _Shown(*row) for record in records for query, row in record["shown"].items()}
        _write_sheet(out / "neighbours.jpg", train, val, shown, config)
        return Result(metrics, ("neighbours.jpg",), n_samples=len(val), cost=team.cost())


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Pictures of single things in the street, by class; training and validation come from different streets."""
    layout.write(folder, world, {subset: n * times for subset, n in TOY_PICTURES.items()})
    return Config(crop=64, k=(10, 20))


def facts(classes: Sequence[str], train: Sequence[Photo], val: Sequence[Photo]) -> dict[str, Any]:
    """What `check` says of these images."""
    names = "".join("/".join(photo.path.parts[-3:]) + "\n" for photo in (*train, *val))
    digest = hashlib.sha256(names.encode()).hexdigest()
    return {
        "n_classes": len(classes), "n_train": len(train), "n_val": len(val), "list_sha256": digest,
        "sample_sha256": sampled([photo.path for photo in (*train, *val)]),
    }  # fmt: skip


def listing(data: Path, *, benchmark: str = "imagenet_knn") -> tuple[list[str], list[Photo], list[Photo]]:
    """Class folder names in sorted order, which are the labels, and the images of both subsets.

    Raises:
        FileNotFoundError: if the data set is not there; it says how to get it for `benchmark`.
        ValueError: if the subsets have other classes, or a class no image.
    """
    for subset in ("train", "val"):
        if not (data / subset).is_dir():
            raise missing(f"folder {subset}", data, benchmark)
    classes = _folders(data / "train")
    if not classes:
        raise missing("class folder train/n01440764, …", data, benchmark)
    if odd := set(classes) ^ set(_folders(data / "val")):
        raise ValueError(
            f"{benchmark}: {data}/train has {len(classes)} class folders, and val must have the same ones; "
            f"{min(odd)} is in one of them only. Sort the validation images into class folders."
        )
    train, val = (_photos(data / subset, classes, benchmark) for subset in ("train", "val"))
    return classes, train, val


def class_names(data: Path) -> dict[str, str]:
    """What the class folders are called, as far as the data set says."""
    mapping = data / layout.SYNSETS
    return dict(line.split(" ", 1) for line in mapping.read_text().splitlines()) if mapping.exists() else {}


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _photos(folder: Path, classes: Sequence[str], benchmark: str) -> list[Photo]:
    photos: list[Photo] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in os.listdir(folder / name) if file.lower().endswith(SUFFIXES))
        if not files:
            raise ValueError(f"{benchmark}: {folder / name} holds no image ({', '.join(SUFFIXES)}). Unpack it again.")
        photos += (Photo(folder / name / file, label) for file in files)
    return photos


def _measure(
    checkpoint: Checkpoint, config: Config, usable: Sequence[int], machine: Machine, out: Path, n_classes: int,
    train: Sequence[Photo], val: Sequence[Photo], team: "Team", progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """What was found for each chunk of validation images, in order, on rank 0; the processes share the chunks."""
    import torch

    from eval.features import frozen_backbone
    from eval.finetune.records import measure_each
    from eval.nearest_neighbours import ROWS_PER_CHUNK, is_correct, nearest_neighbours, votes
    from eval.pictures import evenly

    depth = len(frozen_backbone(checkpoint, machine).blocks)
    train_features = _features(checkpoint, train, 1, config, machine, team, progress)
    features = _features(checkpoint, val, min(N_KEPT_BLOCKS, depth), config, machine, team, progress)
    train_labels, labels = (torch.tensor([photo.label for photo in photos]) for photos in (train, val))
    queries = evenly(len(val), N_SHEET_QUERIES)

    def told() -> None:
        team.tell(0)
        if team.should_stop():
            raise Interrupted

    def work(number: int) -> dict[str, Any]:
        rows = slice(number * ROWS_PER_CHUNK, (number + 1) * ROWS_PER_CHUNK)
        own = features.chunk(rows.start, rows.stop, torch.device("cpu"))
        found = nearest_neighbours(own, train_features, k=usable[-1], device=team.ranks.device, told=told)
        correct: dict[str, list[int]] = {}
        for k in usable:
            summed = votes(found.first(k), train_labels, n_classes=n_classes, temperature=config.temperature)
            for top in TOPS:
                correct[f"top{top}_k{k}"] = is_correct(summed, labels[rows], top=top).int().tolist()
        shown = {
            query: _Shown(
                found.train_index[query - rows.start, :N_SHEET_NEIGHBOURS].tolist(),
                found.similarity[query - rows.start, 0].item(),
            )
            for query in queries
            if rows.start <= query < rows.stop
        }
        progress(min(rows.stop, len(val)), len(val), "images", "neighbours")
        return {"correct": correct, "shown": shown}

    measured = measure_each(out, -(-len(val) // ROWS_PER_CHUNK), work, team)
    progress(len(val), len(val), "images", "neighbours")
    return [*measured.records.values()]


def _features(
    checkpoint: Checkpoint, photos: Sequence[Photo], n_blocks: int, config: Config, machine: Machine, team: "Team",
    progress: Progress,
) -> "UnitFeatures":  # fmt: skip
    """[CLS] after the last block and the final LayerNorm, of unit length."""
    from eval.frozen.store import class_tokens
    from eval.frozen.unit import UnitFeatures

    paths = [photo.path for photo in photos]
    tokens = class_tokens(
        checkpoint, paths, crop=config.crop, n_blocks=n_blocks, machine=machine, team=team, progress=progress
    )
    return UnitFeatures(tokens[:, -1])


def _write_sheet(
    path: Path, train: Sequence[Photo], val: Sequence[Photo], shown: dict[int, _Shown], config: Config
) -> None:
    """Queries spread over the classes, each with its nearest training images: green of the same class, else red."""
    from eval.images import read_photo
    from eval.pictures import RIGHT, WRONG, framed, write_sheet

    names = class_names(val[0].path.parents[2])
    rows: list[tuple[str, list[np.ndarray]]] = []
    for query, (nearest, similarity) in sorted(shown.items()):
        cells = [read_photo(val[query].path, crop=config.crop)]
        for index in nearest:
            image = read_photo(train[index].path, crop=config.crop)
            cells.append(framed(image, RIGHT if train[index].label == val[query].label else WRONG))
        wnid = val[query].path.parent.name
        rows.append((f"{names.get(wnid, wnid)}, then its nearest (first: cosine {similarity:.3f})", cells))
    write_sheet(path, rows, cell_height=96)
