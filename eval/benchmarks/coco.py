"""COCO 2017: Cascade Mask R-CNN on the fine-tuned backbone, average precision of boxes and masks in percent.

iBOT's protocol for ViT-S/16 (bytedance/ibot, evaluation/object_detection), which DoRA follows: the whole network is
trained on train2017, the last weights are measured on val2017 by pycocotools (eval/dense/coco_judge.py). What the
detector found is in detections-bbox.json and detections-segm.json, in the format that COCO's own tools read.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dora.artifacts import Checkpoint, Machine
from dora.config import Finite, Share
from dora.data.datasets.check import check as look_through
from dora.data.datasets.layouts import PARTS
from dora.data.datasets.table import COCO
from dora.data.labelled import coco as layout
from dora.data.labelled.photographs import photographs
from dora.data.miniature import World
from dora.progress import Progress
from eval import openmm
from eval.benchmark import Result, missing
from eval.dense.coco_annotations import NAMES, Annotations, load, read
from eval.dense.orientation import in_groups
from eval.finetune.training import Training

if TYPE_CHECKING:
    from torch import nn

    from eval.finetune.task import Task

log = logging.getLogger("dora.coco")

VERSION = 3
PROTOCOL = "coco2017-cascade-mask-rcnn-12ep"
DATASET = "coco"
HOW_TO_GET = (
    "`dora data get coco` does; or unpack train2017.zip, val2017.zip and annotations_trainval2017.zip "
    "(cocodataset.org) into one folder: the one that holds annotations, train2017 and val2017."
)
HEADLINE = "box_AP"
COST = "estimated, not measured: 1.42 million photos of about 800 px, forward and back, 39 hours at 10 a second."
PARALLEL = True

PHOTOS = {"train": "train2017", "val": "val2017"}
N_TOY = {"train": 8, "val": 4}  # of each class
TOY_SIDE, TOY_MIN_PIXELS = 96, 256  # pixels; smaller objects than 16 x 16 are crowds
END_BYTES = 1 << 20

Sides = tuple[int, ...]


class Config(Finite):
    """iBOT's setting for ViT-S/16, bytedance/ibot evaluation/object_detection (c24f870).

    [iBOT] is its configs/cascade_rcnn/vit_small_giou_4conv1f_coco_3x.py and what that is built on, [README] the command
    in its README, [mmdet] a default of mmdet 2.28.2. A photo's sides keep their ratio: "short side" is what the shorter
    one becomes, or less where the other would exceed `long_side`.
    """

    whole: bool = Field(default=True, description="all 118,287 and 5,000 images must be there; false: however many")
    min_side: int = Field(default=32, ge=1, description="pixels; smaller photos are not trained on [mmdet]")
    flip: Share = Field(default=0.5, description="probability of a mirrored photo [iBOT]")
    short_sides: Sides = Field(
        default=tuple(range(480, 801, 32)), min_length=1, description="pixels, one of them for a photo [iBOT]"
    )
    long_side: int = Field(default=1333, ge=16, description="pixels, in training and testing [iBOT]")
    crop_probability: Share = Field(
        default=0.5, description="of another scaling and a crop before that; one of two policies [iBOT]"
    )
    sides_before_crop: Sides = Field(default=(400, 500, 600), min_length=1, description="pixels, short side [iBOT]")
    crop_sides: tuple[int, int] = Field(
        default=(384, 600), description="pixels; height and width, each drawn between, at most the photo's [iBOT]"
    )
    position_size: tuple[int, int] = Field(
        default=(800, 1008), description="height and width of photos that the position embedding is resized to [iBOT]"
    )
    drop_path_rate: Share = Field(default=0.1, description="of the last block, less before; ViT-B 0.2 [iBOT]")
    fpn_channels: int = Field(default=256, ge=8, description="width of pyramid, proposals, convolutions [iBOT]")
    n_hidden: int = Field(default=1024, ge=8, description="fc_out_channels of the box heads [iBOT]")
    anchor_scale: float = Field(default=8, gt=0, description="anchors' side, in strides [iBOT]")
    n_train_proposals: int = Field(default=2000, ge=1, description="before and after their NMS [iBOT]")
    n_test_proposals: int = Field(default=1000, ge=1, description="before and after their NMS [iBOT]")
    n_regions: int = Field(default=512, ge=4, description="of a photo that each stage learns from [iBOT]")
    lr: float = Field(default=1e-4, gt=0, description="AdamW's, of the top layer [iBOT]")
    weight_decay: float = Field(default=0.05, ge=0, description="none for vectors and biases [iBOT]")
    layer_decay: float = Field(default=0.8, gt=0, le=1, description="of lr, from a block to the one below [README]")
    epochs: float = Field(default=12, gt=0, description="passes over the photos; the config has 36 [README]")
    iterations: int = Field(
        default=0, ge=0, description="optimiser steps, instead of `epochs`; 0: as many as these take"
    )
    decay_at: tuple[Share, ...] = Field(
        default=(8 / 12, 11 / 12), description="shares of all steps, after which lr is a tenth: epochs 8, 11 [README]"
    )
    warmup_iterations: int = Field(default=500, ge=0, description="linear [iBOT]")
    warmup_ratio: Share = Field(default=0.001, description="of lr, to begin with [iBOT]")
    batch_size: int = Field(default=32, ge=1, description="photos a step, 8 GPUs with 4 each; ViT-B 16 [README]")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp16", description="of training; apex O1 [iBOT]")
    clip_grad_norm: float = Field(default=0, ge=0, description="of all gradients; 0: none, grad_clip=None [iBOT]")
    seed: int = Field(default=0, ge=0, description="of order, augmentation, new weights and everything else")
    max_broken_share: Share = Field(default=0.001, description="of a subset's photos; above it the job stops. Ours")
    test_short_side: int = Field(default=800, ge=16, description="pixels [iBOT]")
    min_score: Share = Field(default=0.05, description="of a detection [iBOT]")
    nms_iou: Share = Field(default=0.5, description="of a category's boxes, above which the weaker goes [iBOT]")
    max_detections: int = Field(default=100, ge=1, description="of a photo, the best [iBOT]; COCO judges no more")
    mask_threshold: Share = Field(default=0.5, description="probability of a mask's pixels [iBOT]")

    @model_validator(mode="after")
    def _is_possible(self) -> "Config":
        if not 0 < self.crop_sides[0] <= self.crop_sides[1]:
            raise ValueError(f"crop_sides are {self.crop_sides}: expected the least and the largest side, in order")
        if list(self.decay_at) != sorted(self.decay_at):
            raise ValueError(f"decay_at is {self.decay_at}: expected shares of the steps in ascending order")
        return self


# A twelfth of the steps on photos of half the sides, so about a 48th of the work.
PRESETS = {
    "short": Config(
        epochs=1, short_sides=tuple(range(240, 401, 32)), long_side=667,
        sides_before_crop=(200, 250, 300), crop_sides=(192, 300), position_size=(400, 512), test_short_side=400,
    )
}  # fmt: skip


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of images, and hashes by which the annotations are known; those of val2017 are read whole."""
    openmm.installed()
    train, val = (annotations_file(data, subset) for subset in PHOTOS)
    for path in (*(data / part for part in PARTS[DATASET]), train, val):
        if not path.exists():
            raise missing(str(path.relative_to(data)), data, "coco")
    report = look_through(COCO, data, any_size=not config.whole)
    if report.problems:
        more = f" ({len(report.problems) - 1} more: dora data check coco)" if len(report.problems) > 1 else ""
        advice = "" if not config.whole else " A subset on purpose: whole=false, which is another protocol."
        raise ValueError(
            f"coco: {report.problems[0]}{more}{advice if 'images: expected' in report.problems[0] else ''}"
        )
    load(val)
    return {
        "n_train": report.counts["training images"], "n_val": report.counts["validation images"],
        "val_sha256": hashlib.sha256(val.read_bytes()).hexdigest(),
        "train_bytes": train.stat().st_size, "train_ends_sha256": _ends_sha256(train),
    }  # fmt: skip


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """AP and AR of boxes and masks after fine-tuning; goes on from what is in `out`."""
    openmm.require()
    from eval.dense import coco_detecting as detecting
    from eval.finetune.loop import finetune
    from eval.finetune.records import measure_each
    from eval.finetune.team import joined

    data = machine.datasets[DATASET]
    train, val = (read(annotations_file(data, subset)) for subset in PHOTOS)
    with joined(machine, out) as team:
        model = network(checkpoint, config, recompute=machine.recompute).to(team.ranks.device)
        learnt, trained = task(model, config, train, data / PHOTOS["train"])
        spent = finetune(learnt, trained, machine, out, team, progress)
        photos = data / PHOTOS["val"]
        look = detecting.looker(photos, val, test_steps(config))
        find = detecting.finder(model.eval(), val)
        measured = measure_each(
            out, len(val), find, team, progress, config.max_broken_share, read=look, n_workers=machine.n_workers
        )
        if team.ranks.rank:
            return Result({}, (), n_samples=0)  # rank 0 has all records
        records = [measured.records[number] for number in sorted(measured.records)]
        metrics, notes = detecting.measure(records, val, out)
        detecting.write_picture_sheet(out / detecting.SHEET, photos, val, records)
        notes = (*spent.notes, *measured.notes, *notes)
        return Result(metrics, (detecting.SHEET,), n_samples=len(records), notes=notes, cost=team.cost())


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Photographs of things that COCO has a category for; training and validation show different streets.

    What is small in them is a crowd, and the rest large enough for a detector that has a minute to learn.
    """
    small = world.model_copy(update={"width": TOY_SIDE, "height": TOY_SIDE})
    pictures = {subset: photographs(small, subset, n * times, layout.CATEGORY_IDS) for subset, n in N_TOY.items()}
    layout.write(folder, pictures, min_pixels=TOY_MIN_PIXELS)
    return Config(
        whole=False, short_sides=(88, 96, 104), long_side=256, crop_probability=0.0, position_size=(TOY_SIDE, TOY_SIDE),
        drop_path_rate=0.0, fpn_channels=32, n_hidden=128, anchor_scale=4, n_train_proposals=128, n_test_proposals=64,
        n_regions=32, lr=2e-3, iterations=150 * times, warmup_iterations=6, batch_size=4, precision="fp32",
        max_broken_share=0, test_short_side=TOY_SIDE,
    )  # fmt: skip


def annotations_file(data: Path, subset: str) -> Path:
    """The JSON of "train" or "val"."""
    return data / "annotations" / f"instances_{subset}2017.json"


def network(checkpoint: Checkpoint, config: Config, *, recompute: bool = False) -> "nn.Module":
    """Cascade Mask R-CNN around the checkpoint's ViT."""
    import torch

    from eval.dense.pyramid import Pyramid, default_taps, trainable_vit
    from eval.openmm import detection

    torch.manual_seed(config.seed)  # the new layers' weights
    vit = trainable_vit(checkpoint, image_size=config.position_size, drop_path_rate=config.drop_path_rate)
    pyramid = Pyramid(vit, taps=default_taps(len(vit.blocks)), with_norm=False, recompute=recompute)
    return detection.detector(pyramid, cascade(pyramid.out_channels, config))


