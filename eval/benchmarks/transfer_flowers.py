"""Flowers-102: classification after fine-tuning the whole encoder, top-1 and top-5 in percent. On request.

DeiT's recipe as iBOT uses it for the smaller sets; train and val are learnt from, as is usual. `top1` and `top5` are of
the network as training leaves it; `top1_best` is the best at which the test set was looked, which is what the recipe's
authors print. docs/finetuning.md tells more.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import flowers as toys
from dora.data.labelled.portraits import few
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.classifying.recipe import Transfer, toy
from eval.classifying.sets import flowers

VERSION = 2
PROTOCOL = "flowers102-finetune-1000ep-224"
DATASET = "flowers102"
HOW_TO_GET = (
    "102flowers.tgz, imagelabels.mat and setid.mat of www.robots.ox.ac.uk/~vgg/data/flowers/102 (345 MB): the folder "
    "that holds flowers-102/jpg/*.jpg, flowers-102/imagelabels.mat and flowers-102/setid.mat."
)
HEADLINE = "top1"
COST = "estimated, not measured: 1.5 million augmented photos through the encoder and back, 13 min at 2000 a second."
PARALLEL = True
ON_REQUEST = True


class Config(Transfer):
    """iBOT's setting for ViT-S/16 (eval/classifying/recipe.py says of what, and what all such sets share)."""

    iterations: int = Field(default=2_000, ge=1, description="1000 epochs")
    lr: float = Field(default=1.125e-5, gt=0, description="--lr 7.5e-6 for 512 photos")
    lr_every: int = Field(default=2, ge=1, description="an epoch")
    warmup_iterations: int = Field(default=10, ge=0, description="5 epochs")


def check(data: Path, config: Config) -> dict[str, Any]:
    """The number of photos and the hashes of the lists."""
    return flowers.check(data, "transfer_flowers", whole=config.whole)


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Train the encoder and measure it; goes on from what is in `out`."""
    from eval.classifying import finetuning

    sets = flowers.read(machine.datasets[DATASET], whole=config.whole)
    return finetuning.evaluate(checkpoint, config, machine, out, progress, sets)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Pictures of single things in the street, by class; training and validation come from different streets."""
    toys.write(folder, few(world, times))
    return Config.model_validate(toy(times))
