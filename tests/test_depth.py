"""Depth by a linear layer: its losses and measures against numbers computed by hand, and its crops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PRETRAIN

from dora.data.labelled.files import write_photo
from dora.method.vit import build_vit
from eval.benchmarks import depth as benchmark
from eval.dense.depth import Pair, errors, evaluated, read, reader, require_size
from eval.dense.depth_probe import DepthProbe, gradients, scale_invariant

torch.set_num_threads(1)


def write_pair(folder: Path) -> Pair:
    draw = np.random.default_rng(0)
    pair = Pair(folder / "rgb.jpg", folder / "depth.png")
    write_photo(pair.photo, draw.integers(0, 256, (20, 30, 3), np.uint8))
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(pair.depth)
    return pair


def test_errors_are_those_of_the_counted_pixels():
    truth, predicted = (np.array([row], np.float32) for row in ([1, 2, 4, 0], [1, 3, 4, 9]))
    found = errors(predicted, truth, truth > 0)
    assert found["delta1"] == pytest.approx(200 / 3) and found["delta2"] == pytest.approx(100)
    assert found["RMSE_m"] == pytest.approx(math.sqrt(1 / 3)) and found["AbsRel"] == pytest.approx(50 / 3)
    assert found["log10"] == pytest.approx(math.log10(1.5) / 3)


def test_eigens_crop_is_of_pictures_of_its_size():
    counts = evaluated(np.full((480, 640), 2, np.float32), nearest=1e-3, farthest=10, eigen=True)
    assert counts.sum() == 426 * 560 and counts[45, 41] and not counts[44, 41] and not counts[471, 41]
    with pytest.raises(ValueError, match=r"of pictures of 640 x 480, got 30 x 20\. Say eigen_crop=false"):
        evaluated(np.ones((20, 30), np.float32), nearest=1e-3, farthest=10, eigen=True)


def test_pictures_that_the_crops_do_not_fit_are_refused_before_anything_is_trained(tmp_path: Path):
    pair = write_pair(tmp_path)
    require_size(pair, crop=(20, 30), eigen=True)
    with pytest.raises(ValueError, match=r"rgb\.jpg has 30 x 20 pixels, expected at least 31 x 20\. Lower crop"):
        require_size(pair, crop=(20, 31), eigen=True)
    with pytest.raises(ValueError, match=r"expected 640 x 480, of which Eigen's crop is\. Say eigen_crop=false"):
        require_size(pair, crop=None, eigen=True)
    pair.depth.write_bytes(b"")
    require_size(pair, crop=None, eigen=True)  # may be one of the few that count as broken


def test_depth_is_read_in_metres_and_a_torn_file_named(tmp_path: Path):
    pair = write_pair(tmp_path)
    assert read(pair).depth[1, 3] == np.float32(0.033)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(pair.depth)
    with pytest.raises(ValueError, match=r"depth\.png is no depth of rgb\.jpg: expected a PNG of 16 bits with 30 x 20"):
        read(pair)
    pair.depth.write_bytes(b"")  # as a full disk leaves it
    with pytest.raises(ValueError, match=r"depth\.png is no depth of rgb\.jpg"):
        read(pair)


def test_crops_keep_photo_and_depth_together(tmp_path: Path):
    pair = write_pair(tmp_path)
    whole, draw = read(pair), reader([pair], (8, 12))
    mirrored = set()
    for seed in range(8):
        np.random.seed(seed)
        sample = draw(0)
        places = np.round(1000 * sample.depth).astype(int)
        assert np.array_equal(sample.photo, whole.photo.reshape(-1, 3)[places])
        mirrored.add(bool(places[0, 0] > places[0, 1]))
    assert mirrored == {False, True}
    with pytest.raises(ValueError, match=r"fewer than the crop \(21, 12\)"):
        reader([pair], (21, 12))(0)


def test_the_loss_is_the_naive_one_of_each_picture():
    generator = torch.Generator().manual_seed(0)
    predicted, truth = (torch.rand(2, 9, 11, generator=generator) + 0.5 for _ in range(2))
    known = torch.rand(2, 9, 11, generator=generator) > 0.3
    expected_invariant = expected_gradient = 0.0
    for b in range(2):
        d = (predicted[b] + 1e-3).log() - (truth[b] + 1e-3).log()
        own = d[known[b]]
        expected_invariant += float((own.square().mean() - 0.85 * own.mean().square()).sqrt()) / 2
        for step in (1, 2, 4, 8):
            e, there = d[::step, ::step], known[b, ::step, ::step]
            total = 0.0
            for y in range(e.shape[0]):
                for x in range(e.shape[1]):
                    if y >= 2 and there[y, x] and there[y - 2, x]:
                        total += float((e[y, x] - e[y - 2, x]).abs())
                    if x >= 2 and there[y, x] and there[y, x - 2]:
                        total += float((e[y, x] - e[y, x - 2]).abs())
            expected_gradient += total / max(1, int(there.sum())) / 2
    assert float(scale_invariant(predicted, truth, known)) == pytest.approx(expected_invariant, rel=1e-5)
    assert float(gradients(predicted, truth, known)) == pytest.approx(expected_gradient, rel=1e-5)


def test_a_right_prediction_has_a_gradient_that_is_a_number():
    predicted = torch.ones(1, 4, 4, requires_grad=True)
    scale_invariant(predicted, torch.ones(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)).backward()
    assert predicted.grad is not None and bool(predicted.grad.isfinite().all())


@pytest.mark.parametrize(("n_layers", "taps"), [(1, [3]), (4, [0, 1, 2, 3])])
def test_depths_lie_in_the_range_at_any_size(n_layers: int, taps: list[int]):
    torch.manual_seed(0)
    vit = build_vit(PRETRAIN.backbone.model_copy(update={"depth": 4}), drop_path=False)
    model = DepthProbe(vit, n_layers=n_layers, nearest=1, farthest=10, batch_norm=n_layers == 4)
    found = model(torch.randn(2, 3, 24, 37)).detach()
    assert model.taps == taps and found.shape == (2, 24, 37)
    assert 1 <= float(found.min()) <= float(found.max()) <= 10
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_presets_are_protocols_of_their_own():
    assert benchmark.PRESETS["lin4"].layers == 4
    assert benchmark.PRESETS["short"].iterations < benchmark.Config().iterations
