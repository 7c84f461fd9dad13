"""ADE20K's layout at toy size: coloured rectangles on grey, a class for each colour, and something without label."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import PRETRAIN

from dora.artifacts import Checkpoint, Machine
from dora.config import BackboneConfig
from dora.data.labelled.ade20k import FOLDERS, label_map
from dora.data.labelled.files import write_labels, write_photo
from dora.data.labelled.moments import Still, moments
from dora.data.miniature import Frame, World, render
from dora.method.network import build_network
from dora.progress import Progress, silent
from eval.benchmark import Result, checkpoint_from_file
from eval.benchmarks import ade20k, ade20k_linear

torch.set_num_threads(1)

LABELS = (1, 7, 150)  # of the ground and the two kinds of rectangle
COLOURS = np.array([(90, 90, 90), (220, 40, 40), (40, 60, 230)], np.uint8)
SMALL: dict[str, Any] = {
    "whole": False, "crop": 32, "short_side": 32, "long_side": 128, "stride": 21, "iterations": 3, "batch_size": 2,
    "warmup_iterations": 1, "precision": "fp32", "max_broken_share": 0,
}  # fmt: skip
UPERNET = ade20k.Config(**SMALL, lr=1e-3, auxiliary_channels=8)
LINEAR = ade20k_linear.Config(**SMALL, lrs=(1e-3, 1e-2))


def write_set(data: Path, *, n_train: int = 4, n_val: int = 3, size: tuple[int, int] = (40, 56)) -> Path:
    for subset, n in (("train", n_train), ("val", n_val)):
        folder, prefix = FOLDERS[subset]
        for kind in ("images", "annotations"):
            (data / kind / folder).mkdir(parents=True)
        for number in range(1, n + 1):
            classes = rectangles(size, seed=number if subset == "train" else 100 + number)
            labels = np.array(LABELS, np.uint8)[classes]
            labels[:2] = 0
            noise = np.random.default_rng(number).integers(0, 20, (*size, 1), dtype=np.uint8)
            write_photo(data / "images" / folder / f"{prefix}_{number:08d}.jpg", COLOURS[classes] + noise)
            write_labels(data / "annotations" / folder / f"{prefix}_{number:08d}.png", labels, palette=None)
    return data


def cut_outs(n: int, *, side: int) -> Iterator[Still]:
    """Squares of the miniature's pictures, one a moment, each with four classes or more and none of them tiny."""
    found = 0
    for moment in moments(World(seed=1000), "train", 200):
        frame = render(moment.world, moment.time_s)
        for top, left in product(range(0, 180 - side, 16), range(0, 320 - side, 16)):
            part = Frame(*(np.ascontiguousarray(of[top : top + side, left : left + side]) for of in frame))
            pixels = np.unique(label_map(part.classes), return_counts=True)[1]
            if len(pixels) >= 4 and pixels.min() > side**2 / 25:
                yield Still(moment, part, ())
                found += 1
                break
        if found == n:
            return


def rectangles(size: tuple[int, int], *, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    classes = np.zeros(size, np.uint8)
    for kind in (1, 2):
        height, width = size[0] // 2, size[1] // 2
        top, left = draw.integers(2, size[0] - height), draw.integers(0, size[1] - width)
        classes[top : top + height, left : left + width] = kind
    return classes


def write_checkpoint(path: Path, **sizes: Any) -> Checkpoint:
    """A ViT of four blocks as DINO saves it: the teacher of a pickled file."""
    backbone = BackboneConfig.model_validate(
        PRETRAIN.backbone.model_dump() | {"depth": 4, "embed_dim": 64, "num_heads": 1, "drop_path_rate": 0.0} | sizes
    )
    torch.manual_seed(0)
    network = build_network(PRETRAIN.model_copy(update={"backbone": backbone}), drop_path=False)
    torch.save({"teacher": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    return checkpoint_from_file(path)


def evaluate(
    module: Any, checkpoint: Checkpoint, config: Any, data: Path, out: Path, progress: Progress = silent, **machine: Any
) -> Result:
    out.mkdir(exist_ok=True)
    told = Machine(root=out, datasets={"ade20k": data}, device="cpu", **machine)
    return module.evaluate(checkpoint, config, told, out, progress)
