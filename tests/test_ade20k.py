"""ADE20K with UPerNet on the real layout: what is learnt from, what is measured, and data that is broken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_ade20k
import torch
from PIL import Image
from safetensors.torch import load_file
from small_ade20k import LABELS, UPERNET, cut_outs, evaluate, write_set
from typecheck import unchecked

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import ade20k as layout
from dora.data.labelled.ade20k import NAMES
from dora.launch import Interrupted
from dora.progress import silent
from eval import openmm
from eval.benchmarks import ade20k
from eval.dense import ade20k as pictures
from eval.dense.confusion import VOID
from eval.images import read_labels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return small_ade20k.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.pth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "ADEChallengeData2016")


def annotation(data: Path, subset: str, number: int) -> Path:
    folder, prefix = {"train": ("training", "ADE_train"), "val": ("validation", "ADE_val")}[subset]
    return data / "annotations" / folder / f"{prefix}_{number:08d}.png"


def photo(data: Path, subset: str, number: int) -> Path:
    path = annotation(data, subset, number)
    return data / "images" / path.parent.name / f"{path.stem}.jpg"


# What is in the folder


def test_facts_are_counts_and_the_names(data: Path):
    facts = ade20k.check(data, UPERNET)
    assert (facts["n_train"], facts["n_val"]) == (4, 3)
    for path in (photo(data, "val", 3), annotation(data, "val", 3)):
        path.rename(path.with_stem("ADE_val_00000009"))
    assert ade20k.check(data, UPERNET) != facts


def test_a_look_at_thousands_of_pairs_opens_a_few(data: Path):
    for kind, ending in (("images", "jpg"), ("annotations", "png")):
        first = data / kind / "training" / f"ADE_train_00000001.{ending}"
        for number in range(5, 5_001):
            (first.parent / f"ADE_train_{number:08d}.{ending}").symlink_to(first)
    began = time.monotonic()
    assert ade20k.check(data, UPERNET)["n_train"] == 5_000
    assert time.monotonic() - began < 3


def test_a_part_that_is_missing_is_named(data: Path):
    shutil.rmtree(data / "annotations" / "validation")
    with pytest.raises(FileNotFoundError, match=r"ade20k: no annotations/validation in .*DORA_DATASETS__ADE20K"):
        ade20k.check(data, UPERNET)


def test_a_pair_without_counterpart_is_named(data: Path):
    annotation(data, "train", 2).unlink()
    with pytest.raises(ValueError, match=r"ade20k: 4 training images and 3 annotations.*ADE_train_00000002"):
        ade20k.check(data, UPERNET)


def test_the_full_ade20k_and_a_folder_too_high_are_told(data: Path, tmp_path: Path):
    full = tmp_path / "ADE20K_2021_17_01"
    full.mkdir()
    (full / "index_ade20k.pkl").touch()
    with pytest.raises(ValueError, match=r"is the full ADE20K .*expected the 150 classes"):
        ade20k.check(full, UPERNET)
    with pytest.raises(ValueError, match=r"too high: ade20k is in .*ADEChallengeData2016"):
        ade20k.check(data.parent, UPERNET)


def test_a_subset_is_refused_unless_it_is_asked_for(data: Path):
    with pytest.raises(ValueError, match=r"training images: expected 20,210, got 4.*whole=false"):
        ade20k.check(data, ade20k.Config())


def test_labels_that_are_not_the_150_are_refused(data: Path):
    Image.fromarray(np.full((40, 56), 151, np.uint8)).save(annotation(data, "val", 1))
    with pytest.raises(ValueError, match=r"ADE_val_00000001\.png holds the label 151"):
        ade20k.check(data, UPERNET)


def test_classes_of_another_order_are_refused(data: Path):
    lines = [f"{k}\t0.1\t1\t1\t{name}, something else" for k, name in enumerate(NAMES, start=1)]
    # As the publisher's file has it.
    lines[89] = "90 \t0.0007\t618\t53\ttelevision, television receiver, tv "
    listing = data / "objectInfo150.txt"
    listing.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]))
    ade20k.check(data, UPERNET)
    lines[2], lines[3] = lines[3].replace("4", "3", 1), lines[2].replace("3", "4", 1)
    listing.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]))
    with pytest.raises(
        ValueError, match=r"objectInfo150\.txt has 3 'floor, something else' as line 3, expected 3 'sky'"
    ):
        ade20k.check(data, UPERNET)


def test_the_check_needs_neither_torch_nor_openmmlab():
    code = (
        "import sys, eval.benchmarks.ade20k, eval.benchmarks.ade20k_linear as m;"
        "m.Config(); assert not {'torch', 'mmengine', 'mmseg', 'mmcv'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(ade20k.__file__).parents[2])


# What is learnt from


def sample(data: Path, config: ade20k.Config, *, index: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    openmm.require()
    from eval.dense import segmenting

    np.random.seed(seed)
    return segmenting.reader(pictures.pairs(data, "train"), config)(index)


def test_zero_is_no_label_and_classes_begin_at_zero(data: Path):
    _, labels = pictures.read(pictures.pairs(data, "train")[0])
    assert set(np.unique(labels)) == {LABELS[0] - 1, LABELS[1] - 1, LABELS[2] - 1, VOID}
    assert (labels[:2] == VOID).all()


def test_a_sample_is_a_function_of_the_seed(data: Path):
    first, again, other = (sample(data, UPERNET, index=0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])


def test_crops_are_no_larger_than_asked_and_padded_with_void_and_the_mean(data: Path):
    openmm.require()
    from eval.openmm import segmentation

    half = UPERNET.model_copy(update={"scale": (0.5, 0.5)})
    small = sample(data, half, index=0, seed=0)
    large = sample(data, UPERNET.model_copy(update={"scale": (2.0, 2.0)}), index=0, seed=0)
    assert small.labels.shape == (16, 22) and large.labels.shape == (32, 32)
    preprocess = segmentation.preprocessor(pictures.preprocessing(half))
    images, labels = segmentation.stacked(preprocess, [small, large])
    assert images.shape == (2, 3, 32, 32) and labels.shape == (2, 32, 32)
    assert not images[0, :, 16:].any() and (labels[0, 16:] == VOID).all() and (labels[0, :, 22:] == VOID).all()
    blue, green, red = large.image[:, 5, 7].tolist()
    expected = (np.array([red, green, blue]) - pictures.MEAN) / pictures.STD
    np.testing.assert_allclose(images[1, :, 5, 7].numpy(), expected, rtol=1e-5)


def test_labels_move_with_the_photo(data: Path):
    """Without distortion, a pixel's colour says its class wherever resizing, cropping and mirroring put it."""
    openmm.require()
    from eval.openmm import segmentation

    steps = [step for step in pictures.transforms(UPERNET) if step["type"] != "mmseg.PhotoMetricDistortion"]
    image, labels = pictures.read(pictures.pairs(data, "train")[0])
    run = segmentation.pipeline(steps)
    for seed in range(8):
        np.random.seed(seed)
        crop = run(image, labels)
        is_red = (crop.image[2].int() - crop.image[0].int() > 90) & (crop.labels != VOID)
        assert (is_red == (crop.labels == LABELS[1] - 1)).float().mean() > 0.9


