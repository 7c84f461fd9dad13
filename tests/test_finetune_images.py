"""Fine-tuning for classification: rates, repeats, mixtures and verdicts by hand, and three colours that are learnt."""

import io
import json
import math
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finetuner
import numpy as np
import pytest
import tiny_eval
import torch
from PIL import Image
from test_benchmark_contract import content
from tiny import PRETRAIN

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import cifar as cifar_layout
from dora.data.labelled import inaturalist as inaturalist_layout
from dora.data.labelled.portraits import Portraits, write_folders
from dora.method.vit import build_vit
from dora.progress import silent
from eval import benchmark
from eval.benchmark import Result
from eval.benchmarks import imagenet_finetune, transfer_cars, transfer_cifar10, transfer_flowers, transfer_inat18
from eval.classifying import finetuning
from eval.classifying.accuracy import n_above
from eval.classifying.augment import mixing, reader
from eval.classifying.network import Classifier, groups
from eval.classifying.photos import Photos, Sets
from eval.classifying.recipe import Finetuning
from eval.classifying.sets import cifar, inaturalist
from eval.classifying.task import repeated
from eval.finetune.samples import seed_all

torch.set_num_threads(1)

COLOURS = {"car": (200, 40, 40), "dog": (40, 200, 40), "tree": (40, 40, 200)}
PLAIN: dict[str, Any] = {
    "whole": False, "crop": 32, "iterations": 24, "batch_size": 6, "lr": 5e-3, "warmup_iterations": 2, "drop_path": 0,
    "layer_decay": 1, "head_scale": 1, "mixup": 0, "cutmix": 0, "erase": 0, "auto_augment": "", "n_looks": 3,
    "precision": "fp32", "max_broken_share": 0,
}  # fmt: skip


def plain(**values: Any) -> imagenet_finetune.Config:
    return imagenet_finetune.Config.model_validate(PLAIN | values)


def coloured(n_each: int, seed: int) -> Portraits:
    draw = np.random.default_rng(seed)
    return tuple(
        (name, tuple(np.uint8(colour + draw.integers(-30, 30, (40, 50, 3))) for _ in range(n_each)))
        for name, colour in COLOURS.items()
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    write_folders(folder, {"train": coloured(4, 0), "val": coloured(3, 1)})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


def run(checkpoint: Checkpoint, config: Finetuning, out: Path, sets: Sets, **values: Any) -> Result:
    out.mkdir(exist_ok=True)
    machine = Machine(root=out, device="cpu", threads=1, **values)
    return finetuning.evaluate(checkpoint, config, machine, out, silent, sets)


def test_the_rate_climbs_to_its_peak_and_falls_along_a_cosine():
    config = plain(iterations=110, warmup_iterations=10, lr=2.0, last_lr=0.5)
    assert config.lr_factor(0) == 0 and config.lr_factor(5) == 0.5 and config.lr_factor(10) == 1
    assert config.lr_factor(60) == pytest.approx((0.5 + 1.5 / 2) / 2)
    assert config.lr_factor(110) == pytest.approx(0.25)


def test_deits_rate_is_kept_for_an_epoch_and_its_cosine_has_fallen_since_the_start():
    config = plain(
        iterations=100, warmup_iterations=20, lr_every=10, lr=1.0, first_lr=0.2, cosine_after_warmup=False
    )  # fmt: skip
    assert [config.lr_factor(i) for i in (0, 9, 10, 19, 20, 29)] == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.6, 0.6])
    assert config.lr_factor(67) == config.lr_factor(60) == pytest.approx(0.5)
    assert config.lr_factor(30) == pytest.approx((1 + math.cos(math.pi * 0.2)) / 2)


@pytest.mark.parametrize(
    ("name", "n_photos", "epochs", "lr_of_512"),
    [
        ("transfer_cifar10", 50_000, 1000, 7.5e-6), ("transfer_cifar100", 50_000, 1000, 7.5e-6),
        ("transfer_flowers", 2040, 1000, 7.5e-6), ("transfer_cars", 8144, 1000, 7.5e-5),
        ("transfer_inat18", 437_513, 360, 5e-5), ("transfer_inat19", 265_213, 360, 2.5e-5),
    ],
)  # fmt: skip
def test_iterations_and_rates_of_the_transfer_sets_are_those_of_8_gpus(
    name: str, n_photos: int, epochs: int, lr_of_512: float
):
    config: Any = benchmark.load(name).Config()
    each_gpu = n_photos // 256 * 256 // 8  # DeiT's sampler
    assert config.lr_every == each_gpu // 96 and config.batch_size == 8 * 96
    assert config.iterations == epochs * config.lr_every and config.warmup_iterations == 5 * config.lr_every
    assert config.lr == pytest.approx(lr_of_512 * config.batch_size / 512)


