"""ImageNet-1k: linear classification of frozen [CLS] features of the last four blocks, top-1 and top-5 in percent.

The authors' probe: one linear layer, SGD for 100 epochs. Several learning rates are trained at once on the same
features (eval/frozen/probe.py) and measured after each epoch. `top1` is the best rate's at its best epoch, both chosen
on the validation images, as this field reports; `top1_lr_1e-2` is the best epoch of the rate that the authors took,
`top1_last_lr_1e-2` its last epoch, and `top1_last` the best rate's last. docs/imagenet.md tells more.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from dora.artifacts import Checkpoint, Machine
from dora.config import Finite
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.benchmarks import imagenet_knn
from eval.benchmarks.imagenet_knn import Photo, class_names, listing
from eval.finetune.grid import apart, head_name
from eval.finetune.training import BrokenShare, Training

if TYPE_CHECKING:
    import numpy as np

    from eval.finetune.task import Task
    from eval.finetune.team import Team
    from eval.frozen.epochs import Epoch

VERSION = 1
PROTOCOL = "imagenet1k-linear4-100ep-224"
DATASET, HOW_TO_GET = imagenet_knn.DATASET, imagenet_knn.HOW_TO_GET
HEADLINE = "top1"
COST = (
    "estimated, not measured: 128 million crops for 100 epochs, whose decoding takes 100 to 150 hours of one processor "
    "core, shared by all there are; GPUs wait for it. --preset short learns from features that are computed once: as "
    "long as k-NN's and 7.9 GB of disk, then less than half an hour on a GPU."
)
PARALLEL = True
DRAWN_BY = "imagenet_knn"

SHEET = "classes.jpg"
N_SHEET_PHOTOS, N_SHEET_EXAMPLES = 8, 5
IMAGES_PER_LR = 256  # a learning rate is for so many images in a batch


class Config(Finite):
    """DoRA's setting for ViT-S/16, with a grid about its learning rate.

    [DoRA] is the README's linear command (4 GPUs x 512, --lr 0.01), [DINO] facebookresearch/dino eval_linear, 7c446df.
    """

    crop: int = Field(default=224, ge=8, description="pixels; validation photos are resized to 256/224 of it first")
    n_blocks: int = Field(
        default=4, ge=1, description="the last ones, [CLS] after the last norm; fewer if it has [DINO]"
    )
    avgpool: bool = Field(
        default=False, description="the mean of the last block's patches beside its [CLS]; n_blocks must be 1 [DINO]"
    )
    augment: bool = Field(
        default=True,
        description="train on random crops, mirrored or not [DINO]; false: on features of the centre, computed once",
    )
    subset: Literal["1percent", "10percent"] | None = Field(
        default=None, description="train on the photos of SimCLR's list of that name only (arXiv:2002.05709)"
    )
    epochs: int = Field(default=100, ge=1, description="[DINO]")
    batch_size: int = Field(default=2048, ge=1, description="[DoRA]")
    lrs: tuple[float, ...] = Field(
        default=(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0), min_length=1,
        description="for 256 images; 0.01 is [DoRA]'s, 0.001 [DINO]'s, the range iBOT's sweep's",
    )  # fmt: skip
    weight_decay: float = Field(default=0, ge=0, description="[DINO]")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the frozen ViT in training [DINO]")
    seed: int = Field(default=0, description="of the heads' weights, the order and the crops; --seed [DINO]")
    max_broken_share: BrokenShare = 0.001

    @field_validator("lrs")
    @classmethod
    def _apart(cls, lrs: tuple[float, ...]) -> tuple[float, ...]:
        return apart(lrs)

    @model_validator(mode="after")
    def _one_block(self) -> "Config":
        if self.avgpool and self.n_blocks != 1:
            raise ValueError(f"avgpool reads the last block alone: expected n_blocks=1, got {self.n_blocks}")
        return self


PRESETS = {
    "short": Config(augment=False),
    "vit-b": Config(n_blocks=1, avgpool=True),
    "one-percent": Config(subset="1percent"),
    "ten-percent": Config(subset="10percent"),
}


class Images(NamedTuple):
    """Class folders, whose places are the labels, and the photos of both subsets."""

    classes: list[str]
    train: list[Photo]
    val: list[Photo]


def shares(config: Config) -> int:
    """Parts of a batch: photos, or many rows of features at once."""
    from eval.frozen import draws

    return config.batch_size // (1 if config.augment else draws.rows_at_once(config.batch_size))


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of classes and images, and the hash of all file names."""
    return imagenet_knn.facts(*images(data, config))


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Train the heads and measure them after each epoch; goes on from what is in `out`."""
    from eval.finetune.loop import finetune
    from eval.finetune.team import joined
    from eval.frozen.epochs import read_epochs

    found = images(machine.datasets[DATASET], config)
    with joined(machine, out) as team:
        task, training = lesson(checkpoint, found, config, machine, out, team, progress)
        spent = finetune(task, training, machine, out, team, progress)
        if team.ranks.rank:
            return Result({}, (), n_samples=0)
        epochs = read_epochs(out, config.epochs)
        _write_sheet(out / SHEET, found, epochs, config)
        notes = (_choice(epochs, config), *spent.notes)
        return Result(_metrics(epochs), (SHEET,), n_samples=len(found.val), notes=notes, cost=team.cost())


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """For k-NN's miniature: fewer epochs of smaller batches."""
    return Config(crop=64, epochs=10, batch_size=32, lrs=(3e-3, 1e-2, 3e-2), max_broken_share=0)


