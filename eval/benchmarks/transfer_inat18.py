"""iNaturalist 2018: classification after fine-tuning the whole encoder, top-1 and top-5 in percent. On request.

DeiT's recipe as iBOT uses it for the smaller sets. `top1` and `top5` are of the network as training leaves it;
`top1_best` is the best at which the validation set was looked, which is what the recipe's authors print.
docs/finetuning.md tells more.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import inaturalist as toys
from dora.data.labelled.portraits import few
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.classifying.recipe import Transfer, toy
from eval.classifying.sets import inaturalist

VERSION = 2
PROTOCOL = "inat2018-finetune-360ep-224"
DATASET = "inat2018"
HOW_TO_GET = (
    "train_val2018.tar.gz (120 GB), train2018.json and val2018.json of github.com/visipedia/inat_comp, unpacked: the "
    "folder that holds train_val2018/*/*/*.jpg and both lists."
)
HEADLINE = "top1"
COST = "estimated, not measured: 157 million augmented photos through the encoder and back, 22 hours at 2000 a second."
PARALLEL = True
ON_REQUEST = True

YEAR = 2018
WHOLE = {"n_train": 437_513, "n_val": 24_426}


class Config(Transfer):
    """iBOT's setting for ViT-S/16 (eval/classifying/recipe.py says of what, and what all such sets share)."""

    iterations: int = Field(default=204_840, ge=1, description="360 epochs")
    lr: float = Field(default=7.5e-5, gt=0, description="--lr 5e-5 for 512 photos")
    lr_every: int = Field(default=569, ge=1, description="an epoch")
    warmup_iterations: int = Field(default=2845, ge=0, description="5 epochs")
    erase: float = Field(default=0.1, ge=0, le=1, description="--reprob")


def check(data: Path, config: Config) -> dict[str, Any]:
    """The numbers of photos and the hashes of the lists."""
    return inaturalist.check(data, YEAR, "transfer_inat18", whole=config.whole, expected=WHOLE)


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Train the encoder and measure it; goes on from what is in `out`."""
    from eval.classifying import finetuning

    sets = inaturalist.read(machine.datasets[DATASET], YEAR)
    return finetuning.evaluate(checkpoint, config, machine, out, progress, sets)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Pictures of single things in the street, by class; training and validation come from different streets."""
    toys.write(folder, YEAR, few(world, times))
    return Config.model_validate(toy(times))