def test_looks_are_spread_over_the_training_and_leave_the_end_out():
    assert plain(iterations=10, n_looks=4).looks() == {2, 5, 7}
    assert plain(iterations=2, n_looks=10).looks() == {1}
    assert plain(n_looks=1).looks() == set()


def test_a_pass_with_repeats_sees_a_third_thrice_and_all_come_equally_often():
    order = repeated(9, times=3, seed=0)
    first, second = ([order(position) for position in range(start, start + 9)] for start in (0, 9))
    assert first[0] == first[1] == first[2] != first[3] and Counter(first).most_common()[-1][1] == 3
    assert first != second
    counts = Counter(order(position) for position in range(9 * 90))
    assert len(counts) == 9 and max(counts.values()) < 1.6 * min(counts.values())
    once = repeated(9, times=1, seed=0)
    assert sorted(once(position) for position in range(9)) == list(range(9))


@pytest.mark.parametrize("n", [1, 4, 5])
def test_mixtures_are_drawn_from_the_seed_and_their_labels_are_shares(n: int):
    mix = mixing(plain(mixup=0.8, cutmix=1.0), 10)

    def mixed(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        seed_all(seed, device_too=False)
        images = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 3, 8, 8).contiguous()
        return mix(images, torch.arange(n))

    images, shares = mixed(3)
    assert images.shape == (n, 3, 8, 8) and torch.equal(images, mixed(3)[0]) and torch.equal(shares, mixed(3)[1])
    torch.testing.assert_close(shares.sum(1), torch.ones(n))
    if n == 4:  # the last photo's number with its share, and the first one's, make what is seen on average
        share = (shares[0, 3] - 0.01) / (1 - 0.1)
        torch.testing.assert_close(images[0].mean(), 3 * share)
        assert any(not torch.equal(mixed(seed)[1], shares) for seed in range(3))


def test_without_mixing_labels_are_smoothed_as_torch_does():
    draw = torch.Generator().manual_seed(0)
    logits, labels, images = torch.randn(3, 7, generator=draw), torch.tensor([0, 6, 2]), torch.rand(3, 3, 8, 8)
    same, shares = mixing(plain(smoothing=0.1), 7)(images.clone(), labels)
    ours = torch.nn.functional.cross_entropy(logits, shares)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    torch.testing.assert_close(same, images)


def test_a_training_photo_is_a_function_of_the_seed(data: Path):
    config = plain(auto_augment="rand-m9-mstd0.5-inc1", erase=1.0)
    read = reader(imagenet_finetune.sets(data).train, config)

    def photo(seed: int) -> torch.Tensor:
        seed_all(seed, device_too=False)
        return read(2).image

    assert photo(1).shape == (3, 32, 32) and torch.equal(photo(1), photo(1)) and not torch.equal(photo(1), photo(2))


def test_the_strongest_augmentation_makes_some_photos_black_and_breaks_none(data: Path):
    read = reader(imagenet_finetune.sets(data).train, plain(crop=16, auto_augment="rand-m10-mstd0-inc1"))
    spreads: list[float] = []
    for seed in range(80):
        seed_all(seed, device_too=False)
        spreads.append(float(read(seed % 12).image.flatten(1).std(1).max()))
    assert 0 < spreads.count(0.0) < 20


