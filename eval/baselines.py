"""How far one gets without learning to see: pixels, colours and hand-made gradients, by a linear layer and neighbours.

    python -m eval.baselines                        the rendered things of the miniature, freshly drawn
    python -m eval.baselines --data /data/imagenet  any folder of train/<class>/*.JPEG and val/<class>/*.JPEG
    python -m eval.baselines --train 48 --val 24    what the suite `learning` asks of encoders, in the same pictures

An encoder's features are worth something where they beat these. On the miniature they also tell whether the task is
sound: chance for raw pixels would mean that it is impossible, a high score for colours that it is trivial.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from dora.data.labelled import imagenet
from eval.benchmark import MINIATURE_WORLD
from eval.benchmarks.imagenet_knn import class_names, listing
from eval.images import read_photo
from eval.nearest_neighbours import nearest_neighbours, votes

CROP, COARSE = 64, 16  # pixels
CELL, ORIENTATIONS = 8, 9  # of oriented gradients: pixels, and directions in half a turn
COLOUR_BINS = 8  # a channel, all three together: 512 colours
# The best of these on a third of the training images, which then all are trained on.
WEIGHT_DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 60
K, TEMPERATURE = 20, 0.07  # of the votes, as encoders are measured (eval/benchmarks/imagenet_knn.py)

Picture = UInt8[np.ndarray, "S S 3"]
Vector = Float32[np.ndarray, "D"]


def raw_pixels(picture: Picture) -> Vector:
    """The picture itself, 16 x 16."""
    return cv2.resize(picture, (COARSE, COARSE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() / 255


def colour_histogram(picture: Picture) -> Vector:
    """How common each of 512 colours is, wherever it is; square roots, so that rare colours count."""
    red, green, blue = (picture.reshape(-1, 3) // (256 // COLOUR_BINS)).astype(np.int64).T
    counts = np.bincount((red * COLOUR_BINS + green) * COLOUR_BINS + blue, minlength=COLOUR_BINS**3)
    return np.sqrt(counts / counts.sum()).astype(np.float32)


def gradients(picture: Picture) -> Vector:
    """Histograms of oriented gradients (Dalal and Triggs 2005) of the grey picture: shape without colour."""
    down, across = np.gradient(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32))
    angle = np.arctan2(down, across) % np.pi * (ORIENTATIONS / np.pi)
    row, column = np.mgrid[:CROP, :CROP] // CELL
    index = (row * (CROP // CELL) + column) * ORIENTATIONS + angle.astype(np.int64) % ORIENTATIONS
    shape = (CROP // CELL, CROP // CELL, ORIENTATIONS)
    cells = np.bincount(index.ravel(), np.hypot(down, across).ravel(), minlength=math.prod(shape)).reshape(shape)
    blocks = np.concatenate([cells[:-1, :-1], cells[1:, :-1], cells[:-1, 1:], cells[1:, 1:]], axis=-1)
    return (blocks / (np.linalg.norm(blocks, axis=-1, keepdims=True) + 1)).astype(np.float32).ravel()


class Accuracies(NamedTuple):
    """Share of each class's validation images that is named rightly."""

    linear: Float[Tensor, "C"]
    neighbours: Float[Tensor, "C"]


FEATURES: dict[str, Callable[[Picture], Vector]] = {
    "raw pixels": raw_pixels, "colour histogram": colour_histogram, "oriented gradients": gradients,
}  # fmt: skip


def accuracies(data: Path) -> dict[str, Accuracies]:
    """For each kind of features what a linear classifier names, and what the nearest training images do."""
    classes, train, val = listing(data)
    train_pictures, val_pictures = ([read_photo(p.path, crop=CROP) for p in photos] for photos in (train, val))
    train_labels, val_labels = (torch.tensor([photo.label for photo in photos]) for photos in (train, val))
    found: dict[str, Accuracies] = {}
    for name, describe in FEATURES.items():
        x, x_val = (torch.from_numpy(np.stack(list(map(describe, p)))) for p in (train_pictures, val_pictures))
        named = Accuracies(
            classify(x, train_labels, x_val, n_classes=len(classes)),
            vote(x, train_labels, x_val, n_classes=len(classes)),
        )
        of_class = [val_labels == label for label in range(len(classes))]
        found[name] = Accuracies(
            *(torch.stack([(labels[which] == val_labels[which]).float().mean() for which in of_class])
              for labels in named)
        )  # fmt: skip
    return found