def task(model: Any, config: Config, train: Annotations, photos: Path) -> "tuple[Task, Training]":
    """What the loop learns, and how long.

    Raises:
        ValueError: if there is no photo to learn from.
    """
    from eval.dense import coco_detecting as detecting
    from eval.dense.layer_decay import layer_decay_groups
    from eval.finetune.rates import steps
    from eval.finetune.task import Task
    from eval.openmm import detection

    numbers = train.trainable(min_side=config.min_side)
    if not numbers:
        raise ValueError(
            f"{train.path} has no annotated photo of {config.min_side} px or more to learn from. Lower min_side."
        )
    # Whole batches: what a process sees together fits, however many there are. mmdet 2.x counts a square as upright.
    is_wide = [bool(width > height) for height, width in train.sizes[numbers].tolist()]
    order = in_groups(is_wide, group_size=config.batch_size, seed=config.seed)
    iterations = config.iterations or math.ceil(config.epochs * order.pass_length / config.batch_size)
    log.info(
        "training on %d of %d photos, %d iterations of %d", len(numbers), len(train), iterations, config.batch_size
    )
    groups = layer_decay_groups(
        model, lr=config.lr, weight_decay=config.weight_decay, decay=config.layer_decay,
        depth=len(model.backbone.vit.blocks),
    )  # fmt: skip
    rate = steps(
        [round(share * iterations) for share in config.decay_at], gamma=0.1,
        warmup_iterations=config.warmup_iterations, warmup_ratio=config.warmup_ratio,
    )  # fmt: skip
    learnt = Task(
        model=model, loss=partial(detection.losses, preprocess=model.data_preprocessor), n_samples=len(numbers),
        groups=groups, lr_factor=rate, order=order.at,
        read=detecting.reader(photos, train, numbers, train_steps(config)),
    )  # fmt: skip
    return learnt, Training(
        iterations=iterations, batch_size=config.batch_size, precision=config.precision, seed=config.seed,
        max_broken_share=config.max_broken_share, clip_grad_norm=config.clip_grad_norm,
    )  # fmt: skip


