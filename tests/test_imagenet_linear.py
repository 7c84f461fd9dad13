"""The linear probe: heads that do not notice each other, epochs that outlast kills, and numbers counted by hand."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import finetuner
import numpy as np
import pytest
import tiny_eval
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.nn import functional
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop

from dora.artifacts import Checkpoint, Machine
from dora.progress import silent
from dora.training.states import saved_states
from eval import benchmark
from eval.benchmark import Result
from eval.benchmarks import imagenet_linear
from eval.benchmarks.imagenet_linear import Config
from eval.finetune import order
from eval.finetune.state import MODEL
from eval.finetune.team import joined
from eval.frozen import crops, draws, validation
from eval.frozen.epochs import Epoch, Measured, best, read_epochs, write_epoch
from eval.frozen.probe import Heads, cosine_by_epochs, n_correct
from eval.frozen.validation import Validation

torch.set_num_threads(1)
WNIDS = ("n01440764", "n01443537", "n01484850")
# 18 photos: an epoch of 3 iterations.
CONFIG = Config(crop=32, epochs=4, batch_size=8, lrs=(0.1, 1.0), max_broken_share=0.2)
FROZEN = CONFIG.model_copy(update={"augment": False})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes: red, green, blue."""
    data, rng = tmp_path / "imagenet", np.random.default_rng(0)
    for subset, n_each in (("train", 6), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            (data / subset / wnid).mkdir(parents=True)
            for number in range(n_each):
                pixels = rng.integers(0, 90, (40, 48 + number, 3), dtype=np.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels).save(data / subset / wnid / f"{wnid}_{number}.JPEG")
    return data


def machine(data: Path, **values: Any) -> Machine:
    return Machine(
        root=data.parent / "root", device="cpu", threads=1, datasets={"imagenet": data}, log_every_steps=1, **values
    )


def evaluate(
    checkpoint: Checkpoint, data: Path, config: Config = CONFIG, out: str = "out", **values: Any
) -> tuple[Path, Result]:
    folder = data.parent / out
    return folder, imagenet_linear.evaluate(checkpoint, config, machine(data, **values), folder, silent)


def content(folder: Path) -> dict[str, bytes]:
    """What the stage would keep, and compare."""
    files = [folder / MODEL, *folder.glob("epochs/*.json"), *folder.glob("*.jpg")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weights(folder: Path, head: int) -> dict[str, torch.Tensor]:
    return {what: load_file(folder / MODEL)[f"layers.{head}.{what}"] for what in ("weight", "bias")}


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        FROZEN,
        CONFIG.model_copy(update={"precision": "bf16"}),
        CONFIG.model_copy(update={"n_blocks": 1, "avgpool": True}),
        FROZEN.model_copy(update={"n_blocks": 1, "avgpool": True}),
    ],
)
def test_classes_of_different_colour_are_told_apart(checkpoint: Checkpoint, data: Path, config: Config):
    out, result = evaluate(checkpoint, data, config.model_copy(update={"epochs": 12}))
    assert result.metrics["top1"] == 100 and result.metrics["top5"] == 100  # of three classes
    assert result.n_samples == 6 and (out / "classes.jpg").stat().st_size
    names = {f"top{top}{when}{lr}" for top in "15" for when in ("", "_last") for lr in ("", "_lr_1e-1", "_lr_1e0")}
    assert set(result.metrics) == names
    assert len(list((out / "epochs").iterdir())) == 12


@pytest.mark.parametrize("config", [CONFIG, FROZEN])
def test_a_head_among_others_is_bit_by_bit_what_it_is_alone(checkpoint: Checkpoint, data: Path, config: Config):
    together, _ = evaluate(checkpoint, data, config.model_copy(update={"lrs": (0.1, 10.0, 1e-3)}), "together")
    for number, lr in enumerate((0.1, 10.0, 1e-3)):
        alone, _ = evaluate(checkpoint, data, config.model_copy(update={"lrs": (lr,)}), f"alone-{lr}")
        assert all(torch.equal(value, weights(alone, 0)[what]) for what, value in weights(together, number).items())
        of_both = [read_epochs(out, config.epochs) for out in (together, alone)]
        name = imagenet_linear.head_name(lr)
        assert [epoch.heads[name] for epoch in of_both[0]] == [epoch.heads[name] for epoch in of_both[1]]


