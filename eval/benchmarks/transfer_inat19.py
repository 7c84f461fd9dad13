"""iNaturalist 2019: classification after fine-tuning the whole encoder, top-1 and top-5 in percent. On request.

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
PROTOCOL = "inat2019-finetune-360ep-224"
DATASET = "inat2019"
HOW_TO_GET = (
    "train_val2019.tar.gz (75 GB), train2019.json and val2019.json of github.com/visipedia/inat_comp, unpacked: the "
    "folder that holds train_val2019/*/*/*.jpg and both lists."
)
HEADLINE = "top1"
COST = "estimated, not measured: 95 million augmented photos through the encoder and back, 13 hours at 2000 a second."
PARALLEL = True
ON_REQUEST = True

YEAR = 2019
WHOLE = {"n_train": 265_213, "n_val": 3_030}


class Config(Transfer):
    """iBOT's setting for ViT-S/16 (eval/classifying/recipe.py says of what, and what all such sets share)."""

    iterations: int = Field(default=124_200, ge=1, description="360 epochs")
    lr: float = Field(default=3.75e-5, gt=0, description="--lr 2.5e-5 for 512 photos")
    lr_every: int = Field(default=345, ge=1, description="an epoch")
    warmup_iterations: int = Field(default=1725, ge=0, description="5 epochs")
    erase: float = Field(default=0.1, ge=0, le=1, description="--reprob")


def check(data: Path, config: Config) -> dict[str, Any]:
    """The numbers of photos and the hashes of the lists."""
    return inaturalist.check(data, YEAR, "transfer_inat19", whole=config.whole, expected=WHOLE)


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Train the encoder and measure it; goes on from what is in `out`."""
    from eval.classifying import finetuning

    sets = inaturalist.read(machine.datasets[DATASET], YEAR)
    return finetuning.evaluate(checkpoint, config, machine, out, progress, sets)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Pictures of single things in the street, by class; training and validation come from different streets."""
    toys.write(folder, YEAR, few(world, times))
    return Config.model_validate(toy(times))