def train_steps(config: Config) -> list[dict[str, Any]]:
    """Augmentation, as DETR's (vit_small_giou_4conv1f_coco_3x.py, train_pipeline [iBOT])."""

    def scaled(sides: Sides) -> dict[str, Any]:
        return {
            "type": "RandomChoiceResize", "resize_type": "mmdet.Resize", "keep_ratio": True,
            "scales": [(side, config.long_side) for side in sides],
        }  # fmt: skip

    crop = {
        "type": "mmdet.RandomCrop", "crop_type": "absolute_range", "crop_size": config.crop_sides,
        "allow_negative_crop": True,
    }  # fmt: skip
    policies = [[scaled(config.short_sides)], [scaled(config.sides_before_crop), crop, scaled(config.short_sides)]]
    return [
        {"type": "mmdet.LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "mmdet.RandomFlip", "prob": config.flip},
        {
            "type": "RandomChoice",
            "transforms": policies,
            "prob": [1 - config.crop_probability, config.crop_probability],
        },
        {"type": "mmdet.PackDetInputs"},
    ]


def test_steps(config: Config) -> list[dict[str, Any]]:
    """One size, not mirrored (configs/_base_/datasets/coco_instance.py [iBOT])."""
    return [
        {"type": "mmdet.Resize", "scale": (config.long_side, config.test_short_side), "keep_ratio": True},
        {"type": "mmdet.PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
    ]


def cascade(width: int, config: Config) -> dict[str, Any]:
    """The detector around a backbone of that width, as mmdet's config.

    configs/_base_/models/cascade_mask_rcnn_vit_fpn.py, box heads as in vit_small_giou_4conv1f_coco_3x.py [iBOT]. SyncBN
    is made of BN where there are several processes.
    """
    channels, strides = config.fpn_channels, (4, 8, 16, 32)
    logistic = {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}
    return {
        "type": "mmdet.CascadeRCNN",
        "data_preprocessor": {
            "type": "mmdet.DetDataPreprocessor", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
            "bgr_to_rgb": True, "pad_mask": True, "pad_size_divisor": 32,
        },
        "neck": {"type": "mmdet.FPN", "in_channels": [width] * 4, "out_channels": channels, "num_outs": 5},
        "rpn_head": {
            "type": "mmdet.RPNHead", "in_channels": channels, "feat_channels": channels,
            "anchor_generator": {
                "type": "mmdet.AnchorGenerator", "scales": [config.anchor_scale], "ratios": [0.5, 1.0, 2.0],
                "strides": [*strides, 64],
            },
            "bbox_coder": _coder(1.0, 1.0), "loss_cls": logistic,
            "loss_bbox": {"type": "mmdet.SmoothL1Loss", "beta": 1 / 9, "loss_weight": 1.0},
        },
        "roi_head": {
            "type": "mmdet.CascadeRoIHead", "num_stages": 3, "stage_loss_weights": [1, 0.5, 0.25],
            "bbox_roi_extractor": _regions(7, strides, config), "mask_roi_extractor": _regions(14, strides, config),
            "bbox_head": [_box_head(*stds, config) for stds in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))],
            "mask_head": {
                "type": "mmdet.FCNMaskHead", "num_convs": 4, "in_channels": channels, "conv_out_channels": channels,
                "num_classes": len(NAMES),
                "loss_mask": {"type": "mmdet.CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
            },
        },
        "train_cfg": {
            "rpn": {
                "assigner": _assigner(0.7, 0.3, 0.3, with_weak=True), "sampler": _sampler(256, 0.5, with_truth=False),
                "allowed_border": 0, "pos_weight": -1, "debug": False,
            },
            "rpn_proposal": _proposals(config.n_train_proposals),
            "rcnn": [
                {
                    "assigner": _assigner(iou, iou, iou, with_weak=False), "mask_size": 28,
                    "sampler": _sampler(config.n_regions, 0.25, with_truth=True), "pos_weight": -1, "debug": False,
                }
                for iou in (0.5, 0.6, 0.7)
            ],
        },
        "test_cfg": {
            "rpn": _proposals(config.n_test_proposals),
            "rcnn": {
                "score_thr": config.min_score, "nms": {"type": "nms", "iou_threshold": config.nms_iou},
                "max_per_img": config.max_detections, "mask_thr_binary": config.mask_threshold,
            },
        },
    }  # fmt: skip


def _box_head(std: float, size_std: float, config: Config) -> dict[str, Any]:
    return {
        "type": "mmdet.ConvFCBBoxHead", "num_shared_convs": 4, "num_shared_fcs": 1, "in_channels": config.fpn_channels,
        "conv_out_channels": config.fpn_channels, "fc_out_channels": config.n_hidden, "roi_feat_size": 7,
        "num_classes": len(NAMES), "bbox_coder": _coder(std, size_std), "reg_class_agnostic": False,
        "reg_decoded_bbox": True, "norm_cfg": {"type": "BN", "requires_grad": True},
        "loss_cls": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "mmdet.GIoULoss", "loss_weight": 10.0},
    }  # fmt: skip


