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
from dora.data.miniature import CLASSES, World, render
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
    "Unpack ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org), the validation images sorted into "
    "class folders: the folder that holds train/<class>/*.JPEG and val/<class>/*.JPEG."
)
HEADLINE = "top1"

SUFFIXES = (".jpeg", ".jpg", ".png")
SYNSETS = "LOC_synset_mapping.txt"  # class names, beside train and val in one of the ways ImageNet is handed out
IMAGES_PER_BATCH = 64
N_SHEET_QUERIES, N_SHEET_NEIGHBOURS = 8, 7
TOY_CLASSES = ("tree", "person", "car", "bicycle", "lamp", "sign")
TOY_TRAIN, TOY_VAL = 16, 10  # pictures of each class
TOY_FRAME_EVERY_S, TOY_MAX_FRAMES = 3.0, 300
VAL_SEED_OFFSET = 500


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
    classes, train, val = _listing(data)
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

    classes, train, val = _listing(machine.datasets[DATASET])
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
    from eval.images import write_photo

    streets = (
        ("train", world, TOY_TRAIN),
        ("val", world.model_copy(update={"seed": world.seed + VAL_SEED_OFFSET}), TOY_VAL),
    )
    for subset, street, n_each in streets:
        for label, pictures in _things(street, n_each).items():
            (folder / subset / _wnid(label)).mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                write_photo(folder / subset / _wnid(label) / f"{_wnid(label)}_{number}.JPEG", picture)
    names = "".join(f"{_wnid(CLASSES.index(name))} {name}\n" for name in TOY_CLASSES)
    (folder / SYNSETS).write_text(names)
    return Config(crop=64, k=(10, 20))


def _wnid(class_index: int) -> str:
    return f"n{class_index:08d}"


def _things(world: World, n_each: int) -> dict[int, list[np.ndarray]]:
    """`n_each` pictures of things of each class, with some of the street around them."""
    pictures: dict[int, list[np.ndarray]] = {CLASSES.index(name): [] for name in TOY_CLASSES}
    n_taken: dict[int, int] = {}
    for t in range(TOY_MAX_FRAMES):
        frame = render(world, TOY_FRAME_EVERY_S * t)
        for instance in map(int, np.unique(frame.instances[frame.instances > 0])):
            thing = frame.instances == instance
            of_class = pictures.get(int(frame.classes[thing][0]), [])
            # Three pictures of one thing at most: they are alike.
            wanted = len(of_class) < n_each and n_taken.get(instance, 0) < 3
            if wanted and _stands_out(thing, frame.depth):
                of_class.append(_cut_out(frame.image, thing))
                n_taken[instance] = n_taken.get(instance, 0) + 1
        if all(len(of_class) == n_each for of_class in pictures.values()):
            return pictures
    raise ValueError(f"the street of seed {world.seed} shows too few kinds of things. Choose another seed.")


def _stands_out(thing: np.ndarray, depth: np.ndarray) -> bool:
    """Whole, large enough, and hardly hidden by what stands nearer."""
    box = _box(thing)
    large = max(box.height, box.width) >= len(thing) / 11 and np.count_nonzero(thing) >= box.height * box.width / 5
    if not large or _box(np.pad(thing[1:-1, 1:-1], 1)) != box:  # touches the picture's border
        return False
    around = np.zeros_like(thing)
    around[1:-1, 1:-1] = thing[:-2, 1:-1] | thing[2:, 1:-1] | thing[1:-1, :-2] | thing[1:-1, 2:]
    return bool(np.mean(depth[around & ~thing] < 0.9 * np.median(depth[thing])) < 0.15)


class _Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def _box(thing: np.ndarray) -> _Box:
    rows, columns = np.flatnonzero(thing.any(axis=1)), np.flatnonzero(thing.any(axis=0))
    if not len(rows):
        return _Box(0, 0, 0, 0)
    return _Box(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


def _cut_out(image: np.ndarray, thing: np.ndarray) -> np.ndarray:
    """A square around the thing, 1.4 times as large, moved into the picture."""
    box = _box(thing)
    side = min(int(1.4 * max(box.height, box.width)), *thing.shape)
    top = min(max(box.top + (box.height - side) // 2, 0), thing.shape[0] - side)
    left = min(max(box.left + (box.width - side) // 2, 0), thing.shape[1] - side)
    return image[top : top + side, left : left + side]


def _listing(data: Path) -> tuple[list[str], list[Photo], list[Photo]]:
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

    mapping = val[0].path.parents[2] / SYNSETS
    names = dict(line.split(" ", 1) for line in mapping.read_text().splitlines()) if mapping.exists() else {}
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