def test_a_crop_of_nearly_one_class_is_drawn_again(data: Path):
    def largest_share(share: float) -> float:
        config = UPERNET.model_copy(update={"crop": 16, "scale": (2.0, 2.0), "largest_class": share})
        shares: list[float] = []
        for seed in range(30):
            labels = sample(data, config, index=0, seed=seed)[1]
            counts = torch.bincount(labels[labels != VOID].flatten().long())
            shares.append(float(counts.max() / counts.sum()))
        return sum(share > 0.75 for share in shares) / len(shares)

    assert largest_share(0.75) < largest_share(1.0) / 2


# What is measured


def test_ground_truth_as_prediction_scores_100(data: Path, tmp_path: Path):
    openmm.require()
    from eval.dense import segmenting
    from eval.finetune.task import Spent
    from eval.finetune.team import joined

    truth = {image.tobytes(): labels for image, labels in map(pictures.read, pictures.pairs(data, "val"))}

    def tell(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"": np.where(truth[image.tobytes()] == VOID, np.uint8(0), truth[image.tobytes()])}

    machine = Machine(root=tmp_path, datasets={"ade20k": data}, device="cpu")
    config = UPERNET.model_copy(update={"keep_results": True})
    with joined(machine, tmp_path / "out") as team:
        result = segmenting.result(tell, config, machine, tmp_path / "out", team, silent, Spent(team.cost(), ()))
    assert result.metrics == {"mIoU": 100, "mAcc": 100, "aAcc": 100}
    assert result.n_samples == 3
    rows = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert [row["name"] for row in rows] == list(NAMES)
    assert {row["name"] for row in rows if row["IoU"] == 100} == {NAMES[label - 1] for label in LABELS}
    assert sum(row["IoU"] is None for row in rows) == 147
    # As the data set's server wants them: 1 … 150.
    written = read_labels(tmp_path / "out" / "results" / "ADE_val_00000001.png")
    annotated = read_labels(annotation(data, "val", 1))
    assert (written[annotated > 0] == annotated[annotated > 0]).all() and written.min() == 1


