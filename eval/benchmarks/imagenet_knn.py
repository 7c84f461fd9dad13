"""ImageNet-1k: weighted k-nearest-neighbour classification of frozen [CLS] features, top-1 and top-5 in percent.

No training: each validation image is given the class of the training images most like it (eval/nearest_neighbours.py).
`top1_k10`, `top5_k10`, ... are the accuracies at each k; `top1` and `top5` those at the k that is quoted.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.config import Frozen
from dora.data.labelled import imagenet as layout
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result, missing

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

    from eval.nearest_neighbours import Neighbours

log = logging.getLogger("dora.imagenet_knn")

VERSION = 1
PROTOCOL = "imagenet1k-knn20-t0.07-224"
DATASET = "imagenet"
HOW_TO_GET = (
    "`dora data get imagenet` says how. ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org), unpacked, "
    "the validation images sorted into class folders: the folder that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG."
)
HEADLINE = "top1"

SUFFIXES = (".jpeg", ".jpg", ".png")
IMAGES_PER_BATCH = 64
N_SHEET_QUERIES, N_SHEET_NEIGHBOURS = 8, 7
TOY_PICTURES = {"train": 12, "val": 6}  # of each class


class Config(Frozen):
    """DINO's setting, which the paper uses (facebookresearch/dino eval_knn, 7c446df)."""

    crop: int = Field(default=224, ge=8, description="pixels; the short side is resized to 256/224 of it first")
    k: tuple[int, ...] = Field(default=(10, 20, 100, 200), min_length=1, description="--nb_knn")
    quoted_k: int = Field(default=20, ge=1, description="of `top1`: the k that papers quote")
    temperature: float = Field(default=0.07, gt=0, description="of the votes' weights; --temperature")


class Photo(NamedTuple):
    """One labelled file."""

    path: Path
    label: int


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of classes and images, and the hash of all file names."""
    classes, train, val = listing(data)
    if len(train) < min(config.k):
        raise ValueError(f"imagenet_knn: k = {min(config.k)} needs as many training images, {data} has {len(train)}.")
    names = "".join("/".join(photo.path.parts[-3:]) + "\n" for photo in (*train, *val))
    digest = hashlib.sha256(names.encode()).hexdigest()
    return {"n_classes": len(classes), "n_train": len(train), "n_val": len(val), "list_sha256": digest}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Accuracy of the votes of the k nearest training images, for each k that there are images for."""
    import torch

    from eval.features import frozen_backbone, patch_size
    from eval.nearest_neighbours import accuracy, nearest_neighbours, votes

    classes, train, val = listing(machine.datasets[DATASET])
    usable = sorted(k for k in config.k if k <= len(train))
    if len(usable) < len(config.k):
        log.warning("only k = %s: there are %d training images", usable, len(train))
    vit = frozen_backbone(checkpoint, machine)
    patch_size(vit, config.crop)
    total = len(train) + len(val)
    train_features = _features(vit, train, config, machine, lambda done: progress(done, total, "images", "train"))
    val_features = _features(
        vit, val, config, machine, lambda done: progress(len(train) + done, total, "images", "val")
    )
    found = nearest_neighbours(val_features, train_features.to(next(vit.parameters()).device), k=usable[-1])
    train_labels, labels = (torch.tensor([photo.label for photo in photos]) for photos in (train, val))
    metrics: dict[str, float] = {}
    quoted_k = min(usable, key=lambda k: abs(k - config.quoted_k))
    for k in usable:
        summed = votes(found.first(k), train_labels, n_classes=len(classes), temperature=config.temperature)
        for top in (1, 5):
            metrics[f"top{top}_k{k}"] = 100 * accuracy(summed, labels, top=top)
    metrics |= {f"top{top}": metrics[f"top{top}_k{quoted_k}"] for top in (1, 5)}
    _write_sheet(out / "neighbours.jpg", train, val, found, config)
    return Result(metrics, ("neighbours.jpg",), n_samples=len(val))


def miniature(world: World, folder: Path) -> Config:
    """Pictures of single things in the street, by class; training and validation come from different streets."""
    layout.write(folder, world, TOY_PICTURES)
    return Config(crop=64, k=(10, 20))


def listing(data: Path) -> tuple[list[str], list[Photo], list[Photo]]:
    """Class folder names in sorted order, which are the labels, and the images of both subsets."""
    for subset in ("train", "val"):
        if not (data / subset).is_dir():
            raise missing(f"folder {subset}", data, "imagenet_knn")
    classes = _folders(data / "train")
    if not classes:
        raise missing("class folder train/n01440764, …", data, "imagenet_knn")
    if odd := set(classes) ^ set(_folders(data / "val")):
        raise ValueError(
            f"imagenet_knn: {data}/train has {len(classes)} class folders, and val must have the same ones; "
            f"{min(odd)} is in one of them only. Sort the validation images into class folders."
        )
    return classes, _photos(data / "train", classes), _photos(data / "val", classes)


def class_names(data: Path) -> dict[str, str]:
    """What the class folders are called, as far as the data set says."""
    mapping = data / layout.SYNSETS
    return dict(line.split(" ", 1) for line in mapping.read_text().splitlines()) if mapping.exists() else {}


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _photos(folder: Path, classes: Sequence[str]) -> list[Photo]:
    photos: list[Photo] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in os.listdir(folder / name) if file.lower().endswith(SUFFIXES))
        if not files:
            raise ValueError(f"imagenet_knn: {folder / name} holds no image ({', '.join(SUFFIXES)}). Unpack it again.")
        photos += (Photo(folder / name / file, label) for file in files)
    return photos


def _features(
    vit: "VisionTransformer", photos: Sequence[Photo], config: Config, machine: Machine, told: Callable[[int], None]
) -> "Tensor":
    """Unit [CLS] features (N, D) of all photos, on the CPU."""
    import torch

    from eval.features import class_features
    from eval.images import read_ahead, read_photo

    def read(photo: Photo) -> np.ndarray:
        return read_photo(photo.path, crop=config.crop)

    images = read_ahead(read, photos, n_threads=machine.n_workers)
    features = torch.empty(len(photos), vit.embed_dim)
    done = 0
    for batch in class_features(vit, images, batch_size=IMAGES_PER_BATCH):
        features[done : done + len(batch)] = torch.nn.functional.normalize(batch, dim=1)
        done += len(batch)
        told(done)
    return features


def _write_sheet(path: Path, train: Sequence[Photo], val: Sequence[Photo], found: "Neighbours", config: Config) -> None:
    """Queries spread over the classes, each with its nearest training images: green of the same class, else red."""
    from eval.images import read_photo
    from eval.pictures import RIGHT, WRONG, evenly, framed, write_sheet

    names = class_names(val[0].path.parents[2])
    rows: list[tuple[str, list[np.ndarray]]] = []
    for query in evenly(len(val), N_SHEET_QUERIES):
        cells = [read_photo(val[query].path, crop=config.crop)]
        for index in found.train_index[query, :N_SHEET_NEIGHBOURS].tolist():
            image = read_photo(train[index].path, crop=config.crop)
            cells.append(framed(image, RIGHT if train[index].label == val[query].label else WRONG))
        similarity = found.similarity[query, 0].item()
        wnid = val[query].path.parent.name
        rows.append((f"{names.get(wnid, wnid)}, then its nearest (first: cosine {similarity:.3f})", cells))
    write_sheet(path, rows, cell_height=96)