def test_the_heads_learn_as_plain_sgd_does_on_the_kept_features(checkpoint: Checkpoint, data: Path):
    config = FROZEN.model_copy(update={"lrs": (0.5,), "epochs": 3, "batch_size": 9, "weight_decay": 0.01})
    out, _ = evaluate(checkpoint, data, config)
    (kept,) = (rows for path in (data.parent / "root").glob("features/*/*.npy") if len(rows := np.load(path)) == 3 * 6)
    features = torch.from_numpy(kept).flatten(1)
    labels = torch.arange(18) // 6
    torch.manual_seed(0)
    heads = Heads(["one"], width=features.shape[1], n_classes=3)
    weight, bias = (value.detach().clone() for value in heads.layers[0].parameters())
    at, velocity = order.shuffled(18, seed=0), [torch.zeros_like(weight), torch.zeros_like(bias)]
    for iteration in range(6):
        rows = [at(9 * iteration + place) for place in range(9)]
        error = (features[rows] @ weight.T + bias).softmax(1) - functional.one_hot(labels[rows], 3)
        lr = 0.5 * 9 / 256 * (1 + math.cos(math.pi * (iteration // 2) / 3)) / 2
        gradients = [error.T @ features[rows] / 9 + 0.01 * weight, error.mean(0) + 0.01 * bias]
        for value, step, gradient in zip((weight, bias), velocity, gradients, strict=True):
            step.mul_(0.9).add_(gradient)
            value.sub_(lr * step)
    torch.testing.assert_close(weights(out, 0), {"weight": weight, "bias": bias}, rtol=1e-4, atol=1e-6)


def killed_in_epoch(number: int, work: Callable[[], Any]) -> int | None:
    """Exit code of a process that kills itself when it measures that epoch."""

    def measure(self: Validation, heads: Heads, epoch: int, *, iteration: int) -> Epoch:
        if epoch == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, heads, epoch, iteration=iteration)

    def run() -> None:
        validation.Validation.measure = measure
        work()

    usual = validation.Validation.measure
    process = get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("config", [CONFIG, FROZEN])
def test_killed_between_epochs_and_run_again_it_gives_the_same_bytes(
    checkpoint: Checkpoint, data: Path, config: Config
):
    whole, expected = evaluate(checkpoint, data, config, "whole")
    for epoch in (2, 3):
        work = lambda: evaluate(checkpoint, data, config, "parts", save_every_s=1e-9)  # noqa: E731
        assert killed_in_epoch(epoch, work) == -signal.SIGKILL
    parts = data.parent / "parts"
    assert saved_states(parts) and not (parts / "epochs" / "0003.json").exists()
    shutil.rmtree(data.parent / "root")
    again, result = evaluate(checkpoint, data, config, "parts", n_workers=1)
    assert content(again) == content(whole)
    assert result._replace(cost=None) == expected._replace(cost=None)


def test_a_finished_probe_is_only_read(checkpoint: Checkpoint, data: Path):
    out, first = evaluate(checkpoint, data)
    (out / MODEL).touch()
    before = content(out)
    _, second = evaluate(checkpoint, data)
    assert content(out) == before and second._replace(cost=None) == first._replace(cost=None)
    (out / "epochs" / "0002.json").unlink()
    with pytest.raises(ValueError, match=r"epochs/0002\.json is missing or damaged\. Remove .*out and measure again"):
        evaluate(checkpoint, data)


@pytest.mark.parametrize("config", [CONFIG, FROZEN])
def test_two_processes_learn_what_one_learns(
    checkpoint: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch, config: Config
):
    monkeypatch.setattr(validation, "ROWS_PER_CHUNK", 4)  # two chunks
    monkeypatch.setattr(draws, "ROWS_AT_MOST", 2)
    alone, expected = evaluate(checkpoint, data, config, "alone")

    def one_of_two() -> None:
        _, result = evaluate(checkpoint, data, config, "both")
        (data.parent / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(result.metrics))

    assert finetuner.side_by_side(2, one_of_two) == [0, 0]
    assert json.loads((data.parent / "rank-0.json").read_text()) == expected.metrics
    assert json.loads((data.parent / "rank-1.json").read_text()) == {}
    for head in range(2):
        torch.testing.assert_close(weights(data.parent / "both", head), weights(alone, head), rtol=1e-3, atol=1e-5)


def measured(top1: float, top5: float) -> Measured:
    return Measured(top1=top1, top5=top5, shown=())


def test_the_headline_is_the_best_head_at_its_best_epoch(tmp_path: Path):
    by_hand = [
        Epoch(epoch=1, heads={"a": measured(10, 40), "b": measured(30, 50)}),
        Epoch(epoch=2, heads={"a": measured(30, 60), "b": measured(20, 70)}),
        Epoch(epoch=3, heads={"a": measured(30, 60), "b": measured(25, 80)}),
    ]
    for epoch in by_hand:
        write_epoch(tmp_path, epoch)
    epochs = read_epochs(tmp_path, 3)
    assert epochs == by_hand
    chosen = best(epochs)
    assert (chosen.head, chosen.epoch) == ("a", 2)  # of equal top-1 the better top-5, then the earlier
    assert best(epochs, "b").epoch == 1
    metrics = imagenet_linear._metrics(epochs)
    assert (metrics["top1"], metrics["top5"], metrics["top1_last"], metrics["top5_last"]) == (30, 60, 30, 60)
    assert (metrics["top1_b"], metrics["top5_b"]) == (30, 50)
    assert (metrics["top1_last_b"], metrics["top5_last_b"]) == (25, 80)


@pytest.mark.parametrize(("head", "says"), [("lr_1e0", ", the largest of the grid"), ("lr_1e-1", "")])
def test_the_choice_is_told(head: str, says: str):
    heads = {name: measured(float(name == head), 0) for name in ("lr_1e-2", "lr_1e-1", "lr_1e0")}
    told = imagenet_linear._choice([Epoch(epoch=1, heads=heads)], CONFIG.model_copy(update={"lrs": (0.01, 0.1, 1.0)}))
    assert told == (
        f"top-1 is that of learning rate {head.removeprefix('lr_')}{says}, after epoch 1 of 4: both chosen on the "
        "validation images"
    )


def test_the_rate_falls_once_an_epoch():
    factor = cosine_by_epochs(4, iterations_per_epoch=3)
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [factor(iteration) for iteration in range(12)] == pytest.approx(np.repeat(expected, 3))


def test_of_equal_logits_the_lower_class_comes_first():
    logits = torch.tensor([[2.0, 2.0, 1.0, 0.0]]).expand(4, -1)
    found = [n_correct(logits[:1], torch.tensor([label]), tops=(1, 2, 3, 5)).tolist() for label in range(4)]
    assert found == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert n_correct(logits, torch.arange(4), tops=(1, 2, 3, 5)).tolist() == [1, 2, 3, 4]


def test_heads_begin_alike_and_small():
    torch.manual_seed(0)
    heads = Heads(["a", "b"], width=200, n_classes=100)
    (weight, bias), (second_weight, second_bias) = (list(layer.parameters()) for layer in heads.layers)
    assert torch.equal(weight, second_weight) and not bias.any() and not second_bias.any()
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_training_photos_are_cropped_as_torchvision_does(data: Path):
    paths = sorted((data / "train").glob("*/*.JPEG"))
    read = crops.reader(paths, list(range(18)), crop=32)
    for index in (0, 7):
        torch.manual_seed(index)
        ours = read(index)
        torch.manual_seed(index)
        with Image.open(paths[index]) as file:
            expected = RandomHorizontalFlip()(RandomResizedCrop(32)(file.convert("RGB")))
        assert np.array_equal(ours.pixels, np.array(expected)) and ours.label == index
    assert not np.array_equal(read(7).pixels, read(7).pixels)


def test_rows_read_at_once_are_those_of_single_turns():
    features = np.arange(22, dtype=np.float32).reshape(11, 1, 2)
    read = draws.reader(features, list(range(11)), at_once=4, seed=3)
    at = order.shuffled(11, seed=3)
    for turn in range(6):  # beyond two passes
        rows = read(turn)
        assert rows.labels.tolist() == [at(4 * turn + place) for place in range(4)]
        assert np.array_equal(rows.features, features[rows.labels, 0])


@pytest.mark.parametrize(("batch", "at_once"), [(2048, 64), (32, 32), (96, 48), (67, 1), (1, 1)])
def test_a_batch_is_whole_times_what_is_read_at_once(batch: int, at_once: int):
    assert draws.rows_at_once(batch) == at_once


def test_the_authors_rate_is_in_the_grid_and_presets_are_protocols_of_their_own():
    assert 0.01 in Config().lrs and 0.01 * Config().batch_size / imagenet_linear.IMAGES_PER_LR == 0.08
    ids = {benchmark.protocol("imagenet_linear", config, None) for config in imagenet_linear.PRESETS.values()}
    assert ids == {
        f"imagenet1k-linear4-100ep-224-{preset}" for preset in ("short", "vit-b", "one-percent", "ten-percent")
    }


@pytest.mark.parametrize("lrs", [(0.1, 0.1), (0.0, 0.1), (-1.0,), ()])
def test_rates_that_make_no_grid_are_refused(lrs: Sequence[float]):
    with pytest.raises(ValidationError, match=r"positive learning rates that differ|at least 1 item"):
        Config(lrs=tuple(lrs))


def test_the_mean_of_patches_goes_with_one_block():
    with pytest.raises(ValueError, match="avgpool reads the last block alone: expected n_blocks=1, got 4"):
        benchmark.configure("imagenet_linear", overrides=["avgpool=true"])


def test_few_labels_are_those_of_the_published_list(checkpoint: Checkpoint, data: Path):
    few = CONFIG.model_copy(update={"subset": "1percent", "epochs": 1, "batch_size": 2})
    with pytest.raises(FileNotFoundError, match=r"no .*/1percent\.txt, SimCLR's list.*google-research/simclr there"):
        imagenet_linear.check(data, few)
    listing = data / "1percent.txt"
    names = [f"{WNIDS[2]}_3.JPEG", f"{WNIDS[0]}_5.JPEG", f"{WNIDS[0]}_1.JPEG"]  # none of the second class
    listing.write_text("".join(f"{name}\n" for name in names))
    facts, usual = (imagenet_linear.check(data, config) for config in (few, CONFIG))
    assert (facts["n_train"], facts["n_val"], facts["n_classes"]) == (3, 6, 3)
    assert facts["list_sha256"] != usual["list_sha256"]
    found = imagenet_linear.images(data, few)
    assert [(photo.path.name, photo.label) for photo in found.train] == [(names[2], 0), (names[1], 0), (names[0], 2)]
    out, result = evaluate(checkpoint, data, few)
    assert result.n_samples == 6 and json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
    listing.write_text("n01440764_1.JPEG\nn99_7.JPEG\n")
    with pytest.raises(ValueError, match=r"names 2 photos, 1 of which are not in .*train: n99_7\.JPEG\. Take the list"):
        imagenet_linear.check(data, few)
    listing.write_text("\n")
    with pytest.raises(ValueError, match=r"names 0 photos"):
        imagenet_linear.check(data, few)


def test_a_class_that_no_training_photo_has_may_be_on_the_sheet(data: Path, tmp_path: Path):
    found = imagenet_linear.images(data, CONFIG)
    found = found._replace(train=[photo for photo in found.train if photo.label])
    shown = Measured(top1=0, top5=0, shown=(0,) * 6)
    imagenet_linear._write_sheet(tmp_path / "sheet.jpg", found, [Epoch(epoch=1, heads={"a": shown})], CONFIG)
    assert (tmp_path / "sheet.jpg").stat().st_size


def test_a_broken_training_photo_is_named_and_replaced(checkpoint: Checkpoint, data: Path):
    path = data / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    _, result = evaluate(checkpoint, data)
    assert "1 of 18 training samples could not be read" in result.notes[1] and path.name in result.notes[1]
    with pytest.raises(ValueError, match=rf"{path.name} is no readable image"):
        evaluate(checkpoint, data, FROZEN, "frozen")


def test_missing_data_is_told_in_this_benchmarks_name(data: Path):
    shutil.rmtree(data / "val" / WNIDS[0])
    with pytest.raises(ValueError, match=r"^imagenet_linear: .*n01440764 is in one of them only"):
        imagenet_linear.check(data, CONFIG)
    shutil.rmtree(data / "val")
    with pytest.raises(FileNotFoundError, match=r"^imagenet_linear: no folder val in .*DORA_DATASETS__IMAGENET"):
        imagenet_linear.check(data, CONFIG)


def test_features_that_are_no_numbers_are_refused(tmp_path: Path):
    features = np.ones((5, 2, 3), np.float32)
    features[3, 1, 2] = np.nan
    with (
        joined(Machine(root=tmp_path, device="cpu"), tmp_path) as team,
        pytest.raises(ValueError, match=r"validation image 3 are no finite numbers\. Has the checkpoint NaN weights"),
    ):
        Validation(features, [0] * 5, shown=[0], team=team)
