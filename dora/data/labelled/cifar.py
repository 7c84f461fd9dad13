"""CIFAR-10's and CIFAR-100's layouts: 32 x 32 pixels, many pictures a file, pickled by Python."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dora.data.labelled.portraits import Portraits, labelled

SIDE = 32


class Layout(NamedTuple):
    """Where one of the two keeps what."""

    folder: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    meta: str
    labels: str  # key in a file of pictures
    names: str  # key in meta
    n_classes: int


CIFAR10 = Layout(
    "cifar-10-batches-py", tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",), "batches.meta",
    "labels", "label_names", 10,
)  # fmt: skip
CIFAR100 = Layout("cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names", 100)


def write(folder: Path, layout: Layout, pictures: Mapping[str, Portraits]) -> None:
    """Write train and val into `folder`; of more classes than the set has, the first ones."""
    into = folder / layout.folder
    into.mkdir(parents=True, exist_ok=True)
    for subset, files in (("train", layout.train), ("val", layout.val)):
        found = labelled(pictures[subset][: layout.n_classes])
        for number, name in enumerate(files):
            own = found[number :: len(files)]
            rows = np.stack([_row(image) for image, _ in own])
            _dump(into / name, {"data": rows, layout.labels: [label for _, label in own]})
    _dump(into / layout.meta, {layout.names: [name for name, _ in pictures["train"][: layout.n_classes]]})


def files(layout: Layout) -> Sequence[str]:
    """All files, below the folder that holds the set."""
    return [f"{layout.folder}/{name}" for name in (*layout.train, *layout.val, layout.meta)]


def _row(image: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, " n"]:
    """All red values, then all green, then all blue ones."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1).reshape(-1)


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))
