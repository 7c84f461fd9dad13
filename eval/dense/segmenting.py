"""What the segmentation benchmarks share once torch is loaded: crops to learn from, predictions, and their measure.

A network is told as `features`, which see windows of the photo, and one or more heads by name, which make logits of
them: heads that are compared on the same features share the work.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dora.artifacts import Machine
from dora.data.labelled.files import write_labels
from dora.progress import Progress
from eval.benchmark import Result
from eval.dense import ade20k
from eval.dense.ade20k import NAMES, Pair, Pictures
from eval.dense.confusion import Entry, added_up, confusion, entries, measures, table, write_table
from eval.dense.sliding import blend, cut, largest, places
from eval.finetune.records import measure_each
from eval.finetune.task import Spent
from eval.finetune.team import Team
from eval.images import resized
from eval.openmm import segmentation

WINDOWS_AT_ONCE = 8  # bounds the memory
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the multi-scale test [iBOT, vit_small_512_ade20k_160k_ms.py]
RESULTS, CLASSES, SHEET = "results", "classes.json", "ade20k.jpg"

Decode = Callable[[Tensor], Tensor]
Image = UInt8[np.ndarray, "Y X 3"]
Labels = UInt8[np.ndarray, "Y X"]
Predict = Callable[[Image], Mapping[str, Labels]]  # by the name of the head


def reader(train: Sequence[Pair], config: Pictures) -> Callable[[int], "segmentation.Sample"]:
    """Reads a training pair by its number and crops it, drawing from NumPy's global generator."""
    run = segmentation.pipeline(ade20k.transforms(config))

    def read(index: int) -> "segmentation.Sample":
        return run(*ade20k.read(train[index]))

    return read


def scaled_size(height: int, width: int, *, short_side: float, long_side: float) -> tuple[int, int]:
    """As large as fits both sides with the ratio kept; mmcv's imrescale rounds so."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def predictor(
    features: Decode, heads: Mapping[str, Decode], preprocess: nn.Module, config: Pictures, *, multiple: int
) -> Predict:
    """Labels of every pixel of a photo, by each head. `multiple` is what sides of windows must be multiples of."""

    def logits(pixels: Image) -> dict[str, Float[Tensor, "K Y X"]]:
        image = segmentation.normalised(preprocess, pixels)
        size = (image.shape[1], image.shape[2])
        where = places(size, window=config.crop, stride=config.stride)
        seen = [features(windows) for windows in cut(image, where, batch_size=WINDOWS_AT_ONCE, multiple=multiple)]
        return {name: blend(map(head, seen), where, size, multiple=multiple) for name, head in heads.items()}

    def at_one_scale(photo: Image) -> dict[str, Labels]:
        height, width = photo.shape[:2]
        pixels = resized(photo, *scaled_size(height, width, short_side=config.short_side, long_side=config.long_side))
        return {name: largest(found, (height, width)).cpu().numpy() for name, found in logits(pixels).items()}

    def at_many_scales(photo: Image) -> dict[str, Labels]:
        """The largest mean probability; a photo's short side is at least a crop's, its long side free [iBOT]."""
        height, width = photo.shape[:2]
        sides = [max(config.crop, int(config.short_side * ratio)) for ratio in RATIOS]
        total: dict[str, Tensor] = {}
        for side in sorted(set(sides)):
            pixels = resized(photo, *scaled_size(height, width, short_side=side, long_side=float("inf")))
            for flipped in (False, True):
                for name, found in logits(np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels).items():
                    found = found.flip(2) if flipped else found
                    shares = nn.functional.interpolate(found[None], (height, width), mode="bilinear")[0].softmax(0)
                    shares *= sides.count(side)
                    total[name] = total[name].add_(shares) if name in total else shares
        return {name: found.argmax(0).to(torch.uint8).cpu().numpy() for name, found in total.items()}

    @torch.inference_mode()
    def predict(photo: Image) -> dict[str, Labels]:
        return at_many_scales(photo) if config.multi_scale else at_one_scale(photo)

    return predict


def result(
    predict: Predict, config: Any, machine: Machine, out: Path, team: Team, progress: Progress, spent: Spent
) -> Result:
    """The measures over all validation images, of the head that has the best mIoU; and what is written about them.

    The mIoU of a head with a name is a metric too, mIoU_name; in `classes.json` its classes stand under its name.
    """
    val = ade20k.pairs(machine.datasets[ade20k.DATASET], "val")

    def read(index: int) -> tuple[int, Image, Labels]:
        return index, *ade20k.read(val[index])

    def work(one: tuple[int, Image, Labels]) -> dict[str, list[Entry]]:
        index, image, labels = one
        found = predict(image)
        if config.keep_results:
            for name, predicted in found.items():
                folder = out / RESULTS / name
                folder.mkdir(parents=True, exist_ok=True)
                write_labels(folder / f"{val[index].name}.png", predicted + np.uint8(1), palette=None)
        return {name: entries(confusion(predicted, labels, n_classes=len(NAMES))) for name, predicted in found.items()}

    measured = measure_each(
        out, len(val), work, team, progress, config.max_broken_share, read=read, n_workers=machine.n_workers
    )
    if team.ranks.rank:
        return Result({}, (), n_samples=0)
    records = list(measured.records.values())
    if not records:
        raise ValueError("none of the validation images could be read: nothing can be measured. Fetch them again.")
    matrices = {name: added_up((record[name] for record in records), n_classes=len(NAMES)) for name in records[0]}
    scores = {name: measures(matrix) for name, matrix in matrices.items()}
    quoted = max(scores, key={name: score["mIoU"] for name, score in scores.items()}.__getitem__)
    metrics = scores[quoted] | {f"mIoU_{name}": score["mIoU"] for name, score in scores.items() if name}
    tables = {name: table(matrix, NAMES) for name, matrix in matrices.items()}
    write_table(out / CLASSES, tables if any(tables) else tables[quoted])

    def quoted_labels(photo: Image) -> Labels:
        return predict(photo)[quoted]

    ade20k.write_predictions(out / SHEET, val, quoted_labels)
    notes = (*spent.notes, *measured.notes)
    return Result(metrics, (SHEET,), n_samples=len(records), notes=notes, cost=team.cost())
