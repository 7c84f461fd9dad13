"""Pixels, colours and gradients as features; and that the miniature's classes cannot be told by colour."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dora.data.labelled import imagenet
from eval.baselines import accuracies, classify, colour_histogram, gradients, main, raw_pixels, vote

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_raw_pixels_are_means_of_squares_of_the_picture():
    assert raw_pixels(PICTURE)[0] == pytest.approx(PICTURE[:4, :4, 0].mean() / 255, abs=0.002)
    assert raw_pixels(PICTURE).shape == (16 * 16 * 3,)


def test_a_colour_histogram_does_not_see_where_colours_are():
    shuffled = RNG.permutation(PICTURE.reshape(-1, 3)).reshape(PICTURE.shape)
    assert np.array_equal(colour_histogram(PICTURE), colour_histogram(shuffled))
    assert np.square(colour_histogram(PICTURE)).sum() == pytest.approx(1)
    red = np.zeros_like(PICTURE)
    red[..., 0] = 255
    assert np.flatnonzero(colour_histogram(red)).tolist() == [7 * 64]


def test_gradients_do_not_see_brightness_nor_which_colour_an_edge_has():
    bars = np.zeros((64, 64, 3), np.uint8)
    bars[:, 20:40] = 100
    upright = gradients(bars)
    assert np.allclose(upright, gradients(bars + 50), atol=1e-5)
    assert not np.allclose(upright, gradients(bars.transpose(1, 0, 2).copy()), atol=0.1)
    strongest = np.argmax(upright.reshape(7, 7, 4, 9).sum((0, 1, 2)))
    assert strongest == 0  # across


def test_classify_finds_classes_that_a_plane_parts():
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    x = torch.randn(120, 5) + 4 * torch.nn.functional.one_hot(labels, 5).float()
    predicted = classify(x[:90], labels[:90], x[90:], n_classes=3)
    assert (predicted == labels[90:]).float().mean() > 0.9


def test_classify_guesses_on_noise():
    torch.manual_seed(0)
    x, labels = torch.randn(400, 30), torch.randint(0, 4, (400,))
    right = (classify(x[:200], labels[:200], x[200:], n_classes=4) == labels[200:]).float().mean()
    assert 0.1 < right < 0.4


def test_neighbours_vote_by_their_angle_not_by_their_length():
    x = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.0, 0.1], [0.1, 1.0]])
    named = vote(x, torch.tensor([0, 0, 1, 1]), torch.tensor([[0.2, 0.0], [0.0, 8.0]]), n_classes=2)
    assert named.tolist() == [0, 1]  # although all four vote: the near ones' votes weigh more


def test_each_kind_of_features_is_measured_in_both_ways(tmp_path: Path):
    bright, dark = (np.full((64, 64, 3), level, np.uint8) for level in (200, 40))
    for subset in ("train", "val"):
        for name, picture in (("bright", bright), ("dark", dark)):
            (tmp_path / subset / name).mkdir(parents=True)
            for number in range(3):
                noisy = picture + RNG.integers(0, 9, picture.shape, dtype=np.uint8)
                Image.fromarray(noisy).save(tmp_path / subset / name / f"{number}.png")
    found = accuracies(tmp_path)
    assert list(found) == ["raw pixels", "colour histogram", "oriented gradients"]
    assert found["colour histogram"].neighbours.tolist() == [1, 1]
    assert found["raw pixels"].linear.tolist() == [1, 1]


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--data", str(tmp_path)]) == 2
    assert "imagenet_knn: no folder train" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--train", "0"], ["--val", "-1"]])
def test_no_picture_is_too_few(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    assert "expected at least one picture" in capsys.readouterr().err


@pytest.mark.slow
def test_the_miniatures_classes_are_told_by_shape_not_by_colour_and_not_at_once():
    command = [sys.executable, "-m", "eval.baselines", "--train", "16", "--val", "8"]
    header, *rows = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert header.split("  ")[-1].strip() == "oriented gradients" and len(rows) == len(imagenet.THINGS) + 3
    percent = {row[:16].strip(): [float(cell.rstrip("%")) for cell in row[16:].split()[:3]] for row in rows[:-1]}
    pixels, colours, shapes = percent["all, linear"]
    chance = 100 / len(imagenet.THINGS)
    assert colours < 40, "colour must not give the class away"
    assert max(percent[name][1] for name in imagenet.THINGS) < 90, "nor that of any one class"
    assert 2 * chance < pixels < 60
    assert shapes > colours + 15 and shapes > 5 * chance
    assert percent["all, 20 nearest"][2] > percent["all, 20 nearest"][1] + 15, "shape must be what is alike in a class"