@pytest.mark.parametrize("multi_scale", [False, True])
def test_predictions_have_the_photos_size_and_the_networks_classes(
    checkpoint: Checkpoint, multi_scale: bool, tmp_path: Path
):
    openmm.require()
    config = UPERNET.model_copy(update={"multi_scale": multi_scale})
    model = ade20k.network(checkpoint, config)
    with torch.no_grad():
        model.decode_head.conv_seg.bias[41] = 100  # sure of one class, wherever it looks
    predict = ade20k.predictor(model, config)
    for size in ((45, 61), (20, 90), (32, 32), (64, 10)):
        predicted = predict(np.zeros((*size, 3), np.uint8))[""]
        assert predicted.shape == size and (predicted == 41).all()


def test_several_scales_are_ibots_and_the_equal_ones_are_computed_once(checkpoint: Checkpoint):
    openmm.require()
    from eval.dense import segmenting

    sides: list[tuple[int, int]] = []
    openmm.require()
    preprocess = ade20k.network(checkpoint, UPERNET).data_preprocessor

    def features(windows: torch.Tensor) -> torch.Tensor:
        sides.append((len(windows), windows.shape[-1]))
        return windows[:, :2]

    config = UPERNET.model_copy(update={"multi_scale": True, "crop": 8, "stride": 8, "short_side": 8})
    predict = segmenting.predictor(features, {"": lambda x: x}, preprocess, config, multiple=1)
    predict(np.zeros((16, 16, 3), np.uint8))
    # Short sides 8 (for 0.5, 0.75 and 1), 10, 12 and 14; each as it is and mirrored.
    assert sides == [(1, 8), (1, 8), *[(4, 8)] * 6]


def test_photos_are_scaled_as_mmcv_does():
    openmm.require()
    import mmcv

    from eval.dense.segmenting import scaled_size
    from eval.images import resized

    draw = np.random.default_rng(0)
    for height, width in ((37, 53), (90, 160), (11, 64), (61, 60)):
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = mmcv.imrescale(image, (128, 32))
        ours = resized(image, *scaled_size(height, width, short_side=32, long_side=128))
        assert (ours == theirs).all()


# From beginning to end


def contents(out: Path) -> dict[str, bytes]:
    kept = ("classes.json", "ade20k.jpg", "model.safetensors")
    return {name: (out / name).read_bytes() for name in kept}


