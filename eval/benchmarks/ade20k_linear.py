"""ADE20K: semantic segmentation with one linear layer on the frozen encoder; mIoU over 150 classes, in percent.

iBOT's linear protocol for ViT-S/16: the maps of four blocks side by side, a 1 × 1 convolution, nothing else is learnt.
The published learning rates differ (3e-5 in the config for ViT-S, 8e-4 in the README, for ViT-B), so several are
trained, all at once on the same features (eval/dense/probe.py). `mIoU` is that of the best on the validation set, as
sweeps in this field are reported; `mIoU_lr_8e-4` and so on are those of each.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from dora.artifacts import Checkpoint, Machine
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.dense import ade20k as pictures
from eval.dense.ade20k import NAMES
from eval.finetune.grid import apart, head_name

if TYPE_CHECKING:
    from torch import Tensor

    from eval.dense.probe import Probe
    from eval.dense.segmenting import Predict
    from eval.finetune.task import Task

VERSION = 2
PROTOCOL = "ade20k-linear-160k-512"
DATASET, HOW_TO_GET = pictures.DATASET, pictures.HOW_TO_GET
HEADLINE = "mIoU"
COST = "estimated, not measured: 2.56 million crops of 512 px through the frozen encoder, 4 hours at 200 a second."
PARALLEL = True


class Config(pictures.Pictures):
    """iBOT's setting for ViT-S/16.

    [iBOT] is bytedance/ibot evaluation/semantic_segmentation/configs (c24f870), mostly
    linear/vit_small_512_ade20k_160k.py.
    """

    lrs: tuple[float, ...] = Field(
        default=(3e-5, 1e-4, 3e-4, 8e-4, 1e-3), min_length=1,
        description="AdamW; 3e-5 is the config's, 8e-4 the README's for ViT-B [iBOT], the others lie between or beside",
    )  # fmt: skip

    @field_validator("lrs")
    @classmethod
    def _apart(cls, lrs: tuple[float, ...]) -> tuple[float, ...]:
        return apart(lrs)


# As ade20k's short preset: an eighth of the iterations, half the sides.
PRESETS = {
    "short": Config(iterations=20_000, crop=256, short_side=256, long_side=1024, stride=170, warmup_iterations=188)
}


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of images and the hash of their names."""
    from eval import openmm

    openmm.installed()
    return pictures.check(data, config, "ade20k_linear")


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """The mIoU of each learning rate's head; goes on from what is in `out`."""
    from eval import openmm

    openmm.require()
    from eval.dense import segmenting
    from eval.finetune.loop import finetune
    from eval.finetune.team import joined

    with joined(machine, out) as team:
        model = network(checkpoint, config).to(team.ranks.device)
        spent = finetune(task(model, config, machine), config, machine, out, team, progress)
        return segmenting.result(predictor(model, config), config, machine, out, team, progress, spent)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """ade20k's miniature, with more of the cheaper iterations; two learning rates, larger for so few."""
    from eval import openmm

    openmm.installed()  # before anything is drawn
    pictures.write_toys(world, folder, times)
    return Config(
        whole=False, crop=96, short_side=96, long_side=384, stride=64, iterations=120 * times, batch_size=4,
        lrs=(3e-3, 1e-2), warmup_iterations=5, precision="fp32", max_broken_share=0,
    )  # fmt: skip


def network(checkpoint: Checkpoint, config: Config) -> "Probe":
    """The frozen ViT of the checkpoint and a head for each learning rate."""
    import torch

    from eval.dense.probe import Probe
    from eval.dense.pyramid import Pyramid, default_taps, trainable_vit
    from eval.openmm import segmentation

    torch.manual_seed(config.seed)  # the heads' weights
    vit = trainable_vit(checkpoint, image_size=(config.crop, config.crop), drop_path_rate=0)
    taps = default_taps(len(vit.blocks))
    pyramid = Pyramid(vit, taps=taps, with_norm=config.with_norm, frozen=True, levels=False)
    names = [head_name(lr) for lr in config.lrs]
    preprocess = segmentation.preprocessor(pictures.preprocessing(config))
    return Probe(pyramid, names, n_classes=len(NAMES), preprocess=preprocess)


def task(model: "Probe", config: Config, machine: Machine) -> "Task":
    """What the loop learns."""
    from eval.dense import segmenting
    from eval.finetune.task import Task
    from eval.openmm import segmentation

    def loss(model: Any, samples: list[Any]) -> "dict[str, Tensor]":
        return model.losses(*segmentation.stacked(model.data_preprocessor, samples))

    train = pictures.pairs(machine.datasets[DATASET], "train")
    return Task(
        model=model, loss=loss, read=segmenting.reader(train, config), n_samples=len(train),
        groups=model.groups({head_name(lr): lr for lr in config.lrs}, weight_decay=config.weight_decay),
        lr_factor=config.lr_factor(),
    )  # fmt: skip


def predictor(model: "Probe", config: Config) -> "Predict":
    """Labels of a photo, by each head."""
    from eval.dense import segmenting

    model.eval()
    return segmenting.predictor(
        model.features, model.by_name(), model.data_preprocessor, config, multiple=model.pyramid.stride
    )