def _coder(std: float, size_std: float) -> dict[str, Any]:
    stds = [std, std, size_std, size_std]
    return {"type": "mmdet.DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}


def _regions(size: int, strides: Sequence[int], config: Config) -> dict[str, Any]:
    return {
        "type": "mmdet.SingleRoIExtractor", "out_channels": config.fpn_channels, "featmap_strides": list(strides),
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
    }  # fmt: skip


def _assigner(positive: float, negative: float, least: float, *, with_weak: bool) -> dict[str, Any]:
    return {
        "type": "mmdet.MaxIoUAssigner", "pos_iou_thr": positive, "neg_iou_thr": negative, "min_pos_iou": least,
        "match_low_quality": with_weak, "ignore_iof_thr": -1,
    }  # fmt: skip


def _sampler(n: int, share: float, *, with_truth: bool) -> dict[str, Any]:
    return {
        "type": "mmdet.RandomSampler", "num": n, "pos_fraction": share, "neg_pos_ub": -1,
        "add_gt_as_proposals": with_truth,
    }  # fmt: skip


def _proposals(n: int) -> dict[str, Any]:
    return {"nms_pre": n, "max_per_img": n, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}


def _ends_sha256(path: Path) -> str:
    """Hash of a file's size and its two ends: of 450 MB, a whole one would take too long before anything starts."""
    with path.open("rb") as file:
        first = file.read(END_BYTES)
        file.seek(max(0, path.stat().st_size - END_BYTES))
        last = file.read()
    return hashlib.sha256(f"{path.stat().st_size}".encode() + first + last).hexdigest()