def test_it_trains_measures_and_paints_and_a_run_that_was_interrupted_ends_with_the_same_bytes(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[tuple[float, float]] = []

    def progress(done: float, total: float, unit: str, note: str = "") -> None:
        told.append((done, total))

    whole = evaluate(ade20k, checkpoint, UPERNET, data, tmp_path / "whole", progress)
    assert set(whole.metrics) == {"mIoU", "mAcc", "aAcc"} and whole.n_samples == 3 and not whole.notes
    assert told[-1] == (3, 3)
    assert whole.cost is not None and whole.cost.seconds > 0
    with Image.open(tmp_path / "whole" / "ade20k.jpg") as sheet:
        assert sheet.width > 3 * 150

    read, n_read = pictures.read, 0

    def stop_at_some(pair: pictures.Pair) -> tuple[np.ndarray, np.ndarray]:
        nonlocal n_read
        n_read += 1
        if n_read in (3, 8):
            os.kill(os.getpid(), signal.SIGTERM)
        return read(pair)

    # In the second of three iterations, and at the first or second of three validation images.
    monkeypatch.setattr(pictures, "read", stop_at_some)
    for _ in range(2):
        with pytest.raises(Interrupted):
            evaluate(ade20k, checkpoint, UPERNET, data, tmp_path / "cut")
    again = evaluate(ade20k, checkpoint, UPERNET, data, tmp_path / "cut", n_workers=2)
    assert again.metrics == whole.metrics
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("patch_size", [8, 14, 16])
def test_any_patch_size_and_width(data: Path, tmp_path: Path, patch_size: int):
    checkpoint = small_ade20k.write_checkpoint(
        tmp_path / "vit.pth", patch_size=patch_size, image_size=4 * patch_size, embed_dim=128, num_heads=2, depth=5
    )
    config = UPERNET.model_copy(update={"iterations": 1})
    result = evaluate(ade20k, checkpoint, config, data, tmp_path / "out")
    assert 0 <= result.metrics["mIoU"] <= 100


def test_a_checkpoint_of_ours_is_read_too(data: Path, tmp_path: Path):
    import tiny

    from dora.method.network import build_network
    from dora.training.checkpoint import TrainingState, save_state
    from eval.benchmark import checkpoint_from_file

    backbone = tiny.PRETRAIN.backbone.model_copy(update={"depth": 4})
    pretrain = tiny.PRETRAIN.model_copy(update={"backbone": backbone})
    student, teacher = (build_network(pretrain, drop_path=False) for _ in range(2))
    optimizer, scaler = torch.optim.AdamW(student.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, TrainingState(pretrain, student, teacher, optimizer, scaler, {"cls": torch.zeros(16)}))
    openmm.require()
    model = ade20k.network(checkpoint_from_file(path), UPERNET)
    assert torch.equal(model.backbone.vit.blocks[2].attn.qkv.weight, teacher.backbone.blocks[2].attn.qkv.weight)


def test_heads_are_those_of_the_protocol(tmp_path: Path):
    """ViT-S/16's sizes, counted by hand from the protocol."""
    openmm.require()
    checkpoint = small_ade20k.write_checkpoint(
        tmp_path / "vit.pth", patch_size=16, image_size=32, embed_dim=384, num_heads=6, depth=12
    )
    config = ade20k.Config(crop=32)
    model = ade20k.network(checkpoint, config)
    head, auxiliary = model.decode_head, model.auxiliary_head
    assert model.backbone.taps == (3, 5, 7, 11) and model.backbone.with_norm
    assert [conv.conv.weight.shape[:2] for conv in head.lateral_convs] == [(384, 384)] * 3
    assert head.bottleneck.conv.weight.shape == (384, 5 * 384, 3, 3)
    assert head.fpn_bottleneck.conv.weight.shape == (384, 4 * 384, 3, 3)
    assert head.conv_seg.weight.shape == (150, 384, 1, 1) and head.dropout.p == 0.1 and not head.align_corners
    assert [stage[0].output_size for stage in head.psp_modules] == [1, 2, 3, 6]
    assert auxiliary.convs[0].conv.weight.shape == (256, 384, 3, 3) and auxiliary.in_index == 2
    assert auxiliary.loss_decode.loss_weight == 0.4 and head.loss_decode.loss_weight == 1.0
    assert head.ignore_index == VOID and not head.loss_decode.avg_non_ignore
    assert [block.drop_path1.drop_prob for block in list(model.backbone.vit.blocks)[1:]] == pytest.approx(
        [0.1 * k / 11 for k in range(1, 12)]
    )
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_losses_are_those_of_mmsegmentation(checkpoint: Checkpoint, data: Path):
    openmm.require()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from eval.openmm import segmentation

    model = ade20k.network(checkpoint, UPERNET.model_copy(update={"dropout": 0.0, "drop_path_rate": 0.0}))
    samples = [sample(data, UPERNET, index=index, seed=0) for index in (0, 1)]
    ours = segmentation.losses(model, samples)
    images, labels = segmentation.stacked(model.data_preprocessor, samples)
    labelled = [SegDataSample(gt_sem_seg=PixelData(data=each[None])) for each in labels]
    theirs = model.loss(images, labelled)
    assert {name for name in theirs if "loss" in name} == set(ours)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])


