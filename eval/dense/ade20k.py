"""ADE20K as the segmentation benchmarks have it: what is there, pairs of photo and labels, and a sheet of predictions.

Labels here are the benchmark's: 0 … 149 for the classes in the order of `NAMES`, and VOID where a PNG has 0
(mmsegmentation's reduce_zero_label).
"""

import colorsys
import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from dora.data.datasets.check import check as look_through
from dora.data.datasets.layouts import PARTS
from dora.data.datasets.look import AGAIN
from dora.data.datasets.table import ADE20K
from dora.data.labelled import ade20k as layout
from dora.data.labelled.moments import moments, still
from dora.data.miniature import World
from eval.benchmark import missing
from eval.dense.confusion import VOID, confusion, pixel_accuracy
from eval.finetune.rates import poly
from eval.finetune.training import Training
from eval.identity import sampled
from eval.images import read_labels, read_video_frame
from eval.pictures import evenly, write_sheet

DATASET = "ade20k"
HOW_TO_GET = (
    "`dora data get ade20k` does; or unpack ADEChallengeData2016.zip (sceneparsing.csail.mit.edu): the folder that "
    "holds images and annotations, each with training and validation."
)
NAMES = layout.NAMES
INFO = "objectInfo150.txt"
N_TOY = {"train": 48, "val": 24}

# ImageNet's, of pixels 0 … 255; img_norm_cfg [iBOT].
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

N_SHEET_IMAGES, N_SHEET_NAMES, SHEET_HEIGHT = 6, 4, 150
VOID_COLOUR = (128, 128, 128)


class Pictures(Training):
    """Which pictures, at which size, and how long they are learnt from: what the two benchmarks have in common.

    [iBOT] is bytedance/ibot evaluation/semantic_segmentation/configs (c24f870): _base_/datasets/ade20k.py, upernet/ and
    linear/, for ViT-S. Its transforms are mmsegmentation's (eval/openmm/segmentation.py).
    """

    whole: bool = Field(default=True, description="all 20,210 and 2,000 images must be there; false: however many")
    crop: int = Field(
        default=512,
        ge=32,
        multiple_of=32,
        description="pixels, of a square to train on and of windows; crop_size [iBOT]",
    )
    short_side: int = Field(default=512, ge=16, description="pixels, to which photos are scaled; img_scale [iBOT]")
    long_side: int = Field(default=2048, ge=16, description="pixels, which the other side may not exceed [iBOT]")
    scale: tuple[float, float] = Field(
        default=(0.5, 2.0), description="of both sides in training, drawn evenly between; ratio_range [iBOT]"
    )
    largest_class: float = Field(
        default=0.75, gt=0, le=1,
        description="share of a crop's labelled pixels above which it is drawn again, 10 times; cat_max_ratio [iBOT]",
    )  # fmt: skip
    stride: int = Field(default=341, ge=1, description="pixels between windows of the test; test_cfg [iBOT]")
    multi_scale: bool = Field(
        default=False, description="test at 0.5, 0.75 … 1.75 of the size and mirrored too; aug_test [iBOT]"
    )
    iterations: int = Field(default=160_000, ge=1, description="schedule_160k [iBOT]")
    batch_size: int = Field(default=16, ge=1, description="crops an iteration: 8 GPUs with 2, or 4 with 4 [iBOT]")
    weight_decay: float = Field(default=0.05, ge=0, description="with UPerNet, not of vectors and biases [iBOT]")
    warmup_iterations: int = Field(default=1500, ge=0, description="linear; warmup_iters [iBOT]")
    warmup_ratio: float = Field(default=1e-6, ge=0, le=1, description="of lr, to begin with [iBOT]")
    power: float = Field(default=1.0, gt=0, description="of the polynomial down to 0 [iBOT]")
    with_norm: bool = Field(default=True, description="the ViT's last norm on every tap; out_with_norm [iBOT, command]")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp16", description="of training; apex O1 [iBOT]")
    clip_grad_norm: float = Field(default=0, ge=0, description="of all gradients together; 0: none, as [iBOT]")
    seed: int = Field(default=0, description="of the heads' weights, the order and the crops; --seed, not given [iBOT]")
    keep_results: bool = Field(default=False, description="write predictions of all validation images; ours")

    def lr_factor(self) -> Callable[[int], float]:
        """What every peak rate is multiplied with in an iteration."""
        return poly(
            self.iterations, power=self.power, warmup_iterations=self.warmup_iterations, warmup_ratio=self.warmup_ratio
        )


