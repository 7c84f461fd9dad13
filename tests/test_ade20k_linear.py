"""Linear heads on frozen features: trained at once they come out as if each had been trained alone."""

from pathlib import Path

import pytest
import small_ade20k
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from small_ade20k import LINEAR, evaluate, write_set

from dora.artifacts import Checkpoint, Machine
from dora.weights.load import load_encoder
from eval import openmm
from eval.benchmarks import ade20k_linear
from eval.dense import ade20k as pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return small_ade20k.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.pth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "ADEChallengeData2016")


def test_heads_trained_at_once_equal_heads_trained_alone(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    together = evaluate(ade20k_linear, checkpoint, LINEAR, data, tmp_path / "together")
    learnt = load_file(tmp_path / "together" / "model.safetensors")
    for lr in LINEAR.lrs:
        name = ade20k_linear.head_name(lr)
        config = LINEAR.model_copy(update={"lrs": (lr,)})
        alone = evaluate(ade20k_linear, checkpoint, config, data, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        heads = [key for key in weights if f".{name}." in key or key.endswith(f"{name}.weight")]
        assert len(heads) >= 1 and all(torch.equal(weights[key], learnt[key]) for key in heads)
        assert alone.metrics[f"mIoU_{name}"] == together.metrics[f"mIoU_{name}"]
    first, second = (learnt[f"heads.{ade20k_linear.head_name(lr)}.weight"] for lr in LINEAR.lrs)
    assert not torch.equal(first, second)


def test_photos_go_where_the_network_is(checkpoint: Checkpoint):
    openmm.require()
    network = ade20k_linear.network(checkpoint, LINEAR).to("meta")
    assert network.data_preprocessor.device == torch.device("meta")


def test_the_best_head_is_quoted_and_each_has_its_metric(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    result = evaluate(ade20k_linear, checkpoint, LINEAR, data, tmp_path / "out")
    each = [result.metrics[f"mIoU_{name}"] for name in ("lr_1e-3", "lr_1e-2")]
    assert result.metrics["mIoU"] == max(each)
    assert set(result.metrics) == {"mIoU", "mAcc", "aAcc", "mIoU_lr_1e-3", "mIoU_lr_1e-2"}
    assert result.pictures == ("ade20k.jpg",) and result.n_samples == 3


def test_the_encoder_learns_nothing_and_is_not_kept(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    evaluate(ade20k_linear, checkpoint, LINEAR, data, tmp_path / "out")
    learnt = load_file(tmp_path / "out" / "model.safetensors")
    assert all(name.startswith("heads.") for name in learnt)
    openmm.require()
    model, before = ade20k_linear.network(checkpoint, LINEAR).train(), load_encoder(checkpoint.path)
    assert not model.pyramid.vit.training
    images, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64)
    sum(model.losses(images, labels).values()).backward()
    assert all(parameter.grad is None for parameter in model.pyramid.parameters())
    assert torch.equal(model.pyramid.vit.blocks[3].mlp.fc2.weight, before.blocks[3].mlp.fc2.weight)


def test_features_are_the_taps_side_by_side_and_the_loss_is_mmsegmentations(checkpoint: Checkpoint, data: Path):
    openmm.require()
    import numpy as np
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from eval.dense import segmenting
    from eval.openmm import segmentation

    model = ade20k_linear.network(checkpoint, LINEAR)
    width = model.pyramid.out_channels
    config = {
        "type": "mmseg.EncoderDecoder",
        # linear/vit_small_512_ade20k_160k.py of bytedance/ibot
        "decode_head": {
            "type": "mmseg.FCNHead", "in_channels": [width] * 4, "in_index": [0, 1, 2, 3],
            "input_transform": "resize_concat", "channels": 4 * width, "num_convs": 0, "concat_input": False,
            "dropout_ratio": 0, "num_classes": 150, "align_corners": False,
        },
    }  # fmt: skip
    theirs = segmentation.segmentor(model.pyramid, config)
    theirs.decode_head.conv_seg.load_state_dict(model.heads["lr_1e-2"].state_dict())
    read = segmenting.reader(pictures.pairs(data, "train"), LINEAR)
    np.random.seed(0)
    images, labels = segmentation.stacked(model.data_preprocessor, [read(0), read(1)])
    assert model.features(images).shape == (2, 4 * width, 4, 4)
    expected = theirs.loss(images, [SegDataSample(gt_sem_seg=PixelData(data=each[None])) for each in labels])
    torch.testing.assert_close(model.losses(images, labels)["lr_1e-2.loss_ce"], expected["decode.loss_ce"])


def test_all_heads_begin_alike_and_only_they_learn(checkpoint: Checkpoint, data: Path):
    openmm.require()
    model = ade20k_linear.network(checkpoint, LINEAR)
    first, second = model.heads.values()
    assert torch.equal(first.weight, second.weight) and first.weight is not second.weight
    task = ade20k_linear.task(model, LINEAR, Machine(datasets={"ade20k": data}))
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert learning == {id(parameter) for group in task.groups for parameter in group["params"]}
    assert [(group["lr"], group["weight_decay"]) for group in task.groups] == [(1e-3, 0.05), (1e-2, 0.05)]


def test_a_rate_of_several_digits_has_a_head_too(checkpoint: Checkpoint):
    openmm.require()
    config = LINEAR.model_copy(update={"lrs": (1.25e-3, 2.5e-3)})
    model = ade20k_linear.network(checkpoint, config)
    assert list(model.by_name()) == ["lr_1.25e-3", "lr_2.5e-3"]
    groups = model.groups({ade20k_linear.head_name(lr): lr for lr in config.lrs}, weight_decay=0.0)
    assert [group["lr"] for group in groups] == [1.25e-3, 2.5e-3]


def test_rates_are_named_as_they_are_written():
    names = [ade20k_linear.head_name(lr) for lr in ade20k_linear.Config().lrs]
    assert names == ["lr_3e-5", "lr_1e-4", "lr_3e-4", "lr_8e-4", "lr_1e-3"]
    assert ade20k_linear.head_name(0.00125) == "lr_1.25e-3"
    with pytest.raises(ValidationError, match="learning rates that differ"):
        ade20k_linear.Config(lrs=(1e-3, 0.001))