def test_the_rate_is_mmcvs_poly_with_warm_up(checkpoint: Checkpoint, data: Path):
    openmm.require()
    config = ade20k.Config(whole=False, crop=32)
    task = ade20k.task(ade20k.network(checkpoint, config), config, Machine(datasets={"ade20k": data}))
    rates = [3e-5 * task.lr_factor(iteration) for iteration in (0, 750, 1500, 80_000, 159_999)]
    # At 750: the half of it, give or take the millionth to begin with, of what the decay leaves.
    expected = [3e-11, 3e-5 * (1 - 750 / 160_000) * (1 - 0.5 * (1 - 1e-6)), 3e-5 * (1 - 1500 / 160_000), 1.5e-5]
    assert rates == pytest.approx([*expected, 3e-5 / 160_000])
    top = max(group["lr"] for group in task.groups)
    assert top == 3e-5 and min(group["lr"] for group in task.groups) == pytest.approx(3e-5 * 0.9**5)


def test_broken_files_are_counted_and_named_and_too_many_stop_it(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    content = photo(data, "val", 2).read_bytes()
    photo(data, "val", 2).write_bytes(content[: len(content) // 2])
    Image.fromarray(np.full((40, 56), 200, np.uint8)).save(annotation(data, "train", 3))
    with pytest.raises(
        ValueError, match=r"cannot be read.*ADE_train_00000003\.png holds the label 200.*max_broken_share"
    ):
        evaluate(ade20k, checkpoint, UPERNET, data, tmp_path / "strict")
    config = UPERNET.model_copy(update={"max_broken_share": 0.4})
    result = evaluate(ade20k, checkpoint, config, data, tmp_path / "lenient")
    assert result.n_samples == 2
    training, validation = result.notes
    assert "1 of 4 training samples" in training and "ADE_train_00000003.png" in training
    assert "1 of 3 images" in validation and "ADE_val_00000002.jpg is no readable image" in validation


def test_an_annotation_of_another_size_is_named(data: Path):
    Image.fromarray(np.ones((40, 50), np.uint8)).save(annotation(data, "val", 1))
    with pytest.raises(ValueError, match=r"ADE_val_00000001\.png has 50 x 40 pixels and ADE_val_00000001\.jpg 56 x 40"):
        pictures.read(pictures.pairs(data, "val")[0])


def test_colours_of_classes_differ():
    colours = pictures.palette()
    assert len(np.unique(colours[: len(NAMES)], axis=0)) == len(NAMES)
    assert colours[VOID].tolist() == [128, 128, 128]


def test_activations_may_be_computed_again(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    config = UPERNET.model_copy(update={"iterations": 1, "drop_path_rate": 0.5})
    for name, recompute in (("kept", False), ("again", True)):
        evaluate(ade20k, checkpoint, config, data, tmp_path / name, recompute=recompute)
    kept, again = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "again"))
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_one_crop_at_once_is_refused_because_of_batch_norm(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"batch norm needs 2 samples at once, but gets 1 .*DORA_MICRO_BATCH"):
        evaluate(ade20k, checkpoint, UPERNET, data, tmp_path / "out", micro_batch=1)


@pytest.mark.slow
def test_eight_miniature_pictures_are_learnt_by_heart(tmp_path: Path):
    with unchecked():
        pictures_of_both = list(cut_outs(8, side=64))
        layout.write(tmp_path / "data", {subset: pictures_of_both for subset in layout.FOLDERS})
    checkpoint = small_ade20k.write_checkpoint(tmp_path / "vit.pth")
    learning = {"iterations": 600, "batch_size": 4, "lr": 5e-3, "warmup_iterations": 5, "layer_decay": 1.0}
    sizes = {"crop": 64, "short_side": 64, "long_side": 256, "scale": (1.0, 1.0), "stride": 48, "drop_path_rate": 0.0}
    with unchecked():  # of shapes, which takes as long as the learning
        result = evaluate(
            ade20k, checkpoint, UPERNET.model_copy(update=learning | sizes), tmp_path / "data", tmp_path / "out"
        )
    assert result.metrics["mIoU"] > 90