def images(data: Path, config: Config) -> Images:
    """What is learnt from, and what is measured."""
    classes, train, val = listing(data, benchmark="imagenet_linear")
    return Images(classes, listed(data, train, config.subset) if config.subset else train, val)


def listed(data: Path, train: Sequence[Photo], subset: str) -> list[Photo]:
    """The photos that SimCLR's list names, in the order of all photos.

    Raises:
        FileNotFoundError: if the list is not there.
        ValueError: if it names photos that are not.
    """
    path = data / f"{subset}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"imagenet_linear: no {path}, SimCLR's list of the photos whose labels may be seen, a file name a line. "
            f"Put imagenet_subsets/{subset}.txt of github.com/google-research/simclr there. (Photos of our own choice "
            "would give numbers that compare with none.)"
        )
    names = set(path.read_text().split())
    chosen = [photo for photo in train if photo.path.name in names]
    absent = names - {photo.path.name for photo in chosen}
    if absent or not names:
        raise ValueError(
            f"imagenet_linear: {path} names {len(names):,} photos, {len(absent):,} of which are not in {data}/train"
            f"{f': {min(absent)}' if absent else ''}. Take the list as it was published, and all of ImageNet."
        )
    return chosen


def lesson(
    checkpoint: Checkpoint, found: Images, config: Config, machine: Machine, out: Path, team: "Team",
    progress: Progress,
) -> "tuple[Task, Training]":  # fmt: skip
    """What the loop learns, and for how long; features that are not there yet are computed. All ranks call it."""
    import torch

    from eval.features import frozen_backbone
    from eval.finetune.task import Task
    from eval.frozen import crops, draws
    from eval.frozen.epochs import write_epoch
    from eval.frozen.probe import Heads, cosine_by_epochs, sgd
    from eval.frozen.store import class_tokens
    from eval.frozen.validation import Validation

    vit = frozen_backbone(checkpoint, machine).to(team.ranks.device)
    n_blocks = min(config.n_blocks, len(vit.blocks))
    labels = [photo.label for photo in found.train]

    def kept(photos: Sequence[Photo]) -> "np.memmap[Any, Any]":
        return class_tokens(
            checkpoint, [photo.path for photo in photos], crop=config.crop, n_blocks=n_blocks, avgpool=config.avgpool,
            machine=machine, team=team, progress=progress,
        )  # fmt: skip

    how: dict[str, Any]
    if config.augment:
        at_once = 1
        read = crops.reader([photo.path for photo in found.train], labels, crop=config.crop)
        how = {"read": read, "loss": crops.losses(vit, n_blocks, avgpool=config.avgpool)}
    else:
        at_once = config.batch_size // shares(config)
        read = draws.reader(kept(found.train), labels, at_once=at_once, seed=config.seed)
        how = {"read": read, "loss": draws.losses, "order": int}  # it orders them itself
    features = kept(found.val)
    validation = Validation(features, [photo.label for photo in found.val], shown=_shown(found), team=team)
    torch.manual_seed(config.seed)
    names = [head_name(lr) for lr in config.lrs]
    width = features.shape[1] * features.shape[2]
    heads = Heads(names, width=width, n_classes=len(found.classes)).to(team.ranks.device)
    per_epoch = -(-len(found.train) // config.batch_size)

    def after(iteration: int) -> None:
        if iteration % per_epoch == 0:
            measured = validation.measure(heads, iteration // per_epoch, iteration=iteration)
            if team.ranks.rank == 0:
                write_epoch(out, measured)

    rates = [lr * config.batch_size / IMAGES_PER_LR for lr in config.lrs]
    task = Task(
        model=heads, n_samples=len(found.train), groups=heads.groups(rates, weight_decay=config.weight_decay),
        lr_factor=cosine_by_epochs(config.epochs, iterations_per_epoch=per_epoch), optimizer=sgd, after=after, **how,
    )  # fmt: skip
    training = Training(
        iterations=config.epochs * per_epoch, batch_size=config.batch_size // at_once, precision=config.precision,
        seed=config.seed, max_broken_share=config.max_broken_share,
    )  # fmt: skip
    return task, training


def _metrics(epochs: "Sequence[Epoch]") -> dict[str, float]:
    from eval.frozen.epochs import best

    last = epochs[-1:]
    chosen = {"": best(epochs), "_last": best(last)}
    for name in last[0].heads:
        chosen |= {f"_{name}": best(epochs, name), f"_last_{name}": best(last, name)}
    return {
        metric: value
        for name, one in chosen.items()
        for metric, value in ((f"top1{name}", one.measured.top1), (f"top5{name}", one.measured.top5))
    }


def _choice(epochs: "Sequence[Epoch]", config: Config) -> str:
    """Which rate and epoch the headline is of, and how it came to be chosen."""
    from eval.frozen.epochs import best

    chosen = best(epochs)
    ends = {head_name(min(config.lrs)): "smallest", head_name(max(config.lrs)): "largest"}
    at_end = f", the {ends[chosen.head]} of the grid" if len(config.lrs) > 1 and chosen.head in ends else ""
    return (
        f"top-1 is that of learning rate {chosen.head.removeprefix('lr_')}{at_end}, after epoch {chosen.epoch} of "
        f"{config.epochs}: both chosen on the validation images"
    )


def _shown(found: Images) -> list[int]:
    """Which validation photos are on the sheet: spread over the classes."""
    from eval.pictures import evenly

    return evenly(len(found.val), N_SHEET_PHOTOS)


def _write_sheet(path: Path, found: Images, epochs: "Sequence[Epoch]", config: Config) -> None:
    """Photos, green if the class is right and red if not, each with training photos of the class that it was given."""
    from eval.frozen.epochs import best
    from eval.images import read_photo
    from eval.pictures import RIGHT, WRONG, evenly, framed, write_sheet

    known = class_names(found.val[0].path.parents[2])
    names = [known.get(wnid, wnid) for wnid in found.classes]
    rows: list[tuple[str, list[np.ndarray]]] = []
    for number, label in zip(_shown(found), best(epochs).measured.shown, strict=True):
        photo, examples = found.val[number], [one.path for one in found.train if one.label == label]
        is_right = label == photo.label
        cells = [framed(read_photo(photo.path, crop=config.crop), RIGHT if is_right else WRONG)]
        for example in evenly(len(examples), N_SHEET_EXAMPLES):
            with suppress(ValueError):  # a broken one has been counted: no reason to fail after hours
                cells.append(read_photo(examples[example], crop=config.crop))
        verdict = "right" if is_right else f"taken for {names[label]}"
        rows.append((f"{names[photo.label]}: {verdict}. Training photos of {names[label]}:", cells))
    write_sheet(path, rows, cell_height=96)
