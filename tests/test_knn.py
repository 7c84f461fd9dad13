"""k-NN against naive loops, on votes that can be counted, and on ImageNet's real layout with broken data."""

import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import finetuner
import numpy as np
import pytest
import tiny_eval
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

import eval.nearest_neighbours as nearest_neighbours_module
from dora.artifacts import Checkpoint, Machine
from dora.progress import silent
from eval.benchmark import Result
from eval.benchmarks import imagenet_knn
from eval.features import IMAGENET_MEAN, IMAGENET_STD, normalised
from eval.frozen.exact import exact_sum
from eval.frozen.unit import UnitFeatures
from eval.images import read_photo
from eval.nearest_neighbours import Neighbours, is_correct, nearest_neighbours, votes

CONFIG = imagenet_knn.Config(crop=32, k=(1, 4, 100))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes, red and blue; every ending that ImageNet folders come with."""
    data, rng = tmp_path / "imagenet", np.random.default_rng(0)
    for subset, n_each in (("train", 4), ("val", 2)):
        for label, wnid in enumerate(("n01440764", "n01443537")):
            (data / subset / wnid).mkdir(parents=True)
            for number in range(n_each):
                pixels = rng.integers(0, 60, (40, 48 + number, 3), dtype=np.uint8)
                pixels[..., 2 * label] += 180
                path = data / subset / wnid / f"{wnid}_{number}{('.JPEG', '.jpg', '.png', '.JPG')[number]}"
                Image.fromarray(pixels).save(path)
    return data


def evaluate(checkpoint: Checkpoint, data: Path, config: imagenet_knn.Config = CONFIG) -> Result:
    out = data.parent / "out"
    machine = Machine(root=data.parent / "root", datasets={"imagenet": data}, n_workers=2)
    return imagenet_knn.evaluate(checkpoint, config, machine, out, silent)


def unit(n: int, dim: int, *, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (4, 10), (100, 1000)])
@pytest.mark.parametrize("k", [1, 5, 31])
def test_neighbours_do_not_depend_on_the_chunks(rows: int, columns: int, k: int):
    test, train = unit(10, 6, seed=0), unit(31, 6, seed=1)
    similarity, index = (test @ train.T).sort(dim=1, descending=True)
    found = nearest_neighbours(test, train, k=k, rows_per_chunk=rows, columns_per_chunk=columns)
    assert torch.equal(found.train_index, index[:, :k])
    torch.testing.assert_close(found.similarity, similarity[:, :k].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("device_threads", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (7, 1000), (40, 5000), (33, 333)])
def test_chunks_and_threads_change_no_bit(rows: int, columns: int, device_threads: int):
    test, train = unit(40, 384, seed=0), unit(1500, 384, seed=1)
    train[700:900] = train[:200]  # each of these is as similar as its twin, in every bit
    found = nearest_neighbours(test, train, k=20)
    try:
        torch.set_num_threads(device_threads)
        again = nearest_neighbours(test, train, k=20, rows_per_chunk=rows, columns_per_chunk=columns)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found.similarity, again.similarity) and torch.equal(found.train_index, again.train_index)


def test_what_float32_cannot_tell_apart_is_told_apart():
    # Cosines that differ by 1e-9: below the rounding of one float32 product.
    angles = 1 + 1e-9 * torch.arange(50, dtype=torch.float64).flip(0)
    turned = torch.stack([angles.cos(), angles.sin()], dim=1)
    wide = torch.cat([turned, turned.flip(1) * 0], dim=1).float()
    test = torch.tensor([[1.0, 0, 0, 0]])
    found = nearest_neighbours(test, wide, k=50)
    exact = (UnitFeatures(wide.numpy()).chunk(0, 50, torch.device("cpu")).double() @ test.double().T)[:, 0]
    order = sorted(range(50), key=lambda i: (-exact[i].item(), i))
    assert found.train_index[0].tolist() == order


def test_equally_similar_images_come_in_their_order():
    found = nearest_neighbours(unit(3, 8, seed=0), unit(1, 8, seed=1).expand(60, 8), k=7, columns_per_chunk=13)
    assert found.train_index.tolist() == [list(range(7))] * 3


def test_few_candidates_are_held_however_many_there_are(monkeypatch: pytest.MonkeyPatch):
    test, train = unit(20, 16, seed=0), unit(900, 16, seed=1)
    train[100:600] = train[:1]
    expected = nearest_neighbours(test, train, k=10)
    most = 0

    def watched(pairs: Any, *rest: Any) -> Any:
        nonlocal most
        most = max(most, len(pairs.row))
        return nearest(pairs, *rest)

    nearest = nearest_neighbours_module._nearest
    monkeypatch.setattr(nearest_neighbours_module, "PAIRS_HELD", 500)
    monkeypatch.setattr(nearest_neighbours_module, "ROWS_PER_STRIP", 4)
    monkeypatch.setattr(nearest_neighbours_module, "PAIRS_AT_ONCE", 3)
    monkeypatch.setattr(nearest_neighbours_module, "_nearest", watched)
    found = nearest_neighbours(test, train, k=10, columns_per_chunk=50)
    assert torch.equal(found.similarity, expected.similarity) and torch.equal(found.train_index, expected.train_index)
    assert most <= 500 + 4 * 50  # what is held, and one strip of one chunk


def test_features_get_unit_length_as_they_are_read():
    features = 3 * torch.randn(50, 24, generator=torch.Generator().manual_seed(0))
    features[7] = 0
    read = UnitFeatures(features.numpy())
    chunks = torch.cat([read.chunk(start, start + 20, torch.device("cpu")) for start in range(0, 50, 20)])
    torch.testing.assert_close(chunks, functional.normalize(features, dim=1))
    assert torch.equal(chunks[[9, 3]], read.take(np.array([9, 3])))
    features[31, 2] = torch.nan
    with pytest.raises(
        ValueError, match=r"features of image 31 are no finite numbers\. Has the checkpoint NaN weights"
    ):
        UnitFeatures(features.numpy())


@pytest.mark.parametrize("width", [1, 2, 3, 384, 1000])
def test_a_sum_in_a_fixed_order_is_the_sum(width: int):
    terms = torch.randn(5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [math.fsum(row) for row in terms.tolist()]
    assert exact_sum(terms.clone()).tolist() == pytest.approx(expected, rel=0, abs=1e-12)
    assert torch.equal(exact_sum(terms.clone())[3:4], exact_sum(terms[3:4].clone()))


def test_more_neighbours_than_training_images_is_refused():
    with pytest.raises(ValueError, match="20 nearest neighbours need as many training images, there are 3"):
        nearest_neighbours(unit(2, 4, seed=0), unit(3, 4, seed=1), k=20)


def test_a_vote_weighs_exp_of_cosine_over_temperature():
    neighbours = Neighbours(torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[2, 0, 1]]))
    summed = votes(neighbours, torch.tensor([1, 1, 0]), n_classes=3, temperature=0.07)
    expected = [math.exp(0.9 / 0.07), 2 * math.exp(0.8 / 0.07), 0]
    torch.testing.assert_close(summed, torch.tensor([expected], dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_class_without_a_vote_is_never_in_the_top_five():
    summed = torch.tensor([[0.0, 0.0, 3.0, 1.0]])
    every = torch.arange(4)
    assert is_correct(summed.expand(4, -1), every, top=5).tolist() == [False, False, True, True]
    assert is_correct(summed.expand(4, -1), every, top=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("size", [(300, 400), (401, 300), (97, 33), (256, 256), (225, 224), (375, 500)])
@pytest.mark.parametrize("crop", [224, 64])
def test_photos_are_read_as_torchvision_resizes_and_crops_them(size: tuple[int, int], crop: int, tmp_path: Path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    image.save(tmp_path / "photo.png")
    resize = Resize(round(crop * 256 / 224), interpolation=InterpolationMode.BICUBIC)
    expected = Compose([resize, CenterCrop(crop), ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])(image)
    ours = normalised(read_photo(tmp_path / "photo.png", crop=crop)[None])[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_classes_that_look_different_are_told_apart(checkpoint: Checkpoint, data: Path):
    result = evaluate(checkpoint, data)
    assert result.metrics["top1_k1"] == result.metrics["top5_k4"] == 100
    assert result.n_samples == 4


def test_several_processes_find_what_one_finds(checkpoint: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest_neighbours_module, "ROWS_PER_CHUNK", 1)
    alone = evaluate(checkpoint, data)
    written = {path.name: path.read_bytes() for path in (data.parent / "out").glob("*.jpg")}
    shutil.rmtree(data.parent / "out")
    shutil.rmtree(data.parent / "root")

    def one_of_two() -> None:
        result = evaluate(checkpoint, data)
        (data.parent / f"rank-{os.environ['RANK']}").write_text(repr(result._replace(cost=None)))

    assert finetuner.side_by_side(2, one_of_two) == [0, 0]
    assert (data.parent / "rank-0").read_text() == repr(alone._replace(cost=None))
    assert {path.name: path.read_bytes() for path in (data.parent / "out").glob("*.jpg")} == written


def test_k_beyond_the_training_images_is_left_out_and_said(
    checkpoint: Checkpoint, data: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(checkpoint, data).metrics
    assert "only k = [1, 4]: there are 8 training images" in caplog.text
    assert set(metrics) == {"top1", "top5", "top1_k1", "top5_k1", "top1_k4", "top5_k4"}
    assert metrics["top1"] == metrics["top1_k4"]  # the nearest to the quoted 20


def test_no_k_within_the_training_images_is_refused(data: Path):
    with pytest.raises(ValueError, match=r"k = 10 needs as many training images, .* has 8"):
        imagenet_knn.check(data, imagenet_knn.Config())


@pytest.mark.parametrize("n_bytes", [0, 10, 500])
def test_a_truncated_photo_is_named(checkpoint: Checkpoint, data: Path, n_bytes: int):
    path = data / "train" / "n01443537" / "n01443537_1.jpg"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"n01443537_1\.jpg is no readable image"):
        evaluate(checkpoint, data)


def test_unsorted_validation_images_are_refused_with_the_way_out(data: Path):
    shutil.move(data / "val" / "n01443537" / "n01443537_0.JPEG", data / "val" / "ILSVRC2012_val_00000001.JPEG")
    shutil.rmtree(data / "val" / "n01443537")
    with pytest.raises(ValueError, match=r"n01443537 is in one of them only\. Sort the validation images into class"):
        imagenet_knn.check(data, CONFIG)


def test_an_empty_class_folder_is_named(data: Path):
    for path in (data / "val" / "n01443537").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="val/n01443537 holds no image"):
        imagenet_knn.check(data, CONFIG)


def test_a_crop_that_patches_do_not_divide_is_refused(checkpoint: Checkpoint, data: Path):
    with pytest.raises(ValueError, match="8 px patches do not divide 30 px"):
        evaluate(checkpoint, data, CONFIG.model_copy(update={"crop": 30}))


def test_the_facts_tell_other_images_apart(data: Path):
    facts = imagenet_knn.check(data, CONFIG)
    assert (facts["n_classes"], facts["n_train"], facts["n_val"]) == (2, 8, 4)
    path = data / "train" / "n01443537" / "n01443537_1.jpg"
    path.rename(path.with_name("another.jpg"))
    assert imagenet_knn.check(data, CONFIG) != facts