def test_a_fault_of_the_augmentation_is_not_taken_for_a_broken_photo(data: Path):
    whole = next(data.glob("train/*/*.JPEG")).read_bytes()

    class Late(Torn):
        def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
            return Image.open(
                io.BytesIO(whole[: len(whole) // 2])
            ), 0  # which reads the pixels when they are first asked for

    with pytest.raises(RuntimeError, match=r"a photo of \(50, 40\) pixels cannot be augmented: .*truncated"):
        reader(Late(imagenet_finetune.sets(data).train, 0), plain())(0)


def test_ties_and_what_is_no_number_are_no_success():
    nan = math.nan
    logits = torch.tensor([[3.0, 1, 2], [1, 1, 0], [nan, nan, nan], [0, 5, nan]])
    assert n_above(logits, torch.tensor([2, 0, 0, 1])).tolist() == [1, 1, 2, 1]


def test_positions_and_cls_do_not_decay_and_deep_layers_learn_slower():
    model = Classifier(build_vit(PRETRAIN.backbone, drop_path=False), 5, drop_path=0.2, head_scale=0.5)
    assert [block.drop_path1.drop_prob for block in model.vit.blocks[1:]] == pytest.approx([0.2])
    made = groups(model, plain(layer_decay=0.5, lr=1.0))
    of = {id(parameter): group for group in made for parameter in group["params"]}
    depth = len(model.vit.blocks)
    head, positions, patches = (
        of[id(parameter)] for parameter in (model.head.weight, model.vit.pos_embed, model.vit.patch_embed.proj.weight)
    )
    assert (head["lr"], head["weight_decay"]) == (1.0, 0.05) and of[id(model.head.bias)]["weight_decay"] == 0
    assert positions["weight_decay"] == of[id(model.vit.cls_token)]["weight_decay"] == 0 < patches["weight_decay"]
    assert positions["lr"] == patches["lr"] == 0.5 ** (depth + 1)
    assert len(of) == len(list(model.parameters()))


def test_the_encoder_learns_three_colours(data: Path, checkpoint: Checkpoint, tmp_path: Path):
    result = run(checkpoint, plain(), tmp_path, imagenet_finetune.sets(data))
    assert result.metrics == {"top1": 100, "top5": 100, "top1_best": 100} and result.n_samples == 9
    assert sorted(path.stem for path in (tmp_path / "looks").iterdir()) == ["00000008", "00000016"]
    rows = json.loads((tmp_path / "classes.json").read_bytes())
    assert [(row["name"], row["top1"], row["photos"]) for row in rows] == [
        (name, 100, 3) for name in ("tree", "car", "dog")
    ]


class Torn(Photos):
    """Photos of which one cannot be read."""

    def __init__(self, photos: Photos, which: int) -> None:
        self._photos, self._which = photos, which

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        if index == self._which:
            raise ValueError("torn.jpg is no readable image")
        return self._photos[index]


def test_a_photo_that_cannot_be_read_counts_as_wrong_and_is_named(data: Path, checkpoint: Checkpoint, tmp_path: Path):
    sets = imagenet_finetune.sets(data)
    torn = sets._replace(train=Torn(sets.train, 1), val=Torn(sets.val, 4))
    result = run(checkpoint, plain(max_broken_share=0.2), tmp_path / "some", torn)
    assert result.metrics["top1"] == pytest.approx(100 * 8 / 9)
    assert result.notes == (
        "1 of 12 training samples could not be read and others were learnt from in their place: torn.jpg is no "
        "readable image",
        "1 of 9 validation photos could not be read and count as wrong; the table of classes leaves them out: torn.jpg "
        "is no readable image",
    )
    with pytest.raises(ValueError, match="1 of 9 validation photos cannot be read"):
        run(checkpoint, plain(iterations=1), tmp_path / "none", sets._replace(val=Torn(sets.val, 4)))


class PowerCut(Torn):
    """Photos at whose n-th reading everything ends."""

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        self._which -= 1
        if self._which == 0:
            raise SystemExit("the power is cut")
        return self._photos[index]


@pytest.mark.parametrize("readings", [14, 24])  # in the second look; in the measurement after the training
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    readings: int, data: Path, checkpoint: Checkpoint, tmp_path: Path
):
    sets = imagenet_finetune.sets(data)
    config = plain(iterations=9, mixup=0.8, cutmix=1.0, drop_path=0.5, erase=0.5, auto_augment="rand-m9-mstd0.5-inc1")
    whole = run(checkpoint, config, tmp_path / "whole", sets)
    with pytest.raises(SystemExit):
        cut = sets._replace(val=PowerCut(sets.val, readings))
        run(checkpoint, config, tmp_path / "cut", cut, save_every_s=1e-9)
    resumed = run(checkpoint, config, tmp_path / "cut", sets, n_workers=2)
    assert resumed.metrics == whole.metrics
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_learn_and_measure_together(data: Path, checkpoint: Checkpoint, tmp_path: Path):
    def work() -> None:
        result = run(checkpoint, plain(), tmp_path, imagenet_finetune.sets(data))
        if result.metrics:
            (tmp_path / "metrics.json").write_text(json.dumps(result.metrics))

    assert finetuner.side_by_side(2, work) == [0, 0]
    assert json.loads((tmp_path / "metrics.json").read_bytes()) == {"top1": 100, "top5": 100, "top1_best": 100}


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (imagenet_finetune, r"imagenet_finetune: .* has n_classes = 3, expected 1,000"),
        (transfer_flowers, r"transfer_flowers: .* has n_photos = 21, expected 8,189"),
        (transfer_cars, r"transfer_cars: .* has n_train = 12, expected 8,144"),
        (transfer_inat18, r"transfer_inat18: .* has n_train = 12, expected 437,513"),
    ],
)
def test_a_part_of_a_set_is_refused_unless_it_is_meant(
    module: Any, says: str, tmp_path: Path, few_colours: Callable[[Any], Any]
):
    few_colours(module).miniature(tiny_eval.WORLD, tmp_path)
    with pytest.raises(ValueError, match=says + r".*whole=false, which is another protocol"):
        module.check(tmp_path, module.Config())