def transforms(config: Pictures) -> list[dict[str, Any]]:
    """What happens to a training photo, in this order; then `preprocessing`."""
    return [
        {
            "type": "mmcv.RandomResize", "scale": (config.long_side, config.short_side), "ratio_range": config.scale,
            "resize_type": "mmcv.Resize", "keep_ratio": True,
        },
        {"type": "mmseg.RandomCrop", "crop_size": (config.crop, config.crop), "cat_max_ratio": config.largest_class},
        {"type": "mmseg.RandomFlip", "prob": 0.5},
        {"type": "mmseg.PhotoMetricDistortion"},
    ]  # fmt: skip


def preprocessing(config: Pictures) -> dict[str, Any]:
    """Normalising, then padding of crops that a small photo does not fill."""
    return {
        "type": "mmseg.SegDataPreProcessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True,
        "size": (config.crop, config.crop), "pad_val": 0, "seg_pad_val": VOID,
    }  # fmt: skip


class Pair(NamedTuple):
    """A photo and its labels."""

    photo: Path
    labels: Path

    @property
    def name(self) -> str:
        """File name without its ending."""
        return self.photo.stem


def check(data: Path, config: Pictures, benchmark: str) -> dict[str, Any]:
    """Numbers of images and the hash of their names; opens a few.

    Raises:
        FileNotFoundError: if a part is missing.
        ValueError: for another layout or version, files without counterpart, labels or names that are not the 150.
    """
    try:
        report = look_through(ADE20K, data, any_size=not config.whole)
    except FileNotFoundError:
        raise missing(next(iter(PARTS[DATASET])), data, benchmark) from None
    lacking = [part for part in PARTS[DATASET] if not (data / part).exists()]
    if lacking and len(lacking) < len(PARTS[DATASET]):
        raise missing(lacking[0], data, benchmark)
    if report.problems:
        more = f" ({len(report.problems) - 1} more: dora data check ade20k)" if len(report.problems) > 1 else ""
        advice = "" if not config.whole else " A subset on purpose: whole=false, which is another protocol."
        raise ValueError(
            f"{benchmark}: {report.problems[0]}{more}{advice if 'expected 2' in report.problems[0] else ''}"
        )
    _require_classes(data / INFO, benchmark)
    found = [pair for subset in layout.FOLDERS for pair in pairs(data, subset)]
    names = [pair.name for pair in found]
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    return {
        "n_train": report.counts["training images"], "n_val": report.counts["validation images"],
        "list_sha256": digest,
        "sample_sha256": sampled([pair.photo for pair in found]) + sampled([pair.labels for pair in found]),
    }  # fmt: skip