def vote(
    x: Float[Tensor, "N D"], labels: Int64[Tensor, "N"], x_val: Float[Tensor, "M D"], *, n_classes: int
) -> Int64[Tensor, "M"]:
    """Labels that the nearest of `x` give to `x_val`, by the protocol of encoders."""
    found = nearest_neighbours(x_val, x, k=min(K, len(x)))
    return votes(found, labels, n_classes=n_classes, temperature=TEMPERATURE).argmax(1)


def classify(
    x: Float[Tensor, "N D"], labels: Int64[Tensor, "N"], x_val: Float[Tensor, "M D"], *, n_classes: int
) -> Int64[Tensor, "M"]:
    """Labels that multinomial logistic regression gives to `x_val`; its weight decay is chosen inside the training set.

    Every third image is set aside for that choice; then all are trained on.
    """
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    x, x_val = (x - mean) / deviation, (x_val - mean) / deviation
    aside = torch.arange(len(x)) % 3 == 0

    def right(weight_decay: float) -> float:
        logits = _fit(x[~aside], labels[~aside], n_classes=n_classes, weight_decay=weight_decay)(x[aside])
        return (logits.argmax(1) == labels[aside]).float().mean().item()

    best = max(WEIGHT_DECAYS, key=right)
    return _fit(x, labels, n_classes=n_classes, weight_decay=best)(x_val).argmax(1)


def _fit(x: Tensor, labels: Tensor, *, n_classes: int, weight_decay: float) -> torch.nn.Linear:
    linear = torch.nn.Linear(x.shape[1], n_classes)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(linear(x), labels)
        value = value + weight_decay / 2 * linear.weight.square().sum() / n_classes
        value.backward()
        return value.detach()

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return linear


def table(data: Path, found: dict[str, Accuracies]) -> list[str]:
    """A line a class by the linear classifier, in percent; means over classes by both ways last."""
    classes, train, val = listing(data)
    names = class_names(data)
    lines = [f"{'':16}" + "".join(f"{name:>20}" for name in found)]
    for label, folder in enumerate(classes):
        shares = "".join(f"{100 * one.linear[label]:19.0f}%" for one in found.values())
        lines.append(f"{names.get(folder, folder):16.16}{shares}")
    lines.append(f"{'all, linear':16}" + "".join(f"{100 * one.linear.mean():19.1f}%" for one in found.values()))
    lines.append(
        f"{f'all, {K} nearest':16}" + "".join(f"{100 * one.neighbours.mean():19.1f}%" for one in found.values())
    )
    lines.append(f"{'chance':16}{100 / len(classes):19.1f}%   ({len(train)} training, {len(val)} validation images)")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.baselines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder in ImageNet's layout; without it the miniature is drawn")
    parser.add_argument("--train", type=int, default=100, metavar="N", help="pictures of each class to draw (100)")
    parser.add_argument("--val", type=int, default=50, metavar="N", help="and to validate on (50)")
    options = parser.parse_args(arguments)
    try:
        if min(options.train, options.val) < 1:
            raise ValueError(f"expected at least one picture, got --train {options.train} --val {options.val}.")
        with tempfile.TemporaryDirectory() as drawn:
            data: Path = options.data or Path(drawn)
            if not options.data:
                imagenet.write(data, MINIATURE_WORLD, {"train": options.train, "val": options.val})
            print("\n".join(table(data, accuracies(data))))
    except (ValueError, OSError) as error:
        print(f"eval.baselines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
