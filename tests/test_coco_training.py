"""COCO with its network: the detector is the protocol's, photos are augmented as it says, and a job goes on exactly."""

import hashlib
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_coco
import torch
from typecheck import unchecked

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import coco as layout
from dora.data.labelled.moments import moments, still
from dora.data.miniature import World
from dora.launch import Interrupted
from dora.progress import silent
from eval import openmm
from eval.benchmark import RECORDS, Result
from eval.benchmarks import coco
from eval.dense import coco_annotations
from eval.finetune.samples import seed_all

openmm.installed()
CONFIG = small_coco.CONFIG


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    openmm.require()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return small_coco.write_vit(tmp_path_factory.mktemp("checkpoint") / "vit.pth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_coco.write(tmp_path / "coco")


def evaluate(
    checkpoint: Checkpoint, data: Path, out: Path, config: coco.Config = CONFIG, progress: Any = silent,
    **machine: Any,
) -> Result:  # fmt: skip
    out.mkdir(exist_ok=True)
    return coco.evaluate(checkpoint, config, Machine(datasets={"coco": data}, **machine), out, progress)


def content(folder: Path) -> dict[str, str]:
    """Hash of every file that has to be the same in another run."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(folder) for path in files}
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in names.items()
        if not any(part.startswith(".") for part in name.parts) and not any(map(name.match, RECORDS))
    }


# The detector


def test_the_detector_has_the_protocols_numbers(checkpoint: Checkpoint):
    config = coco.Config(position_size=(32, 32), fpn_channels=16, n_hidden=16)
    model: Any = coco.network(checkpoint, config)
    assert model.backbone.taps == (0, 0, 0, 1) and not model.backbone.with_norm
    assert model.neck.num_outs == 5 and not model.neck.add_extra_convs

    generator = model.rpn_head.prior_generator
    assert [tuple(stride) for stride in generator.strides] == [(s, s) for s in (4, 8, 16, 32, 64)]
    sizes = [(anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt().tolist() for anchors in generator.base_anchors]
    assert sizes == [pytest.approx([8 * s] * 3) for s in (4, 8, 16, 32, 64)]
    ratios = [((a[:, 3] - a[:, 1]) / (a[:, 2] - a[:, 0])).tolist() for a in generator.base_anchors]
    assert ratios == [pytest.approx([0.5, 1, 2])] * 5
    assert model.rpn_head.loss_bbox.beta == 1 / 9 and model.rpn_head.loss_cls.use_sigmoid
    rpn = model.train_cfg.rpn
    assert (rpn.assigner.pos_iou_thr, rpn.assigner.neg_iou_thr, rpn.assigner.min_pos_iou) == (0.7, 0.3, 0.3)
    assert rpn.assigner.match_low_quality and (rpn.sampler.num, rpn.sampler.pos_fraction) == (256, 0.5)
    for proposals, n in ((model.train_cfg.rpn_proposal, 2000), (model.test_cfg.rpn, 1000)):
        assert (proposals.nms_pre, proposals.max_per_img, proposals.nms.iou_threshold) == (n, n, 0.7)

    head = model.roi_head
    assert list(head.stage_loss_weights) == [1, 0.5, 0.25]
    stds = [tuple(box.bbox_coder.stds) for box in head.bbox_head]
    assert stds == [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]
    for box, mask, extract, extract_mask in zip(
        head.bbox_head, head.mask_head, head.bbox_roi_extractor, head.mask_roi_extractor, strict=True
    ):
        assert type(box.loss_bbox).__name__ == "GIoULoss" and box.loss_bbox.loss_weight == 10
        assert box.reg_decoded_bbox and not box.reg_class_agnostic
        assert box.fc_reg.out_features == 4 * 80 and box.fc_cls.out_features == 81
        assert len(box.shared_convs) == 4 and len(box.shared_fcs) == 1
        assert all(type(layer.bn) is torch.nn.BatchNorm2d for layer in box.shared_convs)
        assert len(mask.convs) == 4 and mask.conv_logits.out_channels == 80
        assert [layer.output_size for layer in extract.roi_layers] == [(7, 7)] * 4
        assert [layer.output_size for layer in extract_mask.roi_layers] == [(14, 14)] * 4
        assert {layer.sampling_ratio for layer in (*extract.roi_layers, *extract_mask.roi_layers)} == {0}
        assert extract.finest_scale == extract_mask.finest_scale == 56
    for assigner, sampler, iou in zip(head.bbox_assigner, head.bbox_sampler, (0.5, 0.6, 0.7), strict=True):
        assert (assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou) == (iou, iou, iou)
        assert not assigner.match_low_quality and assigner.ignore_iof_thr == -1
        assert (sampler.num, sampler.pos_fraction, sampler.add_gt_as_proposals) == (512, 0.25, True)
    test = model.test_cfg.rcnn
    assert (test.score_thr, test.nms.iou_threshold, test.max_per_img, test.mask_thr_binary) == (0.05, 0.5, 100, 0.5)
    assert model.data_preprocessor.pad_size_divisor == 32
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_widths_are_the_protocols_by_default():
    described = coco.cascade(384, coco.Config())
    assert described["neck"]["in_channels"] == [384] * 4 and described["neck"]["out_channels"] == 256
    assert [head["fc_out_channels"] for head in described["roi_head"]["bbox_head"]] == [1024] * 3
    assert described["roi_head"]["mask_head"]["conv_out_channels"] == 256


def test_rates_decay_from_layer_to_layer_and_at_epochs_8_and_11(checkpoint: Checkpoint, data: Path):
    train = coco_annotations.read(coco.annotations_file(data, "train"))
    config = coco.Config(position_size=(32, 32), fpn_channels=8, n_hidden=8, batch_size=2)
    model: Any = coco.network(checkpoint, config)
    task, training = coco.task(model, config, train, data / "train2017")
    # 3 wide photos take two batches of two, the upright one takes one: three iterations an epoch.
    assert (training.iterations, training.batch_size) == (36, 2)
    names = {parameter: name for name, parameter in model.named_parameters()}
    of = {names[p]: (g["lr"], g["weight_decay"]) for g in task.groups for p in g["params"]}
    assert of["backbone.vit.pos_embed"] == (pytest.approx(1e-4 * 0.8**3), 0.05)
    assert of["backbone.vit.blocks.0.attn.qkv.weight"] == (pytest.approx(1e-4 * 0.8**2), 0.05)
    assert of["backbone.vit.blocks.1.mlp.fc1.bias"] == (pytest.approx(1e-4 * 0.8), 0)
    assert of["backbone.levels.0.0.weight"] == of["roi_head.mask_head.2.conv_logits.weight"] == (1e-4, 0.05)
    assert of["rpn_head.rpn_cls.bias"] == (1e-4, 0)
    assert set(of) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "backbone.vit.norm.weight" not in of
    later = [task.lr_factor(500 + iteration) for iteration in (0,)]
    assert later == pytest.approx([0.01])
    config = config.model_copy(update={"warmup_iterations": 0})
    rate = coco.task(model, config, train, data / "train2017")[0].lr_factor
    assert [rate(i) for i in (0, 23, 24, 32, 33, 35)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    config = config.model_copy(update={"iterations": 12})
    task, training = coco.task(model, config, train, data / "train2017")
    assert training.iterations == 12
    assert [task.lr_factor(i) for i in (7, 8, 10, 11)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("patch_size", [8, 14, 16])
def test_any_patch_size_learns_and_detects(patch_size: int, data: Path, tmp_path: Path):
    from eval.dense import coco_detecting

    checkpoint = small_coco.write_vit(tmp_path / "vit.pth", patch_size=patch_size)
    train = coco_annotations.read(coco.annotations_file(data, "train"))
    model: Any = coco.network(checkpoint, CONFIG)
    task, _ = coco.task(model, CONFIG, train, data / "train2017")
    seed_all(0, device_too=False)
    losses = task.loss(model, [task.read(0), task.read(1)])
    assert {name for name in losses if "loss" in name} == {"loss_rpn_cls", "loss_rpn_bbox"} | {
        f"s{stage}.loss_{what}" for stage in range(3) for what in ("cls", "bbox", "mask")
    }
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in losses.values())
    sum(value for name, value in losses.items() if "loss" in name).backward()  # pyright: ignore
    trained = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not trained
    look = coco_detecting.looker(data / "train2017", train, coco.test_steps(CONFIG))
    record = coco_detecting.finder(model.eval(), train)(look(0))
    assert record["image_id"] == 7 and len(record["boxes"]) == len(record["masks"]) <= 100
    json.dumps(record)


def test_pyramid_and_heads_speak_float32_under_autocast(checkpoint: Checkpoint, data: Path):
    train = coco_annotations.read(coco.annotations_file(data, "train"))
    model: Any = coco.network(checkpoint, CONFIG)
    task, _ = coco.task(model, CONFIG, train, data / "train2017")
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.zeros(1, 3, 32, 64)
        maps = model.extract_feat(images)
        assert {x.dtype for x in maps} == {torch.float32}  # else regions are rounded to whole pixels
        assert {x.dtype for level in model.rpn_head(maps) for x in level} == {torch.float32}
        assert {x.dtype for x in model.roi_head.bbox_head[0](torch.zeros(2, 8, 7, 7))} == {torch.float32}
        losses = task.loss(model, [task.read(0)])
    assert all(value.dtype is torch.float32 for value in losses.values())


# Photos


def augmented(data: Path, config: coco.Config, n: int, *, seed: int = 0) -> list[Any]:
    from eval.dense import coco_detecting

    train = coco_annotations.read(coco.annotations_file(data, "train"))
    read = coco_detecting.reader(data / "train2017", train, range(len(train)), coco.train_steps(config))
    samples: list[Any] = []
    for number in range(n):
        seed_all(seed + number, device_too=False)
        samples.append(read(0))
    return samples


def test_whole_photos_have_one_of_the_sides_and_crops_too(data: Path):
    config = CONFIG.model_copy(update={"crop_probability": 0.0, "short_sides": (32, 48, 64), "long_side": 90})
    shapes = {tuple(sample.image.shape) for sample in augmented(data, config, 20)}
    assert shapes == {(3, 32, 48), (3, 48, 72), (3, 60, 90)}  # 40 x 60; the long side bounds the last one
    config = config.model_copy(update={"crop_probability": 1.0, "sides_before_crop": (40,), "crop_sides": (20, 30)})
    samples = augmented(data, config, 40)
    assert {min(sample.image.shape[1:]) for sample in samples} >= {32, 48}
    assert {sample.image.shape[1] / sample.image.shape[2] < 1 for sample in samples} == {True, False}
    # Some crops show nothing and are taken nevertheless; what is left is inside, and its mask with it.
    n_objects = [len(sample.data.gt_instances) for sample in samples]
    assert set(n_objects) >= {1, 2}
    for sample in samples:
        assert max(sample.image.shape[1:]) <= 90
        for box, mask in zip(sample.data.gt_instances.bboxes.tensor, sample.data.gt_instances.masks.masks, strict=True):
            assert mask.shape == sample.image.shape[1:]
            rows, columns = np.nonzero(mask)
            if len(rows):
                inner = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(np.array(inner) - box.numpy()).max() <= 2.5


def test_both_policies_are_equally_likely_and_photos_mirrored_half_of_the_time(data: Path):
    config = CONFIG.model_copy(update={"short_sides": (32,), "sides_before_crop": (32,), "crop_sides": (16, 16)})
    samples = augmented(data, config, 60)
    n_crops = sum(sample.image.shape[1] == sample.image.shape[2] for sample in samples)
    assert 20 <= n_crops <= 40
    assert 20 <= sum(sample.data.flip for sample in samples) <= 40


def test_augmentation_is_its_seeds_and_crowds_are_set_aside(data: Path):
    config = CONFIG.model_copy(update={"crop_probability": 0.0})
    once, again, other = (augmented(data, config, 5, seed=seed) for seed in (0, 0, 50))
    assert all(torch.equal(a.image, b.image) for a, b in zip(once, again, strict=True))
    assert any(
        a.image.shape != b.image.shape or not torch.equal(a.image, b.image) for a, b in zip(once, other, strict=True)
    )
    for sample in once:
        assert sample.data.gt_instances.labels.tolist() == [2, 16]  # car and dog among the 80
        assert sample.data.ignored_instances.labels.tolist() == [0]


def test_a_mirrored_photo_has_its_objects_mirrored(data: Path):
    config = CONFIG.model_copy(update={"flip": 1.0, "crop_probability": 0.0, "short_sides": (40,)})
    (sample,) = augmented(data, config, 1)
    assert sample.data.gt_instances.bboxes.tensor.tolist() == [[36, 6, 56, 20], [24, 20, 34, 36]]
    red = (sample.image[2] > 150) & (sample.image[0] < 120)
    rows, columns = torch.nonzero(red, as_tuple=True)
    assert abs(columns.min() - 36) <= 2 and abs(columns.max() - 55) <= 2
    assert abs(rows.min() - 6) <= 2 and abs(rows.max() - 19) <= 2


# Jobs


def test_truth_through_the_real_path_is_perfect(data: Path, tmp_path: Path):
    from eval.dense import coco_detecting
    from eval.openmm.detection import Detections

    val = coco_annotations.read(coco.annotations_file(data, "val"))
    records: list[dict[str, Any]] = []
    for number in range(len(val)):
        rows = [row for row in val.objects_of(number) if not val.is_crowd[row]]
        boxes = val.boxes[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        height, width = val.sizes[number].tolist()
        masks = [coco_detecting.decode(val.segmentation(row), height, width) for row in rows]
        found = Detections(boxes.astype(np.float32), np.ones(len(rows), np.float32), val.labels[rows], np.stack(masks))
        records.append(json.loads(json.dumps(coco_detecting.recorded(found, val.image_ids[number]))))
    metrics, notes = coco_detecting.measure(records, val, tmp_path)
    assert metrics["box_AP"] == metrics["mask_AP"] == pytest.approx(100)
    assert "box_AP_large" in notes[0] and "mask_AR_medium" in notes[0]
    categories = json.loads((tmp_path / "categories.json").read_text())
    assert categories["car"] == {"objects": 3, "box_AP": pytest.approx(100), "mask_AP": pytest.approx(100)}
    assert categories["person"] == {"objects": 0, "box_AP": None, "mask_AP": None}
    (first, *_) = json.loads((tmp_path / "detections-segm.json").read_text())
    assert set(first) == {"image_id", "category_id", "segmentation", "score"}


def stopping(unit: str, at: int) -> Callable[..., None]:
    """A progress that asks the job to stop, as a batch system does."""

    def progress(done: float, total: float, unit_: str, note: str = "") -> None:
        if unit_ == unit and done >= at:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


def test_a_job_that_is_stopped_goes_on_to_the_same_bytes(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    config = CONFIG.model_copy(update={"iterations": 3})
    told: list[tuple[float, float, str]] = []
    whole = evaluate(
        checkpoint,
        data,
        tmp_path / "whole",
        config,
        lambda done, total, unit, note="": told.append((done, total, unit)),
    )
    units = list(dict.fromkeys(unit for _, _, unit in told))
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        evaluate(checkpoint, data, out, config, stopping(units[0], 1))
    resumed = evaluate(checkpoint, data, out, config, n_workers=1)
    assert resumed._replace(cost=None) == whole._replace(cost=None)
    assert content(out) == content(tmp_path / "whole")
    assert {"coco.jpg", "categories.json", "detections-bbox.json", "detections-segm.json"} <= set(content(out))
    assert told[-1][0] == told[-1][1]


def test_broken_photos_are_counted_and_too_many_stop_the_job(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    photo = sorted((data / "val2017").iterdir())[1]
    photo.write_bytes(photo.read_bytes()[:400])
    scaled = sorted((data / "train2017").iterdir())[0]
    small_coco.write_photo(scaled, np.zeros((20, 30, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        result = evaluate(
            checkpoint, data, tmp_path / "some", CONFIG.model_copy(update={"max_broken_share": 0.5, "iterations": 3})
        )
    said = " ".join(result.notes)
    assert result.n_samples == 2
    assert "1 of 3 images" in said and photo.name in said
    assert f"{scaled.name} has 30 x 20 pixels, but instances_train2017.json says 60 x 40" in said
    with pytest.raises(ValueError, match=r"cannot be read.*more than the share of 0"):
        evaluate(checkpoint, data, tmp_path / "none")


def test_a_set_without_an_annotated_photo_is_refused(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no annotated photo of 100 px or more to learn from. Lower min_side"):
        evaluate(checkpoint, data, tmp_path / "out", CONFIG.model_copy(update={"min_side": 100}))


@pytest.mark.slow
def test_eight_photos_of_the_miniature_walk_are_learnt_by_heart(tmp_path: Path):
    data = tmp_path / "coco"
    with unchecked():
        photos = [still(moment) for moment in moments(World(seed=1000, width=128, height=72), "train", 8)]
        layout.write(data, {"train": photos, "val": photos})
    config = coco.Config(
        whole=False, flip=0.0, crop_probability=0.0, short_sides=(108,), test_short_side=108, long_side=256,
        position_size=(128, 192), drop_path_rate=0.0, fpn_channels=32, n_hidden=128, anchor_scale=2,
        n_train_proposals=256, n_test_proposals=128, n_regions=64, lr=2e-3, iterations=360, warmup_iterations=6,
        batch_size=2, precision="fp32", max_broken_share=0,
    )  # fmt: skip
    checkpoint = small_coco.write_vit(tmp_path / "vit.pth", patch_size=8, width=128)
    with unchecked():
        metrics = evaluate(checkpoint, data, tmp_path / "out", config).metrics
    assert metrics["box_AP"] > 50
    assert metrics["mask_AP50"] > 50