def pairs(data: Path, subset: str) -> list[Pair]:
    """Photos and labels of "train" or "val", by name."""
    folder, _ = layout.FOLDERS[subset]
    photos = sorted(path for path in (data / "images" / folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return [
        Pair(photo, data / "annotations" / folder / f"{photo.stem}.png")
        for photo in photos
        if not photo.name.startswith(".")
    ]


def read(pair: Pair) -> tuple[UInt8[np.ndarray, "Y X 3"], UInt8[np.ndarray, "Y X"]]:
    """RGB pixels and labels.

    Raises:
        ValueError: if one cannot be read whole, their sizes differ, or a label is above 150; names the file.
    """
    image = read_video_frame(pair.photo)
    labels = read_labels(pair.labels)
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"{pair.labels} has {labels.shape[1]} x {labels.shape[0]} pixels and {pair.photo.name} "
            f"{image.shape[1]} x {image.shape[0]}, expected the same. {AGAIN}"
        )
    if labels.max() > len(NAMES):
        raise ValueError(f"{pair.labels} holds the label {labels.max()}, expected 0 … {len(NAMES)}. {AGAIN}")
    return image, labels - np.uint8(1)  # 0 wraps to 255, which is VOID


def write_toys(world: World, folder: Path, times: int) -> None:
    """The miniature set: moments of streets that no video shows, other streets for validation."""
    layout.write(folder, {subset: map(still, moments(world, subset, n * times)) for subset, n in N_TOY.items()})


def palette() -> UInt8[np.ndarray, "256 3"]:
    """A colour for every class, the same in every run, and grey for VOID; neighbours in the list differ clearly."""
    colours = np.zeros((256, 3), np.uint8)
    for k in range(len(NAMES)):
        # Steps of the golden angle never come back to a hue; three levels of brightness part those that come near.
        shade = colorsys.hsv_to_rgb(0.61803398875 * k % 1, 0.55 + 0.45 * (k % 2), 1 - 0.25 * (k % 3))
        colours[k] = [round(255 * channel) for channel in shade]
    colours[VOID] = VOID_COLOUR
    return colours


def write_predictions(
    path: Path, val: Sequence[Pair], predict: Callable[[UInt8[np.ndarray, "Y X 3"]], UInt8[np.ndarray, "Y X"]]
) -> None:
    """Photo, annotation and prediction of some images spread over all; broken ones are passed over."""
    colours = palette()
    rows: list[tuple[str, list[np.ndarray]]] = []
    for index in evenly(len(val), N_SHEET_IMAGES):
        try:
            image, labels = read(val[index])
        except (ValueError, OSError):
            continue
        predicted = predict(image)
        tinted = [_tinted(image, colours[each]) for each in (labels, predicted)]
        rows.append((_caption(val[index], labels, predicted), [image, *tinted]))
    write_sheet(path, rows, cell_height=SHEET_HEIGHT)


def _caption(pair: Pair, labels: UInt8[np.ndarray, "Y X"], predicted: UInt8[np.ndarray, "Y X"]) -> str:
    """What is in the photo, and how much of it was found."""
    right = pixel_accuracy(confusion(predicted, labels, n_classes=len(NAMES)))
    classes, counts = np.unique(labels[labels != VOID], return_counts=True)
    largest = ", ".join(NAMES[k] for k in islice(classes[np.argsort(-counts, kind="stable")].tolist(), N_SHEET_NAMES))
    share = "nothing annotated" if right is None else f"{right:.0f} % of the pixels right"
    return f"{pair.name}: photo, annotation, prediction. {share}. {largest}"


def _tinted(image: UInt8[np.ndarray, "Y X 3"], colours: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    """The colours over a faint photo."""
    return (image.astype(np.uint16) // 4 + colours.astype(np.uint16) * 3 // 4).astype(np.uint8)


def _require_classes(path: Path, benchmark: str) -> None:
    """The list of classes, where there is one, has the 150 in our order; each line gives several names of one."""
    if not path.exists():
        return
    lines = [line.split("\t") for line in path.read_text(errors="replace").splitlines()[1:] if line.strip()]
    if len(lines) != len(NAMES):
        raise ValueError(f"{benchmark}: {path} lists {len(lines)} classes, expected {len(NAMES)}. {AGAIN}")
    for number, (fields, name) in enumerate(zip(lines, NAMES, strict=True), start=1):
        given = [each.strip().lower() for each in fields[-1].replace(";", ",").split(",")]
        if fields[0].strip() != str(number) or name not in given:
            raise ValueError(
                f"{benchmark}: {path} has {fields[0].strip()} {fields[-1].strip()!r} as line {number}, expected "
                f"{number} {name!r}: labels of another order would be scored as other classes. {AGAIN}"
            )
