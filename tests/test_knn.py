"""k-NN against naive loops, on votes that can be counted, and on ImageNet's real layout with broken data."""

import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_eval
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from dora.artifacts import Checkpoint, Machine
from dora.progress import silent
from eval.benchmark import Result
from eval.benchmarks import imagenet_knn
from eval.features import IMAGENET_MEAN, IMAGENET_STD, normalised
from eval.images import read_photo
from eval.nearest_neighbours import Neighbours, accuracy, nearest_neighbours, votes

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


def test_the_same_features_give_the_same_bits():
    test, train = unit(40, 16, seed=0), unit(300, 16, seed=1)
    once, again = (nearest_neighbours(test, train, k=20, columns_per_chunk=64) for _ in range(2))
    assert torch.equal(once.similarity, again.similarity) and torch.equal(once.train_index, again.train_index)


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
    assert [accuracy(summed, torch.tensor([label]), top=5) for label in range(4)] == [0, 0, 1, 1]
    assert [accuracy(summed, torch.tensor([label]), top=1) for label in range(4)] == [0, 0, 1, 0]


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