@pytest.mark.parametrize("module", [imagenet_finetune, transfer_flowers])
def test_a_larger_miniature_is_trained_as_much_longer(module: Any, tmp_path: Path, few_colours: Callable[[Any], Any]):
    drawn = few_colours(module)
    small, large = (drawn.miniature(tiny_eval.WORLD, tmp_path / str(times), times=times) for times in (1, 3))
    assert large == small.model_copy(update={"iterations": 3 * small.iterations})


@pytest.fixture
def few_colours(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Miniatures of three colours in the place of the street's things, which take seconds to draw."""

    def without_street(module: Any) -> Any:
        pictures = {"train": coloured(4, 0), "val": coloured(3, 1)}
        at = (module, "few") if hasattr(module, "few") else (module.portraits, "few")
        monkeypatch.setattr(*at, lambda world, times: pictures)
        return module

    return without_street


def test_other_bytes_than_the_published_ones_are_refused_in_a_sentence(tmp_path: Path):
    layout = cifar_layout.CIFAR10
    cifar_layout.write(tmp_path, layout, {"train": coloured(4, 0), "val": coloured(3, 1)})
    with pytest.raises(
        ValueError, match=r"torchvision does not take what is in .*Unpack the data set again; dora never"
    ):
        cifar.read(tmp_path, layout, whole=True)
    sets = cifar.read(tmp_path, layout, whole=False)
    image, label = sets.val[1]
    assert (sets.classes, len(sets.train), len(sets.val), label) == (tuple(COLOURS), 12, 9, 1)
    assert np.abs(np.asarray(image).mean((0, 1)) - COLOURS["dog"]).max() < 10


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("caught",)

    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Trap()}))
    with pytest.raises(ValueError, match=r"test_batch is no file of CIFAR: it names builtins.print, which no array"):
        cifar.refuse_code(tmp_path / "test_batch")


def test_inaturalist_is_read_by_its_lists_under_both_names_of_its_folder(tmp_path: Path):
    inaturalist_layout.write(tmp_path, 2018, {"train": coloured(4, 0), "val": coloured(3, 1)})
    Image.new("RGB", (8, 8)).save(tmp_path / "train_val2018" / "Street" / "0" / "in_no_list.jpg")
    before = inaturalist.check(tmp_path, 2018, "transfer_inat18", whole=False, expected={})
    (tmp_path / "train_val2018").rename(tmp_path / "2018")  # torchvision's
    assert inaturalist.check(tmp_path, 2018, "transfer_inat18", whole=False, expected={}) == before
    sets = inaturalist.read(tmp_path, 2018)
    assert (before["n_train"], before["n_val"], len(sets.train), len(sets.val)) == (12, 9, 12, 9)
    image, label = sets.train[5]
    assert sets.classes[label] == "tree" and np.abs(np.asarray(image).mean((0, 1)) - COLOURS["tree"]).max() < 10
    (tmp_path / "val2018.json").write_text("{}")
    with pytest.raises(ValueError, match=r"val2018\.json is no list of iNaturalist 2018: KeyError\('categories'\)"):
        inaturalist.read(tmp_path, 2018)


def test_files_that_are_missing_are_all_named(tmp_path: Path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "batches.meta").touch()
    with pytest.raises(FileNotFoundError, match=r"no .*data_batch_1, .*data_batch_5, .*test_batch in ") as caught:
        transfer_cifar10.check(tmp_path, transfer_cifar10.Config())
    assert "batches.meta" not in str(caught.value).partition(" in ")[0]
